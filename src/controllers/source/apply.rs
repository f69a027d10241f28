//! Applies what is no workload, where it is not yet as git says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    content::{Item, Problem},
    revocation::{is_forgotten, revocation},
};
use crate::{
    adapters::cluster::{Cluster, Error, id_of},
    api::REVOCATION_FIELD_MANAGER,
    controllers::{Ctx, memory::Key},
    domain::{
        drift::{Applied, in_step},
        inventory::ObjectId,
        ledger::{Ledger, RecordKey},
        ownership::{MANAGER, own_fields},
        packed::Packed,
        workload::Kind,
    },
};

/// The labels on everything a source applies.
pub(super) const SOURCE_NAME: &str = "countersign.dev/source-name";
pub(super) const SOURCE_NAMESPACE: &str = "countersign.dev/source-namespace";
/// How many writes of one source are under way at once.
pub(super) const CONCURRENCY: usize = 16;

/// What this process knows of what it applied. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    /// What the API server writes differently is no drift.
    applied: Arc<Mutex<BTreeMap<ObjectId, Applied>>>,
    /// What was found or put in step last: what differs from it is news.
    said: Arc<Mutex<HashMap<ObjectId, Packed>>>,
}

impl Memo {
    /// What is said otherwise than when it was looked at last; everything, where nothing was.
    pub fn news<'a>(&self, items: &[&'a Item]) -> Vec<&'a Item> {
        let said = self.said.lock();
        let is_new = |item: &&Item| said.get(&item.id).is_none_or(|said| *said != item.value);
        items.iter().copied().filter(is_new).collect()
    }

    /// Whether anything was looked at.
    pub fn is_empty(&self) -> bool {
        self.said.lock().is_empty()
    }

    fn in_step(&self, item: &Item) {
        self.said.lock().insert(item.id.clone(), item.value.clone());
    }

    fn written(&self, item: &Item, desired: &Value, stored: &Value) {
        self.applied.lock().insert(item.id.clone(), Applied::new(desired, stored));
        self.in_step(item);
    }

    /// Forgets what is not said any more.
    pub fn keep(&self, items: &[&Item]) {
        let mut said = self.said.lock();
        if said.len() > items.len() {
            let ids: HashSet<&ObjectId> = items.iter().map(|item| &item.id).collect();
            said.retain(|id, _| ids.contains(id));
            self.applied.lock().retain(|id, _| ids.contains(id));
        }
    }
}

/// The object with the labels of its source.
pub fn labelled(mut value: Value, source: &Key) -> Value {
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

/// What applying, revoking or pruning came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The objects as stored, of those that were written or found in step.
    pub stored: Vec<Value>,
    /// How many were written.
    pub written: usize,
    /// What went wrong.
    pub problems: Vec<Problem>,
    /// Something went wrong that may well pass: try again soon.
    pub retry: bool,
    /// Groups and kinds that cannot be listed now: nothing is known of their objects.
    pub unlisted: BTreeSet<(String, String)>,
}

impl Outcome {
    /// What came before, and this.
    pub fn add(&mut self, other: Self) {
        let Self { stored, written, problems, retry, unlisted } = other;
        self.stored.extend(stored);
        self.written += written;
        self.problems.extend(problems);
        self.retry |= retry;
        self.unlisted.extend(unlisted);
    }

    fn note(&mut self, item: &Item, result: Result<(Value, bool), Failure>) {
        match result {
            Ok((stored, written)) => {
                self.written += usize::from(written);
                self.stored.push(stored);
            }
            Err(failure) => {
                self.problems.push(Problem::about(item, failure.message));
                self.retry |= failure.passes;
            }
        }
    }

    /// One kind that cannot be listed stops none of the others.
    fn unlisted(items: &[&Item], error: &Error) -> Self {
        Self {
            problems: items.iter().map(|item| Problem::about(item, error.explain())).collect(),
            retry: true,
            unlisted: items.iter().map(|item| (item.id.group().to_owned(), item.id.kind.clone())).collect(),
            ..Self::default()
        }
    }
}

/// Why one object is not as git says.
#[derive(Debug)]
struct Failure {
    message: String,
    /// It may well pass.
    passes: bool,
}

/// Applies objects of whatever kinds; what is in step already is not written.
///
/// # Errors
/// Only where the API server gives no answer.
pub async fn apply(cluster: &Cluster, source: &Key, items: &[&Item], memo: &Memo) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut kinds: BTreeMap<(&str, &str), Vec<&Item>> = BTreeMap::new();
    for item in items {
        kinds.entry((&item.id.api_version, &item.id.kind)).or_default().push(item);
    }
    for ((api_version, kind), items) in kinds {
        match found(cluster, source, api_version, kind).await {
            Ok(found) => outcome.add(apply_kind(cluster, source, items, &found, memo).await),
            Err(error) if error.is_answer() => outcome.add(Outcome::unlisted(&items, &error)),
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}

/// The objects of one kind that a source applied, by namespace and name.
type Found = BTreeMap<(String, String), Value>;

async fn found(cluster: &Cluster, source: &Key, api_version: &str, kind: &str) -> Result<Found, Error> {
    let resource = cluster.resource(api_version, kind).await?;
    let listed = cluster.list(&resource, cluster.reaches(), &selector(source)).await?;
    let named = |object| {
        let id = id_of(&object);
        ((id.namespace, id.name), object)
    };
    Ok(listed.into_iter().map(named).collect())
}

async fn apply_kind(
    cluster: &Cluster,
    source: &Key,
    items: Vec<&Item>,
    found: &Found,
    memo: &Memo,
) -> Outcome {
    // Collected first: a stream over a closure that borrows does not satisfy `Send` for every lifetime.
    let work: Vec<_> = items
        .into_iter()
        .map(|item| {
            let known = found.get(&(item.id.namespace.clone(), item.id.name.clone()));
            async move { (item, settle(cluster, source, item, known, memo).await) }
        })
        .collect();
    let results: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENCY).collect().await;
    let mut outcome = Outcome::default();
    for (item, result) in results {
        outcome.note(item, result);
    }
    outcome
}

/// Brings one object in step; answers with it as stored, and whether it had to be written.
async fn settle(
    cluster: &Cluster,
    source: &Key,
    item: &Item,
    found: Option<&Value>,
    memo: &Memo,
) -> Result<(Value, bool), Failure> {
    let value = item.value.open();
    let revocation = revocation(&value);
    let mut desired = labelled(value, source);
    let mut written = false;
    let mut found = found.cloned();
    if let Some(revocation) = revocation {
        // First the revocation: between the two writes the image must not count as approved.
        let forgotten = found.as_ref().is_some_and(is_forgotten);
        if !forgotten && !found.as_ref().is_some_and(|found| in_step(&revocation, found, None, None)) {
            found = Some(write_revocation(cluster, &revocation).await?);
            written = true;
        }
        if let Some(spec) = desired["spec"].as_object_mut() {
            spec.remove("revocation");
        }
    }
    let known = memo.applied.lock().get(&item.id).cloned();
    let as_said = |found: &Value| {
        let fields = found.pointer("/metadata/managedFields").and_then(Value::as_array);
        let owned = fields.and_then(|fields| own_fields(fields, &item.id.api_version));
        in_step(&desired, found, known.as_ref(), owned)
    };
    if let Some(found) = found.filter(as_said) {
        memo.in_step(item);
        return Ok((found, written));
    }
    let failure = |error: Error| Failure { message: said(item, &error), passes: error.passes() };
    let stored = cluster.apply(&desired, MANAGER).await.map_err(failure)?;
    memo.written(item, &desired, &stored);
    Ok((stored, true))
}

/// Applies what is new before anything else is looked at: a list of ten thousand objects takes longer than one write. What goes
/// wrong here is tried again, and told, when all is looked at. Answers how many were written.
pub async fn apply_news(cluster: &Cluster, source: &Key, items: &[&Item], memo: &Memo) -> usize {
    let work: Vec<_> = items
        .iter()
        .map(|item| async move {
            let desired = labelled(item.value.open(), source);
            let stored = cluster.apply(&desired, MANAGER).await.ok()?;
            memo.written(item, &desired, &stored);
            Some(())
        })
        .collect();
    let written: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENCY).collect().await;
    written.into_iter().flatten().count()
}

/// A revocation is tried again soon, whatever stands in its way.
async fn write_revocation(cluster: &Cluster, revocation: &Value) -> Result<Value, Failure> {
    let failure = |error: Error| Failure { message: error.explain(), passes: true };
    cluster.apply(revocation, REVOCATION_FIELD_MANAGER).await.map_err(failure)
}

/// Applies the revocations of objects, and nothing else of them; those that are known already need nothing.
pub async fn revoke(ctx: &Ctx, cluster: &Cluster, source: &Key, items: &[&Item]) -> Outcome {
    let new: Vec<&Item> = {
        let memory = ctx.memory.read();
        items.iter().copied().filter(|item| !is_revoked(&memory.ledger, &item.id)).collect()
    };
    let work: Vec<_> = new
        .into_iter()
        .filter_map(|item| Some((item, revocation(&item.value.open())?)))
        .map(|(item, revocation)| async move {
            tracing::warn!(source = source.1, object = %item.id, "revoked, whatever else of its commit counts");
            (item, write_revocation(cluster, &revocation).await)
        })
        .collect();
    let results: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENCY).collect().await;
    let mut outcome = Outcome::default();
    for (item, result) in results {
        outcome.note(item, result.map(|stored| (stored, true)));
    }
    outcome
}

/// Whether the record of an object is revoked, as far as the watch has shown.
pub fn is_revoked(ledger: &Ledger, id: &ObjectId) -> bool {
    let key = || RecordKey { namespace: id.namespace.clone(), name: id.name.clone() };
    id.kind == "ApprovedImage" && ledger.get(&key()).is_some_and(|record| record.revocation.is_some())
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
            "ApprovedImage" if item.revokes => Self::Revocations,
            "ApprovedImage" | "ImagePolicy" if item.id.group() == crate::api::GROUP => Self::Rules,
            kind if Kind::find(&item.id.api_version, kind).is_some() => Self::Workloads,
            _ => Self::Rest,
        }
    }
}
