//! The revocation in a record of git: a part of its own, applied under a field manager of its own.

use serde_json::{Value, json};

use crate::{
    adapters::cluster::id_of,
    api::{GROUP, annotation::FORGET_REVOCATION},
};

/// On an `ApprovedImage` that carries a revocation: it goes on counting when it is deleted.
pub const FINALIZER: &str = "countersign.dev/revocation";

/// The part of an `ApprovedImage` that is applied under the revocation's own manager; `None` where nothing is revoked.
pub fn revocation(object: &Value) -> Option<Value> {
    // Asked of every object of a commit.
    let spec = object.get("spec").filter(|_| object["kind"] == "ApprovedImage")?;
    let revocation = spec.get("revocation")?;
    let id = id_of(object);
    if id.group() != GROUP {
        return None;
    }
    Some(json!({
        "apiVersion": id.api_version, "kind": id.kind,
        "metadata": {"name": id.name, "namespace": id.namespace, "finalizers": [FINALIZER]},
        "spec": {"image": spec["image"], "digest": spec["digest"], "revocation": revocation},
    }))
}

/// Whether a person let the revocation of a record go.
pub(super) fn is_forgotten(object: &Value) -> bool {
    let said =
        object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(FORGET_REVOCATION));
    said.is_some() && said == object.pointer("/spec/digest")
}
