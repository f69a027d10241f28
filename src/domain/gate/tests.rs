//! Images that have everything, and what becomes of the gates when one thing is not so.

use proptest::prelude::*;

use super::*;
use crate::domain::{
    evidence::{
        Attestation, Class, Condition, Finding, Holder, Place, Platform, Scan, Severity, Signature, Signer,
        Vex,
    },
    ledger::{
        Record, Role,
        tests::{at, digest, record},
    },
    pattern::Pattern,
};

fn print(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

fn trust(text: &str) -> Trust {
    Trust::Here { text: text.into(), prints: [print(text)].into() }
}

fn place() -> Place {
    Place {
        holder: Holder::ConfigMap,
        namespace: "root".into(),
        name: "sigstore".into(),
        key: "root.json".into(),
    }
}

fn by_key(text: &str) -> Signature {
    Signature {
        signer: Signer::Key(print(text)),
        root: Some(print("root")),
        at: Some(at(0)),
        logged: true,
        sct: false,
        annotations: vec![("env".into(), "prod".into())],
    }
}

fn by_identity(subject: &str) -> Signature {
    let signer = Signer::Identity {
        issuer: "https://issuer.example".into(),
        subject: subject.into(),
        root: print("root"),
    };
    Signature { signer, sct: true, ..by_key("") }
}

fn platform(name: &str, layers: &[u8]) -> Platform {
    Platform {
        name: name.into(),
        manifest: digest(100),
        config: digest(101),
        diff_ids: layers.iter().copied().map(digest).collect(),
        created: Some(at(-100)),
    }
}

fn finding(class: Class, severity: Severity) -> Finding {
    Finding {
        class,
        severity,
        id: "CVE-1".into(),
        package: "zlib".into(),
        version: Some("1".into()),
        fixed_version: Some("2".into()),
        vex: None,
    }
}

fn scan(scanner: &str, second: i64, findings: Vec<Finding>) -> Scan {
    let all = [Class::Vulnerability, Class::Secret, Class::Malware, Class::Misconfiguration, Class::Outdated];
    Scan {
        scanner: scanner.into(),
        at: at(second),
        covers: all.into(),
        signatures: Vec::new(),
        findings,
        more: Vec::new(),
    }
}

/// One image with everything: two signers, two builders, a clean report, two platforms on an approved base.
fn evidence() -> Evidence {
    let built = |builder: &str| Attestation {
        predicate_type: "slsa".into(),
        signatures: vec![by_key("a")],
        builder: Some(builder.into()),
        at: Some(at(0)),
        conditions: vec![Condition { expression: print("x"), holds: Ok(true) }],
    };
    Evidence {
        repository: "registry.example/shop/cart".parse().unwrap(),
        digest: digest(1),
        platforms: Fact::Known(vec![
            platform("linux/amd64", &[10, 11, 12]),
            platform("linux/arm64", &[20, 21]),
        ]),
        signatures: Fact::Known(vec![by_key("a"), by_identity("https://ci.example/a")]),
        attestations: Fact::Known(vec![built("one"), built("two")]),
        scans: Fact::Known(vec![scan("Trivy", 0, Vec::new())]),
        checked: ["a", "root", "x", "ca"].map(print).into(),
    }
}

struct Scene {
    all: EvidenceOf,
    ledger: Ledger,
    now: i64,
}

fn base(n: u8) -> Record {
    let repository = "registry.example/base/os".parse().unwrap();
    Record { role: Role::Base, repository, ..record("base", n, "1") }
}

impl Scene {
    fn new() -> Self {
        let mut all = EvidenceOf::new();
        all.see_place(place(), Fact::Known([print("root")].into()));
        let layers = vec![platform("linux/amd64", &[10]), platform("linux/arm64", &[20])];
        let of_base = Evidence {
            repository: base(50).repository,
            digest: digest(50),
            platforms: Fact::Known(layers),
            ..evidence()
        };
        all.insert(of_base.into());
        Self { all, ledger: [base(50)].into_iter().collect(), now: 100 }
    }

    fn says(&self, gate: &Gate, evidence: Option<&Evidence>) -> Verdict {
        gate.check(&self.seen(evidence))
    }

    fn seen<'a>(&'a self, evidence: Option<&'a Evidence>) -> Seen<'a> {
        let acceptance =
            Acceptance { namespace: "shop", from_root: true, from_namespace: false, max_age: None };
        Seen { evidence, all: &self.all, ledger: &self.ledger, acceptance, now: at(self.now) }
    }
}

fn signed() -> SignatureGate {
    SignatureGate {
        name: "release".into(),
        keys: vec![trust("a")],
        identities: vec![CosignIdentity {
            issuer: Text::Exact("https://issuer.example".into()),
            subject: Text::matching("https://ci[.]example/.*").unwrap(),
        }],
        root: Some(Trust::At(place())),
        require_log: true,
        require_sct: true,
        annotations: [("env".to_owned(), "prod".to_owned())].into(),
        authorities: Vec::new(),
        subjects: Vec::new(),
        threshold: 2,
    }
}

fn attested() -> AttestationGate {
    AttestationGate {
        name: "built".into(),
        predicate_type: "slsa".into(),
        signed_by: signed(),
        conditions: vec![Expected {
            print: print("x"),
            expression: "x".into(),
            message: "built elsewhere".into(),
        }],
        threshold: 2,
        max_age: Some(Duration::from_secs(200)),
    }
}

fn scanned(looked: Looked) -> ScanGate {
    ScanGate { looked, max_age: Duration::from_secs(200), signed_by: None }
}

fn vulnerabilities(max: Option<Severity>) -> Looked {
    Looked::Vulnerabilities { max, fixable_only: false, vex: false, accept: Vec::new() }
}

fn all_gates() -> Vec<Gate> {
    let looked = [
        vulnerabilities(Some(Severity::Low)),
        Looked::Secrets(0),
        Looked::Malware(0),
        Looked::Misconfigurations(None),
        Looked::EndOfLife,
    ];
    let mut gates = vec![
        Gate::Signature(signed()),
        Gate::Attestation(attested()),
        Gate::Base(BaseGate { allow: vec![Pattern::new("registry.example/base/**").unwrap()] }),
        Gate::Age(AgeGate { max_age: Duration::from_mins(5) }),
    ];
    gates.extend(looked.map(|looked| Gate::Scan(scanned(looked))));
    gates
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail(_) => "fail",
        Verdict::Unknown(_) => "unknown",
    }
}

#[track_caller]
fn is(verdict: &Verdict, expected: &str) {
    let (word, text) = match verdict {
        Verdict::Pass => ("pass", ""),
        Verdict::Fail(text) => ("fail", text.as_str()),
        Verdict::Unknown(text) => ("unknown", text.as_str()),
    };
    let (expected, part) = expected.split_once(": ").unwrap_or((expected, ""));
    assert!(word == expected && text.contains(part), "expected {expected}: {part}, not {verdict:?}");
}

/// If this fails, an outage passes or fails an image.
#[test]
fn what_is_not_there_fails_and_what_could_not_be_looked_at_is_unknown() {
    let scene = Scene::new();
    for gate in all_gates() {
        let name = gate.name();
        is(&scene.says(&gate, Some(&evidence())), "pass");
        is(&scene.says(&gate, None), "unknown");
        let mut lost = evidence();
        lost.platforms = Fact::Unavailable("429".into());
        lost.signatures = Fact::Unavailable("429".into());
        lost.attestations = Fact::Unavailable("429".into());
        lost.scans = Fact::Unavailable("429".into());
        assert_eq!(word(&scene.says(&gate, Some(&lost))), "unknown", "{name}");
        lost.checked = BTreeSet::new();
        assert_eq!(word(&scene.says(&gate, Some(&lost))), "unknown", "{name}");
        let mut absent = evidence();
        (absent.platforms, absent.signatures) = (Fact::Absent, Fact::Absent);
        (absent.attestations, absent.scans) = (Fact::Absent, Fact::Absent);
        assert_eq!(word(&scene.says(&gate, Some(&absent))), "fail", "{name}");
        let mut empty = evidence();
        (empty.platforms, empty.signatures) = (Fact::Known(vec![]), Fact::Known(vec![]));
        (empty.attestations, empty.scans) = (Fact::Known(vec![]), Fact::Known(vec![]));
        assert_eq!(word(&scene.says(&gate, Some(&empty))), "fail", "{name}: an empty list never passes");
    }
    assert_eq!(evaluate(&all_gates(), &scene.seen(None)).len(), all_gates().len(), "none short-circuits");
}

#[test]
fn a_signature_counts_by_who_made_it_where_it_is_logged_and_what_it_says() {
    let scene = Scene::new();
    let with = |change: &dyn Fn(&mut SignatureGate), of: &Evidence| {
        let mut gate = signed();
        change(&mut gate);
        scene.says(&Gate::Signature(gate), Some(of))
    };
    let same = |_: &mut SignatureGate| {};
    let signatures =
        |signatures: Vec<Signature>| Evidence { signatures: Fact::Known(signatures), ..evidence() };
    is(&with(&same, &signatures(vec![by_key("a"), by_key("a")])), "fail: signed by 1 of 2");
    let mut again = by_identity("https://ci.example/a");
    again.at = Some(at(9));
    is(&with(&same, &signatures(vec![again, by_identity("https://ci.example/a")])), "fail: signed by 1 of 2");
    is(
        &with(
            &same,
            &signatures(vec![by_identity("https://ci.example/b"), by_identity("https://ci.example/a")]),
        ),
        "pass",
    );
    is(&with(&same, &signatures(vec![by_key("b"), by_key("a")])), "fail: not by");
    for (name, change) in [
        ("another key", (|gate: &mut SignatureGate| gate.keys = vec![trust("ca")]) as fn(&mut SignatureGate)),
        ("another subject", |gate| gate.identities[0].subject = Text::Exact("https://ci.example".into())),
        ("another issuer", |gate| gate.identities[0].issuer = Text::Exact("https://issuer.example/".into())),
        ("another root", |gate| gate.root = Some(trust("ca"))),
        ("other annotations", |gate| gate.annotations = [("env".to_owned(), "test".to_owned())].into()),
        ("three", |gate| gate.threshold = 3),
        ("no keys", |gate| gate.keys.clear()),
    ] {
        assert_eq!(word(&with(&change, &evidence())), "fail", "{name}");
    }
    for (name, change) in [
        ("no log", (|of: &mut Signature| of.logged = false) as fn(&mut Signature)),
        ("no time", |of| of.at = None),
        ("no promise", |of| of.sct = false),
        ("checked with nothing", |of| of.root = None),
    ] {
        let mut of = by_identity("https://ci.example/a");
        change(&mut of);
        assert_eq!(word(&with(&same, &signatures(vec![by_key("a"), of]))), "fail", "{name}");
    }
    let mut bare = by_key("a");
    (bare.logged, bare.root, bare.at) = (false, None, None);
    let one = |gate: &mut SignatureGate| gate.threshold = 1;
    is(&with(&one, &signatures(vec![bare.clone()])), "fail");
    let no_log = |gate: &mut SignatureGate| (gate.threshold, gate.require_log) = (1, false);
    is(&with(&no_log, &signatures(vec![bare])), "pass");
    is(&with(&|gate| gate.threshold = 0, &signatures(vec![])), "fail: signed by 0 of 1");
}

/// If this fails, a policy that was just written lets in or throws out what nobody checked against it.
#[test]
fn what_was_not_looked_at_for_this_policy_is_unknown() {
    let mut scene = Scene::new();
    let gate = Gate::Signature(signed());
    for forgotten in ["a", "root"] {
        let mut of = evidence();
        of.checked.remove(&print(forgotten));
        is(&scene.says(&gate, Some(&of)), "unknown: nobody looked");
        of.signatures = Fact::Absent;
        is(&scene.says(&gate, Some(&of)), "unknown: nobody looked");
    }
    let mut of = evidence();
    let Fact::Known(attestations) = &mut of.attestations else { panic!() };
    attestations[0].conditions.clear();
    is(&scene.says(&Gate::Attestation(attested()), Some(&of)), "unknown: evaluated");
    for (found, why) in [
        (Fact::Absent, "unknown: create it"),
        (Fact::Unavailable("forbidden".into()), "unknown: forbidden"),
        (Fact::Known(BTreeSet::new()), "unknown: is empty"),
        (Fact::Known([print("other")].into()), "unknown: nobody looked"),
    ] {
        scene.all.see_place(place(), found);
        is(&scene.says(&gate, Some(&evidence())), why);
    }
    scene.all.keep_places(&BTreeSet::new());
    is(&scene.says(&gate, Some(&evidence())), "unknown: not read yet");
    let enough = Gate::Signature(SignatureGate { threshold: 1, require_log: false, ..signed() });
    is(&scene.says(&enough, Some(&evidence())), "pass");
}

#[test]
fn a_certificate_of_a_trust_store_counts_by_its_subject() {
    let scene = Scene::new();
    let signer = Signer::Certificate { subject: "CN=release,O=Example".into(), authority: print("ca") };
    let of = Evidence { signatures: Fact::Known(vec![Signature { signer, ..by_key("") }]), ..evidence() };
    let gate = |authority: &str, subject: &str| {
        Gate::Signature(SignatureGate {
            keys: Vec::new(),
            identities: Vec::new(),
            root: None,
            authorities: vec![trust(authority)],
            subjects: vec![Text::Exact(subject.into())],
            threshold: 1,
            ..signed()
        })
    };
    is(&scene.says(&gate("ca", "CN=release,O=Example"), Some(&of)), "pass");
    is(&scene.says(&gate("ca", "CN=release"), Some(&of)), "fail");
    is(&scene.says(&gate("a", "CN=release,O=Example"), Some(&of)), "fail");
}

#[test]
fn an_attestation_counts_by_its_type_its_signer_its_age_and_what_it_says() {
    let scene = Scene::new();
    let with = |change: &dyn Fn(&mut Attestation)| {
        let mut of = evidence();
        let Fact::Known(all) = &mut of.attestations else { panic!() };
        change(&mut all[1]);
        of
    };
    let says = |gate: AttestationGate, of: &Evidence| scene.says(&Gate::Attestation(gate), Some(of));
    for (change, why) in [
        (
            (|of: &mut Attestation| of.builder = Some("one".into())) as fn(&mut Attestation),
            "fail: 1 of 2 distinct builders",
        ),
        (|of| of.builder = None, "fail: 1 of 2"),
        (|of| of.predicate_type = "spdx".into(), "fail: 1 of 2"),
        (|of| of.signatures = vec![by_key("b")], "fail: not signed by release"),
        (|of| of.signatures.clear(), "fail: not signed by release"),
        (|of| of.signatures[0].logged = false, "fail: not signed by release"),
        (|of| of.at = None, "fail: does not say when"),
        (|of| of.at = Some(at(-100)), "fail: too old"),
        (|of| of.at = Some(at(401)), "fail: future"),
        (|of| of.conditions[0].holds = Ok(false), "fail: built elsewhere"),
        (|of| of.conditions[0].holds = Err("no such key".into()), "fail: no such key"),
    ] {
        is(&says(attested(), &with(&change)), why);
    }
    let one = AttestationGate { threshold: 1, ..attested() };
    is(&says(one.clone(), &with(&|of| of.conditions[0].holds = Ok(false))), "pass");
    is(&says(AttestationGate { predicate_type: "spdx".into(), ..one }, &evidence()), "fail: type spdx");
    is(&says(AttestationGate { threshold: 3, ..attested() }, &evidence()), "fail: 2 of 3");
}

#[test]
fn findings_count_by_severity_and_nothing_unrated_is_let_through() {
    use Severity::{Critical, High, Low, Medium, Negligible, Unknown};
    let scene = Scene::new();
    let says = |looked: Looked, findings: Vec<Finding>| {
        let of = Evidence { scans: Fact::Known(vec![scan("Trivy", 0, findings)]), ..evidence() };
        scene.says(&Gate::Scan(scanned(looked)), Some(&of))
    };
    for (max, severity, expected) in [
        (Some(Medium), Medium, "pass"),
        (
            Some(Medium),
            High,
            "fail: Trivy found 1 vulnerabilities that the policy does not let through, such as High CVE-1 in zlib",
        ),
        (Some(Critical), Critical, "pass"),
        (Some(Critical), Unknown, "fail"),
        (None, Negligible, "fail"),
        (Some(Low), Negligible, "pass"),
    ] {
        is(&says(vulnerabilities(max), vec![finding(Class::Vulnerability, severity)]), expected);
        is(
            &says(Looked::Misconfigurations(max), vec![finding(Class::Misconfiguration, severity)]),
            expected.split(':').next().unwrap(),
        );
    }
    let looked = |fixable_only, vex, until: i64| Looked::Vulnerabilities {
        max: None,
        fixable_only,
        vex,
        accept: vec![Accept { id: "CVE-1".into(), until: at(until) }],
    };
    let critical = || finding(Class::Vulnerability, Critical);
    is(&says(looked(false, false, 101), vec![critical()]), "pass");
    is(&says(looked(false, false, 100), vec![critical()]), "fail");
    is(&says(looked(false, false, 101), vec![Finding { id: "CVE-2".into(), ..critical() }]), "fail");
    is(&says(looked(true, false, 0), vec![critical()]), "fail");
    is(&says(looked(true, false, 0), vec![Finding { fixed_version: None, ..critical() }]), "pass");
    for (vex, expected) in [
        (Vex::NotAffected, "pass"),
        (Vex::Fixed, "pass"),
        (Vex::Affected, "fail"),
        (Vex::UnderInvestigation, "fail"),
    ] {
        let said = || vec![Finding { vex: Some(vex), ..critical() }];
        is(&says(looked(false, true, 0), said()), expected);
        is(&says(looked(false, false, 0), said()), "fail");
    }
    let secrets = |many: usize| {
        (0..many).map(|n| Finding { id: n.to_string(), ..finding(Class::Secret, Low) }).collect::<Vec<_>>()
    };
    is(&says(Looked::Secrets(2), secrets(2)), "pass");
    is(&says(Looked::Secrets(2), secrets(3)), "fail: 3 secrets");
    is(&says(Looked::Malware(0), secrets(3)), "pass");
    is(&says(Looked::EndOfLife, vec![finding(Class::Outdated, Low)]), "fail");
}

#[test]
fn reports_count_by_what_they_cover_how_old_they_are_and_who_signed_them() {
    let scene = Scene::new();
    let of = |scans: Vec<Scan>| Evidence { scans: Fact::Known(scans), ..evidence() };
    let looked = || vulnerabilities(Some(Severity::Low));
    let gate = Gate::Scan(scanned(looked()));
    let bad = || vec![finding(Class::Vulnerability, Severity::High)];
    let says = |scans: Vec<Scan>| scene.says(&gate, Some(&of(scans)));
    is(&says(vec![scan("Trivy", 0, bad()), scan("Trivy", 1, vec![])]), "pass");
    is(&says(vec![scan("Trivy", 1, bad()), scan("Trivy", 0, vec![])]), "fail");
    is(&says(vec![scan("Grype", 0, bad()), scan("Trivy", 1, vec![])]), "fail: Grype");
    is(&says(vec![scan("Grype", -101, bad()), scan("Trivy", 1, vec![])]), "pass");
    is(&says(vec![scan("Trivy", -100, vec![])]), "unknown: too old");
    is(&says(vec![scan("Trivy", -99, vec![])]), "pass");
    is(&says(vec![scan("Trivy", 401, vec![])]), "fail: no report covers vulnerabilities");
    is(&says(vec![scan("Trivy", 401, vec![]), scan("Trivy", 1, bad())]), "fail: Trivy");
    let mut partial = scan("Trivy", 2, vec![]);
    partial.covers = [Class::Secret].into();
    is(&says(vec![partial.clone()]), "fail: no report covers vulnerabilities");
    is(&says(vec![partial, scan("Trivy", 1, bad())]), "fail: Trivy found");
    let mut cut = scan("Trivy", 0, vec![]);
    cut.more = vec![(Class::Vulnerability, Severity::High, 7), (Class::Vulnerability, Severity::Low, 9)];
    is(&says(vec![cut]), "fail: found 7");
    let mut signed_scan = scan("Trivy", 0, vec![]);
    signed_scan.signatures = vec![by_key("a")];
    let by = Gate::Scan(ScanGate { signed_by: Some(signed()), ..scanned(looked()) });
    is(&scene.says(&by, Some(&of(vec![signed_scan.clone()]))), "pass");
    // Whoever may push a report cannot hide a signed one behind it.
    is(&scene.says(&by, Some(&of(vec![scan("Trivy", 9, bad()), signed_scan.clone()]))), "pass");
    signed_scan.findings = bad();
    is(&scene.says(&by, Some(&of(vec![scan("Trivy", 9, vec![]), signed_scan.clone()]))), "fail");
    is(&scene.says(&by, Some(&of(vec![scan("Trivy", 9, vec![])]))), "fail: that release signed");
    let mut unchecked = of(vec![signed_scan]);
    unchecked.checked.remove(&print("root"));
    is(&scene.says(&by, Some(&unchecked)), "unknown");
}

#[test]
fn the_first_layers_of_every_platform_are_those_of_an_approved_base() {
    let gate = |allow: &str| Gate::Base(BaseGate { allow: vec![Pattern::new(allow).unwrap()] });
    let ours = gate("registry.example/base/**");
    let on = |amd: &[u8], arm: &[u8]| Evidence {
        platforms: Fact::Known(vec![platform("linux/amd64", amd), platform("linux/arm64", arm)]),
        ..evidence()
    };
    let scene = Scene::new();
    is(&scene.says(&ours, Some(&on(&[10], &[20, 1]))), "pass");
    is(&scene.says(&ours, Some(&on(&[10, 1], &[10, 1]))), "fail: linux/arm64");
    is(&scene.says(&ours, Some(&on(&[1, 10], &[20]))), "fail: linux/amd64");
    is(&scene.says(&ours, Some(&on(&[], &[]))), "fail");
    is(&scene.says(&gate("other.example/**"), Some(&evidence())), "fail: approve the base");
    let with = |change: &dyn Fn(&mut Record), now: i64| {
        let mut scene = Scene { now, ..Scene::new() };
        let mut record = base(50);
        change(&mut record);
        scene.ledger = [record].into_iter().collect();
        scene.says(&ours, Some(&evidence()))
    };
    is(&with(&|_| {}, 100), "pass");
    is(&with(&|of| of.expires_at = Some(at(100)), 100), "fail");
    is(&with(&|of| of.revocation = Some("bad".into()), 100), "fail");
    is(&with(&|of| of.role = Role::Application, 100), "fail");
    is(&with(&|_| {}, 49), "fail");
    is(&with(&|of| of.scope = crate::domain::ledger::Scope::Namespace("shop".into()), 100), "fail");
    let mut scene = Scene::new();
    scene.all.remove(&base(50).repository, &digest(50));
    is(&scene.says(&ours, Some(&evidence())), "unknown: could not be looked at");
    let mut child = record("child", 100, "1");
    child.revocation = Some("one platform".into());
    let mut scene = Scene::new();
    scene.ledger.insert(child);
    is(&scene.says(&ours, Some(&evidence())), "fail");
    let empty = Evidence {
        repository: base(51).repository,
        digest: digest(51),
        platforms: Fact::Known(vec![platform("linux/amd64", &[]), platform("linux/arm64", &[])]),
        ..evidence()
    };
    let mut scene = Scene::new();
    scene.all.insert(empty.into());
    scene.ledger = [base(51)].into_iter().collect();
    is(&scene.says(&ours, Some(&evidence())), "fail");
}

#[test]
fn every_platform_says_when_it_was_built() {
    let scene = Scene::new();
    let gate = Gate::Age(AgeGate { max_age: Duration::from_secs(200) });
    let built = |created: Option<i64>| {
        let mut old = platform("linux/arm64", &[1]);
        old.created = created.map(at);
        let of = Evidence { platforms: Fact::Known(vec![platform("linux/amd64", &[1]), old]), ..evidence() };
        scene.says(&gate, Some(&of))
    };
    is(&built(Some(-99)), "fail: linux/amd64");
    let gate = Gate::Age(AgeGate { max_age: Duration::from_secs(201) });
    let built = |created: Option<i64>| {
        let mut old = platform("linux/arm64", &[1]);
        old.created = created.map(at);
        let of = Evidence { platforms: Fact::Known(vec![platform("linux/amd64", &[1]), old]), ..evidence() };
        scene.says(&gate, Some(&of))
    };
    is(&built(Some(-100)), "pass");
    is(&built(Some(-101)), "fail: linux/arm64 was built at");
    is(&built(None), "fail: does not say when");
    is(&built(Some(401)), "fail: future");
    is(&built(Some(400)), "pass");
}

/// If this fails, something passes or ends and nobody looks again.
#[test]
fn a_verdict_changes_by_itself_only_when_it_says_so() {
    let mut findings = evidence();
    findings.scans = Fact::Known(vec![scan("Trivy", 0, vec![finding(Class::Vulnerability, Severity::High)])]);
    let accepted = Looked::Vulnerabilities {
        max: None,
        fixable_only: false,
        vex: false,
        accept: vec![Accept { id: "CVE-1".into(), until: at(150) }],
    };
    let mut gates = all_gates();
    gates.push(Gate::Scan(scanned(accepted)));
    for of in [evidence(), findings] {
        for gate in &gates {
            let mut scene = Scene::new();
            let mut ending = base(50);
            ending.expires_at = Some(at(333));
            scene.ledger = [ending].into_iter().collect();
            for now in -700..700 {
                scene.now = now;
                let before = scene.says(gate, Some(&of));
                let next = gate.next_change(&scene.seen(Some(&of)));
                scene.now = now + 1;
                let changed = word(&scene.says(gate, Some(&of))) != word(&before);
                assert!(!changed || next == Some(at(now + 1)), "{} at {now}: {next:?}", gate.name());
            }
        }
    }
}

fn shuffle<T: Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    Just(of).prop_shuffle()
}

fn any_scans() -> impl Strategy<Value = Vec<Scan>> {
    let severity = prop::sample::select(vec![Severity::Low, Severity::High, Severity::Unknown]);
    let class = prop::sample::select(vec![Class::Vulnerability, Class::Secret, Class::Outdated]);
    let found = prop::collection::vec((class, severity), 0..3);
    prop::collection::vec(("[ab]", 0..3_i64, found), 0..5).prop_map(|all| {
        let scan = |(scanner, second, found): (String, i64, Vec<(Class, Severity)>)| {
            scan(
                &scanner,
                second,
                found.into_iter().map(|(class, severity)| finding(class, severity)).collect(),
            )
        };
        all.into_iter().map(scan).collect()
    })
}

proptest! {
    /// A registry that lists its referrers in another order must not change a verdict.
    #[test]
    fn the_order_of_evidence_changes_nothing(
        (scans, shuffled) in any_scans().prop_flat_map(|scans| (Just(scans.clone()), shuffle(scans))),
        signatures in shuffle(vec![by_key("a"), by_key("b"), by_identity("https://ci.example/a"), by_key("a")]),
        reversed: bool,
    ) {
        let scene = Scene::new();
        let one = Evidence { scans: Fact::Known(scans), ..evidence() };
        let mut other = Evidence { scans: Fact::Known(shuffled), signatures: Fact::Known(signatures), ..evidence() };
        if let (Fact::Known(attestations), Fact::Known(platforms), true) = (&mut other.attestations, &mut other.platforms, reversed) {
            attestations.reverse();
            platforms.reverse();
        }
        for gate in all_gates() {
            prop_assert_eq!(word(&scene.says(&gate, Some(&one))), word(&scene.says(&gate, Some(&other))), "{}", gate.name());
        }
    }

    /// Whatever is taken away from the evidence, nothing passes that did not; a failing report alone may be taken away.
    #[test]
    fn less_evidence_never_passes_more(keep_signatures in 0..3_usize, keep_attestations in 0..3_usize, lost: bool) {
        let scene = Scene::new();
        let mut less = evidence();
        let (Fact::Known(signatures), Fact::Known(attestations)) = (&mut less.signatures, &mut less.attestations) else { panic!() };
        signatures.truncate(keep_signatures);
        attestations.truncate(keep_attestations);
        if lost { less.checked.clear(); }
        let says = |gate: &Gate| scene.says(gate, Some(&less)) == Verdict::Pass;
        prop_assert_eq!(says(&Gate::Signature(signed())), keep_signatures == 2 && !lost);
        prop_assert_eq!(says(&Gate::Attestation(attested())), keep_attestations == 2 && !lost);
    }
}

#[test]
fn gates_ask_for_what_they_need() {
    let asks = all_gates().iter().map(Gate::asks).fold(Asks::default(), Asks::and);
    assert!(asks.signatures && asks.scans && asks.platforms);
    assert_eq!(asks.keys, [trust("a")].into());
    assert_eq!(asks.roots, [Trust::At(place())].into());
    assert_eq!(asks.predicate_types, ["slsa".to_owned()].into());
    assert_eq!(asks.expressions, [(print("x"), ("slsa".to_owned(), "x".to_owned()))].into());
    let names: BTreeSet<String> = all_gates().iter().map(Gate::name).collect();
    assert_eq!(names.len(), all_gates().len());
    assert!(
        names.contains("signatures/release")
            && names.contains("scan/outdated")
            && names.contains("maxImageAge")
    );
}
