//! One git source: fetch, hold back what a person must see first, apply in order, prune.

pub mod apply;
pub mod content;
pub mod inventory;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Ctx, Shared,
    memory::{Desired, Key},
    queue::Next,
    since,
};
use crate::{
    adapters::{
        cluster::{self, id_of},
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
use content::{Content, Files, Item, Problem, manifest_of, workload_id};
use status::Verdict;

/// How long a sync waits for the watches to show what it applied.
const CATCH_UP: Duration = Duration::from_secs(10);

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
                Error::Git(_) => StageLabel::Observe,
                Error::Cluster(_) | Error::NotYet(_) => StageLabel::Act,
            };
            ctx.metrics.reconcile_error(Controller::Source, stage);
            // What was read before goes on to hold; after a restart it is read from the mirror.
            recover(&ctx, &key, &source).await;
            let interval = Duration::from_secs(source.spec.interval.as_secs());
            let next = match &error {
                Error::Git(error) if !error.retry() => Next::After(interval),
                Error::Git(_) | Error::Cluster(_) | Error::NotYet(_) => Next::Retry,
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
    let remote = remote(source);
    let name = mirror_key(key);
    let timeout = Duration::from_secs(source.spec.timeout.as_secs());
    let head = ctx.mirrors.fetch(&name, &remote, timeout).await.map_err(Error::Git)?;
    let last = source.status.as_ref().and_then(|status| status.last_applied_commit.clone());
    let last: Option<CommitId> = last.as_deref().and_then(|commit| commit.parse().ok());
    let kept = kept(ctx, key);
    let read = Reading { ctx, name: &name, remote: &remote, paths: &source.spec.paths, files: &kept.files };
    let content = read.content(head.commit).await.map_err(Error::Git)?;
    note_revocations(ctx, &content, &head);
    if let Some(held) = hold_back(&read, source, key, &content, &head, last).await.map_err(Error::Git)? {
        let applied = apply_revocations(ctx, key, &content).await?;
        if let Some(last) = last.filter(|last| kept.published != Some(*last)) {
            publish_commit(&read, key, last).await?;
        }
        return Ok(Verdict::held(&head, held, applied));
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

    async fn descends(&self, head: CommitId, ancestor: CommitId) -> Result<bool, git::Error> {
        let read = move |mirror: &git::Mirror| mirror.descends(head, ancestor);
        self.ctx.mirrors.read(self.name, self.remote, read).await
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
    let Some(last) = last.filter(|last| *last != head.commit) else { return Ok(None) };
    let accepted = source.annotations().get(ACCEPT_COMMIT).and_then(|commit| commit.trim().parse().ok());
    if accepted == Some(head.commit) {
        return Ok(None);
    }
    // An accepted commit is the baseline of what descends from it.
    let mut baseline = last;
    if let Some(accepted) = accepted {
        if read.descends(head.commit, accepted).await? && !read.descends(last, accepted).await? {
            baseline = accepted;
        }
    }
    if !source.spec.allow_rewrite && !read.descends(head.commit, baseline).await? {
        return Ok(Some(HeldBack {
            reason: "HistoryRewritten",
            message: format!(
                "it does not descend from {baseline}, the commit applied last: the history was rewritten"
            ),
            withdrawals: 0,
            prunes: 0,
        }));
    }
    if content.partial {
        return Ok(None); // Nothing is pruned or withdrawn while a file cannot be read.
    }
    let after = content.inventory();
    let (before, revoked) = {
        let memory = read.ctx.memory.read();
        let before = memory.inventories.get(key).cloned().unwrap_or_default();
        let revoked = before.iter().filter(|id| is_revoked(&memory.ledger, id)).cloned().collect();
        (before, revoked)
    };
    let before = if baseline == last { before } else { read.content(baseline).await?.inventory() };
    let held = guard::check(&before, &after, &revoked, source.spec.max_withdrawals as usize);
    // Without prune nothing is taken away, but a source that names nothing any more is an accident all the same.
    Ok(held.filter(|held| source.spec.prune || held.reason == "Emptied"))
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
    let mut written = 0;
    for stage in [Stage::Ground, Stage::Revocations, Stage::Rules, Stage::Rest] {
        let items = stages.get(&stage).map(Vec::as_slice).unwrap_or_default();
        let outcome = apply::apply(&ctx.cluster, key, items, &kept.memo).await.map_err(Error::Cluster)?;
        written += outcome.written;
        problems.extend(outcome.problems);
        match stage {
            Stage::Ground => established(ctx, &outcome.stored).await?,
            Stage::Revocations | Stage::Rules => catch_up(ctx, &outcome.stored).await?,
            Stage::Rest | Stage::Workloads => {}
        }
    }
    let workloads = stages.remove(&Stage::Workloads).unwrap_or_default();
    let (published, misplaced) = publish(read, key, &workloads, head).await.map_err(Error::Git)?;
    problems.extend(misplaced);
    let gone: BTreeSet<ObjectId> = {
        let identities: BTreeSet<_> = wanted.iter().map(ObjectId::identity).collect();
        before.iter().filter(|id| !identities.contains(&id.identity())).cloned().collect()
    };
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

/// One object has one source: the first that claimed it.
fn refuse_what_others_own(ctx: &Ctx, key: &Key, content: &mut Content) {
    let theirs: BTreeMap<(String, String, String, String), Key> = {
        let memory = ctx.memory.read();
        let others = memory.inventories.iter().filter(|(other, _)| *other != key);
        others.flat_map(|(other, ids)| ids.iter().map(|id| (id.identity(), other.clone()))).collect()
    };
    let (refused, items): (Vec<Item>, Vec<Item>) = std::mem::take(&mut content.items)
        .into_iter()
        .partition(|item| theirs.contains_key(&item.id.identity()));
    content.items = items;
    for item in &refused {
        let owner = &theirs[&item.id.identity()];
        let message = format!(
            "GitSource {}/{} applies this object already; remove it from one of the two",
            owner.0, owner.1
        );
        content.problems.push(Problem::about(item, message));
    }
}

/// Waits until definitions are served.
async fn established(ctx: &Ctx, stored: &[Value]) -> Result<(), Error> {
    for definition in stored.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        let id = id_of(definition);
        let deadline = tokio::time::Instant::now() + CATCH_UP;
        let mut now = Some(definition.clone());
        while !now.as_ref().is_some_and(is_established) {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::NotYet(format!("{id} is not established after {} s", CATCH_UP.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            now = ctx.cluster.get(&id).await.map_err(Error::Cluster)?;
        }
    }
    Ok(())
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// Waits until the watches show what was applied: what follows is judged by it.
async fn catch_up(ctx: &Ctx, stored: &[Value]) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    for object in stored {
        let id = id_of(object);
        let key = (id.namespace.clone(), id.name.clone());
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        loop {
            let news = ctx.memory.news();
            let notified = news.notified();
            let shown = {
                let memory = ctx.memory.read();
                match id.kind.as_str() {
                    "ApprovedImage" => memory.approvals.get(&key).map(|known| known.metadata.generation),
                    _ => memory.policy_objects.get(&key).map(|known| known.metadata.generation),
                }
            };
            if shown.is_some_and(|shown| shown >= generation) {
                break;
            }
            if tokio::time::timeout_at(deadline, notified).await.is_err() {
                return Err(Error::NotYet(format!("{id} was applied, but the watch has not shown it yet")));
            }
        }
    }
    Ok(())
}

/// Hands workloads over to their plans. Answers how many, and what is wrong with some.
async fn publish(
    read: &Reading<'_>,
    key: &Key,
    items: &[&Item],
    head: &Head,
) -> Result<(usize, Vec<Problem>), git::Error> {
    let ctx = read.ctx;
    let mut problems = Vec::new();
    let mut said: BTreeMap<WorkloadId, Arc<Manifest>> = BTreeMap::new();
    for item in items {
        let Some(id) = workload_id(&item.id) else { continue };
        if id.namespace.is_empty() {
            let message = "metadata.namespace is missing; say in which namespace the object belongs";
            problems.push(Problem::about(item, message));
        } else if id.kind.template_of(&item.value).is_none() {
            let message = format!(
                "{} is missing",
                id.kind.template_pointer().trim_start_matches('/').replace('/', ".")
            );
            problems.push(Problem::about(item, message));
        } else {
            let labelled = Item { value: Arc::new(apply::labelled(&item.value, key)), ..(*item).clone() };
            said.insert(id, Arc::new(manifest_of(&labelled, head.commit, head.time)));
        }
    }
    let strangers: BTreeSet<WorkloadId> = {
        let memory = ctx.memory.read();
        // A workload may have a history of what it ran before this source was read for the first time.
        let unread = |id: &WorkloadId| memory.desired.get(id).is_none_or(|known| known.manifest.is_none());
        let stranger = |id: &&WorkloadId| match memory.histories.get(*id) {
            Some(tracked) => tracked.history.is_alone() && unread(id),
            None => true,
        };
        said.keys().filter(stranger).cloned().collect()
    };
    let mut earlier =
        if strangers.is_empty() { BTreeMap::new() } else { read.earlier(head.commit, strangers).await? };
    let count = said.len();
    let mut changed = Vec::new();
    {
        let mut memory = ctx.memory.write();
        let before: Vec<WorkloadId> = memory
            .desired
            .iter()
            .filter(|(_, desired)| desired.source == *key)
            .map(|(id, _)| id.clone())
            .collect();
        for id in before.into_iter().filter(|id| !said.contains_key(id)) {
            memory.desired.remove(&id);
            changed.push(id);
        }
        for (id, manifest) in said {
            let known = memory.desired.get(&id).and_then(|desired| desired.manifest.as_ref());
            if known.is_some_and(|known| known.object == manifest.object && known.path == manifest.path) {
                continue;
            }
            let earlier = Arc::new(earlier.remove(&id).unwrap_or_default());
            memory
                .desired
                .insert(id.clone(), Desired { source: key.clone(), manifest: Some(manifest), earlier });
            changed.push(id);
        }
    }
    for id in changed {
        ctx.workloads.now(id);
    }
    if let Some(kept) = ctx.source_state.kept.lock().get_mut(key) {
        kept.published = Some(head.commit);
    }
    Ok((count, problems))
}

/// The workloads of an earlier commit, when the head is held back or cannot be fetched.
async fn publish_commit(read: &Reading<'_>, key: &Key, commit: CommitId) -> Result<(), Error> {
    let mut content = read.content(commit).await.map_err(Error::Git)?;
    refuse_what_others_own(read.ctx, key, &mut content);
    let items: Vec<&Item> = content.items.iter().filter(|item| Stage::of(item) == Stage::Workloads).collect();
    let head = Head { commit, time: Timestamp::UNIX_EPOCH, summary: String::new() };
    publish(read, key, &items, &head).await.map_err(Error::Git)?;
    Ok(())
}

/// After a restart with the remote away: what was applied last is read from the mirror.
async fn recover(ctx: &Ctx, key: &Key, source: &GitSource) {
    let kept = kept(ctx, key);
    let last = source.status.as_ref().and_then(|status| status.last_applied_commit.as_deref());
    let Some(last) = last.and_then(|commit| commit.parse().ok()).filter(|_| kept.published.is_none()) else {
        return;
    };
    let (name, remote) = (mirror_key(key), remote(source));
    let read = Reading { ctx, name: &name, remote: &remote, paths: &source.spec.paths, files: &kept.files };
    match publish_commit(&read, key, last).await {
        Ok(()) => {
            tracing::info!(source = key.1, commit = %last, "its remote is away; goes on with what was applied last")
        }
        Err(error) => {
            let error = anyhow_chain(&error);
            tracing::warn!(
                source = key.1,
                error,
                "nothing of it can be read; only rollbacks and holds go on for its workloads"
            );
        }
    }
}

fn anyhow_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A suspended source asks for nothing any more; its workloads stay its own.
fn unpublish(ctx: &Ctx, key: &Key) {
    let mut changed = Vec::new();
    for (id, desired) in &mut ctx.memory.write().desired {
        if desired.source == *key && desired.manifest.take().is_some() {
            changed.push(id.clone());
        }
    }
    for id in changed {
        ctx.workloads.now(id);
    }
    if let Some(kept) = ctx.source_state.kept.lock().get_mut(key) {
        kept.published = None;
    }
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
            error = anyhow_chain(&error),
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

fn remote(source: &GitSource) -> Remote {
    let named = &source.spec.reference;
    let reference = match (&named.branch, &named.tag, &named.commit) {
        (Some(branch), _, _) => Reference::Branch(branch.clone()),
        (None, Some(tag), _) => Reference::Tag(tag.clone()),
        (None, None, commit) => Reference::Commit(commit.clone().unwrap_or_default()),
    };
    Remote { url: source.spec.url.clone(), reference, ca: None }
}
