use super::*;
use crate::domain::{
    evidence::EvidenceOf,
    ledger::{
        Ledger,
        tests::{at, digest, record},
    },
};

/// Enforce, everywhere, approval by people from anywhere, digests required.
pub(crate) fn policy() -> Policy {
    Policy {
        key: ("root".into(), "production".into()),
        scope: Scope::Root,
        mode: Mode::Enforce,
        images: vec![Pattern::new("**").unwrap()],
        namespaces: Selector::default(),
        exclude_images: Vec::new(),
        exclude_namespaces: BTreeSet::new(),
        sources: None,
        require_digest: true,
        approval: Some(Approval { from_root: true, from_namespace: true, max_age: None }),
        gates: Vec::new(),
        approves: false,
        pull_secrets: BTreeSet::new(),
        on_gate_failure: None,
        on_revocation: None,
        on_failed_rollout: None,
        healthy_for: None,
        pin_pods: None,
    }
}

fn judge(policies: &[Policy], ledger: &Ledger, text: &str) -> Judgement {
    let policies: Vec<&Policy> = policies.iter().collect();
    Judge { policies: &policies, ledger, evidence: EvidenceOf::nothing(), namespace: "shop", now: at(100) }
        .enforced(text)
}

fn codes(judgement: &Judgement) -> Vec<Code> {
    judgement.against.iter().map(|(_, reason)| reason.code).collect()
}

const CART: &str = "registry.example/shop/cart";

#[test]
fn a_tag_is_pinned_to_the_digest_it_was_approved_for() {
    let ledger: Ledger = [record("a", 1, "1.0")].into_iter().collect();
    let judged = judge(&[policy()], &ledger, &format!("{CART}:1.0"));
    assert!(judged.permitted());
    assert_eq!(judged.image(), format!("{CART}:1.0@{}", digest(1)));
    let judged = judge(&[policy()], &ledger, &format!("{CART}@{}", digest(1)));
    assert_eq!(judged.image(), format!("{CART}@{}", digest(1)));
    assert_eq!(codes(&judge(&[policy()], &ledger, &format!("{CART}:2.0"))), [Code::Unlisted]);
    assert_eq!(
        codes(&judge(&[policy()], &ledger, &format!("other.example/cart@{}", digest(1)))),
        [Code::Unlisted]
    );
}

#[test]
fn policies_only_add_up() {
    let ledger: Ledger = [record("a", 1, "1.0")].into_iter().collect();
    let mut tighter = policy();
    tighter.key.1 = "tighter".into();
    tighter.scope = Scope::Namespace("shop".into());
    tighter.sources =
        Some(Sources { allow: vec![Pattern::new("other.example/**").unwrap()], deny: Vec::new() });
    let judged = judge(&[policy(), tighter.clone()], &ledger, &format!("{CART}:1.0"));
    assert_eq!(codes(&judged), [Code::SourceNotAllowed]);
    tighter.mode = Mode::Audit;
    assert!(judge(&[policy(), tighter], &ledger, &format!("{CART}:1.0")).permitted());
}

#[test]
fn two_policies_that_resolve_a_tag_differently_permit_neither() {
    let mut tenants = record("t", 2, "1.0");
    tenants.scope = Scope::Namespace("shop".into());
    tenants.key.namespace = "shop".into();
    let ledger: Ledger = [record("a", 1, "1.0"), tenants].into_iter().collect();
    let mut root = policy();
    root.approval = Some(Approval { from_root: true, from_namespace: false, max_age: None });
    let mut own = policy();
    own.key.1 = "z-own".into();
    own.approval = Some(Approval { from_root: false, from_namespace: true, max_age: None });
    let judged = judge(&[root, own], &ledger, &format!("{CART}:1.0"));
    assert_eq!(codes(&judged), [Code::AmbiguousTag]);
}

#[test]
fn without_approval_only_the_rules_about_the_reference_apply_but_a_revocation_always_counts() {
    let mut open = policy();
    open.approval = None;
    open.require_digest = false;
    let mut revoked = record("r", 2, "2.0");
    revoked.revocation = Some("bad".into());
    let ledger: Ledger = [record("a", 1, "1.0"), revoked].into_iter().collect();
    let judged = judge(&[open.clone()], &ledger, &format!("{CART}:9"));
    assert!(judged.permitted() && judged.image() == format!("{CART}:9"));
    assert_eq!(codes(&judge(&[open.clone()], &ledger, &format!("{CART}:2.0"))), [Code::Revoked]);
    assert_eq!(codes(&judge(&[open.clone()], &ledger, &format!("{CART}@{}", digest(2)))), [Code::Revoked]);
    open.require_digest = true;
    assert_eq!(codes(&judge(&[open], &ledger, &format!("{CART}:9"))), [Code::Unlisted]);
}

/// A policy that covers an image by its repository must also cover a text that hides the repository.
#[test]
fn what_cannot_be_parsed_is_refused_by_every_policy() {
    let judged = judge(&[policy()], &Ledger::default(), "not an image");
    assert_eq!((judged.governed, codes(&judged)), (true, vec![Code::InvalidReference]));
}

#[test]
fn coverage_follows_globs_labels_and_exclusions() {
    let mut p = policy();
    p.images = vec![Pattern::new("registry.example/**").unwrap()];
    p.exclude_images = vec![Pattern::new("registry.example/tools/**").unwrap()];
    assert!(p.covers(&CART.parse().unwrap()));
    assert!(!p.covers(&"registry.example/tools/x".parse().unwrap()));
    assert!(!p.covers(&"nginx".parse().unwrap()));
    let requirement =
        Requirement { key: "env".into(), operator: Operator::In, values: ["production".to_owned()].into() };
    p.namespaces = Selector(vec![requirement]);
    p.exclude_namespaces = ["legacy".to_owned()].into();
    let namespace = |name: &str, labels: Option<&[(&str, &str)]>| Namespace {
        name: name.into(),
        labels: labels.map(|labels| labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
    };
    assert!(p.covers_namespace(&namespace("shop", Some(&[("env", "production")]))));
    assert!(!p.covers_namespace(&namespace("shop", Some(&[]))));
    assert!(p.covers_namespace(&namespace("shop", None)), "a namespace that cannot be looked up is a match");
    assert!(!p.covers_namespace(&namespace("legacy", Some(&[("env", "production")]))));
    p.scope = Scope::Namespace("bank".into());
    assert!(!p.covers_namespace(&namespace("shop", Some(&[("env", "production")]))));
}

/// If this fails, a policy that nobody thought of takes releases back that another one wants to stay.
#[test]
fn of_several_policies_on_failed_rollouts_the_one_that_moves_nothing_wins() {
    let said = |these: &[Option<OnFailedRollout>], mode: Mode| {
        let policies: Vec<Policy> =
            these.iter().map(|said| Policy { on_failed_rollout: *said, mode, ..policy() }).collect();
        let policies: Vec<&Policy> = policies.iter().collect();
        let ledger = Ledger::default();
        Judge {
            policies: &policies,
            ledger: &ledger,
            evidence: EvidenceOf::nothing(),
            namespace: "shop",
            now: at(100),
        }
        .on_failed_rollout([CART])
    };
    let (good, none) = (Some(OnFailedRollout::LastGood), Some(OnFailedRollout::None));
    assert_eq!(said(&[good, None], Mode::Enforce), OnFailedRollout::LastGood);
    assert_eq!(said(&[good, none], Mode::Enforce), OnFailedRollout::None);
    assert_eq!(said(&[None], Mode::Enforce), OnFailedRollout::None);
    assert_eq!(said(&[good], Mode::Audit), OnFailedRollout::None);
}

/// If this fails, a policy that nobody thought of lets tags of Pods through, or nobody's does.
#[test]
fn of_several_policies_on_pinning_pods_the_one_that_pins_wins() {
    let said = |these: &[Option<bool>], mode: Mode| {
        let policies: Vec<Policy> =
            these.iter().map(|said| Policy { pin_pods: *said, mode, ..policy() }).collect();
        let policies: Vec<&Policy> = policies.iter().collect();
        let ledger = Ledger::default();
        Judge {
            policies: &policies,
            ledger: &ledger,
            evidence: EvidenceOf::nothing(),
            namespace: "shop",
            now: at(100),
        }
        .pin_pods([CART])
    };
    assert!(said(&[], Mode::Enforce) && said(&[None], Mode::Enforce));
    assert!(!said(&[Some(false), None], Mode::Enforce));
    assert!(said(&[Some(false), Some(true)], Mode::Enforce));
    assert!(said(&[Some(false)], Mode::Audit), "it changes nothing");
}

/// The webhook asks all policies at once, the plan those that enforce: if they disagree, one lets in what the other moves.
#[test]
fn opinions_and_judgements_say_the_same() {
    let mut tenants = record("t", 2, "1.0");
    tenants.scope = Scope::Namespace("shop".into());
    tenants.key.namespace = "shop".into();
    let mut revoked = record("r", 3, "3.0");
    revoked.revocation = Some("bad".into());
    let mut expired = record("e", 4, "4.0");
    expired.expires_at = Some(at(50));
    let ledger: Ledger = [record("a", 1, "1.0"), tenants, revoked, expired].into_iter().collect();
    let of = |name: &str, change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        policy.key.1 = name.into();
        change(&mut policy);
        policy
    };
    let policies = [
        of("a", &|_| {}),
        of("b", &|policy| {
            policy.approval = Some(Approval { from_root: false, from_namespace: true, max_age: None });
        }),
        of("c", &|policy| policy.mode = Mode::Warn),
        of("d", &|policy| (policy.approval, policy.require_digest) = (None, false)),
        of("e", &|policy| {
            policy.approval = Some(Approval {
                from_root: true,
                from_namespace: true,
                max_age: Some(Duration::from_secs(9)),
            });
        }),
        of("f", &|policy| policy.images = vec![Pattern::new("other.example/**").unwrap()]),
    ];
    let policies: Vec<&Policy> = policies.iter().collect();
    let judge = Judge {
        policies: &policies,
        ledger: &ledger,
        evidence: EvidenceOf::nothing(),
        namespace: "shop",
        now: at(100),
    };
    let digests = (1..=5).map(|n| format!("{CART}@{}", digest(n)));
    let tags = (1..=5).map(|n| format!("{CART}:{n}.0"));
    for text in digests.chain(tags).chain(["not an image".to_owned(), "other.example/x:1".to_owned()]) {
        let opinions = judge.opinions(&text);
        let enforcing = opinions.iter().filter(|opinion| opinion.policy.mode == Mode::Enforce);
        let said: BTreeSet<(String, Reason)> = enforcing
            .flat_map(|opinion| {
                opinion.against.iter().map(|reason| (opinion.policy.to_string(), reason.clone()))
            })
            .collect();
        assert_eq!(said, judge.enforced(&text).against, "{text}");
        for policy in &policies {
            let alone = judge.reported(&text, &policy.key);
            let opinion = opinions.iter().find(|opinion| opinion.policy == *policy);
            assert_eq!(opinion.is_some(), alone.governed, "{text} {policy}");
            let said: BTreeSet<&Reason> = opinion.into_iter().flat_map(|opinion| &opinion.against).collect();
            let said: Vec<&Reason> =
                said.into_iter().filter(|reason| reason.code != Code::AmbiguousTag).collect();
            assert_eq!(
                said,
                alone.against.iter().map(|(_, reason)| reason).collect::<Vec<_>>(),
                "{text} {policy}"
            );
        }
    }
}

mod gates {
    use super::*;
    use crate::domain::{
        evidence::{Evidence, Fact, Platform},
        gate::{AgeGate, Gate},
        ledger::{Record, Role},
    };

    fn evidence(record: &Record, layers: &[u8], created: i64) -> Evidence {
        let platform = Platform {
            name: "linux/amd64".into(),
            manifest: record.digest.clone(),
            config: digest(99),
            diff_ids: layers.iter().copied().map(digest).collect(),
            created: Some(at(created)),
        };
        Evidence {
            repository: record.repository.clone(),
            digest: record.digest.clone(),
            platforms: Fact::Known(vec![platform]),
            signatures: Fact::Absent,
            attestations: Fact::Absent,
            scans: Fact::Absent,
            checked: BTreeSet::new(),
        }
    }

    fn aged() -> Policy {
        Policy { gates: vec![Gate::Age(AgeGate { max_age: Duration::from_secs(200) })], ..policy() }
    }

    fn judged(policies: &[Policy], ledger: &Ledger, evidence: &EvidenceOf, text: &str) -> Judgement {
        let policies: Vec<&Policy> = policies.iter().collect();
        Judge { policies: &policies, ledger, evidence, namespace: "shop", now: at(100) }.enforced(text)
    }

    /// If this fails, what fails a gate runs, or what passes all of them does not.
    #[test]
    fn gates_are_reasons_for_what_a_reference_stands_for() {
        let ledger: Ledger = [record("a", 1, "1.0"), record("b", 2, "2.0")].into_iter().collect();
        let mut all = EvidenceOf::new();
        let say = |all: &EvidenceOf, text: &str| codes(&judged(&[aged()], &ledger, all, text));
        assert_eq!(say(&all, &format!("{CART}:1.0")), [Code::GateUnknown], "nobody looked");
        all.insert(evidence(&record("a", 1, "1.0"), &[], 0).into());
        all.insert(evidence(&record("b", 2, "2.0"), &[], -100).into());
        assert_eq!(say(&all, &format!("{CART}:1.0")), []);
        assert_eq!(say(&all, &format!("{CART}@{}", digest(1))), []);
        assert_eq!(say(&all, &format!("{CART}:2.0")), [Code::GateFailed]);
        assert_eq!(
            say(&all, &format!("{CART}@{}", digest(3))),
            [Code::Unlisted],
            "nobody looks at what is not approved"
        );
        let other = record("a", 1, "1.0");
        let elsewhere = format!("other.example/cart@{}", other.digest);
        assert_eq!(
            say(&all, &elsewhere),
            [Code::Unlisted],
            "evidence of another repository says nothing here"
        );
        let reasons = judged(&[aged()], &ledger, &all, &format!("{CART}:2.0")).against;
        assert!(
            reasons.first().unwrap().1.message.starts_with("maxImageAge: linux/amd64 was built at"),
            "{reasons:?}"
        );
    }

    /// If this fails, a tag that nobody pins goes around the gates.
    #[test]
    fn what_no_digest_is_known_of_passes_no_gate() {
        let open = Policy { approval: None, require_digest: false, ..aged() };
        let ledger: Ledger = [record("a", 1, "1.0")].into_iter().collect();
        let mut all = EvidenceOf::new();
        all.insert(evidence(&record("a", 1, "1.0"), &[], 0).into());
        let say = |text: &str| codes(&judged(std::slice::from_ref(&open), &ledger, &all, text));
        assert_eq!(say(&format!("{CART}:9.9")), [Code::GateUnknown]);
        assert_eq!(say(CART), [Code::GateUnknown]);
        assert_eq!(say(&format!("{CART}@{}", digest(7))), [Code::GateUnknown]);
        assert_eq!(say(&format!("{CART}:1.0")), []);
        let mut ended = record("a", 1, "1.0");
        ended.expires_at = Some(at(50));
        let ledger: Ledger = [ended].into_iter().collect();
        assert_eq!(codes(&judged(&[open], &ledger, &all, &format!("{CART}:1.0"))), [Code::GateUnknown]);
    }

    #[test]
    fn a_judgement_changes_when_a_gate_does() {
        let ledger: Ledger = [record("a", 1, "1.0")].into_iter().collect();
        let mut all = EvidenceOf::new();
        all.insert(evidence(&record("a", 1, "1.0"), &[], 0).into());
        let policy = aged();
        let policies = [&policy];
        let judge =
            Judge { policies: &policies, ledger: &ledger, evidence: &all, namespace: "shop", now: at(100) };
        let (tag, by_digest) = (format!("{CART}:1.0"), format!("{CART}@{}", digest(1)));
        assert_eq!(judge.next_change([tag.as_str()]), Some(at(200)));
        assert_eq!(judge.next_change([by_digest.as_str()]), Some(at(200)));
        let later = Judge { now: at(200), ..judge };
        assert_eq!(later.next_change([tag.as_str()]), None);
        assert_eq!(codes(&later.enforced(&tag)), [Code::GateFailed]);
    }

    /// If this fails, a base is revoked and what is built on it goes on.
    #[test]
    fn a_revoked_base_revokes_what_is_built_on_it_whatever_policies_ask() {
        let base = Record {
            role: Role::Base,
            repository: "registry.example/base/os".parse().unwrap(),
            ..record("base", 50, "12")
        };
        let mut all = EvidenceOf::new();
        all.insert(evidence(&base, &[10, 11], 0).into());
        all.insert(evidence(&record("a", 1, "1.0"), &[10, 11, 12], 0).into());
        all.insert(evidence(&record("b", 2, "2.0"), &[10, 12], 0).into());
        let ledger = |revoked: bool| -> Ledger {
            let base = Record { revocation: revoked.then(|| "CVE-1".into()), ..base.clone() };
            let mut ledger: Ledger =
                [base, record("a", 1, "1.0"), record("b", 2, "2.0")].into_iter().collect();
            for evidence in all.iter() {
                let Fact::Known(platforms) = &evidence.platforms else { panic!("{evidence:?}") };
                ledger.see_contents(&evidence.digest, platforms);
            }
            ledger
        };
        let say = |revoked: bool, text: &str| judged(&[policy()], &ledger(revoked), &all, text);
        for text in [format!("{CART}:1.0"), format!("{CART}@{}", digest(1))] {
            assert!(say(false, &text).permitted());
            let judged = say(true, &text);
            assert!(judged.revoked(), "{judged:?}");
            let reason = &judged.against.first().unwrap().1;
            assert!(
                reason.message.contains("registry.example/base/os@sha256:3232")
                    && reason.message.ends_with("CVE-1")
            );
        }
        assert!(say(true, &format!("{CART}:2.0")).permitted(), "on other layers");
        let policies: [&Policy; 0] = [];
        let ledger = ledger(true);
        let judge =
            Judge { policies: &policies, ledger: &ledger, evidence: &all, namespace: "shop", now: at(100) };
        assert!(judge.revocation(&format!("{CART}@{}", digest(1))).is_some());
        assert!(judge.revocation(&format!("{CART}@{}", digest(2))).is_none());
    }

    /// If this fails, a policy that nobody thought of takes back what runs.
    #[test]
    fn of_several_policies_on_gate_failures_the_one_that_moves_nothing_wins() {
        let said = |these: &[Option<OnGateFailure>], mode: Mode| {
            let policies: Vec<Policy> =
                these.iter().map(|said| Policy { on_gate_failure: *said, mode, ..policy() }).collect();
            let policies: Vec<&Policy> = policies.iter().collect();
            let ledger = Ledger::default();
            let evidence = EvidenceOf::nothing();
            Judge { policies: &policies, ledger: &ledger, evidence, namespace: "shop", now: at(100) }
                .on_gate_failure([CART])
        };
        let (good, none) = (Some(OnGateFailure::LastGood), Some(OnGateFailure::None));
        assert_eq!(said(&[good, None], Mode::Enforce), OnGateFailure::LastGood);
        assert_eq!(said(&[good, none], Mode::Enforce), OnGateFailure::None);
        assert_eq!(said(&[None], Mode::Enforce), OnGateFailure::None);
        assert_eq!(said(&[good], Mode::Audit), OnGateFailure::None);
    }
}
