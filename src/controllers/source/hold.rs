//! What a commit waits for before it is applied: other sources, or that a person sees it.

use super::{Error, Reading, apply::is_revoked, content::Content, time_for};
use crate::{
    adapters::git::{CommitId, Head},
    api::{GitSource, annotation::ACCEPT_COMMIT},
    controllers::{Ctx, memory::Key},
    domain::{
        condition::READY,
        dependency::{Node, Wait, wait},
        guard::{self, HeldBack},
        inventory::Inventory,
    },
};
use kube::ResourceExt;
use std::sync::Arc;

/// What is to become of a head.
#[derive(Debug)]
pub(super) enum Ruling {
    /// It waits for a person.
    Held(HeldBack),
    /// It is applied; and the acceptance that this acts on.
    Free(Option<CommitId>),
}

/// The source that this one waits for, if any.
pub(super) fn waits(ctx: &Ctx, key: &Key) -> Option<Wait> {
    let memory = ctx.memory.read();
    let node = |source: &GitSource| {
        let conditions = source.status.iter().flat_map(|status| &status.conditions);
        let ready = conditions.into_iter().any(|condition| {
            condition.type_ == READY
                && condition.status == "True"
                && condition.observed_generation == source.metadata.generation
        });
        let depends_on = source.spec.depends_on.iter().map(|other| other.name.clone()).collect();
        Node { depends_on, ready }
    };
    let beside = memory.sources.iter().filter(|((namespace, _), _)| *namespace == key.0);
    wait(&key.1, &beside.map(|((_, name), source)| (name.clone(), node(source))).collect())
}

/// The commit that a person accepted, as far as that still passes anything: an acceptance is acted on once, or it would let
/// everybody take the branch back to that commit for ever.
pub(super) fn accepted(source: &GitSource, head: CommitId, last: Option<CommitId>) -> Option<CommitId> {
    let said = annotated(source)?;
    let acted_on = source.status.as_ref().and_then(|status| status.accepted_commit.as_deref()?.parse().ok());
    (acted_on != Some(said) || last == Some(head)).then_some(said)
}

/// The commit that the annotation names, whether it was acted on or not.
pub(super) fn annotated(source: &GitSource) -> Option<CommitId> {
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
) -> Result<Ruling, Error> {
    let accepted = accepted(source, head.commit, last);
    if accepted == Some(head.commit) {
        return Ok(Ruling::Free(accepted));
    }
    let time = time_for(source);
    let mut baseline = None;
    if let Some(last) = last.filter(|last| *last != head.commit) {
        // An accepted commit is the baseline of what descends from it.
        if let Some(accepted) = accepted
            && read.descends(head.commit, accepted, time).await.map_err(Error::Git)?
            && !read.descends(last, accepted, time).await.map_err(Error::Git)?
        {
            baseline = Some(accepted);
        }
        let from = baseline.unwrap_or(last);
        if !source.spec.allow_rewrite && !read.descends(head.commit, from, time).await.map_err(Error::Git)? {
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
    Ok(held.map_or(Ruling::Free(baseline), Ruling::Held))
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
    let before = before.map(Arc::new).or_else(|| memory.inventories.get(key).cloned()).unwrap_or_default();
    let revoked = before.iter().filter(|id| is_revoked(&memory.ledger, id)).cloned().collect();
    let most = source.spec.max_withdrawals as usize;
    let said = content.items.len() + content.unplaced.len();
    let held = guard::check(&before, &content.gone(&before), said, &revoked, most);
    // Without prune nothing is taken away, but a source that names nothing any more is an accident all the same.
    held.filter(|held| source.spec.prune || held.reason == "Emptied")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// If this fails, whoever may push takes a source back to a commit that a person accepted once.
    #[test]
    fn an_acceptance_is_acted_on_once() {
        let commit = |n: char| n.to_string().repeat(40);
        let id = |n: char| commit(n).parse::<CommitId>().unwrap();
        let passes = |annotation: char, acted_on: Option<char>, head: char, last: char| {
            let source: GitSource = serde_json::from_value(json!({
                "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
                "metadata": {"name": "x", "annotations": {ACCEPT_COMMIT: commit(annotation)}},
                "spec": {"url": "/repo", "ref": {"branch": "main"}},
                "status": {"acceptedCommit": acted_on.map(commit)},
            }))
            .unwrap();
            accepted(&source, id(head), Some(id(last))) == Some(id(annotation))
        };
        assert!(passes('a', None, 'a', 'c'));
        assert!(passes('a', Some('b'), 'a', 'b'), "back to an older commit, by a new word");
        assert!(!passes('a', Some('a'), 'a', 'c'), "back to what was accepted once");
        assert!(!passes('a', Some('a'), 'b', 'c'), "nor is it the baseline of anything new");
        assert!(passes('a', Some('a'), 'a', 'a'), "it stays accepted while it stands");
    }
}
