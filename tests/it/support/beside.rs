//! Stories beside engines that insist: the recipes of `examples/`, and what is looked at meanwhile.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::ensure;
use countersign::domain::manifest::parse;
use futures::StreamExt as _;
use kube::{
    ResourceExt,
    api::{DynamicObject, ListParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    manifests::{at, writes, yaml},
    scene::{SOON, Scene},
};
use crate::controlplane::{AuditEvent, ControlPlane, eventually};

/// A file or directory of `examples/`.
pub fn recipe(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// The objects in a file of `examples/`.
pub fn objects(path: &str) -> Vec<Value> {
    parsed(&std::fs::read_to_string(recipe(path)).unwrap())
}

/// The objects in a text.
pub fn parsed(yaml: &str) -> Vec<Value> {
    let parsed = parse("test", yaml.as_bytes(), &Default::default());
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    parsed.objects.into_iter().map(|object| object.value().clone()).collect()
}

/// A Deployment of `examples/`, in the story's namespace and with an image.
pub fn deployment(scene: &Scene, path: &str, image: &str) -> Value {
    let mut object = objects(path).remove(0);
    object["metadata"]["namespace"] = json!(scene.namespace);
    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    object
}

impl Scene {
    /// Governs the story's namespace by the policy of the recipes, but with a release good after a second.
    pub async fn governed_as_in_the_recipes(&self) {
        let mut policy = objects("policy.yaml").remove(0);
        policy["metadata"]["name"] = json!(self.namespace);
        policy["spec"]["match"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] =
            json!(self.namespace);
        policy["spec"]["rollback"]["healthyFor"] = json!("1s");
        self.write("policy.yaml", &yaml(&policy));
        self.push("the policy of the recipes").await;
    }
}

/// How long an engine insists at least: as many minutes as `COUNTERSIGN_TEST_MINUTES` says, by default not by time.
fn insisted_for() -> Duration {
    let minutes = std::env::var("COUNTERSIGN_TEST_MINUTES").map_or(0, |minutes| minutes.parse().unwrap());
    Duration::from_mins(minutes)
}

/// A Deployment in a hold, while an engine goes on asking for what is kept out.
pub struct Still<'a> {
    plane: &'a ControlPlane,
    scene: &'a Scene,
    name: &'a str,
    since: Instant,
    /// The events of the audit log before.
    events: usize,
    writes: usize,
    replica_sets: BTreeSet<String>,
    versions: Arc<Mutex<Vec<Version>>>,
    watch: JoinHandle<()>,
}

/// One version of an object that was stored.
#[derive(Clone, Debug)]
pub struct Version {
    stored_as: String,
    generation: Option<i64>,
    template: Value,
}

impl<'a> Still<'a> {
    /// Waits until a Deployment is held at an image, and all is done that follows. From then on every version of it counts.
    pub async fn held_at(plane: &'a ControlPlane, scene: &'a Scene, name: &'a str, image: &str) -> Self {
        scene.held_at("Deployment", name, image).await;
        scene.explains("Deployment", name, "Held", "good").await;
        eventually("the held release is rolled out", SOON, async || {
            let live = scene.live("Deployment", name).await?;
            let of = |pointer: &str| at(&live, pointer).as_i64();
            ensure!(of("/status/observedGeneration") == of("/metadata/generation"), "{}", live["status"]);
            for count in ["replicas", "updatedReplicas", "availableReplicas"] {
                ensure!(of(&format!("/status/{count}")) == of("/spec/replicas"), "{}", live["status"]);
            }
            Ok(())
        })
        .await;
        let versions = Arc::new(Mutex::new(Vec::new()));
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stream = watcher(scene.any("Deployment"), config);
        let seen = Arc::clone(&versions);
        let watch = tokio::spawn(stream.for_each(move |event| {
            if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
                seen.lock().unwrap().push(Version::of(&object));
            }
            std::future::ready(())
        }));
        let still = Self {
            plane,
            scene,
            name,
            since: Instant::now(),
            events: plane.audit_events().unwrap().len(),
            writes: writes(plane, "deployments", &scene.namespace).len(),
            replica_sets: replica_sets(scene).await,
            versions,
            watch,
        };
        still.caught_up().await;
        still
    }

    /// What was asked of the Deployment since by somebody else that names an image; dry runs or not.
    pub fn asked(&self, image: &str, dry_run: bool) -> Vec<AuditEvent> {
        let events = self.plane.audit_events().unwrap().into_iter().skip(self.events);
        events
            .filter(|event| event.is_about("deployments", &self.scene.namespace))
            .filter(|event| event.verb == "patch" || event.verb == "update")
            .filter(|event| event.request_uri.contains("dryRun=") == dry_run)
            .filter(|event| event.response_status.as_ref().is_some_and(|status| status.code == 200))
            .filter(|event| event.images() == [image])
            .collect()
    }

    /// Waits until an image was asked for so often, and for as long as is wanted.
    pub async fn outlasts(&self, image: &str, dry_run: bool, times: usize) {
        let patience = 2 * (SOON + insisted_for());
        eventually(&format!("{image} is asked for {times} times"), patience, async || {
            let asked = self.asked(image, dry_run).len();
            ensure!(asked >= times && self.since.elapsed() >= insisted_for(), "{asked} times");
            Ok(())
        })
        .await;
    }

    /// Asserts that nothing changed: the Deployment is of one generation, and nothing moved. Answers with how many versions of it
    /// were stored.
    pub async fn is_unbroken(&self, image: &str) -> usize {
        let versions = self.has_not_moved(image).await;
        for version in &versions {
            assert_eq!(version.generation, versions[0].generation, "{versions:#?}");
        }
        versions.len()
    }

    /// Asserts that nothing moved: no version of the Deployment had another template, no ReplicaSet was made, and the operator
    /// wrote nothing.
    pub async fn has_not_moved(&self, image: &str) -> Vec<Version> {
        self.caught_up().await;
        let versions = self.versions.lock().unwrap().clone();
        for version in &versions {
            assert_eq!(at(&version.template, "/spec/containers/0/image"), image, "{versions:#?}");
            assert_eq!(version.template, versions[0].template);
        }
        assert_eq!(replica_sets(self.scene).await, self.replica_sets);
        let writes = writes(self.plane, "deployments", &self.scene.namespace);
        assert_eq!(writes.len(), self.writes, "{:#?}", writes.last());
        versions
    }

    /// Waits until the watch has seen the Deployment as it is.
    async fn caught_up(&self) {
        eventually("the watch has seen the newest version", SOON, async || {
            let live = self.scene.any("Deployment").get(self.name).await?.resource_version();
            let last = self.versions.lock().unwrap().last().map(|version| version.stored_as.clone());
            ensure!(last == live, "{last:?}, not {live:?}");
            Ok(())
        })
        .await;
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Version {
    fn of(object: &DynamicObject) -> Self {
        Self {
            stored_as: object.resource_version().unwrap_or_default(),
            generation: object.metadata.generation,
            template: object.data["spec"]["template"].clone(),
        }
    }
}

async fn replica_sets(scene: &Scene) -> BTreeSet<String> {
    let all = scene.any("ReplicaSet").list(&ListParams::default()).await.unwrap();
    all.iter().map(ResourceExt::name_any).collect()
}
