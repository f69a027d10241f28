//! What trails behind the actions: histories, events, and looks that can wait. Act first, record after: while workloads are being changed nothing
//! here competes with them for the API server, and a crash in between loses nothing that the next plan would not find.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition as WireCondition,
};
use kube::{Client, ResourceExt};
use kube_runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Ctx, Shared,
    memory::{NO_SAFE_RELEASE, Said, State, Tracked},
    now,
};
use crate::{
    adapters::cluster::Error,
    api::{
        ReleaseHistory, ReleaseHistoryStatus,
        annotation::{RELEASE_HOLD, RETRY},
        condition::{from_api, to_api},
        convert::cut,
        release_history::{ReleaseHistorySpec, WorkloadRef},
        status_patch,
    },
    domain::{
        condition::{Condition, READY, RECONCILING, Status, merge},
        intervention::Asked,
        inventory::ObjectId,
        ownership::MANAGER,
        plan::State as Found,
        release::{Outcome, RollbackOutcome},
        workload::WorkloadId,
    },
    telemetry::metrics::WriteOutcome,
};

/// Nothing is written before the actions have been silent for this long…
const CALM: Duration = Duration::from_millis(150);
/// …but neither a record nor a look waits longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many writes are under way at once.
const CONCURRENCY: usize = 16;
/// How long the API server may take for an event: others wait for it.
const EVENT: Duration = Duration::from_secs(30);

/// Where controllers leave what is to be written.
#[derive(Clone, Default)]
pub struct Trail(Arc<Inner>);

#[derive(Default)]
struct Inner {
    acting: AtomicUsize,
    last_act: Mutex<Option<Instant>>,
    events: Mutex<Vec<(ObjectReference, Event)>>,
    wake: Notify,
    later: Mutex<BTreeSet<WorkloadId>>,
    looks: Notify,
}

/// While it lives, an action is under way.
pub struct Acting(Trail);

impl Drop for Acting {
    fn drop(&mut self) {
        *self.0.0.last_act.lock() = Some(Instant::now());
        self.0.0.acting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Trail {
    /// An action begins.
    pub fn acting(&self) -> Acting {
        self.0.acting.fetch_add(1, Ordering::SeqCst);
        Acting(self.clone())
    }

    /// There is something to write.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// An event about an object.
    pub fn event(&self, about: ObjectReference, type_: EventType, reason: &str, action: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note, 1000)),
            action: action.to_owned(),
            secondary: None,
        };
        self.0.events.lock().push((about, event));
        self.wake();
    }

    /// There is a look to take, once the actions are silent.
    pub fn look_later(&self, id: WorkloadId) {
        self.0.later.lock().insert(id);
        self.0.looks.notify_one();
    }

    /// Waits until the actions are silent, for as long as that is worth.
    async fn calm(&self) {
        let began = Instant::now();
        while !self.is_calm() && began.elapsed() < PATIENCE {
            tokio::time::sleep(CALM / 3).await;
        }
    }

    /// Whether no action is under way, nor was a moment ago.
    pub fn is_calm(&self) -> bool {
        let silent = self.0.last_act.lock().is_none_or(|last| last.elapsed() >= CALM);
        silent && self.0.acting.load(Ordering::SeqCst) == 0
    }
}

/// Writes what is left in the trail until the token is cancelled, and then what is left.
pub async fn run(ctx: Shared, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = ctx.trail.0.wake.notified() => false,
        };
        if !stopping {
            ctx.trail.calm().await;
        }
        flush(&ctx).await;
        if stopping {
            return;
        }
    }
}

/// Asks for the looks that can wait until the actions are silent, until the token is cancelled.
pub async fn look_after_actions(ctx: Shared, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ctx.trail.0.looks.notified() => {}
        }
        ctx.trail.calm().await;
        for id in std::mem::take(&mut *ctx.trail.0.later.lock()) {
            ctx.workloads.now(id);
        }
    }
}

async fn flush(ctx: &Shared) {
    let dirty: Vec<WorkloadId> = {
        let memory = ctx.memory.read();
        memory
            .histories
            .iter()
            .filter(|(_, tracked)| tracked.dirty.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    };
    ctx.metrics.set_history_records_pending(dirty.len());
    stream::iter(dirty)
        .for_each_concurrent(CONCURRENCY, |id| async move {
            if let Err(error) = record(ctx, &id).await {
                tracing::warn!(workload = %id, error = %error.explain(), "its history cannot be written and is tried again");
                ctx.workloads.after(id, Duration::from_secs(5));
            }
        })
        .await;
    ctx.metrics.set_history_records_pending(0);
    let events = std::mem::take(&mut *ctx.trail.0.events.lock());
    stream::iter(events)
        .for_each_concurrent(CONCURRENCY, |(about, event)| async move {
            publish(ctx.cluster.client(), &about, &event).await;
        })
        .await;
}

/// Writes an event; one that cannot be written is logged.
pub async fn publish(client: Client, about: &ObjectReference, event: &Event) {
    // A recorder of its own for each: one that is kept folds events of one reason together, with the first one's note.
    let reporter = Reporter { controller: "countersign".to_owned(), instance: None };
    match tokio::time::timeout(EVENT, Recorder::new(client, reporter).publish(event, about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, reason = event.reason, "an event cannot be written"),
        Err(_) => tracing::warn!(reason = event.reason, "an event was not taken in time"),
    }
}

/// Writes the history of a workload as it is now, if it is not stored like that.
pub async fn record(ctx: &Ctx, id: &WorkloadId) -> Result<(), Error> {
    let tracked = {
        let memory = ctx.memory.read();
        // What cannot be read is not overwritten.
        let readable = unreadable(ctx, &memory, id).is_none();
        memory.histories.get(id).filter(|tracked| readable && tracked.dirty.is_some()).cloned()
    };
    let Some(tracked) = tracked else { return Ok(()) };
    let outcome = write(ctx, id, &tracked).await;
    let counted = if outcome.is_ok() { WriteOutcome::Done } else { WriteOutcome::Failed };
    ctx.metrics.history_write(counted);
    let Written { conditions, version } = outcome?;
    if let Some(now) = ctx.memory.write().histories.get_mut(id) {
        now.exists = true;
        now.version = version;
        now.conditions = conditions;
        // What changed while it was written is still to be written.
        if now.history == tracked.history
            && now.said == tracked.said
            && now.requested == tracked.requested
            && now.problem == tracked.problem
            && now.budget == tracked.budget
        {
            now.dirty = None;
        }
    }
    Ok(())
}

/// A history as it was stored.
struct Written {
    conditions: Vec<crate::domain::condition::Recorded>,
    version: Option<String>,
}

async fn write(ctx: &Ctx, id: &WorkloadId, tracked: &Tracked) -> Result<Written, Error> {
    let name = history_name(id);
    let mut version = tracked.version.clone();
    if !tracked.exists {
        let spec = ReleaseHistorySpec {
            workload_ref: WorkloadRef {
                api_version: id.kind.api_version(),
                kind: id.kind.kind.to_owned(),
                namespace: id.namespace.clone(),
                name: id.name.clone(),
            },
        };
        let object = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ReleaseHistory",
            "metadata": {"name": name, "namespace": ctx.root}, "spec": spec,
        });
        version = version_of(&ctx.cluster.apply(&object, MANAGER).await?);
    }
    let merged = merge(&tracked.conditions, &conditions(tracked), 1, now());
    let mut status = ReleaseHistoryStatus::of(&tracked.history);
    status.observed_generation = Some(1);
    status.last_handled_reconcile_at.clone_from(&tracked.requested);
    status.conditions = merged.conditions.iter().map(to_api).collect();
    let patch = status_patch::<ReleaseHistory>(&status);
    let report = async |version: Option<&str>| {
        ctx.cluster.report_on::<ReleaseHistory>(&ctx.root, &name, &patch, version).await
    };
    let stored = match report(version.as_deref()).await {
        // A person may have annotated it. A write that was on its way while another led stays refused: its fence is shut.
        Err(error) if error.code() == Some(409) => report(None).await?,
        answer => answer?,
    };
    Ok(Written { conditions: merged.conditions, version: version_of(&stored) })
}

/// Why the history of a workload cannot be read, if it cannot.
pub fn unreadable<'m>(ctx: &Ctx, memory: &'m State, id: &WorkloadId) -> Option<&'m str> {
    if memory.invalid.is_empty() {
        return None;
    }
    memory.invalid.get(&("ReleaseHistory", (ctx.root.clone(), history_name(id)))).map(String::as_str)
}

/// Says what stands on a history that cannot be read; the rest of it stays as it is.
pub async fn say(ctx: &Ctx, id: &WorkloadId, said: Said) -> Result<(), Error> {
    let name = history_name(id);
    let object = ObjectId {
        api_version: "countersign.dev/v1alpha1".to_owned(),
        kind: "ReleaseHistory".to_owned(),
        namespace: ctx.root.clone(),
        name: name.clone(),
    };
    let Some(stored) = ctx.cluster.get(&object).await? else { return Ok(()) };
    let recorded = stored.pointer("/status/conditions").cloned().unwrap_or_default();
    let recorded: Vec<WireCondition> = serde_json::from_value(recorded).unwrap_or_default();
    let recorded: Vec<_> = recorded.iter().map(from_api).collect();
    let tracked = Tracked { said, ..Tracked::default() };
    let merged = merge(&recorded, &conditions(&tracked), 1, now());
    if !merged.changed {
        return Ok(());
    }
    let conditions: Vec<_> = merged.conditions.iter().map(to_api).collect();
    let (patch, version) = (json!({"conditions": conditions}), version_of(&stored));
    ctx.cluster.report_on::<ReleaseHistory>(&ctx.root, &name, &patch, version.as_deref()).await.map(drop)
}

fn version_of(object: &Value) -> Option<String> {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned)
}

/// What `kubectl get releasehistories` says.
fn conditions(tracked: &Tracked) -> Vec<Condition> {
    let Said { state, message, missing, fallback, blocked } = &tracked.said;
    let proof = tracked.history.present().map_or("", |release| match release.outcome {
        Outcome::Good => "; good",
        Outcome::Failed => "; its rollout failed",
        Outcome::Unproven => "; not yet proven",
    });
    let (status, reason) = match state {
        Some(Found::Permitted | Found::Ungoverned) => (Status::True, "Permitted"),
        Some(Found::Held) => (Status::False, "Held"),
        Some(Found::Paused) => (Status::False, "Paused"),
        Some(Found::NotPermitted) => (Status::False, "NotPermitted"),
        Some(Found::NoSafeRelease) => (Status::False, NO_SAFE_RELEASE),
        Some(Found::NotCreated) => (Status::False, "NotCreated"),
        Some(Found::Unreadable) => (Status::False, "Unreadable"),
        Some(Found::Gone) => (Status::False, "WorkloadGone"),
        None => (Status::Unknown, "NotYetLooked"),
    };
    if let Some(problem) = &tracked.problem {
        let message = format!("{}; wanted: {message}", cut(problem, 2000));
        return vec![Condition::new(READY, Status::False, "Failed", message)];
    }
    let shown = cut(&format!("{message}{proof}"), 2000);
    let mut said = vec![Condition::new(READY, status, reason, shown)];
    let rollback = tracked.history.rollbacks.last().filter(|_| tracked.history.rollback_under_way());
    let is = |outcome| rollback.is_some_and(|rollback| rollback.outcome == outcome);
    if is(RollbackOutcome::Failed) {
        let shown = "the release that it was rolled back to does not come up; it stays there";
        said.push(Condition::new("Stalled", Status::True, "RollbackFailed", shown));
    } else if is(RollbackOutcome::InProgress) {
        said.push(Condition::new(RECONCILING, Status::True, "RollingBack", "the rollback is under way"));
    }
    if !missing.is_empty() {
        said.push(Condition::new("Permitted", Status::False, reason, cut(&missing.join("\n"), 8000)));
    }
    if !fallback && matches!(state, Some(Found::Permitted | Found::NotPermitted | Found::Held)) {
        let message =
            "if its release is revoked there is none to go back to; it would keep running, with an alarm";
        said.push(Condition::new("Fallback", Status::False, "NoFallback", message));
    }
    if let Some(blocked) = blocked.as_ref().or(tracked.budget.as_ref()) {
        let shown = cut(&blocked.message, 2000);
        said.push(Condition::new("Blocked", Status::True, blocked.by.reason(), shown));
    }
    if matches!(state, Some(Found::NoSafeRelease)) && !is(RollbackOutcome::Failed) {
        said.push(Condition::new("Stalled", Status::True, "NoSafeRelease", message.as_str()));
    }
    said
}

/// The name of a workload's history: namespace, kind and name, truncated, with a hash of the whole.
pub fn history_name(id: &WorkloadId) -> String {
    let whole = format!("{}/{}/{}/{}", id.kind.group, id.kind.kind, id.namespace, id.name);
    let hash = hex::encode(Sha256::digest(&whole));
    let readable = format!("{}-{}-{}", id.namespace, id.kind.kind.to_ascii_lowercase(), id.name);
    let short: String = readable.chars().take(200).collect();
    format!("{}-{}", short.trim_end_matches(['-', '.']), &hash[..10])
}

/// The workload as events refer to it.
pub fn reference(id: &WorkloadId, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some(id.kind.api_version()),
        kind: Some(id.kind.kind.to_owned()),
        namespace: Some(id.namespace.clone()),
        name: Some(id.name.clone()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// A stored history, and whose it is. A part that cannot be read is left out, and told.
pub fn stored(object: &ReleaseHistory) -> Option<(WorkloadId, Tracked)> {
    let at = &object.spec.workload_ref;
    let kind = crate::domain::workload::Kind::find(&at.api_version, &at.kind)?;
    let id = WorkloadId { kind, namespace: at.namespace.clone(), name: at.name.clone() };
    let status = object.status.clone().unwrap_or_default();
    let (history, unreadable) = status.history();
    for why in unreadable {
        tracing::error!(workload = %id, why, "a part of a history cannot be read");
    }
    let conditions = status.conditions.iter().map(from_api).collect();
    let requested = status.last_handled_reconcile_at.clone();
    let version = object.resource_version();
    let asked = Asked::new(object.annotations().get(RELEASE_HOLD), object.annotations().get(RETRY));
    let tracked =
        Tracked { history, conditions, requested, version, asked, exists: true, ..Tracked::default() };
    Some((id, tracked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::workload::Kind;

    /// Names of namespaces and workloads can be longer together than a name may be.
    #[test]
    fn names_of_histories_are_valid_and_distinct() {
        let id = |name: &str| WorkloadId {
            kind: Kind::find("apps/v1", "StatefulSet").unwrap(),
            namespace: "n".repeat(63),
            name: name.to_owned(),
        };
        let (a, b) =
            (history_name(&id(&format!("{}a", "x".repeat(252)))), history_name(&id(&"x".repeat(253))));
        assert_ne!(a, b);
        assert!(a.len() <= 253, "{}", a.len());
        assert!(history_name(&id("cart")).contains("-statefulset-cart-"));
    }
}
