//! A commit that revokes an image and names its successor moves a workload once: straight to the successor.
//!
//! The revocation is seen as soon as it is stored, and the workload would go back to its last good release; a moment later,
//! once the rest of the sync is applied, it would go forward. So a workload that this sync is about to ask something else
//! of, which is permitted already, is not looked at until then. Only for a moment: a sync that fails or hangs stops no
//! rollback.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::content::{Item, workload_id};
use crate::{
    controllers::{Ctx, memory::State, now},
    domain::{
        image::{Digest, ImageRef, Repository, Tag},
        packed::Packed,
        policy::Judge,
        workload::{Images, WorkloadId, images},
    },
};

/// How long a rollback waits for the successor at most, and a revocation for its approval.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What a commit revokes, and is not known to be revoked.
pub(super) fn newly_revoked(ctx: &Ctx, revocations: &[&Item]) -> BTreeSet<Digest> {
    let memory = ctx.memory.read();
    let digest = |item: &&Item| item.value.open().pointer("/spec/digest")?.as_str()?.parse().ok();
    let known: BTreeSet<&Digest> = memory
        .ledger
        .records()
        .filter(|record| record.revocation.is_some())
        .map(|record| &record.digest)
        .collect();
    revocations.iter().filter_map(digest).filter(|digest| !known.contains(digest)).collect()
}

/// The workloads that run one of these digests, and of which the commit asks other images: by another reference, or by a tag
/// that an approval in it claims for another digest.
pub(super) fn moving<'a>(
    ctx: &Ctx,
    workloads: &[&'a Item],
    rules: &[&Item],
    revoked: &BTreeSet<Digest>,
) -> Vec<&'a Item> {
    if revoked.is_empty() {
        return Vec::new();
    }
    let claimed = claimed(rules, revoked);
    let memory = ctx.memory.read();
    let moves = |item: &&&Item| {
        let Some(id) = workload_id(&item.id) else { return false };
        let runs = memory.findings.get(&id).is_some_and(|finding| !finding.runs.is_disjoint(revoked));
        let asked = memory.desired.get(&id).and_then(|desired| desired.manifest.as_ref());
        let of = |object: &Packed| id.kind.template_of(&object.open()).map(images);
        let wants = of(&item.value);
        let reclaimed = wants.iter().flat_map(Images::values).any(|text| names_one(text, &claimed));
        runs && asked.is_some_and(|asked| reclaimed || of(&asked.object) != wants)
    };
    workloads.iter().filter(moves).copied().collect()
}

/// The tags that approvals claim for digests that are not revoked.
fn claimed(rules: &[&Item], revoked: &BTreeSet<Digest>) -> BTreeSet<(Repository, Tag)> {
    let claim = |item: &&Item| {
        let value = item.value.open();
        let said = |field: &str| value.pointer("/spec")?.get(field)?.as_str();
        let digest: Digest = said("digest")?.parse().ok()?;
        let claim = (said("image")?.parse().ok()?, said("tag")?.parse().ok()?);
        (!revoked.contains(&digest)).then_some(claim)
    };
    rules.iter().filter_map(claim).collect()
}

/// Whether a reference is one of these tags, and names no digest.
fn names_one(text: &str, claimed: &BTreeSet<(Repository, Tag)>) -> bool {
    let Ok(reference) = text.parse::<ImageRef>() else { return false };
    let tag = reference.effective_tag().filter(|_| reference.digest.is_none());
    tag.is_some_and(|tag| claimed.contains(&(reference.repository, tag)))
}

/// Makes the looks at those workloads wait whose new images are all permitted now, and not among what is revoked.
pub(super) fn expect<'a>(ctx: &'a Ctx, moving: &[&Item], revoked: &BTreeSet<Digest>) -> Expected<'a> {
    let mut memory = ctx.memory.write();
    let ids: Vec<WorkloadId> = moving
        .iter()
        .filter_map(|item| {
            let id = workload_id(&item.id)?;
            permitted(&memory, &ctx.root, &id, item, revoked).then_some(id)
        })
        .collect();
    let until = Instant::now() + PATIENCE;
    memory.expected.extend(ids.iter().map(|id| (id.clone(), until)).collect::<BTreeMap<_, _>>());
    Expected { ctx, ids }
}

fn permitted(memory: &State, root: &str, id: &WorkloadId, item: &Item, revoked: &BTreeSet<Digest>) -> bool {
    let policies = memory.policies_for(&id.namespace, root);
    let judge = Judge {
        policies: &policies,
        ledger: &memory.ledger,
        evidence: &memory.evidence,
        namespace: &id.namespace,
        now: now(),
    };
    let wanted = id.kind.template_of(&item.value.open()).map(images).unwrap_or_default();
    !wanted.is_empty()
        && wanted.values().all(|text| {
            let judged = judge.enforced(text);
            judged.permitted() && judged.pinned.is_none_or(|image| !revoked.contains(&image.digest))
        })
}

/// While it lives, the looks wait.
pub(super) struct Expected<'a> {
    ctx: &'a Ctx,
    ids: Vec<WorkloadId>,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut memory = self.ctx.memory.write();
        for id in &self.ids {
            memory.expected.remove(id);
        }
        drop(memory);
        for id in self.ids.drain(..) {
            self.ctx.workloads.now(id);
        }
    }
}
