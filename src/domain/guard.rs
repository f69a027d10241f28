//! What a commit may not do without a person: take back many approvals, delete much, or empty the source.

use std::collections::BTreeSet;

use super::inventory::{Inventory, ObjectId};

/// Why a commit is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The word for conditions.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// How many approvals and policies it would withdraw.
    pub withdrawals: usize,
    /// How many objects it would prune.
    pub prunes: usize,
}

/// Below this many objects a prune is never too large (but withdrawals are counted all the same).
const SMALL_PRUNE: usize = 10;

/// Judges what is gone of what a source applied, where its new head names so many objects. `revoked` are the approvals that carry a revocation: they
/// approve nothing that could be withdrawn. Answers with what to hold back for, if anything.
pub fn check(
    before: &Inventory,
    gone: &[&ObjectId],
    named: usize,
    revoked: &BTreeSet<ObjectId>,
    max_withdrawals: usize,
) -> Option<HeldBack> {
    let withdrawn = |kind: &str| {
        let is =
            |id: &&ObjectId| id.group() == "countersign.dev" && id.kind == kind && !revoked.contains(*id);
        (gone.iter().copied().filter(is).count(), before.iter().filter(is).count())
    };
    let (approvals, all_approvals) = withdrawn("ApprovedImage");
    let (policies, all_policies) = withdrawn("ImagePolicy");
    let withdrawals = approvals + policies;
    let prunes = gone.len();
    let held = |reason, message| Some(HeldBack { reason, message, withdrawals, prunes });
    if named == 0 && !before.is_empty() {
        return held("Emptied", format!("it names no object any more; {prunes} were applied before"));
    }
    if withdrawals > max_withdrawals {
        let message = format!(
            "it withdraws {approvals} approvals and {policies} policies, more than spec.maxWithdrawals ({max_withdrawals})"
        );
        return held("TooManyWithdrawals", message);
    }
    for (count, all, what) in [(approvals, all_approvals, "approvals"), (policies, all_policies, "policies")]
    {
        if count > 0 && count == all {
            return held("TooManyWithdrawals", format!("it withdraws all {what} of the source ({count})"));
        }
    }
    if prunes > SMALL_PRUNE && prunes * 2 > before.len() {
        return held(
            "PruneTooLarge",
            format!("it would prune {prunes} of {} objects, more than half", before.len()),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &Inventory, after: &Inventory, revoked: &Inventory, most: usize) -> Option<HeldBack> {
        let gone: Vec<&ObjectId> = before.difference(after).collect();
        super::check(before, &gone, after.len(), revoked, most)
    }

    fn ids(kind: &str, names: std::ops::Range<usize>) -> Inventory {
        let api_version = if kind == "ConfigMap" { "v1" } else { "countersign.dev/v1alpha1" };
        names
            .map(|n| ObjectId {
                api_version: api_version.into(),
                kind: kind.into(),
                namespace: "x".into(),
                name: format!("{kind}-{n}"),
            })
            .collect()
    }

    fn union(parts: &[Inventory]) -> Inventory {
        parts.iter().flatten().cloned().collect()
    }

    fn reason(before: &Inventory, after: &Inventory) -> Option<&'static str> {
        check(before, after, &BTreeSet::new(), 5).map(|held| held.reason)
    }

    /// An accident in git (a bad merge, a moved folder) must not take a fleet's approvals away.
    #[test]
    fn many_or_all_withdrawals_are_held_back() {
        let kept = ids("ConfigMap", 0..3);
        let before = union(&[kept.clone(), ids("ApprovedImage", 0..20), ids("ImagePolicy", 0..2)]);
        let after = |approvals, policies| {
            union(&[kept.clone(), ids("ApprovedImage", 0..approvals), ids("ImagePolicy", 0..policies)])
        };
        assert_eq!(reason(&before, &after(15, 2)), None);
        assert_eq!(reason(&before, &after(14, 2)), Some("TooManyWithdrawals"));
        assert_eq!(reason(&before, &after(16, 1)), None);
        assert_eq!(reason(&before, &after(15, 1)), Some("TooManyWithdrawals"), "both kinds count together");
        assert_eq!(reason(&before, &after(20, 0)), Some("TooManyWithdrawals"), "all policies");
        let revoked: BTreeSet<ObjectId> = ids("ApprovedImage", 10..20);
        let after = after(10, 2);
        assert_eq!(check(&before, &after, &revoked, 5), None, "a revoked one approves nothing");
    }

    #[test]
    fn a_large_prune_and_an_emptied_source_are_held_back() {
        assert_eq!(reason(&ids("ConfigMap", 0..30), &ids("ConfigMap", 0..15)), None);
        assert_eq!(reason(&ids("ConfigMap", 0..30), &ids("ConfigMap", 0..14)), Some("PruneTooLarge"));
        assert_eq!(reason(&ids("ConfigMap", 0..12), &ids("ConfigMap", 0..2)), None, "small");
        assert_eq!(reason(&ids("ConfigMap", 0..2), &Inventory::new()), Some("Emptied"));
        assert_eq!(reason(&Inventory::new(), &Inventory::new()), None);
    }
}
