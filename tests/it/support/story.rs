//! What only stories about faults and people ask of a scene.

use anyhow::{Context as _, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{
    operator::{Operator, ROOT, install},
    scene::{SOON, Scene},
};
use crate::controlplane::{Audit, AuditEvent, ControlPlane, Options, eventually};

/// A write that changed images of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageWrite {
    pub by_operator: bool,
    pub json_patch: bool,
    /// All images after it.
    pub images: Vec<String>,
}

/// The writes that changed images of a workload, in order. A write that only repeats them is none.
pub fn image_writes(plane: &ControlPlane, resource: &str, namespace: &str, name: &str) -> Vec<ImageWrite> {
    let mut now: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for event in plane.writes(resource, namespace).unwrap() {
        if event.object_ref.as_ref().is_none_or(|object| object.name != name) {
            continue;
        }
        let json_patch = event.request_object.as_ref().is_some_and(Value::is_array);
        let after = if json_patch { patched(&event, &now) } else { texts(&event) };
        if after.is_empty() || after == now {
            continue;
        }
        now.clone_from(&after);
        let by_operator = event.user_agent.starts_with("countersign/");
        found.push(ImageWrite { by_operator, json_patch, images: after });
    }
    found
}

fn texts(event: &AuditEvent) -> Vec<String> {
    event.images().into_iter().map(str::to_owned).collect()
}

/// The images after a JSON patch.
fn patched(event: &AuditEvent, before: &[String]) -> Vec<String> {
    let operations = event.request_object.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    let only = |op: &str| {
        let of: Vec<Value> = operations.iter().filter(|operation| operation["op"] == op).cloned().collect();
        texts(&AuditEvent { request_object: Some(Value::Array(of)), ..event.clone() })
    };
    let (expected, set) = (only("test"), only("replace"));
    if expected.len() != set.len() {
        return set; // The whole template.
    }
    let change = |image: &String| {
        let at = expected.iter().position(|expected| expected == image);
        at.map_or_else(|| image.clone(), |at| set[at].clone())
    };
    before.iter().map(change).collect()
}

/// A control plane whose operator is killed and starved: one story at a time.
pub struct Rough {
    pub plane: &'static ControlPlane,
    pub operator: &'static Operator<'static>,
    _turn: MutexGuard<'static, ()>,
}

/// Takes the turn on the rough control plane; its operator runs.
pub async fn rough() -> Rough {
    static TURN: Mutex<()> = Mutex::const_new(());
    static PLANE: OnceCell<(&'static ControlPlane, &'static Operator<'static>)> = OnceCell::const_new();
    let turn = TURN.lock().await;
    let start = async || {
        let options = Options { audit: Audit::RequestBodies, ..Options::default() };
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).unwrap()));
        install(plane).await;
        let operator: &'static Operator<'static> = Box::leak(Box::new(Operator::start(plane).await));
        (plane, operator)
    };
    let (plane, operator) = *PLANE.get_or_init(start).await;
    // Whatever a story that failed left behind.
    let _ = plane.kill("countersign");
    let cache = plane.directory().join("cache");
    if cache.is_file() {
        std::fs::remove_file(cache).unwrap();
    }
    operator.restart().await;
    Rough { plane, operator, _turn: turn }
}

impl Scene {
    /// Sets (or, with null, removes) annotations of the source.
    pub async fn annotate_source(&self, annotations: Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        self.sources().patch(&self.source, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Commits several approvals.
    pub async fn approve(&self, versions: &[u8]) {
        for n in versions {
            self.write(&format!("approvals/{n}.yaml"), &self.approval(*n, None));
        }
        self.push(&format!("approve {versions:?}")).await;
    }

    /// Commits a revocation.
    pub async fn revoke(&self, n: u8) {
        self.write(&format!("approvals/{n}.yaml"), &self.approval(n, Some("CVE-2026-0001")));
        self.push(&format!("revoke {n}")).await;
    }

    /// Revokes as kubectl does.
    pub async fn revoke_by_hand(&self, n: u8) {
        let patch = Patch::Merge(json!({"spec": {"revocation": {"reason": "by hand"}}}));
        self.approvals().patch(&self.approval_name(n), &PatchParams::default(), &patch).await.unwrap();
    }

    /// Runs images one after the other as git's Deployment `name`, each until it proved itself.
    pub async fn ran(&self, name: &str, versions: &[u8]) {
        for n in versions {
            self.write(&format!("{name}.yaml"), &self.workload("Deployment", name, &self.tag(*n)));
            self.push(&format!("run {n}")).await;
            self.proven_at("Deployment", name, &self.pin(*n)).await;
        }
    }

    /// The same as somebody else, where git owns nothing.
    pub async fn ran_unowned(&self, manager: &str, name: &str, versions: &[u8]) {
        for n in versions {
            self.sets(manager, name, &self.pin(*n)).await;
            self.proven_at("Deployment", name, &self.pin(*n)).await;
        }
    }

    /// Somebody forces an image into a Deployment.
    pub async fn sets(&self, manager: &str, name: &str, image: &str) {
        self.apply_as(manager, &self.deployment(name, &[("app", image)])).await.unwrap();
    }

    /// A Deployment with containers.
    pub fn deployment(&self, name: &str, containers: &[(&str, &str)]) -> Value {
        let containers: Vec<Value> =
            containers.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}},
            },
        })
    }

    /// Waits until a workload runs an image, as its present release, which proved itself.
    pub async fn proven_at(&self, kind: &str, name: &str, image: &str) {
        eventually(&format!("{kind} {name} proves {image}"), SOON, async || {
            let images = self.images(kind, name).await?;
            ensure!(images.iter().any(|runs| runs == image), "{images:?}");
            let status = self.history(kind, name).await?.status.context("no status")?;
            let present = status.releases.iter().find(|release| Some(&release.id) == status.present.as_ref());
            let present = present.with_context(|| format!("no present release: {status:?}"))?;
            ensure!(present.outcome == countersign::api::release_history::Outcome::Good, "{present:?}");
            let digest = image.rsplit('@').next().unwrap_or_default();
            ensure!(serde_json::to_string(present)?.contains(digest), "{present:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until a workload is held with an image.
    pub async fn held_at(&self, kind: &str, name: &str, image: &str) {
        self.runs(kind, name, image).await;
        eventually(&format!("{kind} {name} is held at {image}"), SOON, async || {
            let status = self.history(kind, name).await?.status.context("no status")?;
            let hold = status.hold.as_ref().with_context(|| format!("no hold: {status:?}"))?;
            ensure!(status.present.as_ref() == Some(&hold.target), "{status:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until the source says that it is not ready; answers with reason and message.
    pub async fn source_is_not_ready(&self) -> (String, String) {
        eventually("the source is not ready", SOON, async || {
            let status = self.sources().get(&self.source).await?.status.context("no status")?;
            let ready = status.conditions.iter().find(|found| found.type_ == "Ready").context("no Ready")?;
            ensure!(ready.status == "False", "{ready:?}");
            Ok((ready.reason.clone(), ready.message.clone()))
        })
        .await
    }

    /// A ConfigMap of git.
    pub fn config(&self, name: &str) -> String {
        let ns = &self.namespace;
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {ns}}}\ndata: {{a: b}}\n"
        )
    }

    /// Whether a ConfigMap exists.
    pub async fn has_config(&self, name: &str) -> bool {
        self.any("ConfigMap").get_opt(name).await.unwrap().is_some()
    }

    /// Waits until a condition of a policy of the root namespace is True; answers with its message.
    pub async fn policy_says(&self, name: &str, type_: &str) -> String {
        let api: Api<countersign::api::ImagePolicy> = Api::namespaced(self.client.clone(), ROOT);
        eventually(&format!("policy {name} says {type_}"), SOON, async || {
            let status = api.get(name).await?.status.context("no status")?;
            let found = status.conditions.iter().find(|found| found.type_ == type_ && found.status == "True");
            Ok(found.with_context(|| format!("{status:?}"))?.message.clone())
        })
        .await
    }
}
