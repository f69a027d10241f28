//! A live workload as the plan sees it.

use std::sync::Arc;

use serde_json::Value;

use crate::domain::{
    ownership::{others_own_pod_spec, own_fields, own_update_entry},
    plan::Live,
    rollout::{Beyond, rollout},
    workload::{Kind, WorkloadId},
};

/// A workload as it came from the API server.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which one.
    pub id: WorkloadId,
    /// What the plan sees of it.
    pub live: Live,
}

/// Reads an object of a workload kind. `None` when it has not even a name: then it is none.
pub fn live(kind: &'static Kind, mut object: Value) -> Option<Seen> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let id = WorkloadId { kind, namespace: text("/metadata/namespace")?, name: text("/metadata/name")? };
    let (uid, resource_version) = (text("/metadata/uid")?, text("/metadata/resourceVersion")?);
    let deleting = text("/metadata/deletionTimestamp").is_some();
    let fields = match object.pointer_mut("/metadata/managedFields").map(Value::take) {
        Some(Value::Array(fields)) => fields,
        Some(_) | None => Vec::new(),
    };
    if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let live = Live {
        uid,
        resource_version,
        rollout: rollout(kind, &object, Beyond::default()),
        trouble: None,
        object: Arc::new(object),
        others_own_pod_spec: others_own_pod_spec(&fields, kind.template),
        own_update_entry: own_update_entry(&fields),
        own_fields: own_fields(&fields, &kind.api_version()).cloned().map(Arc::new),
        deleting,
        applied: None,
    };
    Some(Seen { id, live })
}
