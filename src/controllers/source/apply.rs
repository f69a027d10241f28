//! Applies what is no workload, where it is not yet as git says, and prunes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::content::{Item, Problem};
use crate::{
    adapters::cluster::{Cluster, Error, id_of},
    api::{REVOCATION_FIELD_MANAGER, annotation::FORGET_REVOCATION},
    controllers::{Ctx, memory::Key},
    domain::{
        drift::{Applied, in_step},
        inventory::ObjectId,
        ownership::{MANAGER, own_fields},
        workload::{Kind, named_config},
    },
};

/// The labels on everything a source applies.
const SOURCE_NAME: &str = "countersign.dev/source-name";
const SOURCE_NAMESPACE: &str = "countersign.dev/source-namespace";
/// On an object: `disabled` keeps it from being pruned; `enabled` lets a Namespace, a CustomResourceDefinition or a
/// PersistentVolumeClaim be pruned.
const PRUNE: &str = "countersign.dev/prune";
/// On an `ApprovedImage` that carries a revocation: it goes on counting when it is deleted.
pub const FINALIZER: &str = "countersign.dev/revocation";
/// How many writes of one source are under way at once.
const CONCURRENCY: usize = 16;

/// What this process applied, so that what the API server writes differently is no drift.
pub type Memo = Arc<Mutex<BTreeMap<ObjectId, Applied>>>;

/// The object with the labels of its source.
pub fn labelled(value: &Value, source: &Key) -> Value {
    let mut value = value.clone();
    let labels = &mut value["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[SOURCE_NAME] = source.1.as_str().into();
    labels[SOURCE_NAMESPACE] = source.0.as_str().into();
    value
}

fn selector(source: &Key) -> String {
    format!("{SOURCE_NAME}={},{SOURCE_NAMESPACE}={}", source.1, source.0)
}

/// What applying came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The objects as stored, of those that were written or found in step.
    pub stored: Vec<Value>,
    /// How many were written.
    pub written: usize,
    /// What went wrong.
    pub problems: Vec<Problem>,
}

/// Applies objects of whatever kinds; what is in step already is not written.
pub async fn apply(cluster: &Cluster, source: &Key, items: &[&Item], memo: &Memo) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut kinds: BTreeMap<(&str, &str), Vec<&Item>> = BTreeMap::new();
    for item in items {
        kinds.entry((&item.id.api_version, &item.id.kind)).or_default().push(item);
    }
    for ((api_version, kind), items) in kinds {
        let resource = match cluster.resource(api_version, kind).await {
            Ok(resource) => resource,
            Err(error @ Error::NoSuchKind { .. }) => {
                outcome.problems.extend(items.iter().map(|item| Problem::about(item, error.to_string())));
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = cluster.list(&resource, "", &selector(source)).await?;
        let found: BTreeMap<(String, String), Value> = found
            .into_iter()
            .map(|object| {
                let id = id_of(&object);
                ((id.namespace, id.name), object)
            })
            .collect();
        // Collected first: a stream over a closure that borrows does not satisfy `Send` for every lifetime.
        let work: Vec<_> = items
            .into_iter()
            .map(|item| {
                let found = found.get(&(item.id.namespace.clone(), item.id.name.clone()));
                let problem = misplaced(item, resource.namespaced);
                async move {
                    let result = match problem {
                        Some(problem) => Err(problem),
                        None => settle(cluster, source, item, found, memo).await,
                    };
                    (item, result)
                }
            })
            .collect();
        let results: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENCY).collect().await;
        for (item, result) in results {
            match result {
                Ok((stored, written)) => {
                    outcome.written += usize::from(written);
                    outcome.stored.push(stored);
                }
                Err(message) => outcome.problems.push(Problem::about(item, message)),
            }
        }
    }
    Ok(outcome)
}

fn misplaced(item: &Item, namespaced: bool) -> Option<String> {
    match (namespaced, item.id.namespace.is_empty()) {
        (true, true) => {
            Some("metadata.namespace is missing; say in which namespace the object belongs".to_owned())
        }
        (false, false) => Some(format!(
            "metadata.namespace is set, but {} objects stand in no namespace; remove it",
            item.id.kind
        )),
        (true, false) | (false, true) => None,
    }
}

/// Brings one object in step; answers with it as stored, and whether it had to be written.
async fn settle(
    cluster: &Cluster,
    source: &Key,
    item: &Item,
    found: Option<&Value>,
    memo: &Memo,
) -> Result<(Value, bool), String> {
    let mut desired = labelled(&item.value, source);
    let mut written = false;
    let mut found = found.cloned();
    if let Some(revocation) = revocation(&item.value) {
        // First the revocation: between the two writes the image must not count as approved.
        let forgotten = found.as_ref().is_some_and(is_forgotten);
        if !forgotten && !found.as_ref().is_some_and(|found| in_step(&revocation, found, None, None)) {
            found = Some(
                cluster
                    .apply(&revocation, REVOCATION_FIELD_MANAGER)
                    .await
                    .map_err(|error| error.explain())?,
            );
            written = true;
        }
        if let Some(spec) = desired["spec"].as_object_mut() {
            spec.remove("revocation");
        }
    }
    let known = memo.lock().get(&item.id).cloned();
    let as_said = |found: &Value| {
        let fields = found.pointer("/metadata/managedFields").and_then(Value::as_array);
        let owned = fields.and_then(|fields| own_fields(fields, &item.id.api_version));
        in_step(&desired, found, known.as_ref(), owned)
    };
    if let Some(found) = found.filter(as_said) {
        return Ok((found, written));
    }
    let stored = cluster.apply(&desired, MANAGER).await.map_err(|error| said(item, &error))?;
    memo.lock().insert(item.id.clone(), Applied::new(&desired, &stored));
    Ok((stored, true))
}

/// What the API server said. Its words about a Secret may hold what is in it.
fn said(item: &Item, error: &Error) -> String {
    match error.code() {
        Some(code) if item.id.kind == "Secret" => {
            format!(
                "the API server refuses it with status {code}; its words are not shown, as they may hold the secret"
            )
        }
        Some(_) | None => error.explain(),
    }
}

/// The part of an `ApprovedImage` that is applied under the revocation's own manager; `None` where nothing is revoked.
pub fn revocation(object: &Value) -> Option<Value> {
    let id = id_of(object);
    let is_approval = id.group() == crate::api::GROUP && id.kind == "ApprovedImage";
    let spec = object.get("spec").filter(|_| is_approval)?;
    let revocation = spec.get("revocation")?;
    Some(json!({
        "apiVersion": id.api_version, "kind": id.kind,
        "metadata": {"name": id.name, "namespace": id.namespace, "finalizers": [FINALIZER]},
        "spec": {"image": spec["image"], "digest": spec["digest"], "revocation": revocation},
    }))
}

fn is_forgotten(object: &Value) -> bool {
    let said =
        object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(FORGET_REVOCATION));
    said.is_some() && said == object.pointer("/spec/digest")
}

/// Deletes what the source does not say any more. Answers with what stays in its inventory for now.
pub async fn prune(ctx: &Ctx, source: &Key, gone: &BTreeSet<ObjectId>) -> (BTreeSet<ObjectId>, Vec<Problem>) {
    let needed = named_by_releases(ctx);
    let mut kept = BTreeSet::new();
    let mut problems = Vec::new();
    for id in gone {
        if needed.contains(&(id.kind.clone(), id.namespace.clone(), id.name.clone())) {
            tracing::info!(object = %id, "not pruned: a kept release of a workload names it");
            kept.insert(id.clone());
            continue;
        }
        if let Err(error) = prune_one(&ctx.cluster, source, id).await {
            kept.insert(id.clone());
            problems.push(Problem {
                path: String::new(),
                line: None,
                document: None,
                object: Some(id.to_string()),
                message: format!("cannot be pruned: {}", error.explain()),
            });
        }
    }
    (kept, problems)
}

async fn prune_one(cluster: &Cluster, source: &Key, id: &ObjectId) -> Result<(), Error> {
    let found = match cluster.get(id).await {
        // With its definition went the object.
        Ok(None) | Err(Error::NoSuchKind { .. }) => return Ok(()),
        Ok(Some(found)) => found,
        Err(error) => return Err(error),
    };
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
            let templates = tracked.history.releases.iter().filter_map(|release| release.template.as_deref());
            templates.flat_map(named_config).map(|(kind, name)| (kind.to_owned(), id.namespace.clone(), name))
        })
        .collect()
}

/// The order of a sync: what others need comes first; revocations before approvals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Namespaces and definitions of kinds.
    Ground,
    /// Revocations.
    Revocations,
    /// Policies and approvals.
    Rules,
    /// Everything else that is no workload.
    Rest,
    /// Workloads: planned one by one.
    Workloads,
}

impl Stage {
    /// Where an object belongs.
    pub fn of(item: &Item) -> Self {
        let core = item.id.group().is_empty();
        match item.id.kind.as_str() {
            "Namespace" if core => Self::Ground,
            "CustomResourceDefinition" if item.id.group() == "apiextensions.k8s.io" => Self::Ground,
            "ApprovedImage" if revocation(&item.value).is_some() => Self::Revocations,
            "ApprovedImage" | "ImagePolicy" if item.id.group() == crate::api::GROUP => Self::Rules,
            kind if Kind::find(&item.id.api_version, kind).is_some() => Self::Workloads,
            _ => Self::Rest,
        }
    }
}
