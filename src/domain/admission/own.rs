//! Our own kinds: what their schemas cannot say.

use crate::domain::{
    ledger::{Record, Role},
    policy::Policy,
    reach::{self, reach},
};

/// The verdict on an object of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is denied, if it is.
    pub denial: Option<String>,
    /// What the client is told all the same.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// It is denied.
    pub fn denied(why: impl Into<String>) -> Self {
        Self { denial: Some(why.into()), warnings: Vec::new() }
    }
}

/// A history: what it says is believed, so only the operator says it. Others may set annotations: by these they release holds.
pub fn history(by_operator: bool, says_something_else: bool) -> Verdict {
    if by_operator || !says_something_else {
        return Verdict::default();
    }
    Verdict::denied(
        "only the operator writes histories: what they say is believed; to end a hold, annotate this object with \
         countersign.dev/release-hold, or let its revocation go",
    )
}

/// A policy, with the fields it sets that count in the root namespace only.
pub fn policy(is_root: bool, root: &str, root_only: &[&str]) -> Verdict {
    if is_root || root_only.is_empty() {
        return Verdict::default();
    }
    let fields = root_only.join(", ");
    Verdict::denied(format!(
        "{fields}: only policies in the namespace {root} may say this; take it out, or ask who looks after {root}"
    ))
}

/// A source.
pub fn source(asked: &reach::Asked<'_>, root: &str) -> Verdict {
    match reach(asked, root, None) {
        Ok(_) => Verdict::default(),
        Err(refusal) => Verdict::denied(refusal.message),
    }
}

/// A record, of whose namespace these are the policies (of the root namespace: all).
pub fn approval(record: &Record, was_revoked: bool, policies: &[&Policy]) -> Verdict {
    if was_revoked && record.revocation.is_none() {
        return Verdict::denied(format!(
            "spec.revocation: a revocation is not taken back; whoever must let it go annotates this object with \
             countersign.dev/forget-revocation: {}",
            record.digest
        ));
    }
    let approves = record.revocation.is_none() && record.role == Role::Application;
    let accepted = policies.iter().any(|policy| policy.accepts(record));
    let warnings = (approves && !accepted).then(|| {
        format!(
            "countersign: no policy that asks for approval of {} accepts one from the namespace {}: this approves nothing",
            record.repository, record.key.namespace
        )
    });
    Verdict { denial: None, warnings: warnings.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ledger::{Scope, tests::record},
        pattern::Pattern,
        policy::{Approval, tests::policy as any_policy},
    };

    /// If this fails, whoever may write histories decides what runs, or nobody can release a hold.
    #[test]
    fn only_the_operator_says_something_in_a_history() {
        assert!(history(false, true).denial.unwrap().contains("release-hold"));
        assert_eq!(history(true, true), Verdict::default());
        assert_eq!(history(false, false), Verdict::default());
    }

    #[test]
    fn what_counts_in_the_root_namespace_only_is_denied_elsewhere_by_name() {
        let fields = ["spec.rollback", "spec.admission"];
        assert_eq!(policy(true, "root", &fields), Verdict::default());
        assert_eq!(policy(false, "root", &[]), Verdict::default());
        assert!(
            policy(false, "root", &fields).denial.unwrap().starts_with("spec.rollback, spec.admission: ")
        );
    }

    #[test]
    fn a_source_that_reaches_outside_its_namespace_is_denied() {
        let asked =
            reach::Asked { namespace: "team-a", url: "https://git.example/a", account: None, target: None };
        assert!(source(&asked, "root").denial.unwrap().contains("serviceAccountName"));
        assert_eq!(source(&reach::Asked { account: Some("x"), ..asked }, "root"), Verdict::default());
        assert_eq!(source(&reach::Asked { namespace: "root", ..asked }, "root"), Verdict::default());
    }

    /// If this fails, a revocation is taken back without anybody having said so.
    #[test]
    fn a_revocation_is_not_taken_back() {
        let own = any_policy();
        let mut it = record("a", 1, "1.0");
        assert!(approval(&it, true, &[&own]).denial.unwrap().contains("forget-revocation: sha256:0101"));
        it.revocation = Some("other words".into());
        assert_eq!(approval(&it, true, &[&own]), Verdict::default());
    }

    /// Else somebody waits for an approval to work that never will.
    #[test]
    fn an_approval_that_no_policy_accepts_is_said_to_be_useless() {
        let warned =
            |record: &Record, policies: &[&Policy]| !approval(record, false, policies).warnings.is_empty();
        let open = any_policy();
        let (mut own, mut root_only, mut elsewhere) = (open.clone(), open.clone(), open.clone());
        own.approval = Some(Approval { from_root: false, from_namespace: true, max_age: None });
        root_only.approval = Some(Approval { from_root: true, from_namespace: false, max_age: None });
        elsewhere.images = vec![Pattern::new("other.example/**").unwrap()];
        let mut silent = open.clone();
        (silent.approval, silent.require_digest) = (None, false);
        let root = record("a", 1, "1.0");
        assert!(!warned(&root, &[&elsewhere, &open]) && !warned(&root, &[&root_only]));
        assert!(warned(&root, &[]) && warned(&root, &[&own]) && warned(&root, &[&elsewhere, &silent]));
        let mut tenants = record("t", 1, "1.0");
        (tenants.scope, tenants.key.namespace) = (Scope::Namespace("shop".into()), "shop".into());
        assert!(warned(&tenants, &[&root_only]) && !warned(&tenants, &[&own]));
        own.scope = Scope::Namespace("bank".into());
        assert!(warned(&tenants, &[&own]));
        tenants.revocation = Some("bad".into());
        assert!(!warned(&tenants, &[]), "a revocation counts without any");
        let mut base = record("b", 1, "1.0");
        base.role = Role::Base;
        assert!(!warned(&base, &[]));
    }
}
