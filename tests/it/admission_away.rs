//! Admission is registered, and nobody is there to answer: what changes no image passes all the same, and everything else is
//! refused.

use std::collections::BTreeSet;

use anyhow::ensure;
use countersign::{
    api::{
        read_workload_kinds,
        webhooks::{Endpoint, Registration, configurations},
    },
    domain::workload::{Kind, kinds},
};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    story_custom::{CLONE_SETS, ROLLOUTS, SERVICES, create_definition},
    support::{
        operator::{ROOT, install},
        registrar::{self, COUNTS, Registering},
        scene::SOON,
    },
};

/// A kind with a pod template.
#[derive(Debug)]
pub struct Row {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// The pod spec in it.
    pub spec: &'static str,
}

const fn row(api_version: &'static str, kind: &'static str, plural: &'static str, spec: &'static str) -> Row {
    Row { api_version, kind, plural, spec }
}

const TEMPLATE: &str = "/spec/template/spec";
pub const ROWS: &[Row] = &[
    row("v1", "Pod", "pods", "/spec"),
    row("apps/v1", "Deployment", "deployments", TEMPLATE),
    row("apps/v1", "StatefulSet", "statefulsets", TEMPLATE),
    row("apps/v1", "DaemonSet", "daemonsets", TEMPLATE),
    row("batch/v1", "CronJob", "cronjobs", "/spec/jobTemplate/spec/template/spec"),
    row("apps/v1", "ReplicaSet", "replicasets", TEMPLATE),
    row("v1", "ReplicationController", "replicationcontrollers", TEMPLATE),
    row("batch/v1", "Job", "jobs", TEMPLATE),
    row("v1", "PodTemplate", "podtemplates", "/template/spec"),
    row("argoproj.io/v1alpha1", "Rollout", "rollouts", TEMPLATE),
    row("apps.kruise.io/v1alpha1", "CloneSet", "clonesets", TEMPLATE),
    row("serving.knative.dev/v1", "Service", "services", TEMPLATE),
];

impl Row {
    /// An object of this kind; `lists` are laid over its pod spec.
    pub fn object(&self, name: &str, lists: &Value) -> Value {
        let labels = json!({"app": name});
        let app = match self.kind {
            // Knative asks for no name.
            "Service" => json!({"image": "registry.example/app:1"}),
            _ => {
                json!({"name": "app", "image": "registry.example/app:1", "resources": {"requests": {"cpu": "1m"}}})
            }
        };
        let mut pod = json!({"containers": [app]});
        json_patch::merge(&mut pod, lists);
        let template = json!({"metadata": {"labels": labels}, "spec": pod});
        let selected = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template});
        let once = || {
            let mut template = template.clone();
            template["spec"]["restartPolicy"] = "Never".into();
            template
        };
        let spec = match self.kind {
            "Pod" => pod,
            "CronJob" => {
                json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": once()}}})
            }
            "Job" => json!({"suspend": true, "template": once()}),
            "ReplicationController" => json!({"replicas": 1, "selector": labels, "template": template}),
            "DaemonSet" => json!({"selector": {"matchLabels": labels}, "template": template}),
            "StatefulSet" => {
                let mut spec = selected;
                spec["serviceName"] = name.into();
                spec
            }
            "Service" => json!({"template": template}),
            _ => selected,
        };
        let head = json!({
            "apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": name, "labels": labels},
        });
        let mut object = head;
        if self.kind == "PodTemplate" {
            object["template"] = template;
        } else {
            object["spec"] = spec;
        }
        object
    }

    fn api(&self, plane: &ControlPlane, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = self.api_version.rsplit_once('/').unwrap_or(("", self.api_version));
        let gvk = GroupVersionKind::gvk(group, version, self.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, self.plural);
        Api::namespaced_with(plane.client(), namespace, &resource)
    }

    /// Whether the API server lets anything of a pod template change after it was created.
    fn is_fixed(&self) -> bool {
        matches!(self.kind, "Pod" | "Job")
    }

    /// A change of the spec that is allowed for every object, and changes no image.
    fn other_change(&self) -> Value {
        let (path, value) = match self.kind {
            "Pod" | "Job" => ("/spec/activeDeadlineSeconds".to_owned(), json!(100_000)),
            _ => (format!("{}/containers/0/env", self.spec), json!([{"name": "A", "value": "1"}])),
        };
        json!([{"op": "add", "path": path, "value": value}])
    }
}

/// Lists beside the first container.
fn full() -> Value {
    json!({
        "containers": [
            {"name": "app", "image": "registry.example/app:1"},
            {"name": "beside", "image": "registry.example/beside:1"},
        ],
        "initContainers": [
            {"name": "first", "image": "registry.example/first:1"},
            {"name": "sidecar", "image": "registry.example/sidecar:1", "restartPolicy": "Always"},
        ],
        "volumes": [
            {"name": "model", "image": {"reference": "registry.example/model:1"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    })
}

type Answer = kube::Result<DynamicObject>;

#[track_caller]
fn passes(what: &str, answer: &Answer) {
    assert!(answer.is_ok(), "{what}: {}", answer.as_ref().unwrap_err());
}

/// Refused because nobody answers, not for another reason.
#[track_caller]
fn is_refused(what: &str, answer: &Answer) {
    match answer {
        Ok(_) => panic!("{what}: it passed"),
        Err(error) => {
            let error = error.to_string();
            let asked = error.contains("failed calling webhook") && error.contains("countersign.dev");
            assert!(asked, "{what}: {error}");
        }
    }
}

fn json_patch_of(operations: &Value) -> Patch<()> {
    Patch::Json(serde_json::from_value(operations.clone()).unwrap())
}

fn replace(path: &str, image: &str) -> Patch<()> {
    json_patch_of(&json!([{"op": "replace", "path": path, "value": image}]))
}

/// What an object is asked, beside its namespace.
struct Asked<'a> {
    row: &'a Row,
    api: Api<DynamicObject>,
    name: String,
}

impl Asked<'_> {
    async fn patch(&self, patch: &Patch<()>) -> Answer {
        self.api.patch(&self.name, &PatchParams::default(), patch).await
    }

    async fn merge(&self, patch: Value) -> Answer {
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    fn what(&self, what: &str) -> String {
        format!("{} {}: {what}", self.row.kind, self.name)
    }

    async fn live(&self) -> Value {
        serde_json::to_value(self.api.get(&self.name).await.unwrap()).unwrap()
    }

    /// Everything that changes no image.
    async fn what_changes_no_image_passes(&self) {
        passes(&self.what("label"), &self.merge(json!({"metadata": {"labels": {"more": "1"}}})).await);
        let finalizers = |all: &[&str]| json!({"metadata": {"finalizers": all}});
        passes(&self.what("finalizer"), &self.merge(finalizers(&["example.com/kept"])).await);
        passes(&self.what("no finalizer"), &self.merge(finalizers(&[])).await);
        let applied = json!({
            "apiVersion": self.row.api_version, "kind": self.row.kind,
            "metadata": {"name": self.name, "annotations": {"applied": "1"}},
        });
        let params = PatchParams::apply("somebody").force();
        passes(&self.what("apply"), &self.api.patch(&self.name, &params, &Patch::Apply(&applied)).await);
        passes(&self.what("spec"), &self.patch(&json_patch_of(&self.row.other_change())).await);
        // Controllers may write in between.
        eventually(&self.what("put"), SOON, async || {
            let mut live = self.live().await;
            live["metadata"]["annotations"]["put"] = "1".into();
            let object: DynamicObject = serde_json::from_value(live).unwrap();
            match self.api.replace(&self.name, &PostParams::default(), &object).await {
                Err(kube::Error::Api(status)) if status.code == 409 => anyhow::bail!("{}", status.message),
                answer => {
                    passes(&self.what("put"), &answer);
                    Ok(())
                }
            }
        })
        .await;
        if self.row.kind != "PodTemplate" {
            let status = Patch::Merge(json!({"status": {}}));
            let answer = self.api.patch_status(&self.name, &PatchParams::default(), &status).await;
            passes(&self.what("status"), &answer);
        }
        if matches!(self.row.kind, "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController") {
            let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
            let answer = self.api.patch_scale(&self.name, &PatchParams::default(), &scale).await;
            assert!(answer.is_ok(), "{}: {answer:?}", self.what("scale"));
        }
        if self.live().await["spec"]["replicas"].is_number() {
            passes(&self.what("replicas"), &self.merge(json!({"spec": {"replicas": 2}})).await);
        }
    }

    /// Every way to another image at the first container.
    async fn another_image_is_refused(&self) {
        let (row, other) = (self.row, "registry.example/app:2");
        if row.kind != "Job" {
            let image = format!("{}/containers/0/image", row.spec);
            is_refused(&self.what("patch"), &self.patch(&replace(&image, other)).await);
            let dry = PatchParams { dry_run: true, ..PatchParams::default() };
            let answer = self.api.patch(&self.name, &dry, &replace(&image, other)).await;
            is_refused(&self.what("dry run"), &answer);
            let mut live = self.live().await;
            *live.pointer_mut(&image).unwrap() = other.into();
            let containers = live.pointer(&format!("{}/containers", row.spec)).unwrap().clone();
            let mut merged = json!({});
            for part in row.spec.split('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
                let inner = if merged == json!({}) { json!({"containers": containers}) } else { merged };
                merged = json!({part: inner});
            }
            is_refused(&self.what("merge patch"), &self.merge(merged.clone()).await);
            if !row.api_version.contains('.') {
                let strategic = Patch::Strategic(merged);
                let answer = self.api.patch(&self.name, &PatchParams::default(), &strategic).await;
                is_refused(&self.what("strategic patch"), &answer);
            }
            live["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            if row.kind == "Pod" || !row.api_version.contains('.') {
                let object: DynamicObject = serde_json::from_value(live.clone()).unwrap();
                let answer = self.api.replace(&self.name, &PostParams::default(), &object).await;
                is_refused(&self.what("put"), &answer);
            }
            live["metadata"].as_object_mut().unwrap().remove("managedFields");
            let params = PatchParams::apply("somebody").force();
            let answer = self.api.patch(&self.name, &params, &Patch::Apply(&live)).await;
            is_refused(&self.what("apply"), &answer);
        }
        if !row.is_fixed() {
            for (list, entry) in [
                ("containers", json!({"name": "more", "image": "registry.example/app:1"})),
                ("initContainers", json!({"name": "more", "image": "registry.example/app:1"})),
                ("volumes", json!({"name": "more", "image": {"reference": "registry.example/app:1"}})),
            ] {
                let at = format!("{}/{list}", row.spec);
                let has_list = self.live().await.pointer(&at).is_some_and(Value::is_array);
                let operation = if has_list {
                    json!([{"op": "add", "path": format!("{at}/-"), "value": entry}])
                } else {
                    json!([{"op": "add", "path": at, "value": [entry]}])
                };
                is_refused(
                    &self.what(&format!("more {list}")),
                    &self.patch(&json_patch_of(&operation)).await,
                );
            }
        }
    }

    /// Of an object with every list: what moves or goes passes, what comes is refused.
    async fn every_list_is_compared(&self) {
        let row = self.row;
        let at = |list: &str| format!("{}/{list}", row.spec);
        for path in ["initContainers/0/image", "initContainers/1/image", "containers/1/image"] {
            if row.kind != "Job" {
                let answer = self.patch(&replace(&at(path), "registry.example/app:1")).await;
                is_refused(&self.what(path), &answer);
            }
        }
        if row.is_fixed() {
            return;
        }
        let answer = self.patch(&replace(&at("volumes/0/image/reference"), "registry.example/app:1")).await;
        is_refused(&self.what("volume"), &answer);
        // Both are there already, but not at this place.
        let swapped = json!([
            {"op": "replace", "path": at("containers/0/image"), "value": "registry.example/beside:1"},
            {"op": "replace", "path": at("containers/1/image"), "value": "registry.example/app:1"},
        ]);
        is_refused(&self.what("swapped"), &self.patch(&json_patch_of(&swapped)).await);
        let moved = json!([{"op": "move", "from": at("initContainers/1"), "path": at("initContainers/0")}]);
        passes(&self.what("another order"), &self.patch(&json_patch_of(&moved)).await);
        for gone in ["containers/1", "volumes/0", "initContainers"] {
            let removed = json!([{"op": "remove", "path": at(gone)}]);
            passes(&self.what(&format!("without {gone}")), &self.patch(&json_patch_of(&removed)).await);
        }
    }
}

/// The kinds of the documented example.
fn configured() -> Vec<&'static Kind> {
    let text = include_bytes!("../../docs/guides/workload-kinds.yaml");
    let kinds = read_workload_kinds("workload-kinds.yaml", text).unwrap();
    Vec::leak(kinds).iter().collect()
}

async fn plane_with_every_kind() -> ControlPlane {
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    for text in [ROLLOUTS, CLONE_SETS, SERVICES] {
        create_definition(&plane.client(), text).await;
    }
    plane
}

/// If this fails, an operator that is away stops scaling, labelling and deleting; or lets in what nobody has judged.
#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_answers_only_what_changes_an_image_is_refused() {
    let plane = plane_with_every_kind().await;
    let namespace = plane.namespace("away").await;
    let mut before = Vec::new();
    for row in ROWS {
        for (name, lists) in [("bare", json!({})), ("full", full())] {
            // Knative knows neither init containers nor image volumes.
            if row.kind == "Service" && name == "full" {
                continue;
            }
            let asked =
                Asked { row, api: row.api(&plane, &namespace), name: format!("{name}-{}", row.plural) };
            let object = serde_json::from_value(row.object(&asked.name, &lists)).unwrap();
            passes(&asked.what("before"), &asked.api.create(&PostParams::default(), &object).await);
            before.push(asked);
        }
    }
    create_odd_templates(&plane, &namespace).await;
    let registering = Registering::start(&plane, plane.client(), configured());
    registering.registered().await;
    let create = async |row: &Row, namespace: &str, params: &PostParams| {
        let object = serde_json::from_value(row.object("new", &json!({}))).unwrap();
        row.api(&plane, namespace).create(params, &object).await
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    for row in ROWS {
        eventually(&format!("a new {} is refused", row.kind), COUNTS, async || {
            ensure!(create(row, &namespace, &dry).await.is_err());
            Ok(())
        })
        .await;
        is_refused(&format!("new {}, dry", row.kind), &create(row, &namespace, &dry).await);
        is_refused(&format!("new {}", row.kind), &create(row, &namespace, &PostParams::default()).await);
        let params = PatchParams::apply("somebody").force();
        let object = row.object("new", &json!({}));
        let answer = row.api(&plane, &namespace).patch("new", &params, &Patch::Apply(&object)).await;
        is_refused(&format!("new {}, applied", row.kind), &answer);
        // What the operator and the cluster itself are made of starts all the same.
        for exempt in [ROOT, "kube-system"] {
            passes(&format!("new {} in {exempt}", row.kind), &create(row, exempt, &dry).await);
        }
    }
    for asked in &before {
        asked.what_changes_no_image_passes().await;
        asked.another_image_is_refused().await;
        if asked.name.starts_with("full-") {
            asked.every_list_is_compared().await;
        }
    }
    sub_resources_of_pods(&plane, &namespace).await;
    null_is_an_empty_list(&plane, &namespace).await;
    odd_templates_pass_unchanged(&plane, &namespace).await;
    own_kinds(&plane, &namespace).await;
    // One Pod went by eviction.
    for asked in before.iter().filter(|asked| asked.name != "full-pods") {
        let answer = asked.api.delete(&asked.name, &DeleteParams::default()).await;
        assert!(answer.is_ok(), "{}: {answer:?}", asked.what("delete"));
    }
    let all = DeleteParams { propagation_policy: None, ..DeleteParams::default() };
    let left = ROWS[0].api(&plane, &namespace).delete_collection(&all, &Default::default()).await;
    assert!(left.is_ok(), "{left:?}");
}

async fn sub_resources_of_pods(plane: &ControlPlane, namespace: &str) {
    let pods = ROWS[0].api(plane, namespace);
    let debug = Patch::Strategic(json!({"spec": {"ephemeralContainers": [
        {"name": "debug", "image": "registry.example/debug:1", "targetContainerName": "app"},
    ]}}));
    let params = PatchParams::default();
    let answer = pods.patch_subresource("ephemeralcontainers", "bare-pods", &params, &debug);
    is_refused("kubectl debug", &answer.await);
    // Running, as a resize asks for.
    eventually("the pod runs", SOON, async || {
        let found = pods.get("bare-pods").await?;
        ensure!(found.data["status"]["phase"] == "Running", "{}", found.data["status"]);
        Ok(())
    })
    .await;
    // What a kubelet writes that can resize.
    let able = json!([{"op": "add", "path": "/status/containerStatuses/0/resources", "value": {"requests": {"cpu": "1m"}}}]);
    let answer = pods.patch_status("bare-pods", &params, &json_patch_of(&able)).await;
    passes("the status of a container", &answer);
    let larger = json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "2m"}}}]}});
    passes(
        "resize",
        &pods.patch_subresource("resize", "bare-pods", &params, &Patch::Strategic(larger)).await,
    );
    let typed: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(plane.client(), namespace);
    let evicted = typed.evict("full-pods", &kube::api::EvictParams::default()).await;
    assert!(evicted.is_ok(), "{evicted:?}");
}

/// Custom kinds hold what their definitions do not forbid.
async fn null_is_an_empty_list(plane: &ControlPlane, namespace: &str) {
    let api = rollouts(plane, namespace);
    let nulls = json!([
        {"op": "add", "path": "/spec/template/spec/initContainers", "value": null},
        {"op": "add", "path": "/spec/template/spec/volumes", "value": null},
    ]);
    let params = PatchParams::default();
    passes("to null", &api.patch("bare-rollouts", &params, &json_patch_of(&nulls)).await);
    let stored = api.get("bare-rollouts").await.unwrap();
    assert!(stored.data.pointer("/spec/template/spec/initContainers").is_some_and(Value::is_null));
    let label = Patch::Merge(json!({"metadata": {"labels": {"null": "1"}}}));
    passes("label beside null", &api.patch("bare-rollouts", &params, &label).await);
    let image = "/spec/template/spec/containers/0/image";
    let answer = api.patch("bare-rollouts", &params, &replace(image, "registry.example/app:2")).await;
    is_refused("image beside null", &answer);
}

/// Templates that no controller could use, but custom kinds may hold; and one that is longer than any comparison may take.
fn odd_templates() -> [(&'static str, Value); 4] {
    let many = |n| json!({"name": format!("c{n}"), "image": "registry.example/app:1"});
    [
        ("odd-null", Value::Null),
        ("odd-text", json!("text")),
        ("odd-entries", json!({"spec": {"containers": ["text", 1], "volumes": {"a": "b"}}})),
        ("odd-many", json!({"spec": {"containers": (0..4000).map(many).collect::<Vec<_>>()}})),
    ]
}

fn rollouts(plane: &ControlPlane, namespace: &str) -> Api<DynamicObject> {
    ROWS.iter().find(|row| row.kind == "Rollout").unwrap().api(plane, namespace)
}

async fn create_odd_templates(plane: &ControlPlane, namespace: &str) {
    for (name, template) in odd_templates() {
        let object = json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": name}, "spec": {"template": template},
        });
        let object = serde_json::from_value(object).unwrap();
        passes(name, &rollouts(plane, namespace).create(&PostParams::default(), &object).await);
    }
}

async fn odd_templates_pass_unchanged(plane: &ControlPlane, namespace: &str) {
    let (api, params) = (rollouts(plane, namespace), PatchParams::default());
    for (name, _) in odd_templates() {
        let other = Patch::Merge(json!({"metadata": {"labels": {"more": "1"}}, "spec": {"replicas": 2}}));
        passes(name, &api.patch(name, &params, &other).await);
    }
    // What cannot be compared is no way past admission.
    let image = "/spec/template/spec/containers/3999/image";
    assert!(api.patch("odd-many", &params, &replace(image, "registry.example/app:2")).await.is_err());
    let real = json!([{"op": "add", "path": "/spec/template", "value": {"spec": {"containers": [
        {"name": "app", "image": "registry.example/app:1"},
    ]}}}]);
    for name in ["odd-null", "odd-text", "odd-entries"] {
        assert!(api.patch(name, &params, &json_patch_of(&real)).await.is_err(), "{name}");
    }
}

/// What people must be able to do with our own kinds while the operator is away, and what nobody else may ever do.
async fn own_kinds(plane: &ControlPlane, namespace: &str) {
    let own = |kind: &str, plural: &str, namespace: &str| -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("countersign.dev", "v1alpha1", kind);
        Api::namespaced_with(plane.client(), namespace, &ApiResource::from_gvk_with_plural(&gvk, plural))
    };
    let create = async |api: &Api<DynamicObject>, kind: &str, name: &str, spec: Value| {
        let object = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        });
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    let approval = json!({"image": "registry.example/app", "digest": digest});
    let mut revoked = approval.clone();
    revoked["revocation"] = json!({"reason": "CVE-2026-0001"});
    let at_root = own("ApprovedImage", "approvedimages", ROOT);
    passes(
        "an approval in the root namespace",
        &create(&at_root, "ApprovedImage", "a", approval.clone()).await,
    );
    let params = PatchParams::default();
    let revocation = Patch::Merge(json!({"spec": {"revocation": {"reason": "CVE-2026-0001"}}}));
    passes("its revocation", &at_root.patch("a", &params, &revocation).await);
    let tenants = own("ApprovedImage", "approvedimages", namespace);
    is_refused("a tenant's approval", &create(&tenants, "ApprovedImage", "a", approval).await);
    passes("a tenant's revocation", &create(&tenants, "ApprovedImage", "r", revoked).await);
    let label = Patch::Merge(json!({"metadata": {"labels": {"more": "1"}}}));
    passes("its label", &tenants.patch("r", &params, &label).await);
    let policies = own("ImagePolicy", "imagepolicies", namespace);
    is_refused("a tenant's policy", &create(&policies, "ImagePolicy", "p", json!({"mode": "Audit"})).await);
    // The one who asks here is the operator to this registration: nobody is asked about what it writes.
    let histories = own("ReleaseHistory", "releasehistories", ROOT);
    let of = json!({"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": namespace, "name": "x"}});
    passes("the operator's history", &create(&histories, "ReleaseHistory", "h", of).await);
    let mallory = impersonating(plane, "mallory", "ReleaseHistory", "releasehistories");
    let forged = Patch::Merge(json!({"status": {"present": "forged"}}));
    is_refused("a forged history", &mallory.patch_status("h", &params, &forged).await);
    passes("an annotation on it", &mallory.patch("h", &params, &label).await);
}

/// Somebody else with all rights, in the root namespace.
fn impersonating(plane: &ControlPlane, user: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let mut config = plane.config();
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    let gvk = GroupVersionKind::gvk("countersign.dev", "v1alpha1", kind);
    let client = kube::Client::try_from(config).unwrap();
    Api::namespaced_with(client, ROOT, &ApiResource::from_gvk_with_plural(&gvk, plural))
}

/// If this fails, the operator registers nothing in a cluster, where it is reached by a Service; it would only be seen there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_by_service_is_accepted_as_it_is_written() {
    let plane = crate::controlplane::shared();
    let all: Vec<&'static Kind> = kinds().chain(configured()).collect();
    let ca = plane.ca_pem();
    let left_out = BTreeSet::from(["cni".to_owned()]);
    let owner =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": "x", "uid": "y"});
    let registration = Registration {
        root: ROOT,
        kinds: &all,
        endpoint: &Endpoint::Service,
        ca_bundle: Some(&ca),
        left_out: &left_out,
        operator: "o'reilly \"the\" \\ operator\n",
        owner: Some(&owner),
    };
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("countersign").force() };
    for (kind, wanted) in ["Validating", "Mutating"].into_iter().zip(configurations(&registration)) {
        let api = registrar::configurations(plane, kind);
        let stored = api.patch("countersign", &dry, &Patch::Apply(&wanted)).await.unwrap();
        // Nothing is filled in: it can be compared.
        assert_eq!(stored.data["webhooks"], wanted["webhooks"], "{kind}");
        for webhook in wanted["webhooks"].as_array().unwrap() {
            let cost = webhook["matchConditions"].to_string().len();
            assert!(cost < 4000, "{}: {cost}", webhook["name"]);
        }
    }
}
