//! Why the newest pods of a workload do not come up; looked at only while that decides something.

use serde_json::Value;

use crate::{
    adapters::cluster::Error,
    controllers::Ctx,
    domain::{
        plan::Live,
        pods::{Trouble, is_controlled_by, is_of_revision, newest_revision, selector, trouble},
        workload::{Progress, WorkloadId, images},
    },
};

/// Keeps why the newest revision does not come up.
pub(super) async fn look(ctx: &Ctx, id: &WorkloadId) -> Result<(), Error> {
    let Some(live) = ctx.memory.read().live.get(id).cloned() else { return Ok(()) };
    let found = find(ctx, id, &live).await?;
    let mut memory = ctx.memory.write();
    if let Some(now) = memory.live.get_mut(id).filter(|now| now.resource_version == live.resource_version) {
        now.trouble = found;
    }
    Ok(())
}

async fn find(ctx: &Ctx, id: &WorkloadId, live: &Live) -> Result<Option<Trouble>, Error> {
    let Some(template) = id.kind.template_of(&live.object) else { return Ok(None) };
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
    Ok(trouble(&live.object, &newest, &images(template)))
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
