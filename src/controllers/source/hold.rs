//! Whether a person must see a commit before it is applied.

use super::{Reading, apply::is_revoked, content::Content};
use crate::{
    adapters::git::{self, CommitId, Head},
    api::{GitSource, annotation::ACCEPT_COMMIT},
    controllers::{Ctx, memory::Key},
    domain::{
        guard::{self, HeldBack},
        inventory::Inventory,
    },
};
use kube::ResourceExt;

/// What is to become of a head.
#[derive(Debug)]
pub(super) enum Ruling {
    /// It waits for a person.
    Held(HeldBack),
    /// It is applied.
    Free,
}

/// The commit that a person accepted.
fn accepted(source: &GitSource) -> Option<CommitId> {
    source.annotations().get(ACCEPT_COMMIT)?.trim().parse().ok()
}

/// Whether a person must see the head first.
pub(super) async fn ruling(
    read: &Reading<'_>,
    source: &GitSource,
    key: &Key,
    content: &Content,
    head: &Head,
    last: Option<CommitId>,
) -> Result<Ruling, git::Error> {
    let accepted = accepted(source);
    if accepted == Some(head.commit) {
        return Ok(Ruling::Free);
    }
    let mut baseline = None;
    if let Some(last) = last.filter(|last| *last != head.commit) {
        // An accepted commit is the baseline of what descends from it.
        if let Some(accepted) = accepted
            && read.descends(head.commit, accepted).await?
            && !read.descends(last, accepted).await?
        {
            baseline = Some(accepted);
        }
        let from = baseline.unwrap_or(last);
        if !source.spec.allow_rewrite && !read.descends(head.commit, from).await? {
            return Ok(Ruling::Held(HeldBack {
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
    let held = takes_too_much(read.ctx, source, key, content, before);
    Ok(held.map_or(Ruling::Free, Ruling::Held))
}

/// Whether a commit takes away more than a person would do unasked: of what was applied, or of what `before` says.
pub(super) fn takes_too_much(
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
