//! One look at a source whose repository answers: what its head says is held back, or applied in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::timeout;

use super::{
    Error, Failure, Reading,
    apply::{self, Memo, Outcome, Stage, is_revoked, revoke},
    claim::{Share, claim, keep_inventory},
    content::{Content, Item, Problem, anywhere, workload_id},
    credentials,
    effect::{catch_up, established},
    hold::{Ruling, ruling, takes_too_much, waits},
    in_place::apply_in_place,
    kept, mirror_key,
    prune::prune,
    publish::{publish, recover},
    remote,
    status::{Held, Verdict, note_published},
    successor::{self, PATIENCE},
    time_for,
};
use crate::{
    adapters::{
        chain,
        cluster::Cluster,
        git::{CommitId, Head, Remote},
    },
    api::GitSource,
    controllers::{Ctx, Shared, memory::Key, since},
    domain::{guard::HeldBack, inventory::ObjectId, reach::Reach},
    telemetry::metrics::RollbackStage,
};
use serde_json::Value;

/// Fetches, and does what the head asks for.
pub(super) async fn sync(
    ctx: &Shared,
    key: &Key,
    source: &GitSource,
    reach: &Reach,
) -> Result<Verdict, Failure> {
    let remote = Remote { credentials: credentials::read(ctx, source).await?, ..remote(ctx, source) };
    let name = mirror_key(key);
    let head = ctx.mirrors.fetch(&name, &remote, time_for(source)).await.map_err(Error::Git)?;
    let last = source.status.as_ref().and_then(|status| status.last_applied_commit.clone());
    let last: Option<CommitId> = last.as_deref().and_then(|commit| commit.parse().ok());
    let kept = kept(ctx, key);
    let (paths, files) = (&source.spec.paths, &kept.files);
    let read = Reading { ctx, name: &name, remote: &remote, paths, files, reach };
    let written = apply_in_place(&read, key, source, &head, last).await;
    let content = read.content(head.commit).await?;
    note_revocations(ctx, &content, &head);
    let done = carry_out(&read, key, source, &content, &head, last).await;
    if done.is_err() {
        // Whatever else of a commit fails, its revocations count.
        let revoked = revoke(ctx, &read.cluster(key), key, &content.revoking()).await;
        for problem in revoked.problems {
            tracing::error!(source = key.1, %problem, "a revocation cannot be applied; it is tried again");
        }
    }
    done.map(|verdict| verdict.after_writing(written))
}

async fn carry_out(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    content: &Content,
    head: &Head,
    last: Option<CommitId>,
) -> Result<Verdict, Failure> {
    if let Some(wait) = waits(read.ctx, key) {
        let outcome = revoke(read.ctx, &read.cluster(key), key, &content.revoking()).await;
        recover(read.ctx, source).await;
        return Ok(Verdict::waiting(&wait, outcome));
    }
    match ruling(read, source, key, content, head, last).await? {
        Ruling::Held(held) => Ok(hold(read, key, source, content, head, last, held).await),
        Ruling::Free(accepted) => match apply_all(read, key, source, content, head).await {
            Ok(verdict) => Ok(verdict.acting_on(accepted)),
            Err(error) => Err(Failure { error, held: Held::Free }),
        },
    }
}

/// The head waits for a person. Its revocations count, and what was applied last goes on to be.
async fn hold(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    content: &Content,
    head: &Head,
    last: Option<CommitId>,
    held: HeldBack,
) -> Verdict {
    let mut outcome = revoke(read.ctx, &read.cluster(key), key, &content.revoking()).await;
    // A revocation that cannot be read is not told of anywhere else.
    outcome.problems.extend(content.problems.iter().cloned());
    if let Some(last) = last.filter(|last| *last != head.commit) {
        outcome.add(apply_again(read, key, source, head, last).await);
    }
    Verdict::held(head, held, outcome)
}

/// Applies once more what was applied last: drift is put right, and its workloads stay the source's own. Not when it would
/// take away too much itself: read with other paths than it was applied with.
async fn apply_again(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    head: &Head,
    last: CommitId,
) -> Outcome {
    let failed = |error: &Error, why: String| Outcome {
        problems: vec![Problem::general(format!(
            "{last}, the commit applied last, cannot be applied again: {why}"
        ))],
        retry: match error {
            Error::Git(error) => error.retry(),
            Error::Cluster(_) | Error::Secret(_) | Error::NotYet(_) => true,
        },
        ..Outcome::default()
    };
    let content = match read.content(last).await {
        Ok(content) => content,
        Err(error) => return failed(&error, chain(&error)),
    };
    if takes_too_much(read.ctx, source, key, &content, None).is_some() {
        return Outcome::default();
    }
    let before = Head { commit: last, time: head.time, summary: String::new(), tag: None };
    match apply_all(read, key, source, &content, &before).await {
        Ok(verdict) => Outcome { retry: verdict.retry, ..Outcome::default() },
        Err(error) => failed(&error, chain(&error)),
    }
}

/// Keeps when revocations that are new were committed, for the metrics.
fn note_revocations(ctx: &Ctx, content: &Content, head: &Head) {
    for item in content.revoking() {
        let Some(Ok(digest)) =
            item.value.open().pointer("/spec/digest").and_then(Value::as_str).map(str::parse)
        else {
            continue;
        };
        let mut memory = ctx.memory.write();
        if !is_revoked(&memory.ledger, &item.id) && !memory.revoked_at.contains_key(&digest) {
            memory.revoked_at.insert(digest, head.time);
            ctx.metrics.rollback_reached(RollbackStage::Seen, since(head.time));
        }
    }
}

async fn apply_all(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    content: &Content,
    head: &Head,
) -> Result<Verdict, Error> {
    let ctx = read.ctx;
    let (share, claimed) = claim(&mut ctx.memory.write(), &ctx.root, key, content);
    // What is about to be applied is on the list first: a crash in between must not leave objects that nobody prunes.
    keep_inventory(ctx, key, Arc::clone(&claimed)).await?;
    let stages = Stages::new(&share, read.cluster(key), kept(ctx, key).memo);
    let workloads = stages.of(Stage::Workloads);
    let (mut outcome, expected) = stages.apply(ctx, key, content, &share).await?;
    if !workloads.is_empty() {
        note_published(ctx, source, head.commit).await.map_err(Error::Cluster)?;
    }
    let (published, misplaced) =
        publish(read, key, workloads, head, Some(content)).await.map_err(Error::Git)?;
    drop(expected);
    if stages.news.is_some() {
        outcome.add(stages.stage(ctx, key, Stage::Rest).await?);
    }
    stages.memo.keep(&share.items);
    outcome.problems.extend(misplaced);
    outcome.problems.extend(failing(ctx, workloads));
    // What git names is not pruned, also where it is refused because another source was first.
    let mut left = Arc::clone(&claimed);
    if claimed.len() > share.items.len() {
        let gone: BTreeSet<_> = content.gone(&claimed).into_iter().cloned().collect();
        let mut own = share.inventory();
        own.extend(claimed.iter().filter(|id| content.unplaced.contains(&anywhere(id))).cloned());
        own.extend(take_away(read, key, source, content, gone, &mut outcome).await);
        left = Arc::new(own);
    }
    keep_inventory(ctx, key, left).await?;
    let mut problems = content.problems.clone();
    problems.extend(share.problems);
    problems.append(&mut outcome.problems);
    outcome.problems = problems;
    let objects = share.items.len() - workloads.len();
    Ok(Verdict::applied(head, objects, published, content.skipped, outcome))
}

/// Prunes what is gone, where the source prunes and knows what is gone. Answers with what stays the source's for now.
async fn take_away(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    content: &Content,
    gone: BTreeSet<ObjectId>,
    outcome: &mut Outcome,
) -> BTreeSet<ObjectId> {
    if content.partial {
        tracing::debug!(source = key.1, "nothing is pruned while a file cannot be read");
        return gone;
    }
    if !source.spec.prune {
        return BTreeSet::new();
    }
    let unlisted = |id: &ObjectId| outcome.unlisted.contains(&(id.group().to_owned(), id.kind.clone()));
    let (mut left, gone): (BTreeSet<_>, BTreeSet<_>) = gone.into_iter().partition(unlisted);
    let (kept, pruned) = prune(read.ctx, &read.cluster(key), key, &gone).await;
    outcome.add(pruned);
    left.extend(kept);
    left
}

/// So many objects that are new are applied before all others are looked at.
const FEW: usize = 100;

/// What a source may apply, by stage.
struct Stages<'a> {
    items: BTreeMap<Stage, Vec<&'a Item>>,
    /// As the source reaches it.
    cluster: Cluster,
    memo: Memo,
    /// What of the rest is new, where it is little: then it comes first, and all of the rest only after the workloads.
    news: Option<Vec<&'a Item>>,
}

impl<'a> Stages<'a> {
    fn new(share: &Share<'a>, cluster: Cluster, memo: Memo) -> Self {
        let mut items: BTreeMap<Stage, Vec<&Item>> = BTreeMap::new();
        for item in &share.items {
            items.entry(Stage::of(item)).or_default().push(item);
        }
        let mut stages = Self { items, cluster, memo, news: None };
        if !stages.memo.is_empty() {
            stages.news = Some(stages.memo.news(stages.of(Stage::Rest))).filter(|news| news.len() <= FEW);
        }
        stages
    }

    /// Whether nothing is new of what the rest may rely on.
    fn stand(&self) -> bool {
        let before = [Stage::Ground, Stage::Revocations, Stage::Rules];
        before.into_iter().all(|stage| self.memo.news(self.of(stage)).is_empty())
    }

    fn of(&self, stage: Stage) -> &[&'a Item] {
        self.items.get(&stage).map(Vec::as_slice).unwrap_or_default()
    }

    /// Applies all but the workloads, and of the rest first what is new, if that is little. While what it answers with lives,
    /// the looks at those workloads wait that are about to move on.
    async fn apply<'c>(
        &self,
        ctx: &'c Ctx,
        key: &Key,
        content: &Content,
        share: &Share<'_>,
    ) -> Result<(Outcome, successor::Expected<'c>), Error> {
        let news = self.news.as_deref().unwrap_or_default();
        let (at_once, later) = if self.stand() { (news, &[][..]) } else { (&[][..], news) };
        let mut outcome = Outcome::default();
        outcome.written += apply::apply_news(&self.cluster, key, at_once, &self.memo).await;
        outcome.add(self.stage(ctx, key, Stage::Ground).await?);
        let revoked = successor::newly_revoked(ctx, &content.revoking());
        let rules = self.of(Stage::Rules);
        let moving = successor::moving(ctx, self.of(Stage::Workloads), rules, &revoked);
        // Whether a successor is permitted shows once its approval is there; but no revocation waits long for that.
        let mut ruled = false;
        if !moving.is_empty()
            && let Ok(done) = timeout(PATIENCE, self.stage(ctx, key, Stage::Rules)).await
        {
            outcome.add(done?);
            ruled = true;
        }
        let expected = successor::expect(ctx, &moving, &revoked);
        outcome.add(self.revocations(ctx, key, content, share).await?);
        if !ruled {
            outcome.add(self.stage(ctx, key, Stage::Rules).await?);
        }
        outcome.written += apply::apply_news(&self.cluster, key, later, &self.memo).await;
        if self.news.is_none() {
            outcome.add(self.stage(ctx, key, Stage::Rest).await?);
        }
        Ok((outcome, expected))
    }

    /// Revocations count wherever they stand: also on an object that is another source's, that stands twice, or whose kind
    /// cannot be listed.
    async fn revocations(
        &self,
        ctx: &Ctx,
        key: &Key,
        content: &Content,
        share: &Share<'_>,
    ) -> Result<Outcome, Error> {
        let mut outcome = self.stage(ctx, key, Stage::Revocations).await?;
        let refused = share.refused.iter().copied().filter(|item| item.revokes);
        let mut alone: Vec<&Item> =
            refused.chain(content.more_revocations.iter().map(AsRef::as_ref)).collect();
        if !outcome.unlisted.is_empty() {
            alone.extend(self.of(Stage::Revocations));
        }
        outcome.add(revoke(ctx, &self.cluster, key, &alone).await);
        Ok(outcome)
    }

    /// Applies one stage, and waits until it has taken effect.
    async fn stage(&self, ctx: &Ctx, key: &Key, stage: Stage) -> Result<Outcome, Error> {
        let applied = apply::apply(&self.cluster, key, self.of(stage), &self.memo).await;
        let outcome = applied.map_err(Error::Cluster)?;
        match stage {
            Stage::Ground => established(&self.cluster, &outcome.stored).await?,
            Stage::Revocations | Stage::Rules => catch_up(ctx, &outcome.stored).await?,
            Stage::Rest | Stage::Workloads => {}
        }
        Ok(outcome)
    }
}

/// What goes wrong with workloads of a source.
fn failing(ctx: &Ctx, items: &[&Item]) -> Vec<Problem> {
    let memory = ctx.memory.read();
    let problem = |item: &Item| memory.findings.get(&workload_id(&item.id)?)?.problem.clone();
    items.iter().filter_map(|item| Some(Problem::about(item, problem(item)?))).collect()
}
