//! Pods that a rollback left behind, and what keeps them: looked at only where a workload does not replace its pods by itself.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use kube_runtime::events::EventType;

use super::{pods, with_world};
use crate::{
    adapters::cluster::{Error, Evicted},
    controllers::{Ctx, trail::reference},
    domain::{
        blocked::{Blocked, Blocker, by_budget},
        plan::{Doomed, Leftover, Live, Pods, leftover, may_leave_pods},
        pods::is_ready,
        rollout::{Updates, updates},
        workload::{Progress, WorkloadId},
    },
    telemetry::metrics::{Action, ActionOutcome},
};

/// How soon it is looked at again while pods are being replaced: nothing tells when the next one may go.
const NEXT: Duration = Duration::from_secs(2);
/// How soon it is looked at again while something keeps a pod.
const KEPT: Duration = Duration::from_secs(15);

/// Sees to the next pod; answers with when to look again.
pub(super) async fn look(ctx: &Ctx, id: &WorkloadId, now: Timestamp) -> Result<Option<Duration>, Error> {
    let Some(live) = ctx.memory.read().live.get(id).map(Live::open) else { return Ok(None) };
    match id.kind.progress {
        Progress::StatefulSet | Progress::DaemonSet => {}
        Progress::Deployment | Progress::CronJob | Progress::Configured(_) => return Ok(None),
    }
    let replaced_by_hand = updates(&live.object) == Updates::OnDelete;
    let mut blocked = None;
    if replaced_by_hand && ctx.memory.read().histories.contains_key(id) {
        let resource = ctx.cluster.resource("policy/v1", "PodDisruptionBudget").await?;
        blocked = by_budget(&live.object, &ctx.cluster.list(&resource, &id.namespace, "").await?);
    }
    let again = if with_world(ctx, &ctx.memory.read(), id, &BTreeSet::new(), now, may_leave_pods) {
        match next(ctx, id, &live, now).await? {
            Leftover::None => None,
            Leftover::Wait(why) => {
                tracing::debug!(workload = %id, why, "a pod that a rollback left behind waits");
                Some(NEXT)
            }
            Leftover::Evict(pod) => Some(evict(ctx, id, &live, &pod, &mut blocked).await?),
        }
    } else {
        None
    };
    note(ctx, id, &live, blocked);
    Ok(again)
}

async fn next(ctx: &Ctx, id: &WorkloadId, live: &Live, now: Timestamp) -> Result<Leftover, Error> {
    let Some(newest) = pods::newest(ctx, id, live).await? else { return Ok(Leftover::None) };
    let all = pods::list(ctx, id, live, "v1", "Pod").await?;
    let lost_nodes = match id.kind.progress {
        Progress::DaemonSet => lost_nodes(ctx).await?,
        Progress::Deployment | Progress::StatefulSet | Progress::CronJob | Progress::Configured(_) => {
            BTreeSet::new()
        }
    };
    let pods = Pods { all: &all, newest: &newest, lost_nodes: &lost_nodes };
    let memory = ctx.memory.read();
    // What is known may have changed since the pods were listed: a plan from two worlds is none.
    if memory.live.get(id).is_none_or(|now| now.resource_version != live.resource_version) {
        return Ok(Leftover::Wait("the workload changed".to_owned()));
    }
    Ok(with_world(ctx, &memory, id, &BTreeSet::new(), now, |world| leftover(world, &pods)))
}

async fn lost_nodes(ctx: &Ctx) -> Result<BTreeSet<String>, Error> {
    let nodes = ctx.cluster.list(&ctx.cluster.resource("v1", "Node").await?, "", "").await?;
    let lost = nodes.iter().filter(|node| !is_ready(node));
    Ok(lost.filter_map(|node| node.pointer("/metadata/name")?.as_str().map(str::to_owned)).collect())
}

async fn evict(
    ctx: &Ctx,
    id: &WorkloadId,
    live: &Live,
    pod: &Doomed,
    blocked: &mut Option<Blocked>,
) -> Result<Duration, Error> {
    let acting = ctx.trail.acting();
    let outcome = ctx.cluster.evict(&id.namespace, &pod.name, &pod.uid).await;
    drop(acting);
    let counted = |outcome| ctx.metrics.action(Action::Evict, outcome);
    match outcome {
        Ok(Evicted::Done) => {
            counted(ActionOutcome::Done);
            let note = format!("pod {}: {}", pod.name, pod.why);
            tracing::info!(workload = %id, pod = pod.name, why = pod.why, "evicted");
            ctx.trail.event(
                reference(id, Some(&live.uid)),
                EventType::Warning,
                "PodEvicted",
                "RollBack",
                &note,
            );
            *blocked = None;
            Ok(NEXT)
        }
        Ok(Evicted::NotNow(why)) => {
            counted(ActionOutcome::Stale);
            let message = format!("pod {} stays for now ({}): {why}", pod.name, pod.why);
            *blocked = Some(Blocked { by: Blocker::DisruptionBudget, message });
            Ok(KEPT)
        }
        Ok(Evicted::Stale) => {
            counted(ActionOutcome::Stale);
            Ok(NEXT)
        }
        Err(error) => {
            counted(ActionOutcome::Failed);
            Err(error)
        }
    }
}

/// Keeps what budgets keep, for the history; told once when it stands in a rollback's way.
fn note(ctx: &Ctx, id: &WorkloadId, live: &Live, blocked: Option<Blocked>) {
    let told = {
        let mut memory = ctx.memory.write();
        let Some(tracked) = memory.histories.get_mut(id).filter(|tracked| tracked.budget != blocked) else {
            return;
        };
        tracked.budget.clone_from(&blocked);
        tracked.dirty.get_or_insert_with(tokio::time::Instant::now);
        tracked.history.rollback_under_way()
    };
    ctx.trail.wake();
    if let Some(blocked) = blocked.filter(|_| told) {
        let about = reference(id, Some(&live.uid));
        ctx.trail.event(about, EventType::Warning, "RollbackBlocked", "RollBack", &blocked.message);
    }
}
