//! What the status of an object cannot tell about its rollout.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    adapters::cluster::Error,
    controllers::Ctx,
    domain::{
        drift::in_step,
        plan::Live,
        release::Outcome,
        rollout::{Beyond, rollout},
        workload::{Progress, WorkloadId},
    },
};

/// Looks at nodes and pods of a DaemonSet, or Jobs of a CronJob, while the present release has not proved itself.
pub(super) async fn look(ctx: &Ctx, id: &WorkloadId) -> Result<(), Error> {
    let (live, unproven) = {
        let memory = ctx.memory.read();
        let Some(live) = memory.live.get(id).map(Live::open) else { return Ok(()) };
        let history = memory.histories.get(id).map(|tracked| &tracked.history);
        let unproven = history.is_none_or(|history| {
            history.rollback_under_way()
                || history.present().is_none_or(|present| present.outcome != Outcome::Good)
        });
        (live, unproven)
    };
    let status_says = rollout(id.kind, &live.object, Beyond::default());
    let beyond = match id.kind.progress {
        Progress::DaemonSet if unproven && status_says == crate::domain::rollout::Rollout::Progressing => {
            Beyond { ready_on_ready_nodes: on_ready_nodes(ctx, id, &live).await?, ..Beyond::default() }
        }
        Progress::CronJob if unproven && ran(&live.object) => {
            Beyond { job_succeeded: job_succeeded(ctx, id, &live).await?, ..Beyond::default() }
        }
        Progress::Deployment
        | Progress::StatefulSet
        | Progress::DaemonSet
        | Progress::CronJob
        | Progress::Configured(_) => {
            return Ok(());
        }
    };
    let found = rollout(id.kind, &live.object, beyond);
    let mut memory = ctx.memory.write();
    if let Some(now) = memory.live.get_mut(id).filter(|now| now.resource_version == live.resource_version) {
        now.rollout = found;
    }
    Ok(())
}

fn ran(cron_job: &Value) -> bool {
    cron_job.pointer("/status/lastSuccessfulTime").is_some()
}

async fn job_succeeded(ctx: &Ctx, id: &WorkloadId, live: &Live) -> Result<bool, Error> {
    let jobs = ctx.cluster.resource("batch/v1", "Job").await?;
    let jobs = ctx.cluster.list(&jobs, &id.namespace, "").await?;
    let Some(own) = id.kind.template_of(&live.object) else { return Ok(false) };
    Ok(jobs.iter().filter(|job| owned_by(job, &live.uid)).any(|job| {
        let succeeded = job.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0) > 0;
        // A Job of an earlier template proves nothing of this one.
        succeeded && job.pointer("/spec/template").is_some_and(|ran| in_step(own, ran, None, None))
    }))
}

/// Whether the pod of the newest revision is Ready on every Ready node where the DaemonSet belongs, and on one at least.
async fn on_ready_nodes(ctx: &Ctx, id: &WorkloadId, live: &Live) -> Result<bool, Error> {
    let resource = async |api_version, kind| ctx.cluster.resource(api_version, kind).await;
    let revisions =
        ctx.cluster.list(&resource("apps/v1", "ControllerRevision").await?, &id.namespace, "").await?;
    let newest = revisions
        .iter()
        .filter(|revision| owned_by(revision, &live.uid))
        .max_by_key(|revision| revision["revision"].as_i64())
        .and_then(|revision| revision.pointer("/metadata/labels/controller-revision-hash"));
    let Some(newest) = newest else { return Ok(false) };
    let nodes = ctx.cluster.list(&resource("v1", "Node").await?, "", "").await?;
    let ready_nodes: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| is_ready(node))
        .filter_map(|node| node.pointer("/metadata/name")?.as_str())
        .collect();
    let pods = ctx.cluster.list(&resource("v1", "Pod").await?, &id.namespace, "").await?;
    let pods: Vec<&Value> = pods.iter().filter(|pod| owned_by(pod, &live.uid)).collect();
    let node_of = |pod: &Value| pod.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned);
    let proven: BTreeSet<String> = pods
        .iter()
        .filter(|pod| {
            pod.pointer("/metadata/labels/controller-revision-hash") == Some(newest) && is_ready(pod)
        })
        .filter_map(|pod| node_of(pod))
        .filter(|node| ready_nodes.contains(node.as_str()))
        .collect();
    let away: BTreeSet<String> = pods
        .iter()
        .filter_map(|pod| node_of(pod))
        .filter(|node| !ready_nodes.contains(node.as_str()))
        .collect();
    let desired = live.object.pointer("/status/desiredNumberScheduled").and_then(Value::as_u64).unwrap_or(0);
    Ok(!proven.is_empty() && (proven.len() + away.len()) as u64 >= desired)
}

fn owned_by(object: &Value, uid: &str) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner["uid"] == uid)
}

fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
