//! Deletes what git does not say any more.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use serde_json::Value;

use super::{
    apply::{CONCURRENCY, Outcome, SOURCE_NAME, SOURCE_NAMESPACE},
    content::Problem,
};
use crate::{
    adapters::cluster::{Cluster, Error, id_of},
    controllers::{Ctx, memory::Key},
    domain::{inventory::ObjectId, workload::named_config},
};

/// On an object: `disabled` keeps it from being pruned; `enabled` lets a Namespace, a CustomResourceDefinition or a
/// PersistentVolumeClaim be pruned.
const PRUNE: &str = "countersign.dev/prune";

/// Deletes what the source does not say any more. Answers also with what stays in its inventory for now.
pub async fn prune(
    ctx: &Ctx,
    cluster: &Cluster,
    source: &Key,
    gone: &BTreeSet<ObjectId>,
) -> (BTreeSet<ObjectId>, Outcome) {
    let named = gone.iter().any(|id| matches!(id.kind.as_str(), "ConfigMap" | "Secret"));
    let needed = if named { named_by_releases(ctx) } else { BTreeSet::new() };
    let (mut kept, free): (BTreeSet<ObjectId>, BTreeSet<ObjectId>) = gone
        .iter()
        .cloned()
        .partition(|id| needed.contains(&(id.kind.clone(), id.namespace.clone(), id.name.clone())));
    for id in &kept {
        tracing::info!(object = %id, "not pruned: a kept release of a workload names it");
    }
    let work: Vec<_> = free
        .into_iter()
        .map(|id| async {
            let pruned = prune_one(cluster, source, &id).await;
            (id, pruned)
        })
        .collect();
    let results: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENCY).collect().await;
    let mut outcome = Outcome::default();
    for (id, pruned) in results {
        let Err(error) = pruned else { continue };
        outcome.problems.push(Problem {
            object: Some(id.to_string()),
            ..Problem::general(format!("cannot be pruned: {}", error.explain()))
        });
        outcome.retry |= error.passes();
        kept.insert(id);
    }
    (kept, outcome)
}

async fn prune_one(cluster: &Cluster, source: &Key, id: &ObjectId) -> Result<(), Error> {
    let found = match cluster.get(id).await {
        // With its definition went the object; and what no request can name was never applied.
        Ok(None) | Err(Error::NoSuchKind { .. } | Error::Malformed { .. }) => return Ok(()),
        Ok(Some(found)) => found,
        Err(error) => return Err(error),
    };
    if id_of(&found).identity() != id.identity() {
        let (operation, object) = ("prune", id.to_string());
        return Err(Error::Malformed { operation, object, why: format!("{} was found", id_of(&found)) });
    }
    let label = |name: &str| found.pointer("/metadata/labels").and_then(|labels| labels[name].as_str());
    let ours =
        label(SOURCE_NAME) == Some(source.1.as_str()) && label(SOURCE_NAMESPACE) == Some(source.0.as_str());
    let said = found.pointer("/metadata/annotations").and_then(|annotations| annotations[PRUNE].as_str());
    let precious =
        ["Namespace", "CustomResourceDefinition", "PersistentVolumeClaim"].contains(&id.kind.as_str());
    let allowed = if precious { said == Some("enabled") } else { said != Some("disabled") };
    match found.pointer("/metadata/uid").and_then(Value::as_str) {
        Some(uid) if ours && allowed => {
            tracing::info!(object = %id, "pruned");
            cluster.delete(id, uid).await
        }
        Some(_) | None => {
            tracing::info!(object = %id, ours, "left in place, and no longer this source's");
            Ok(())
        }
    }
}

/// The ConfigMaps and Secrets that templates of kept releases name: `(kind, namespace, name)`.
fn named_by_releases(ctx: &Ctx) -> BTreeSet<(String, String, String)> {
    let memory = ctx.memory.read();
    memory
        .histories
        .iter()
        .filter(|(_, tracked)| tracked.history.gone_since.is_none())
        .flat_map(|(id, tracked)| {
            let templates = tracked.history.releases.iter().filter_map(|release| release.template.as_ref());
            templates
                .flat_map(|template| named_config(&template.open()))
                .map(|(kind, name)| (kind.to_owned(), id.namespace.clone(), name))
        })
        .collect()
}
