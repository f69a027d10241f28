//! Why the newest pods of a workload do not come up; looked at only while that decides something.

use jiff::Timestamp;
use serde_json::Value;

use super::belong::Owners;
use crate::{
    adapters::cluster::Error,
    controllers::Ctx,
    domain::{
        plan::Live,
        pods::{Trouble, is_controlled_by, is_of_revision, newest_revision, selector, trouble},
        workload::{NewestPods, Progress, WorkloadId, images},
    },
};

/// Keeps why the newest revision does not come up.
pub(super) async fn look(ctx: &Ctx, id: &WorkloadId) -> Result<(), Error> {
    let Some(live) = ctx.memory.read().live.get(id).map(Live::open) else { return Ok(()) };
    let found = find(ctx, id, &live).await?;
    let mut memory = ctx.memory.write();
    if let Some(now) = memory.live.get_mut(id).filter(|now| now.resource_version == live.resource_version) {
        now.trouble = found;
    }
    Ok(())
}

async fn find(ctx: &Ctx, id: &WorkloadId, live: &Live) -> Result<Option<Trouble>, Error> {
    if let Progress::Configured(proof) = id.kind.progress {
        return match &proof.newest_pods {
            Some(newest) => find_configured(ctx, id, live, newest).await,
            None => Ok(None),
        };
    }
    let Some(newest) = newest(ctx, id, live).await? else { return Ok(None) };
    let pods = list(ctx, id, live, "v1", "Pod").await?;
    let newest: Vec<&Value> = pods
        .iter()
        .filter(|pod| match id.kind.progress {
            Progress::Deployment => is_controlled_by(pod, &newest),
            Progress::StatefulSet | Progress::DaemonSet | Progress::CronJob | Progress::Configured(_) => {
                is_controlled_by(pod, &live.uid) && is_of_revision(pod, &newest)
            }
        })
        .collect();
    Ok(why(ctx, id, live, &[], &newest))
}

/// The same for a configured kind, whose newest pods carry a label that the object says.
async fn find_configured(
    ctx: &Ctx,
    id: &WorkloadId,
    live: &Live,
    newest: &NewestPods,
) -> Result<Option<Trouble>, Error> {
    if let Some(refused) = newest.refused(&live.object) {
        return Ok(Some(refused));
    }
    let Some(selector) = newest.selector(&live.object) else { return Ok(None) };
    let pods = ctx.cluster.list(&ctx.cluster.resource("v1", "Pod").await?, &id.namespace, &selector).await?;
    let mut owners = Owners::of(ctx, id, live);
    let mut own = Vec::new();
    for pod in &pods {
        if owners.lead_to_it(pod).await? {
            own.push(pod);
        }
    }
    Ok(why(ctx, id, live, &owners.between(), &own))
}

/// Why these pods do not come up, which are of the newest release.
fn why(ctx: &Ctx, id: &WorkloadId, live: &Live, between: &[&Value], pods: &[&Value]) -> Option<Trouble> {
    let images = images(id.kind.template_of(&live.object)?);
    let memory = ctx.memory.read();
    let present = memory.histories.get(id).and_then(|tracked| tracked.history.present());
    let since = present.map_or(Timestamp::MIN, |present| present.since);
    let objects: Vec<&Value> = std::iter::once(&*live.object).chain(between.iter().copied()).collect();
    trouble(&objects, pods, &images, since)
}

/// The newest revision: of a Deployment the UID of its ReplicaSet, of the others what their pods' label says.
pub(super) async fn newest(ctx: &Ctx, id: &WorkloadId, live: &Live) -> Result<Option<String>, Error> {
    let owned = match id.kind.progress {
        Progress::Deployment => list(ctx, id, live, "apps/v1", "ReplicaSet").await?,
        Progress::DaemonSet => list(ctx, id, live, "apps/v1", "ControllerRevision").await?,
        Progress::StatefulSet | Progress::CronJob | Progress::Configured(_) => Vec::new(),
    };
    let owned: Vec<Value> = owned.into_iter().filter(|object| is_controlled_by(object, &live.uid)).collect();
    Ok(newest_revision(id.kind.progress, &live.object, &owned))
}

/// What the workload's selector matches of a kind.
pub(super) async fn list(
    ctx: &Ctx,
    id: &WorkloadId,
    live: &Live,
    api_version: &str,
    kind: &str,
) -> Result<Vec<Value>, Error> {
    let resource = ctx.cluster.resource(api_version, kind).await?;
    ctx.cluster.list(&resource, &id.namespace, &selector(&live.object)).await
}
