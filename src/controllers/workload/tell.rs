//! Events and metrics of what a plan did and found.

use kube_runtime::events::EventType;

use crate::{
    controllers::{Ctx, since, trail::reference},
    domain::{
        intervention::{Effect, Way},
        plan::{Plan, State as Found, Step},
        release::{History, RollbackOutcome},
        workload::WorkloadId,
    },
    telemetry::metrics::{Action as ActionLabel, RollbackStage},
};

/// Events and metrics of an action that was done.
pub(super) fn announce(ctx: &Ctx, id: &WorkloadId, step: Step, plan: &Plan, uid: Option<&str>) {
    let (type_, reason) = match step {
        Step::Create => (EventType::Normal, "Created"),
        Step::Forward => (EventType::Normal, "Forward"),
        Step::Pin => (EventType::Normal, "Pinned"),
        Step::RollBack => (EventType::Warning, "RolledBack"),
        Step::Hold => (EventType::Warning, "HoldPutBack"),
        Step::Keep => (EventType::Normal, "Kept"),
        Step::Release => (EventType::Normal, "HoldEnded"),
    };
    ctx.trail.event(reference(id, uid), type_, reason, reason, &plan.message);
    if step == Step::RollBack {
        if let Some(blocked) = &plan.blocked {
            ctx.trail.event(
                reference(id, uid),
                EventType::Warning,
                "RollbackBlocked",
                reason,
                &blocked.message,
            );
        }
        reached(ctx, plan.history.as_ref(), &[RollbackStage::Planned, RollbackStage::Patched]);
    }
}

/// Tells what changed besides the action.
pub(super) fn tell(ctx: &Ctx, id: &WorkloadId, before: &History, plan: &Plan) {
    let Some(after) = &plan.history else { return };
    let completed = |history: &History| {
        history.rollbacks.last().is_some_and(|rollback| rollback.outcome == RollbackOutcome::Completed)
    };
    if completed(after) && !completed(before) {
        reached(ctx, Some(after), &[RollbackStage::Completed]);
        let uid = after.uid.as_deref();
        ctx.trail.event(
            reference(id, uid),
            EventType::Normal,
            "RollbackCompleted",
            "RollBack",
            &plan.message,
        );
    }
    for taken in after.interventions.iter().filter(|taken| !before.interventions.contains(taken)) {
        let reason = match (taken.effect, taken.way) {
            (Effect::Done, Way::ReleaseHold) => "HoldReleased",
            (Effect::Done, Way::Retry) => "Retried",
            (Effect::NothingToDo | Effect::StillRevoked, Way::ReleaseHold | Way::Retry) => "NothingReleased",
        };
        let about = reference(id, after.uid.as_deref());
        ctx.trail.event(about, EventType::Normal, reason, "Intervene", &taken.note());
        tracing::info!(workload = %id, note = taken.note(), "a person asked for it");
    }
    alarm(ctx, id, after.uid.as_deref(), plan);
}

/// Tells, once, what a person should see to.
pub(super) fn alarm(ctx: &Ctx, id: &WorkloadId, uid: Option<&str>, plan: &Plan) {
    let news = {
        let mut memory = ctx.memory.write();
        let told = memory.told.insert(id.clone(), (plan.state, plan.message.clone()));
        told.is_none_or(|told| told != (plan.state, plan.message.clone()))
    };
    let reason = match plan.state {
        Found::NotPermitted => "NotPermitted",
        Found::NoSafeRelease => "NoSafeRelease",
        Found::NotCreated => "NotCreated",
        Found::Unreadable => "Unreadable",
        Found::Permitted | Found::Held | Found::Paused | Found::Ungoverned | Found::Gone => return,
    };
    if news {
        let note = if plan.missing.is_empty() { plan.message.clone() } else { plan.missing.join("; ") };
        ctx.trail.event(reference(id, uid), EventType::Warning, reason, "Judge", &note);
        tracing::info!(workload = %id, state = reason, message = %note, "not permitted");
    }
}

/// Observes how long after the revocation's commit a stage was reached.
fn reached(ctx: &Ctx, history: Option<&History>, stages: &[RollbackStage]) {
    let memory = ctx.memory.read();
    let rejected = history.and_then(|history| history.hold.as_ref()).map(|hold| &hold.rejected);
    let committed = rejected
        .into_iter()
        .flatten()
        .filter_map(|rejected| memory.revoked_at.get(rejected.digest.as_ref()?))
        .max();
    if let Some(committed) = committed {
        for stage in stages {
            ctx.metrics.rollback_reached(*stage, since(*committed));
        }
    }
}

pub(super) fn label(step: Step) -> ActionLabel {
    match step {
        Step::Create => ActionLabel::Create,
        Step::Forward => ActionLabel::Apply,
        Step::Pin => ActionLabel::Pin,
        Step::RollBack => ActionLabel::Rollback,
        Step::Hold => ActionLabel::Hold,
        Step::Keep => ActionLabel::PutBack,
        Step::Release => ActionLabel::EndHold,
    }
}
