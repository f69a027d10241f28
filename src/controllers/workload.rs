//! One workload: observe, plan, act; what follows is left to the trail.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube_runtime::events::EventType;
use serde_json::Value;

use super::{
    Ctx, Shared,
    memory::{Desired, Finding, Said, State, Tracked},
    now,
    queue::Next,
    source::labelled,
    trail::{self, reference},
    until,
};
use crate::{
    adapters::cluster::{Done, Error, id_of, live},
    domain::{
        drift::Applied,
        inventory::ObjectId,
        plan::{
            Action, Change, Live, Manifest, Plan, State as Found, Step, Wanted, World, plan, pods_matter,
            without_history,
        },
        policy::Judge,
        release::{History, Outcome},
        rollout::Rollout,
        workload::{Progress, WorkloadId, named_config},
    },
    telemetry::metrics::{ActionOutcome, Controller, Stage},
};

mod belong;
mod beyond;
mod find;
mod leftover;
mod pods;
mod rights;
mod tell;
mod unreadable;

use find::find;
use tell::{announce, label, tell};

/// A workload that is gone keeps its history for this long.
const KEPT: Duration = Duration::from_hours(24 * 30);

/// Looks at one workload.
pub async fn look(ctx: Shared, id: WorkloadId) -> Next {
    let _timer = ctx.metrics.time_reconcile(Controller::Workload);
    match reconcile(&ctx, &id).await {
        Ok(next) => {
            note_problem(&ctx, &id, None);
            next
        }
        Err((stage, error)) => {
            ctx.metrics.reconcile_error(Controller::Workload, stage);
            let problem = error.explain();
            tracing::warn!(workload = %id, stage = stage.as_str(), error = %problem, "a look at a workload failed");
            note_problem(&ctx, &id, Some(problem));
            Next::Retry
        }
    }
}

/// Keeps what goes wrong with a workload, for its history and for the status of its source; tells it once.
fn note_problem(ctx: &Ctx, id: &WorkloadId, problem: Option<String>) {
    let (news, uid, source) = {
        let mut memory = ctx.memory.write();
        let Some(finding) = memory.findings.get_mut(id) else { return };
        let news = finding.problem != problem;
        finding.problem.clone_from(&problem);
        if let Some(tracked) = memory.histories.get_mut(id).filter(|tracked| tracked.problem != problem) {
            tracked.problem.clone_from(&problem);
            tracked.dirty.get_or_insert_with(tokio::time::Instant::now);
        }
        let uid = memory.live.get(id).map(|live| live.uid.clone());
        (news, uid, memory.desired.get(id).map(|desired| desired.source.clone()))
    };
    if !news {
        return;
    }
    ctx.trail.wake();
    if let Some(problem) = problem {
        ctx.trail.event(reference(id, uid.as_deref()), EventType::Warning, "Failed", "Act", &problem);
    }
    if let Some(source) = source {
        ctx.sources.after(source, Duration::from_secs(1));
    }
}

async fn reconcile(ctx: &Ctx, id: &WorkloadId) -> Result<Next, (Stage, Error)> {
    let expected = ctx.memory.read().expected.get(id).copied();
    let wait = expected.map(|until| until.saturating_duration_since(tokio::time::Instant::now()));
    if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
        return Ok(Next::After(wait));
    }
    let now = now();
    if trail::unreadable(ctx, &ctx.memory.read(), id).is_some() {
        return unreadable::look(ctx, id, now).await.map_err(|error| (Stage::Record, error));
    }
    // What cannot be looked at proves nothing, but it must not stand in the way of a rollback.
    if let Err(error) = beyond::look(ctx, id).await {
        ctx.metrics.reconcile_error(Controller::Workload, Stage::Observe);
        tracing::warn!(workload = %id, error = %error.explain(), "how far its rollout is cannot be looked up");
    }
    if asks_for_pods(ctx, id, now)
        && let Err(error) = pods::look(ctx, id).await
    {
        ctx.metrics.reconcile_error(Controller::Workload, Stage::Observe);
        tracing::warn!(workload = %id, error = %error.explain(), "why its pods do not come up cannot be looked up");
    }
    note_health(ctx, id, now);
    let missing = missing_config(ctx, id).await;
    let before = history(&ctx.memory.read(), id);
    let plan = decide(ctx, id, &missing, now);
    if plan.record_first {
        remember(ctx, id, &plan, None);
        trail::record(ctx, id).await.map_err(|error| (Stage::Record, error))?;
        return Ok(Next::After(Duration::ZERO));
    }
    let Some(action) = &plan.action else {
        remember(ctx, id, &plan, None);
        tell(ctx, id, &before, &plan);
        let again = leftover::look(ctx, id, now).await.map_err(|error| (Stage::Act, error))?;
        return Ok(recheck(ctx, id, &plan, now).within(again));
    };
    if action.step == Step::Pin
        && let Err(wait) = ctx.pacer.turn()
    {
        return Ok(Next::After(wait));
    }
    let acting = ctx.trail.acting();
    let outcome = rights::act(ctx, id, action).await;
    drop(acting);
    match outcome {
        Ok(done @ (Done::Applied(_) | Done::Instead(_))) => {
            ctx.metrics.action(label(action.step), ActionOutcome::Done);
            tracing::info!(workload = %id, action = ?action.step, message = %plan.message, "changed");
            let uid = applied(ctx, id, action, done);
            remember(ctx, id, &plan, uid.as_deref());
            announce(ctx, id, action.step, &plan, uid.as_deref());
            tell(ctx, id, &before, &plan);
            Ok(recheck(ctx, id, &plan, now))
        }
        Ok(Done::Stale) => {
            ctx.metrics.action(label(action.step), ActionOutcome::Stale);
            tracing::debug!(workload = %id, action = ?action.step, "the world moved on; planned again");
            // The watch may be late, or may have lost it.
            look_again(ctx, id).await.map_err(|error| (Stage::Observe, error))?;
            Ok(Next::After(Duration::from_millis(100)))
        }
        Err(error) => {
            ctx.metrics.action(label(action.step), ActionOutcome::Failed);
            Err((Stage::Act, error))
        }
    }
}

/// Whether it decides something why the newest pods do not come up.
fn asks_for_pods(ctx: &Ctx, id: &WorkloadId, now: Timestamp) -> bool {
    let memory = ctx.memory.read();
    // Of most workloads this is all that has to be known.
    let progresses = memory.live.get(id).is_some_and(|live| match live.rollout {
        Rollout::Progressing | Rollout::Stuck => true,
        Rollout::Complete | Rollout::Waits | Rollout::Idle => false,
    });
    progresses && with_world(ctx, &memory, id, &BTreeSet::new(), now, pods_matter)
}

/// Reads the live object anew.
async fn look_again(ctx: &Ctx, id: &WorkloadId) -> Result<(), Error> {
    let object = ObjectId {
        api_version: id.kind.api_version(),
        kind: id.kind.kind.to_owned(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
    };
    let found = ctx.cluster.get(&object).await?.and_then(|found| live(id.kind, found));
    let mut memory = ctx.memory.write();
    if let Some(seen) = found {
        keep_live(&mut memory, &seen.id, seen.live);
    } else {
        memory.live.remove(id);
        memory.note_running(id);
    }
    Ok(())
}

/// What is known now, as a plan is made from it.
fn with_world<T>(
    ctx: &Ctx,
    memory: &State,
    id: &WorkloadId,
    missing: &BTreeSet<(&'static str, String)>,
    now: Timestamp,
    look: impl FnOnce(&World<'_>) -> T,
) -> T {
    let policies = memory.policies_for(&id.namespace, &ctx.root);
    let judge = Judge {
        policies: &policies,
        ledger: &memory.ledger,
        evidence: &memory.evidence,
        namespace: &id.namespace,
        now,
    };
    let none = Tracked::default();
    let tracked = memory.histories.get(id).unwrap_or(&none);
    let live = memory.live.get(id).map(Live::open);
    let desired = memory.desired.get(id);
    let manifest = desired.and_then(asked_for);
    let wanted = match (desired, &manifest) {
        (Some(_), Some(manifest)) => Wanted::Git(manifest),
        (Some(_), None) => Wanted::GitAway,
        (None, _) => Wanted::Elsewhere,
    };
    look(&World {
        id,
        live: live.as_ref(),
        wanted,
        history: &tracked.history,
        asked: &tracked.asked,
        judge,
        missing,
        earlier: desired.map_or(&[], |desired| desired.earlier.as_slice()),
        healthy_since: memory.healthy.get(id).map(|(_, _, since)| *since),
        paused: memory.paused.as_deref(),
        unreadable_records: memory.invalid.keys().any(|(kind, _)| *kind == "ApprovedImage"),
    })
}

/// What git asks for, as its source labels it.
fn asked_for(desired: &Desired) -> Option<Manifest> {
    let manifest = desired.manifest.as_deref()?;
    let object = labelled(manifest.object.open(), &desired.source);
    Some(manifest.with(Arc::new(object)))
}

/// Makes the plan from what is known now, and keeps what it found.
fn decide(ctx: &Ctx, id: &WorkloadId, missing: &BTreeSet<(&'static str, String)>, now: Timestamp) -> Plan {
    let (plan, finding, judged_by) = {
        let memory = ctx.memory.read();
        let unreadable = trail::unreadable(ctx, &memory, id);
        let (plan, finding) = with_world(ctx, &memory, id, missing, now, |world| {
            let plan = unreadable.map_or_else(|| plan(world), |why| without_history(world, why));
            let finding = find(world, &plan);
            (plan, finding)
        });
        (plan, finding, memory.rules)
    };
    let mut memory = ctx.memory.write();
    let known = memory.live.contains_key(id)
        || memory.desired.contains_key(id)
        || memory.histories.contains_key(id)
        || plan.history.is_some();
    if !known {
        memory.findings.remove(id);
        memory.told.remove(id);
        return plan;
    }
    // What went wrong stands until it goes right.
    let problem = memory.findings.get(id).and_then(|known| known.problem.clone());
    memory.findings.insert(id.clone(), Finding { problem, ..finding });
    // Who is told of a change is found by the findings: of one that came while this was planned, this one was not.
    if memory.rules != judged_by {
        ctx.workloads.now(id.clone());
    }
    plan
}

fn said(plan: &Plan) -> Said {
    Said {
        state: Some(plan.state),
        message: plan.message.clone(),
        missing: plan.missing.clone(),
        fallback: plan.fallback,
        blocked: plan.blocked.clone(),
    }
}

/// Keeps the object that an action left; answers with its UID.
fn applied(ctx: &Ctx, id: &WorkloadId, action: &Action, done: Done) -> Option<String> {
    let (stored, memory) = match (done, &action.change) {
        (Done::Applied(stored), Change::Apply { object, .. }) => {
            let memory = Applied::new(object, &stored);
            (*stored, Some(memory))
        }
        (Done::Applied(stored), Change::Images(_) | Change::Template(_) | Change::DropEntry)
        | (Done::Instead(stored), _) => (*stored, None),
        (Done::Stale, _) => return None,
    };
    let seen = live(id.kind, stored)?;
    let uid = seen.live.uid.clone();
    keep_live(&mut ctx.memory.write(), &seen.id, Live { applied: memory, ..seen.live });
    Some(uid)
}

/// What is new of a live object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Its status at most: nothing that somebody asked for.
    Status,
    /// Anything else, or it was not known.
    More,
}

/// What somebody asked for, beside what the generation counts.
fn asked(object: &Value) -> [&Value; 3] {
    ["generation", "labels", "annotations"].map(|field| &object["metadata"][field])
}

/// Keeps a live object, unless a newer one of it is known.
pub fn keep_live(memory: &mut State, id: &WorkloadId, mut live: Live) -> News {
    let number = |version: &str| version.parse::<u64>().unwrap_or(0);
    let mut news = News::More;
    if let Some(known) = memory.live.get(id).filter(|known| known.uid == live.uid) {
        if number(&known.resource_version) > number(&live.resource_version) {
            return News::Status;
        }
        let same_owners = known.others_own_pod_spec == live.others_own_pod_spec
            && known.own_update_entry == live.own_update_entry
            && known.deleting == live.deleting;
        if same_owners && asked(&known.object.open()) == asked(&live.object) {
            news = News::Status;
        }
        live.applied = live.applied.or_else(|| known.applied.clone());
    }
    memory.live.insert(id.clone(), live.pack());
    memory.note_running(id);
    news
}

fn history(memory: &State, id: &WorkloadId) -> History {
    memory.histories.get(id).map(|tracked| tracked.history.clone()).unwrap_or_default()
}

/// Takes the plan's history for true; the trail stores it.
fn remember(ctx: &Ctx, id: &WorkloadId, plan: &Plan, uid: Option<&str>) {
    let Some(mut history) = plan.history.clone() else { return };
    if let Some(uid) = uid {
        history.uid = Some(uid.to_owned());
        history.gone_since = None;
    }
    let said = said(plan);
    let mut memory = ctx.memory.write();
    let tracked = memory.histories.entry(id.clone()).or_default();
    if tracked.history != history || tracked.said != said || !tracked.exists {
        tracked.history = history;
        tracked.said = said;
        tracked.dirty.get_or_insert_with(tokio::time::Instant::now);
    }
    // Also when an earlier write of it failed.
    if tracked.dirty.is_some() {
        ctx.trail.wake();
    }
    memory.note_running(id);
}

/// Since when the rollout of the present generation has been complete, as far as this process saw it.
fn note_health(ctx: &Ctx, id: &WorkloadId, now: Timestamp) {
    let mut memory = ctx.memory.write();
    let seen = memory.live.get(id).map(|live| {
        let generation =
            live.object.open().pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        (live.rollout, live.uid.clone(), generation)
    });
    match seen {
        Some((Rollout::Complete, uid, generation)) => {
            let same = |(known, at, _): &(String, i64, Timestamp)| *known == uid && *at == generation;
            if !memory.healthy.get(id).is_some_and(same) {
                memory.healthy.insert(id.clone(), (uid, generation, now));
            }
        }
        Some(_) | None => {
            memory.healthy.remove(id);
        }
    }
}

/// Which ConfigMaps and Secrets that releases name do not exist; only asked when a rollback is near.
/// One that cannot be looked up is not known to be missing.
async fn missing_config(ctx: &Ctx, id: &WorkloadId) -> BTreeSet<(&'static str, String)> {
    let named: BTreeSet<(&'static str, String)> = {
        let memory = ctx.memory.read();
        let Some(tracked) = memory.histories.get(id).filter(|_| memory.desired.contains_key(id)) else {
            return BTreeSet::new();
        };
        let revoked = |release: &crate::domain::release::Release| {
            release.images.values().any(|own| {
                own.digest().is_some_and(|digest| memory.ledger.revocation(&digest, &id.namespace).is_some())
            })
        };
        let near = [tracked.history.present(), tracked.history.held()].into_iter().flatten().any(revoked);
        let crashing = memory.live.get(id).is_some_and(|live| live.trouble.is_some());
        let templates = tracked.history.releases.iter().filter_map(|release| release.template.as_ref());
        if near || crashing {
            templates.flat_map(|template| named_config(&template.open())).collect()
        } else {
            BTreeSet::new()
        }
    };
    let mut missing = BTreeSet::new();
    for (kind, name) in named {
        let object = ObjectId {
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            namespace: id.namespace.clone(),
            name: name.clone(),
        };
        match ctx.cluster.exists(&object).await {
            Ok(true) => {}
            Ok(false) => {
                missing.insert((kind, name));
            }
            Err(error) => {
                ctx.metrics.reconcile_error(Controller::Workload, Stage::Observe);
                tracing::warn!(workload = %id, %object, error = %error.explain(), "cannot be looked up; taken to exist");
            }
        }
    }
    missing
}

fn recheck(ctx: &Ctx, id: &WorkloadId, plan: &Plan, now: Timestamp) -> Next {
    if nothing_is_left(&ctx.memory.read(), id, plan) {
        forget(ctx, id);
        return Next::Wait;
    }
    let gone = plan.history.as_ref().and_then(|history| history.gone_since);
    if let Some(gone) = gone.filter(|_| !ctx.memory.read().desired.contains_key(id)) {
        let end = gone.checked_add(KEPT).unwrap_or(Timestamp::MAX);
        if end <= now {
            forget(ctx, id);
            return Next::Wait;
        }
    }
    let unproven = plan.history.as_ref().is_some_and(|history| {
        history.rollback_under_way()
            || history.present().is_some_and(|present| present.outcome == Outcome::Unproven)
    });
    let proving = unproven && id.kind.progress == Progress::DaemonSet;
    let again = plan.recheck.map(until);
    // A ConfigMap or Secret that a good release names may come back, and nothing tells.
    let stuck = (plan.state == Found::NoSafeRelease).then_some(Duration::from_mins(1));
    // Pods that crash change nothing in the workload's own status.
    let polled = (proving || asks_for_pods(ctx, id, now)).then_some(Duration::from_secs(15));
    // A look that nothing asked for: whatever should have asked for one may have been lost.
    let resync = ctx.memory.read().findings.contains_key(id).then(|| super::queue::resync(id));
    match [again, polled, stuck, resync].into_iter().flatten().min() {
        Some(delay) => Next::After(delay),
        None => Next::Wait,
    }
}

/// A workload that was wanted once and never created: its history says nothing.
fn nothing_is_left(memory: &State, id: &WorkloadId, plan: &Plan) -> bool {
    let known = memory.live.contains_key(id) || memory.desired.contains_key(id);
    let says = plan.history.as_ref().is_some_and(|history| *history != History::default());
    !known && !says && memory.histories.contains_key(id)
}

/// The history of a workload that is long gone goes.
fn forget(ctx: &Ctx, id: &WorkloadId) {
    let object = serde_json::json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ReleaseHistory",
        "metadata": {"name": trail::history_name(id), "namespace": ctx.root},
    });
    {
        let mut memory = ctx.memory.write();
        memory.histories.remove(id);
        memory.note_running(id);
        memory.findings.remove(id);
        memory.told.remove(id);
    }
    let cluster = ctx.cluster.clone();
    tokio::spawn(async move {
        let id = id_of(&object);
        let uid = cluster.get(&id).await.ok().flatten();
        let uid = uid.as_ref().and_then(|found| found.pointer("/metadata/uid")).and_then(Value::as_str);
        if let Some(uid) = uid
            && let Err(error) = cluster.delete(&id, uid).await
        {
            tracing::warn!(%id, error = %error.explain(), "an old history cannot be deleted");
        }
    });
}
