//! One story: a namespace, a git repository that a source follows, and a policy that governs the namespace.

use std::{sync::OnceLock, time::Duration};

use anyhow::{Context as _, bail, ensure};
use countersign::{
    api::{ApprovedImage, GitSource, ReleaseHistory},
    domain::manifest::Limits,
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use super::{
    operator::{Operator, ROOT, install},
    repo::Repo,
};
use crate::controlplane::{self, ControlPlane, eventually};

/// How long anything in a story may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(90);

/// One operator on the shared control plane, for all stories that need no other.
pub async fn shared_plane() -> &'static ControlPlane {
    shared_operator().await;
    controlplane::shared()
}

/// The operator on the shared control plane.
pub async fn shared_operator() -> &'static Operator<'static> {
    static STARTED: OnceLock<Operator<'static>> = OnceLock::new();
    static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let plane = controlplane::shared();
    let _turn = STARTING.lock().await;
    if let Some(operator) = STARTED.get() {
        return operator;
    }
    install(plane).await;
    let operator = Operator::start(plane).await;
    STARTED.get_or_init(|| operator)
}

/// One story.
pub struct Scene {
    pub client: Client,
    pub namespace: String,
    pub repo: Repo,
    pub source: String,
    log: std::path::PathBuf,
}

/// A story that fails shows what the operator said of its namespace.
impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let about: Vec<&str> = log.lines().filter(|line| line.contains(&self.namespace)).collect();
            for line in about.iter().skip(about.len().saturating_sub(40)) {
                eprintln!("operator: {line}");
            }
        }
    }
}

impl Scene {
    /// On the shared control plane.
    pub async fn new(name: &str) -> Self {
        Self::on(shared_plane().await, name).await
    }

    /// On a control plane with an operator. The repository holds the policy, and the source follows it; nothing else.
    pub async fn on(plane: &ControlPlane, name: &str) -> Self {
        Self::at(plane, plane.namespace(name).await).await
    }

    /// The same, in a namespace that is there.
    pub async fn at(plane: &ControlPlane, namespace: String) -> Self {
        let log = plane.directory().join("countersign.log");
        let scene =
            Self { client: plane.client(), source: namespace.clone(), namespace, repo: Repo::new(), log };
        scene.write("policy.yaml", &scene.policy("Enforce"));
        scene.repo.commit("policy");
        scene.follow(json!({})).await;
        scene.synced().await;
        scene
    }

    /// Makes the source follow the repository, with more in its spec.
    pub async fn follow(&self, more: Value) {
        let mut spec =
            json!({"url": self.repo.path(), "ref": {"branch": "main"}, "interval": "1h", "prune": true});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.apply(&json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": self.source, "namespace": ROOT}, "spec": spec,
        }))
        .await;
    }

    /// A policy for this namespace: approval by people, digests.
    pub fn policy(&self, mode: &str) -> String {
        let ns = &self.namespace;
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: {ns}, namespace: {ROOT}}}\nspec:\n  mode: {mode}\n  match: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {ns}}}}}}}\n  requireDigest: true\n  approval: {{by: People, from: [Root]}}\n  rollback: {{healthyFor: 1s}}\n"
        )
    }

    /// The repository of this story's images.
    pub fn image(&self) -> String {
        format!("registry.example/{}/cart", self.namespace)
    }

    /// The image with a tag, as manifests name it.
    pub fn tag(&self, n: u8) -> String {
        format!("{}:1.{n}", self.image())
    }

    /// The image as it is pinned.
    pub fn pin(&self, n: u8) -> String {
        format!("{}:1.{n}@{}", self.image(), self.digest(n))
    }

    /// The digest of this story's n-th image: no other story's.
    pub fn digest(&self, n: u8) -> String {
        use sha2::Digest as _;
        format!("sha256:{}", hex::encode(sha2::Sha256::digest(format!("{}-{n}", self.namespace))))
    }

    /// An approval of `1.n`; `revoked` says why, if it is revoked.
    pub fn approval(&self, n: u8, revoked: Option<&str>) -> String {
        let (ns, image, digest) = (&self.namespace, self.image(), self.digest(n));
        let revocation = revoked.map_or_else(String::new, |why| format!("  revocation: {{reason: {why}}}\n"));
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: ApprovedImage\nmetadata: {{name: {ns}-{n}, namespace: {ROOT}}}\nspec:\n  image: {image}\n  digest: {digest}\n  tag: \"1.{n}\"\n  approvedAt: 2026-01-01T00:00:{n:02}Z\n{revocation}"
        )
    }

    /// A workload of a kind that names an image.
    pub fn workload(&self, kind: &str, name: &str, image: &str) -> String {
        let ns = &self.namespace;
        let pod = format!(
            "{{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{{name: app, image: \"{image}\"}}]}}}}"
        );
        let selector = format!("selector: {{matchLabels: {{app: {name}}}}}");
        match kind {
            "CronJob" => format!(
                "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: {name}, namespace: {ns}}}\nspec:\n  schedule: \"0 0 1 1 *\"\n  jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: app, image: \"{image}\"}}]}}}}}}}}\n"
            ),
            "StatefulSet" => format!(
                "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {name}, namespace: {ns}}}\nspec:\n  serviceName: {name}\n  {selector}\n  template: {pod}\n"
            ),
            kind => format!(
                "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {ns}}}\nspec:\n  {selector}\n  template: {pod}\n"
            ),
        }
    }

    /// Writes a file of the repository.
    pub fn write(&self, path: &str, content: &str) {
        self.repo.write(path, content);
    }

    /// Commits, and waits until the source has looked at the commit. Answers with it.
    pub async fn push(&self, message: &str) -> String {
        let commit = self.repo.commit(message);
        self.poke().await;
        let api = self.sources();
        eventually(&format!("the source looks at {message}"), SOON, async || {
            let status = api.get(&self.source).await?.status.context("no status")?;
            ensure!(status.last_attempted_commit.as_deref() == Some(&commit), "{status:?}");
            Ok(())
        })
        .await;
        commit
    }

    /// Asks the source to look now; answers with what it will say once it did.
    pub async fn ask(&self) -> String {
        let stamp = format!("{:?}", std::time::SystemTime::now());
        let asked = json!({"metadata": {"annotations": {"countersign.dev/reconcile-requested-at": stamp}}});
        self.sources().patch(&self.source, &PatchParams::default(), &Patch::Merge(&asked)).await.unwrap();
        stamp
    }

    /// Asks the source to look now, and waits until it did.
    pub async fn poke(&self) {
        let (api, stamp) = (self.sources(), self.ask().await);
        eventually("the source looks", SOON, async || {
            let status = api.get(&self.source).await?.status.context("no status")?;
            ensure!(status.last_handled_reconcile_at.as_deref() == Some(&stamp), "{status:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until the source is ready.
    pub async fn synced(&self) {
        self.source_says("Applied").await;
    }

    /// Waits until Ready of the source has a reason; answers with its message.
    pub async fn source_says(&self, reason: &str) -> String {
        let api = self.sources();
        eventually(&format!("the source says {reason}"), SOON, async || {
            let source = api.get(&self.source).await?;
            let ready = ready(&serde_json::to_value(&source)?)?;
            ensure!(ready.0 == reason, "{ready:?}");
            Ok(ready.1)
        })
        .await
    }

    pub fn sources(&self) -> Api<GitSource> {
        Api::namespaced(self.client.clone(), ROOT)
    }

    pub fn approvals(&self) -> Api<ApprovedImage> {
        Api::namespaced(self.client.clone(), ROOT)
    }

    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of any kind in this namespace.
    pub fn any(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version, plural) = match kind {
            "Deployment" => ("apps", "v1", "deployments"),
            "StatefulSet" => ("apps", "v1", "statefulsets"),
            "DaemonSet" => ("apps", "v1", "daemonsets"),
            "CronJob" => ("batch", "v1", "cronjobs"),
            "ReplicaSet" => ("apps", "v1", "replicasets"),
            "ReplicationController" => ("", "v1", "replicationcontrollers"),
            "Job" => ("batch", "v1", "jobs"),
            "PodTemplate" => ("", "v1", "podtemplates"),
            "ControllerRevision" => ("apps", "v1", "controllerrevisions"),
            "ConfigMap" => ("", "v1", "configmaps"),
            "Event" => ("", "v1", "events"),
            "Pod" => ("", "v1", "pods"),
            "Rollout" => ("argoproj.io", "v1alpha1", "rollouts"),
            "CloneSet" => ("apps.kruise.io", "v1alpha1", "clonesets"),
            "Service" => ("serving.knative.dev", "v1", "services"),
            other => panic!("{other}"),
        };
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::from_gvk_with_plural(&gvk, plural),
        )
    }

    /// Applies an object as somebody else.
    pub async fn apply(&self, object: &Value) {
        self.apply_as("somebody", object).await.unwrap();
    }

    /// Applies an object by force under a field manager.
    pub async fn apply_as(&self, manager: &str, object: &Value) -> kube::Result<DynamicObject> {
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        let plural = match kind {
            "ImagePolicy" => "imagepolicies".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        let name = object["metadata"]["name"].as_str().unwrap();
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(object)).await
    }

    /// Applies YAML as somebody else.
    pub async fn apply_yaml(&self, yaml: &str) {
        let parsed = countersign::domain::manifest::parse("test", yaml.as_bytes(), &Limits::default());
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        for object in parsed.objects {
            self.apply(object.value()).await;
        }
    }

    /// The images of a workload, in order.
    pub async fn images(&self, kind: &str, name: &str) -> anyhow::Result<Vec<String>> {
        let object = serde_json::to_value(self.any(kind).get(name).await?)?;
        let template = match kind {
            "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
            _ => &object["spec"]["template"],
        };
        let places = countersign::domain::workload::images(template);
        Ok(places.into_values().collect())
    }

    /// Waits until a workload runs an image.
    pub async fn runs(&self, kind: &str, name: &str, image: &str) {
        eventually(&format!("{kind} {name} is set to {image}"), SOON, async || {
            let images = self.images(kind, name).await?;
            ensure!(images == [image], "{images:?}; {:?}", self.history(kind, name).await);
            Ok(())
        })
        .await;
    }

    /// The history of a workload.
    pub async fn history(&self, kind: &str, name: &str) -> anyhow::Result<ReleaseHistory> {
        let api: Api<ReleaseHistory> = Api::namespaced(self.client.clone(), ROOT);
        let all = api.list(&ListParams::default()).await?;
        let found = all.items.into_iter().find(|history| {
            let at = &history.spec.workload_ref;
            at.kind == kind && at.namespace == self.namespace && at.name == name
        });
        found.with_context(|| format!("no history of {kind} {name}"))
    }

    /// Waits until Ready of a workload's history has a reason; answers with its message.
    pub async fn says(&self, kind: &str, name: &str, reason: &str) -> String {
        eventually(&format!("the history of {kind} {name} says {reason}"), SOON, async || {
            let history = self.history(kind, name).await?;
            let ready = ready(&serde_json::to_value(&history)?)?;
            ensure!(ready.0 == reason, "{ready:?}");
            Ok(ready.1)
        })
        .await
    }

    /// Waits until the release that a workload runs now is on record as the present one, and proved itself.
    pub async fn proven(&self, kind: &str, name: &str) {
        eventually(&format!("the release of {kind} {name} is good"), SOON, async || {
            let live = self.images(kind, name).await?;
            let history = self.history(kind, name).await?;
            let status = history.status.context("no status")?;
            let present = status.releases.iter().find(|release| Some(&release.id) == status.present.as_ref());
            let Some(present) = present else { bail!("no present release: {status:?}") };
            // The record trails the action: what is on record may be the release before.
            let own =
                |image: &String| present.containers.iter().any(|c| c.image == *image || c.wanted == *image);
            ensure!(live.iter().all(own), "{live:?} is not yet on record: {present:?}");
            ensure!(present.outcome == countersign::api::release_history::Outcome::Good, "{present:?}");
            Ok(())
        })
        .await;
    }

    /// Asks for something by an annotation of a workload's history.
    pub async fn intervene(&self, kind: &str, name: &str, what: &str, value: &str) {
        let api: Api<ReleaseHistory> = Api::namespaced(self.client.clone(), ROOT);
        let history = self.history(kind, name).await.unwrap().metadata.name.unwrap();
        let asked = json!({"metadata": {"annotations": {format!("countersign.dev/{what}"): value}}});
        api.patch(&history, &PatchParams::default(), &Patch::Merge(&asked)).await.unwrap();
    }

    /// Makes the present release of a workload older by its record, while no operator runs.
    pub async fn let_in_earlier(&self, kind: &str, name: &str, seconds: i64) {
        let api: Api<ReleaseHistory> = Api::namespaced(self.client.clone(), ROOT);
        let mut history = serde_json::to_value(self.history(kind, name).await.unwrap()).unwrap();
        let present = history["status"]["present"].clone();
        let ago = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - seconds).unwrap();
        for release in history["status"]["releases"].as_array_mut().unwrap() {
            if release["id"] == present {
                release["presentSince"] = json!(ago);
            }
        }
        let name = history["metadata"]["name"].as_str().unwrap().to_owned();
        let older = json!({"status": {"releases": history["status"]["releases"]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&older)).await.unwrap();
    }

    /// Reasons of the events about an object.
    pub async fn events(&self, about: &str) -> anyhow::Result<Vec<(String, String)>> {
        let api: Api<k8s_openapi::api::core::v1::Event> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let events = api.list(&ListParams::default()).await?;
        Ok(events
            .items
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(about))
            .map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect())
    }

    /// The name of an approval in this story.
    pub fn approval_name(&self, n: u8) -> String {
        format!("{}-{n}", self.namespace)
    }
}

/// Reason and message of Ready.
pub fn ready(object: &Value) -> anyhow::Result<(String, String)> {
    let conditions =
        object.pointer("/status/conditions").and_then(Value::as_array).context("no conditions")?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").context("no Ready")?;
    let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
    Ok((text("reason"), text("message")))
}
