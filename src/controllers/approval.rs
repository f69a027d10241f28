//! Revocations are kept: a finalizer holds the object of every revocation, until a person lets it go.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Shared, memory::Key, queue::Next, source::revocation::FINALIZER};
use crate::{
    api::REVOCATION_FIELD_MANAGER,
    telemetry::metrics::{Controller, Stage},
};

/// Looks at one `ApprovedImage`.
pub async fn look(ctx: Shared, key: Key) -> Next {
    let _timer = ctx.metrics.time_reconcile(Controller::Approval);
    let (object, free) = {
        let memory = ctx.memory.read();
        let Some(object) = memory.approvals.get(&key).cloned() else { return Next::Wait };
        let record = object.record(&ctx.root);
        let forgotten = record.as_ref().is_ok_and(|record| record.forgotten);
        let ending = memory.namespaces.get(&key.0).is_some_and(|area| area.ending);
        (object, forgotten || ending)
    };
    let Some(revocation) = &object.spec.revocation else { return Next::Wait };
    let held = object.finalizers().iter().any(|name| name == FINALIZER);
    let deleting = object.metadata.deletion_timestamp.is_some();
    let finalizers: Vec<&str> = match (held, free, deleting) {
        (true, true, _) => Vec::new(),
        (false, false, false) => vec![FINALIZER],
        (true, false, _) | (false, true, _) | (false, false, true) => return Next::Wait,
    };
    let wanted: Value = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
        "metadata": {"name": key.1, "namespace": key.0, "finalizers": finalizers, "uid": object.uid()},
        "spec": {"image": object.spec.image, "digest": object.spec.digest, "revocation": revocation},
    });
    match ctx.cluster.apply(&wanted, REVOCATION_FIELD_MANAGER).await {
        Ok(_) => {
            tracing::info!(approval = key.1, namespace = key.0, kept = !free, "revocation");
            Next::Wait
        }
        // Gone, or another one by now: the watch says so.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Next::Wait,
        Err(error) => {
            ctx.metrics.reconcile_error(Controller::Approval, Stage::Act);
            tracing::warn!(approval = key.1, namespace = key.0, error = %error.explain(), "its finalizer cannot be set");
            Next::Retry
        }
    }
}
