//! One git source: fetch, hold back what a person must see first, apply in order, prune.

pub mod apply;
pub mod content;
mod credentials;
mod effect;
pub mod inventory;
mod publish;
mod status;
mod successor;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Ctx, Shared, memory::Key, queue::Next, since};
use crate::{
    adapters::{
        chain,
        cluster::{self},
        git::{self, CommitId, Head, Reference, Remote},
    },
    api::{GitSource, REVOCATION_FIELD_MANAGER, annotation::ACCEPT_COMMIT},
    domain::{
        guard::{self, HeldBack},
        inventory::{Inventory, ObjectId},
        ledger::RecordKey,
        plan::Manifest,
        workload::WorkloadId,
    },
    telemetry::metrics::{Controller, RollbackStage, Stage as StageLabel},
};
use apply::{Memo, Stage};
use content::{Content, Files, Item, Problem, workload_id};
use effect::{catch_up, established};
pub use publish::recover;
use publish::{publish, refuse_what_others_own, unpublish};
use status::Verdict;

/// What is kept of each source between syncs.
#[derive(Default)]
pub struct Sources {
    kept: Mutex<BTreeMap<Key, Kept>>,
}

#[derive(Clone, Default)]
struct Kept {
    files: Files,
    memo: Memo,
    /// What was stored as its inventory.
    stored: Option<Inventory>,
    /// The commit that its workloads stand for.
    published: Option<CommitId>,
}

/// What went wrong with a sync as a whole.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Git(git::Error),
    #[error(transparent)]
    Cluster(cluster::Error),
    #[error(transparent)]
    Secret(credentials::Error),
    #[error("{0}")]
    NotYet(String),
}

/// Looks at one source.
pub async fn look(ctx: Shared, key: Key) -> Next {
    let _timer = ctx.metrics.time_reconcile(Controller::Source);
    let Some(source) = ctx.memory.read().sources.get(&key).cloned() else {
        return gone(&ctx, &key).await;
    };
    if source.spec.suspend {
        unpublish(&ctx, &key);
        return report(&ctx, &source, &Verdict::suspended()).await;
    }
    if key.0 != ctx.root {
        return report(&ctx, &source, &Verdict::outside_root(&ctx.root)).await;
    }
    let _sync = ctx.metrics.time_source_sync();
    let synced = sync(&ctx, &key, &source).await;
    let (verdict, next) = match synced {
        Ok(verdict) => {
            let interval = Duration::from_secs(source.spec.interval.as_secs());
            let failed = verdict.retry;
            (verdict, if failed { Next::Retry } else { Next::After(interval) })
        }
        Err(error) => {
            let stage = match &error {
                Error::Git(_) | Error::Secret(_) => StageLabel::Observe,
                Error::Cluster(_) | Error::NotYet(_) => StageLabel::Act,
            };
            ctx.metrics.reconcile_error(Controller::Source, stage);
            // What was read before goes on to hold; after a restart it is read from the mirror.
            recover(&ctx, &source).await;
            let interval = Duration::from_secs(source.spec.interval.as_secs());
            let next = match &error {
                Error::Git(error) if !error.retry() => Next::After(interval),
                Error::Git(_) | Error::Cluster(_) | Error::Secret(_) | Error::NotYet(_) => Next::Retry,
            };
            (Verdict::failed(&error), next)
        }
    };
    ctx.metrics.source_sync(verdict.outcome);
    match report(&ctx, &source, &verdict).await {
        Next::Retry => Next::Retry,
        Next::Wait | Next::After(_) => next,
    }
}

async fn report(ctx: &Ctx, source: &GitSource, verdict: &Verdict) -> Next {
    match status::report(ctx, source, verdict).await {
        Ok(()) => Next::Wait,
        Err(error) => {
            tracing::warn!(source = source.name_any(), error = %error.explain(), "the status of a source cannot be written");
            Next::Retry
        }
    }
}

async fn sync(ctx: &Ctx, key: &Key, source: &GitSource) -> Result<Verdict, Error> {
    let remote = Remote { credentials: credentials::read(ctx, source).await?, ..remote(source) };
    let name = mirror_key(key);
    let head = ctx.mirrors.fetch(&name, &remote, timeout(source)).await.map_err(Error::Git)?;
    let last = source.status.as_ref().and_then(|status| status.last_applied_commit.clone());
    let last: Option<CommitId> = last.as_deref().and_then(|commit| commit.parse().ok());
    let kept = kept(ctx, key);
    let read = Reading { ctx, name: &name, remote: &remote, paths: &source.spec.paths, files: &kept.files };
    let content = read.content(head.commit).await.map_err(Error::Git)?;
    note_revocations(ctx, &content, &head);
    if let Some(held) = hold_back(&read, source, key, &content, &head, last).await.map_err(Error::Git)? {
        let problems = apply_revocations(ctx, key, &content).await?;
        // What was applied last goes on to be: drift is put right, and its workloads stay its own.
        // Not when it would take away too much itself: read with other paths than it was applied with.
        if let Some(last) = last.filter(|last| *last != head.commit) {
            match read.content(last).await {
                Ok(content) if takes_too_much(ctx, source, key, &content, None).is_some() => {}
                Ok(content) => {
                    let before = Head { commit: last, time: head.time, summary: String::new() };
                    let _ = apply_all(&read, key, source, content, &before).await?;
                }
                Err(error) => tracing::warn!(
                    source = key.1,
                    error = chain(&error),
                    "the commit applied last cannot be read"
                ),
            }
        }
        return Ok(Verdict::held(&head, held, problems));
    }
    apply_all(&read, key, source, content, &head).await
}

/// Reads what a source's mirror holds.
struct Reading<'a> {
    ctx: &'a Ctx,
    name: &'a str,
    remote: &'a Remote,
    paths: &'a [String],
    files: &'a Files,
}

impl Reading<'_> {
    async fn content(&self, commit: CommitId) -> Result<Content, git::Error> {
        let (files, paths) = (self.files.clone(), self.paths.to_vec());
        let read = move |mirror: &git::Mirror| files.read(mirror, commit, &paths);
        self.ctx.mirrors.read(self.name, self.remote, read).await
    }

    async fn descends(
        &self,
        head: CommitId,
        ancestor: CommitId,
        timeout: Duration,
    ) -> Result<bool, git::Error> {
        self.ctx.mirrors.descends(self.name, self.remote, head, ancestor, timeout).await
    }

    async fn earlier(
        &self,
        head: CommitId,
        of: BTreeSet<WorkloadId>,
    ) -> Result<BTreeMap<WorkloadId, Vec<Manifest>>, git::Error> {
        let (files, paths) = (self.files.clone(), self.paths.to_vec());
        let read = move |mirror: &git::Mirror| files.earlier(mirror, head, &paths, &of);
        self.ctx.mirrors.read(self.name, self.remote, read).await
    }
}

/// Whether a person must see the head first.
async fn hold_back(
    read: &Reading<'_>,
    source: &GitSource,
    key: &Key,
    content: &Content,
    head: &Head,
    last: Option<CommitId>,
) -> Result<Option<HeldBack>, git::Error> {
    let accepted = source.annotations().get(ACCEPT_COMMIT).and_then(|commit| commit.trim().parse().ok());
    if accepted == Some(head.commit) {
        return Ok(None);
    }
    let mut baseline = None;
    let timeout = timeout(source);
    if let Some(last) = last.filter(|last| *last != head.commit) {
        // An accepted commit is the baseline of what descends from it.
        if let Some(accepted) = accepted
            && read.descends(head.commit, accepted, timeout).await?
            && !read.descends(last, accepted, timeout).await?
        {
            baseline = Some(accepted);
        }
        let from = baseline.unwrap_or(last);
        if !source.spec.allow_rewrite && !read.descends(head.commit, from, timeout).await? {
            return Ok(Some(HeldBack {
                reason: "HistoryRewritten",
                message: format!(
                    "it does not descend from {from}, the commit applied last: the history was rewritten"
                ),
                withdrawals: 0,
                prunes: 0,
            }));
        }
    }
    // Also of the commit applied last, which other paths may read differently, and where the status was lost.
    let before = match baseline {
        Some(accepted) => Some(read.content(accepted).await?.inventory()),
        None => None,
    };
    Ok(takes_too_much(read.ctx, source, key, content, before))
}

/// Whether a commit takes away more than a person would do unasked: of what was applied, or of what `before` says.
fn takes_too_much(
    ctx: &Ctx,
    source: &GitSource,
    key: &Key,
    content: &Content,
    before: Option<Inventory>,
) -> Option<HeldBack> {
    if content.partial {
        return None; // Nothing is pruned or withdrawn while a file cannot be read.
    }
    let memory = ctx.memory.read();
    let before = before.or_else(|| memory.inventories.get(key).cloned()).unwrap_or_default();
    let revoked = before.iter().filter(|id| is_revoked(&memory.ledger, id)).cloned().collect();
    let most = source.spec.max_withdrawals as usize;
    let held = guard::check(&before, &content.inventory(), &revoked, most);
    // Without prune nothing is taken away, but a source that names nothing any more is an accident all the same.
    held.filter(|held| source.spec.prune || held.reason == "Emptied")
}

fn is_revoked(ledger: &crate::domain::ledger::Ledger, id: &ObjectId) -> bool {
    let key = RecordKey { namespace: id.namespace.clone(), name: id.name.clone() };
    id.kind == "ApprovedImage" && ledger.get(&key).is_some_and(|record| record.revocation.is_some())
}

/// Keeps when revocations that are new were committed, for the metrics.
fn note_revocations(ctx: &Ctx, content: &Content, head: &Head) {
    for item in content.items.iter().filter(|item| Stage::of(item) == Stage::Revocations) {
        let Some(digest) = item.value.pointer("/spec/digest").and_then(Value::as_str) else { continue };
        let Ok(digest) = digest.parse() else { continue };
        let mut memory = ctx.memory.write();
        if !is_revoked(&memory.ledger, &item.id) && !memory.revoked_at.contains_key(&digest) {
            memory.revoked_at.insert(digest, head.time);
            ctx.metrics.rollback_reached(RollbackStage::Seen, since(head.time));
        }
    }
}

/// The revocations of a commit that is held back: these count all the same.
async fn apply_revocations(ctx: &Ctx, key: &Key, content: &Content) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for item in content.items.iter().filter(|item| Stage::of(item) == Stage::Revocations) {
        let Some(revocation) = apply::revocation(&item.value) else { continue };
        let known = is_revoked(&ctx.memory.read().ledger, &item.id);
        if known {
            continue;
        }
        tracing::warn!(source = key.1, object = %item.id, "revoked by a commit that is held back");
        if let Err(error) = ctx.cluster.apply(&revocation, REVOCATION_FIELD_MANAGER).await {
            problems.push(Problem::about(item, error.explain()));
        }
    }
    Ok(problems)
}

async fn apply_all(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    mut content: Content,
    head: &Head,
) -> Result<Verdict, Error> {
    let ctx = read.ctx;
    // What git names is not pruned, also where it is refused because another source was first.
    let named: BTreeSet<_> = content.items.iter().map(|item| item.id.identity()).collect();
    refuse_what_others_own(ctx, key, &mut content);
    let wanted = content.inventory();
    let before = ctx.memory.read().inventories.get(key).cloned().unwrap_or_default();
    let kept = kept(ctx, key);
    // What is about to be applied is on the list first: a crash in between must not leave objects that nobody prunes.
    keep_inventory(ctx, key, wanted.union(&before).cloned().collect()).await?;
    let mut stages: BTreeMap<Stage, Vec<&Item>> = BTreeMap::new();
    for item in &content.items {
        stages.entry(Stage::of(item)).or_default().push(item);
    }
    let mut problems = content.problems.clone();
    let workloads = stages.remove(&Stage::Workloads).unwrap_or_default();
    let at = |stage: Stage| stages.get(&stage).map(Vec::as_slice).unwrap_or_default();
    let revoked = successor::newly_revoked(ctx, at(Stage::Revocations));
    let moving = successor::moving(ctx, &workloads, &revoked);
    let order = if moving.is_empty() {
        [Stage::Ground, Stage::Revocations, Stage::Rules, Stage::Rest]
    } else {
        // Whether a successor is permitted shows once its approval is there.
        [Stage::Ground, Stage::Rules, Stage::Revocations, Stage::Rest]
    };
    let mut written = 0;
    let mut failed = None;
    let mut expected = None;
    // Whatever else of a commit fails, its revocations count.
    for stage in order.into_iter() {
        if stage == Stage::Revocations {
            expected = Some(successor::expect(ctx, &moving, &revoked));
        } else if failed.is_some() {
            continue;
        }
        match apply_stage(ctx, key, stage, at(stage), &kept.memo).await {
            Ok(outcome) => {
                written += outcome.written;
                problems.extend(outcome.problems);
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let (published, misplaced) =
        publish(read, key, &workloads, head, content.partial).await.map_err(Error::Git)?;
    drop(expected);
    problems.extend(misplaced);
    problems.extend(failing(ctx, &workloads));
    let gone: BTreeSet<ObjectId> =
        before.iter().filter(|id| !named.contains(&id.identity())).cloned().collect();
    let mut left = gone.clone();
    if content.partial {
        tracing::debug!(source = key.1, "nothing is pruned while a file cannot be read");
    } else if source.spec.prune {
        let (kept, failed) = apply::prune(ctx, key, &gone).await;
        left = kept;
        problems.extend(failed);
    } else {
        left.clear();
    }
    keep_inventory(ctx, key, wanted.union(&left).cloned().collect()).await?;
    let objects = content.items.len() - workloads.len();
    Ok(Verdict::applied(head, objects, published, content.skipped, problems, written > 0))
}

/// Applies one stage, and waits until it has taken effect.
async fn apply_stage(
    ctx: &Ctx,
    key: &Key,
    stage: Stage,
    items: &[&Item],
    memo: &Memo,
) -> Result<apply::Outcome, Error> {
    let outcome = apply::apply(&ctx.cluster, key, items, memo).await.map_err(Error::Cluster)?;
    match stage {
        Stage::Ground => established(ctx, &outcome.stored).await?,
        Stage::Revocations | Stage::Rules => catch_up(ctx, &outcome.stored).await?,
        Stage::Rest | Stage::Workloads => {}
    }
    Ok(outcome)
}

/// What goes wrong with workloads of a source.
fn failing(ctx: &Ctx, items: &[&Item]) -> Vec<Problem> {
    let memory = ctx.memory.read();
    let problem = |item: &Item| memory.findings.get(&workload_id(&item.id)?)?.problem.clone();
    items.iter().filter_map(|item| Some(Problem::about(item, problem(item)?))).collect()
}

/// A source that was deleted deletes nothing; its workloads belong to whoever changes them next.
async fn gone(ctx: &Ctx, key: &Key) -> Next {
    let freed: Vec<WorkloadId> = {
        let mut memory = ctx.memory.write();
        memory.inventories.remove(key);
        let freed: Vec<WorkloadId> = memory
            .desired
            .iter()
            .filter(|(_, desired)| desired.source == *key)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &freed {
            memory.desired.remove(id);
        }
        freed
    };
    for id in freed {
        ctx.workloads.now(id);
    }
    ctx.source_state.kept.lock().remove(key);
    if let Err(error) = inventory::remove(&ctx.cluster, &ctx.root, key).await {
        tracing::warn!(source = key.1, error = %error.explain(), "the inventory of a deleted source cannot be removed");
        return Next::Retry;
    }
    if let Err(error) = ctx.mirrors.remove(&mirror_key(key)).await {
        tracing::warn!(
            source = key.1,
            error = chain(&error),
            "the mirror of a deleted source cannot be removed"
        );
    }
    Next::Wait
}

async fn keep_inventory(ctx: &Ctx, key: &Key, inventory: Inventory) -> Result<(), Error> {
    let stored = kept(ctx, key).stored.or_else(|| ctx.memory.read().inventories.get(key).cloned());
    if stored.as_ref() != Some(&inventory) {
        inventory::store(&ctx.cluster, &ctx.root, key, &inventory).await.map_err(Error::Cluster)?;
    }
    ctx.memory.write().inventories.insert(key.clone(), inventory.clone());
    if let Some(kept) = ctx.source_state.kept.lock().get_mut(key) {
        kept.stored = Some(inventory);
    }
    Ok(())
}

fn kept(ctx: &Ctx, key: &Key) -> Kept {
    ctx.source_state.kept.lock().entry(key.clone()).or_default().clone()
}

fn mirror_key(key: &Key) -> String {
    format!("{}/{}", key.0, key.1)
}

fn timeout(source: &GitSource) -> Duration {
    Duration::from_secs(source.spec.timeout.as_secs())
}

/// Without credentials: enough to read what was fetched before.
fn remote(source: &GitSource) -> Remote {
    let named = &source.spec.reference;
    let reference = match (&named.branch, &named.tag, &named.semver, &named.commit) {
        (Some(branch), _, _, _) => Reference::Branch(branch.clone()),
        (None, Some(tag), _, _) => Reference::Tag(tag.clone()),
        (None, None, Some(range), _) => Reference::Semver(range.clone()),
        (None, None, None, commit) => Reference::Commit(commit.clone().unwrap_or_default()),
    };
    Remote { url: source.spec.url.clone(), reference, credentials: None }
}
