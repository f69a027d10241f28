//! Flux's kustomize-controller beside the operator. What Flux's source-controller does is done here: it makes an artifact of each
//! commit, serves it, and says so in the status of the `GitRepository`.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, ensure};
use axum::{
    Router,
    extract::{Path, State},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::OnceCell};

use super::{
    beside,
    manifests::{at, yaml},
    repo::Repo,
    scene::{SOON, Scene},
};
use crate::controlplane::{ControlPlane, KUSTOMIZE_CONTROLLER, eventually, find_or_build};

const SOURCES: &str = "source.toolkit.fluxcd.io/v1";
const KUSTOMIZATIONS: &str = "kustomize.toolkit.fluxcd.io/v1";

/// One source that Flux follows, by the recipe in `examples/flux`, and reconciles every second.
pub struct Flux<'a> {
    plane: &'static ControlPlane,
    scene: &'a Scene,
    repo: Repo,
    url: String,
    artifacts: Artifacts,
}

/// What is served, by name.
type Artifacts = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

impl<'a> Flux<'a> {
    /// Makes Flux follow a repository that is empty. Its objects stand in the story's namespace.
    pub async fn beside(plane: &'static ControlPlane, scene: &'a Scene) -> Self {
        static RUNS: OnceCell<()> = OnceCell::const_new();
        RUNS.get_or_init(|| run(plane)).await;
        let artifacts = Artifacts::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app =
            Router::new().route("/{name}", axum::routing::get(serve)).with_state(Arc::clone(&artifacts));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let flux = Self { plane, scene, repo: Repo::new(), url, artifacts };
        for mut object in beside::objects("flux/flux.yaml") {
            object["metadata"]["namespace"] = json!(scene.namespace);
            if object["kind"] == "Kustomization" {
                for interval in ["interval", "retryInterval"] {
                    assert!(object["spec"][interval].is_string(), "{object}");
                    object["spec"][interval] = json!("1s");
                }
            }
            let api = flux.api(object["kind"].as_str().unwrap());
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            api.create(&PostParams::default(), &object).await.unwrap();
        }
        flux
    }

    /// Commits the Deployment of the recipe with an image, and more in its only container. Flux learns of it.
    pub async fn push(&self, image: &str, more: Value) {
        let mut cart = beside::deployment(self.scene, "flux/shop/cart.yaml", image);
        json_patch::merge(&mut cart["spec"]["template"]["spec"]["containers"][0], &more);
        let commit = self.repo.commit_file("shop/cart.yaml", &yaml(&cart));
        let file = self.plane.directory().join(format!("{}-{commit}.tar.gz", self.scene.namespace));
        self.repo.git(&["archive", "--format=tar.gz", "-o", &file.display().to_string(), &commit]);
        let bytes = std::fs::read(file).unwrap();
        let name = format!("{commit}.tar.gz");
        let artifact = json!({
            "revision": format!("main@sha1:{commit}"), "url": format!("{}/{name}", self.url), "path": name,
            "digest": format!("sha256:{}", hex::encode(Sha256::digest(&bytes))), "size": bytes.len(),
            "lastUpdateTime": jiff::Timestamp::now(),
        });
        self.artifacts.lock().unwrap().insert(name, bytes);
        let status = Patch::Merge(json!({"status": {"artifact": artifact}}));
        self.api("GitRepository").patch_status("shop", &PatchParams::default(), &status).await.unwrap();
    }

    /// Makes Flux reconcile as often as it can: it does not look at the health of what it applied.
    pub async fn hurries(&self) {
        let patch = Patch::Merge(json!({"spec": {"wait": false, "interval": "200ms"}}));
        self.api("Kustomization").patch("shop", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until Flux has applied the newest commit and says that it is ready.
    pub async fn is_ready(&self) {
        let head = format!("main@sha1:{}", self.repo.head());
        self.says("True", &format!("Applied revision: {head}")).await;
    }

    /// Waits until Flux says of Ready this status and a message with such a text. Answers with the message.
    pub async fn says(&self, status: &str, text: &str) -> String {
        eventually(&format!("Flux says {status}: {text}"), SOON, async || {
            let object = serde_json::to_value(self.api("Kustomization").get("shop").await?)?;
            let conditions = at(&object, "/status/conditions").as_array().context("no conditions")?;
            let ready = conditions.iter().find(|found| found["type"] == "Ready").context("no Ready")?;
            let message = ready["message"].as_str().unwrap_or_default();
            ensure!(ready["status"] == status && message.contains(text), "{ready}");
            Ok(message.to_owned())
        })
        .await
    }

    /// What each reconciliation so far made of the Deployment: `created`, `configured`, `unchanged`.
    pub fn made(&self) -> Vec<String> {
        let log = self.plane.log(KUSTOMIZE_CONTROLLER.name);
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let cart = format!("Deployment/{}/cart", self.scene.namespace);
        events.filter_map(|event| Some(event["output"].get(&cart)?.as_str()?.to_owned())).collect()
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, plural) = match kind {
            "GitRepository" => (SOURCES, "gitrepositories"),
            "Kustomization" => (KUSTOMIZATIONS, "kustomizations"),
            other => panic!("{other}"),
        };
        self.scene.of(group, kind, plural, &self.scene.namespace)
    }
}

async fn serve(State(artifacts): State<Artifacts>, Path(name): Path<String>) -> Vec<u8> {
    artifacts.lock().unwrap().get(&name).cloned().unwrap_or_default()
}

/// Installs the definitions and starts the controller, which ends with the control plane.
async fn run(plane: &ControlPlane) {
    let kustomization = include_str!("../../fixtures/flux/kustomizations.yaml");
    define(&plane.client(), serde_json::from_value(beside::parsed(kustomization).remove(0)).unwrap()).await;
    for (kind, plural) in
        [("GitRepository", "gitrepositories"), ("OCIRepository", "ocirepositories"), ("Bucket", "buckets")]
    {
        define(&plane.client(), source(kind, plural)).await;
    }
    let program = find_or_build(&[&KUSTOMIZE_CONTROLLER]).unwrap().remove(KUSTOMIZE_CONTROLLER.name).unwrap();
    // It empties its directory for temporary files when it starts.
    let temporary = plane.directory().join("flux");
    std::fs::create_dir_all(&temporary).unwrap();
    let mut command = Command::new(program);
    command.args(["--metrics-addr=0", "--health-addr=0"]);
    command.env("KUBECONFIG", plane.kubeconfig_path()).env("TMPDIR", temporary);
    plane.spawn(KUSTOMIZE_CONTROLLER.name, command).unwrap();
}

/// The definition of a kind of source, as far as the controller needs it.
fn source(kind: &str, plural: &str) -> CustomResourceDefinition {
    let (group, version) = SOURCES.split_once('/').unwrap();
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    serde_json::from_value(json!({
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
            }],
        },
    }))
    .unwrap()
}

async fn define(client: &Client, definition: CustomResourceDefinition) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let created = api.create(&PostParams::default(), &definition).await.unwrap();
    let name = created.metadata.name.unwrap();
    eventually(&format!("{name} is served"), SOON, async || {
        let status = api.get(&name).await?.status.context("no status")?;
        let conditions = status.conditions.unwrap_or_default();
        ensure!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"), "{conditions:?}");
        Ok(())
    })
    .await;
}
