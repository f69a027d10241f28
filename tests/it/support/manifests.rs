//! What longer stories need: manifests with more in them, other namespaces, the writes of the operator.

use anyhow::{Context as _, ensure};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use super::scene::{SOON, Scene};
use crate::controlplane::{AuditEvent, ControlPlane, eventually};

/// An object as it stands in a file.
pub fn yaml(object: &Value) -> String {
    countersign::domain::manifest::to_yaml(object).unwrap()
}

/// The value at a pointer, or null.
pub fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The value with the fields of another one laid over it.
pub fn with(mut value: Value, over: Value) -> Value {
    json_patch::merge(&mut value, &over);
    value
}

impl Scene {
    /// A workload whose only container is called `app`; `over` is merged into that container.
    pub fn object(&self, kind: &str, name: &str, image: &str, over: Value) -> Value {
        let text = self.workload(kind, name, image);
        let parsed = countersign::domain::manifest::parse("test", text.as_bytes(), &Default::default());
        let mut object = parsed.objects[0].value().clone();
        let app = object.pointer_mut(&format!("{}/spec/containers/0", template(kind))).unwrap();
        json_patch::merge(app, &over);
        object
    }

    /// A ConfigMap of this namespace.
    pub fn config_map(&self, name: &str, value: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace}, "data": {"value": value},
        })
    }

    /// Writes an object to a file of the repository.
    pub fn put(&self, path: &str, object: &Value) {
        self.write(path, &yaml(object));
    }

    /// Removes a file of the repository.
    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.repo.path().join(path)).unwrap();
    }

    /// An approval as an object, with more in its spec.
    pub fn approval_with(&self, n: u8, over: Value) -> Value {
        let text = self.approval(n, None);
        let parsed = countersign::domain::manifest::parse("test", text.as_bytes(), &Default::default());
        with(parsed.objects[0].value().clone(), json!({"spec": over}))
    }

    /// Approves `1.n` for each, in files of their own.
    pub fn file_approvals(&self, these: impl IntoIterator<Item = u8>) {
        for n in these {
            self.write(&format!("approvals/{n}.yaml"), &self.approval(n, None));
        }
    }

    /// Revokes `1.n`, in its file.
    pub fn file_revocation(&self, n: u8, why: &str) {
        self.write(&format!("approvals/{n}.yaml"), &self.approval(n, Some(why)));
    }

    /// Names an image in a workload's own file, and waits until its release proved itself.
    pub async fn ship(&self, kind: &str, name: &str, n: u8) {
        self.write(&format!("{name}.yaml"), &self.workload(kind, name, &self.tag(n)));
        self.push(&format!("{name} runs 1.{n}")).await;
        self.runs(kind, name, &self.pin(n)).await;
        self.proven(kind, name).await;
    }

    /// Objects of a kind that this client knows by its parts, in a namespace or (empty) none.
    pub fn of(&self, api_version: &str, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// A live object of this namespace.
    pub async fn live(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(self.any(kind).get(name).await?)?)
    }

    /// Waits until a value stands in a live object.
    pub async fn stands(&self, kind: &str, name: &str, pointer: &str, expected: &Value) {
        eventually(&format!("{pointer} of {kind} {name} is {expected}"), SOON, async || {
            let object = self.live(kind, name).await?;
            ensure!(at(&object, pointer) == expected, "{}", at(&object, pointer));
            Ok(())
        })
        .await;
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, api: &Api<DynamicObject>, name: &str) {
        eventually(&format!("{name} is gone"), SOON, async || {
            ensure!(api.get_opt(name).await?.is_none(), "it is there");
            Ok(())
        })
        .await;
    }

    /// A merge patch, as `kubectl patch` and `kubectl edit` send it.
    pub async fn edit(&self, kind: &str, name: &str, change: &Value) -> Value {
        let params = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
        let stored = self.any(kind).patch(name, &params, &Patch::Merge(change)).await.unwrap();
        serde_json::to_value(stored).unwrap()
    }

    /// Deletes an object as somebody else.
    pub async fn delete(&self, kind: &str, name: &str) {
        self.any(kind).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the history of a workload has a reason of Ready and says something in its message.
    pub async fn explains(&self, kind: &str, name: &str, reason: &str, text: &str) -> Value {
        eventually(&format!("{kind} {name} says {reason}: {text}"), SOON, async || {
            let history = serde_json::to_value(self.history(kind, name).await?)?;
            let ready = super::scene::ready(&history)?;
            let said = at(&history, "/status/conditions").to_string();
            ensure!(ready.0 == reason && said.contains(text), "{said}");
            Ok(history)
        })
        .await
    }

    /// The outcomes of the releases of a workload with an image, the oldest first.
    pub async fn outcomes(&self, kind: &str, name: &str, image: &str) -> anyhow::Result<Vec<Value>> {
        let history = serde_json::to_value(self.history(kind, name).await?)?;
        let releases = at(&history, "/status/releases").as_array().context("no releases")?;
        let of = releases.iter().filter(|release| release["containers"].to_string().contains(image));
        Ok(of.map(|release| release["outcome"].clone()).collect())
    }
}

/// Where the pod template of a kind stands.
pub fn template(kind: &str) -> &'static str {
    if kind == "CronJob" { "/spec/jobTemplate/spec/template" } else { "/spec/template" }
}

/// What operators wrote to objects of a namespace.
pub fn writes(plane: &ControlPlane, resource: &str, namespace: &str) -> Vec<AuditEvent> {
    let writes = plane.writes(resource, namespace).unwrap();
    writes.into_iter().filter(|event| event.user_agent.starts_with("countersign/")).collect()
}

/// Of the writes, those that named images, by the name of the object.
pub fn image_writes(events: &[AuditEvent], name: &str) -> Vec<Vec<String>> {
    events
        .iter()
        .filter(|event| event.object_ref.as_ref().is_some_and(|object| object.name == name))
        .map(|event| event.images().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .filter(|images| !images.is_empty())
        .collect()
}
