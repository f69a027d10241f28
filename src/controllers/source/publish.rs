//! Hands what a source says of workloads over to their plans.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    Error, Reading,
    apply::Stage,
    claim::share,
    content::{Content, Item, Problem, manifest_of, workload_id},
    earlier::{Wanted, of_overlays},
    kept, mirror_key,
    place::account,
    reach_of, remote,
};
use crate::{
    adapters::{
        chain,
        git::{self, CommitId, Head},
    },
    api::GitSource,
    controllers::{
        Ctx, Shared,
        memory::{Desired, Key, State},
    },
    domain::{packed::Packed, plan::Manifest, workload::WorkloadId},
};

/// Hands workloads over to their plans. Answers how many, and what is wrong with some. One that is absent stays the source's own
/// unless `content` shows that it is gone.
pub(super) async fn publish(
    read: &Reading<'_>,
    key: &Key,
    items: &[&Item],
    head: &Head,
    content: Option<&Content>,
) -> Result<(usize, Vec<Problem>), git::Error> {
    let ctx = read.ctx;
    let mut problems = Vec::new();
    let mut said: BTreeMap<WorkloadId, Arc<Manifest<Packed>>> = BTreeMap::new();
    let mut built: BTreeMap<WorkloadId, String> = BTreeMap::new();
    // What was handed over before has been looked at.
    let known = handed_over(&ctx.memory.read(), key);
    for item in items {
        let Some(id) = workload_id(&item.id) else { continue };
        if !known.get(&id).is_some_and(|known| *known == item.value)
            && id.kind.template_of(&item.value.open()).is_none()
        {
            let message = format!(
                "{} is missing",
                id.kind.template_pointer().trim_start_matches('/').replace('/', ".")
            );
            problems.push(Problem::about(item, message));
        } else {
            built.extend(item.overlay().map(|directory| (id.clone(), directory.to_owned())));
            said.insert(id, Arc::new(manifest_of(item, head.commit, head.time)));
        }
    }
    let mut wanted = Wanted { of: strangers(&ctx.memory.read(), said.keys()), reach: read.reach.clone() };
    let mut earlier = if wanted.of.is_empty() {
        BTreeMap::new()
    } else {
        read.earlier(head.commit, wanted.clone()).await?
    };
    wanted.of.retain(|id| built.contains_key(id) && !earlier.contains_key(id));
    let count = said.len();
    let account = account(key, read.reach);
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
            let gone = content.is_some_and(|content| content.lacks(&id));
            match memory.desired.get_mut(&id).filter(|_| !gone) {
                Some(desired) => desired.manifest = None,
                None => {
                    memory.desired.remove(&id);
                }
            }
            changed.push(id);
        }
        for (id, manifest) in said {
            let known = memory.desired.get(&id).and_then(|desired| desired.manifest.as_ref());
            let same_account = memory.desired.get(&id).is_some_and(|desired| desired.account == account);
            if same_account
                && known.is_some_and(|known| known.object == manifest.object && known.path == manifest.path)
            {
                continue;
            }
            let earlier = Arc::new(earlier.remove(&id).unwrap_or_default());
            memory.desired.insert(
                id.clone(),
                Desired { source: key.clone(), account: account.clone(), manifest: Some(manifest), earlier },
            );
            changed.push(id);
        }
    }
    for id in changed {
        ctx.workloads.now(id);
    }
    let overlays = wanted.of.iter().filter_map(|id| built.get(id).cloned()).collect();
    of_overlays(read, key, head.commit, overlays, wanted);
    if let Some(kept) = ctx.source_state.kept.lock().get_mut(key) {
        kept.published = Some(head.commit);
    }
    Ok((count, problems))
}

/// What a source says of its workloads, as far as it was handed over.
fn handed_over(memory: &State, key: &Key) -> BTreeMap<WorkloadId, Packed> {
    let own = memory.desired.iter().filter(|(_, desired)| desired.source == *key);
    let said = |(id, desired): (&WorkloadId, &Desired)| {
        Some((id.clone(), desired.manifest.as_ref()?.object.clone()))
    };
    own.filter_map(said).collect()
}

/// Those that are read for the first time, and have nothing to go back to.
fn strangers<'a>(memory: &State, ids: impl Iterator<Item = &'a WorkloadId>) -> BTreeSet<WorkloadId> {
    // A workload may have a history of what it ran before this source was read for the first time.
    let alone = |id: &WorkloadId| memory.histories.get(id).is_none_or(|tracked| tracked.history.is_alone());
    let unread = |id: &WorkloadId| memory.desired.get(id).is_none_or(|known| known.manifest.is_none());
    ids.filter(|id| unread(id) && alone(id)).cloned().collect()
}

/// The workloads of an earlier commit, when the head is held back or cannot be fetched.
async fn publish_commit(read: &Reading<'_>, key: &Key, commit: CommitId) -> Result<(), Error> {
    let content = read.content(commit).await?;
    let share = share(&read.ctx.memory.read(), &read.ctx.root, key, &content);
    let workload = |item: &&Item| Stage::of(item) == Stage::Workloads;
    let items: Vec<&Item> = share.items.into_iter().filter(workload).collect();
    let head = Head { commit, time: Timestamp::UNIX_EPOCH, summary: String::new(), tag: None };
    // Nothing is pruned here, so nothing is given up either: that is for a sync to decide.
    publish(read, key, &items, &head, None).await.map_err(Error::Git)?;
    Ok(())
}

/// After a restart, before its remote answered or while it is away: what was applied last is read from the mirror.
pub async fn recover(ctx: &Shared, source: &GitSource) {
    let key = &(source.namespace().unwrap_or_default(), source.name_any());
    let kept = kept(ctx, key);
    let last = source.status.as_ref().and_then(|status| {
        // A sync that was interrupted may have begun to roll out more than was ever applied: it does not go back.
        status.published_commit.as_deref().or(status.last_applied_commit.as_deref())
    });
    let known = kept.published.is_some() || source.spec.suspend;
    let Some(last) = last.and_then(|commit| commit.parse().ok()).filter(|_| !known) else { return };
    let Ok(reach) = reach_of(ctx, source) else { return };
    let (name, remote) = (mirror_key(key), remote(ctx, source));
    let read = Reading {
        ctx,
        name: &name,
        remote: &remote,
        paths: &source.spec.paths,
        files: &kept.files,
        reach: &reach,
    };
    match publish_commit(&read, key, last).await {
        Ok(()) => tracing::info!(source = key.1, commit = %last, "goes on with what was applied last"),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                source = key.1,
                error,
                "nothing of it can be read; only rollbacks and holds go on for its workloads"
            );
        }
    }
}

/// A suspended source asks for nothing any more; its workloads stay its own.
pub(super) fn unpublish(ctx: &Ctx, key: &Key) {
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
