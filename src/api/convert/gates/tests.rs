//! No field is accepted and ignored: the fields are taken from the definition, so that a new one without a flip fails here.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{ImagePolicy, crds},
    domain::{
        evidence::{
            Attestation, Class, Condition, Evidence, EvidenceOf, Fact, Finding, Fingerprint, Holder, Place,
            Platform, Scan, Severity, Signature, Signer, Vex,
        },
        gate::{Seen, Verdict, evaluate},
        image::Digest,
        ledger::{Acceptance, Ledger, Record, RecordKey, Role, Scope},
    },
};

/// The blocks that gates are made of.
const BLOCKS: [&str; 5] = ["signatures", "attestations", "scan", "base", "maxImageAge"];

/// Fields that only people read.
const FOR_PEOPLE: [&str; 4] = [
    "attestations[].name",
    "attestations[].conditions[].message",
    "scan.vulnerabilities.accept[].reason",
    "signatures[].name",
];

const EXPRESSION: &str = "predicate.ok";

fn der(byte: u8) -> Vec<u8> {
    vec![0x30, 2, byte, byte]
}

fn pem(label: &str, byte: u8) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der(byte)))
}

fn print(byte: u8) -> Fingerprint {
    Fingerprint::of(&der(byte))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn digest(byte: u8) -> Digest {
    format!("sha256:{}", format!("{byte:02x}").repeat(32)).parse().unwrap()
}

fn policy() -> Value {
    let root = json!({"name": "sigstore", "key": "root.json"});
    let identity = |issuer: &str, subject: &str| json!({issuer: "https://issuer.example", subject: "https://ci.example/a"});
    json!({
        "mode": "Enforce",
        "signatures": [
            {"name": "release", "cosign": {"keys": [{"pem": pem("PUBLIC KEY", 1)}], "trustRootRef": root, "annotations": {"env": "prod"}}},
            {"name": "secret", "cosign": {"keys": [{"secretRef": {"name": "cosign", "key": "cosign.pub"}}], "requireLog": false}},
            {"name": "exact", "cosign": {"identities": [identity("issuer", "subject")], "trustRootRef": root, "requireSct": false}},
            {"name": "matching", "cosign": {"identities": [identity("issuerRegExp", "subjectRegExp")], "trustRootRef": root, "requireSct": false}},
            {"name": "notary", "notation": {"certificates": pem("CERTIFICATE", 3), "identities": [{"subject": "CN=a"}]}},
            {"name": "store", "notation": {"trustStoreRef": {"name": "store", "key": "ca.pem"}, "identities": [{"subjectRegExp": "CN=[a]"}]}},
        ],
        "attestations": [{
            "name": "built", "predicateType": "slsa", "signedBy": "release", "threshold": 2, "maxAge": "1h",
            "conditions": [{"expression": EXPRESSION, "message": "not ok"}],
        }],
        "scan": {
            "maxAge": "1h",
            "signedBy": "release",
            "vulnerabilities": {
                "maxSeverity": "Low", "fixableOnly": true, "vex": true,
                "accept": [{"id": "accepted", "until": "2027-06-01T00:00:00Z", "reason": "x"}],
            },
            "secrets": {"max": 1},
            "malware": {"max": 1},
            "misconfigurations": {"maxSeverity": "Medium"},
            "outdated": {"endOfLife": true},
        },
        "base": {"allow": ["registry.example/base/**"]},
        "maxImageAge": "1h",
    })
}

/// Where a field stands in the policy, and a value that is wrong for the evidence.
#[allow(clippy::too_many_lines, reason = "a table")]
fn flips() -> BTreeMap<&'static str, (&'static str, Value)> {
    [
        ("signatures[].threshold", ("/signatures/0/threshold", json!(2))),
        ("signatures[].cosign.keys[].pem", ("/signatures/0/cosign/keys/0/pem", json!(pem("PUBLIC KEY", 9)))),
        (
            "signatures[].cosign.keys[].secretRef.name",
            ("/signatures/1/cosign/keys/0/secretRef/name", json!("other")),
        ),
        (
            "signatures[].cosign.keys[].secretRef.key",
            ("/signatures/1/cosign/keys/0/secretRef/key", json!("other")),
        ),
        (
            "signatures[].cosign.identities[].issuer",
            ("/signatures/2/cosign/identities/0/issuer", json!("https://issuer")),
        ),
        (
            "signatures[].cosign.identities[].subject",
            ("/signatures/2/cosign/identities/0/subject", json!("https://ci.example/")),
        ),
        (
            "signatures[].cosign.identities[].issuerRegExp",
            ("/signatures/3/cosign/identities/0/issuerRegExp", json!("https://issuer")),
        ),
        (
            "signatures[].cosign.identities[].subjectRegExp",
            ("/signatures/3/cosign/identities/0/subjectRegExp", json!("https://ci.example/")),
        ),
        (
            "signatures[].cosign.trustRootRef.kind",
            ("/signatures/2/cosign/trustRootRef/kind", json!("Secret")),
        ),
        ("signatures[].cosign.trustRootRef.name", ("/signatures/0/cosign/trustRootRef/name", json!("other"))),
        ("signatures[].cosign.trustRootRef.key", ("/signatures/3/cosign/trustRootRef/key", json!("other"))),
        ("signatures[].cosign.requireLog", ("/signatures/1/cosign/requireLog", json!(true))),
        ("signatures[].cosign.requireSct", ("/signatures/2/cosign/requireSct", json!(true))),
        ("signatures[].cosign.annotations.*", ("/signatures/0/cosign/annotations/env", json!("test"))),
        (
            "signatures[].notation.certificates",
            ("/signatures/4/notation/certificates", json!(pem("CERTIFICATE", 9))),
        ),
        (
            "signatures[].notation.identities[].subject",
            ("/signatures/4/notation/identities/0/subject", json!("CN=a,O=b")),
        ),
        (
            "signatures[].notation.identities[].subjectRegExp",
            ("/signatures/5/notation/identities/0/subjectRegExp", json!("CN=")),
        ),
        (
            "signatures[].notation.trustStoreRef.kind",
            ("/signatures/5/notation/trustStoreRef/kind", json!("Secret")),
        ),
        (
            "signatures[].notation.trustStoreRef.name",
            ("/signatures/5/notation/trustStoreRef/name", json!("other")),
        ),
        (
            "signatures[].notation.trustStoreRef.key",
            ("/signatures/5/notation/trustStoreRef/key", json!("other")),
        ),
        ("attestations[].predicateType", ("/attestations/0/predicateType", json!("spdx"))),
        ("attestations[].signedBy", ("/attestations/0/signedBy", json!("notary"))),
        ("attestations[].threshold", ("/attestations/0/threshold", json!(3))),
        ("attestations[].maxAge", ("/attestations/0/maxAge", json!("1s"))),
        (
            "attestations[].conditions[].expression",
            ("/attestations/0/conditions/0/expression", json!("predicate.good")),
        ),
        ("scan.maxAge", ("/scan/maxAge", json!("1s"))),
        ("scan.signedBy", ("/scan/signedBy", json!("notary"))),
        ("scan.vulnerabilities.maxSeverity", ("/scan/vulnerabilities/maxSeverity", json!("None"))),
        ("scan.vulnerabilities.fixableOnly", ("/scan/vulnerabilities/fixableOnly", json!(false))),
        ("scan.vulnerabilities.vex", ("/scan/vulnerabilities/vex", json!(false))),
        ("scan.vulnerabilities.accept[].id", ("/scan/vulnerabilities/accept/0/id", json!("other"))),
        (
            "scan.vulnerabilities.accept[].until",
            ("/scan/vulnerabilities/accept/0/until", json!("2026-06-01T00:00:00Z")),
        ),
        ("scan.secrets.max", ("/scan/secrets/max", json!(0))),
        ("scan.malware.max", ("/scan/malware/max", json!(0))),
        ("scan.misconfigurations.maxSeverity", ("/scan/misconfigurations/maxSeverity", json!("Low"))),
        ("scan.outdated.endOfLife", ("/scan/outdated/endOfLife", json!(false))),
        ("base.allow[]", ("/base/allow/0", json!("registry.example/other/**"))),
        ("maxImageAge", ("/maxImageAge", json!("1s"))),
    ]
    .into()
}

fn signature(signer: Signer) -> Signature {
    Signature {
        signer,
        root: Some(print(7)),
        at: Some(at(0)),
        logged: true,
        sct: false,
        annotations: vec![("env".into(), "prod".into())],
    }
}

fn finding(class: Class, severity: Severity, id: &str, fixed: bool, vex: Option<Vex>) -> Finding {
    Finding {
        class,
        severity,
        id: id.into(),
        package: "p".into(),
        version: None,
        fixed_version: fixed.then(|| "2".into()),
        vex,
    }
}

fn platform(layers: &[u8]) -> Platform {
    Platform {
        name: "linux/amd64".into(),
        manifest: digest(0xf0),
        config: digest(0xf1),
        diff_ids: layers.iter().copied().map(digest).collect(),
        created: Some(at(0)),
    }
}

fn evidence() -> Evidence {
    let key = signature(Signer::Key(print(1)));
    let unlogged = Signature { logged: false, root: None, ..signature(Signer::Key(print(2))) };
    let identity = signature(Signer::Identity {
        issuer: "https://issuer.example".into(),
        subject: "https://ci.example/a".into(),
        root: print(7),
    });
    let certificate =
        |authority| signature(Signer::Certificate { subject: "CN=a".into(), authority: print(authority) });
    let built = |builder: &str| Attestation {
        predicate_type: "slsa".into(),
        signatures: vec![key.clone()],
        builder: Some(builder.into()),
        at: Some(at(0)),
        conditions: vec![Condition { expression: Fingerprint::of(EXPRESSION.as_bytes()), holds: Ok(true) }],
    };
    let findings = vec![
        finding(Class::Vulnerability, Severity::High, "unfixed", false, None),
        finding(Class::Vulnerability, Severity::High, "unreachable", true, Some(Vex::NotAffected)),
        finding(Class::Vulnerability, Severity::High, "accepted", true, None),
        finding(Class::Vulnerability, Severity::Low, "low", true, None),
        finding(Class::Secret, Severity::High, "key", false, None),
        finding(Class::Malware, Severity::High, "eicar", false, None),
        finding(Class::Misconfiguration, Severity::Medium, "root", false, None),
        finding(Class::Outdated, Severity::High, "end-of-life", false, None),
    ];
    Evidence {
        repository: "registry.example/shop/cart".parse().unwrap(),
        digest: digest(1),
        platforms: Fact::Known(vec![platform(&[1, 2])]),
        signatures: Fact::Known(vec![key.clone(), unlogged, identity, certificate(3), certificate(4)]),
        attestations: Fact::Known(vec![built("one"), built("two")]),
        scans: Fact::Known(vec![Scan {
            scanner: "Trivy".into(),
            at: at(0),
            covers: findings.iter().map(|finding| finding.class).collect(),
            signatures: vec![key],
            findings,
            more: Vec::new(),
        }]),
        // Everything was looked at that this test names: what flips is the verdict, not what is known.
        checked: [1, 2, 3, 4, 7, 9].map(print).into(),
    }
}

/// Whether a policy of this specification passes the evidence; none where it means nothing.
fn passes(spec: &Value) -> Option<bool> {
    let object = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
        "metadata": {"name": "p", "namespace": "root"}, "spec": spec,
    });
    let policy = serde_json::from_value::<ImagePolicy>(object).unwrap().policy("root").ok()?;
    let place = |holder, name: &str, key: &str| Place {
        holder,
        namespace: "root".into(),
        name: name.into(),
        key: key.into(),
    };
    let mut all = EvidenceOf::new();
    all.see_place(place(Holder::ConfigMap, "sigstore", "root.json"), Fact::Known([print(7)].into()));
    all.see_place(place(Holder::Secret, "cosign", "cosign.pub"), Fact::Known([print(2)].into()));
    all.see_place(place(Holder::ConfigMap, "store", "ca.pem"), Fact::Known([print(4)].into()));
    let base = Record {
        key: RecordKey { namespace: "root".into(), name: "base".into() },
        scope: Scope::Root,
        repository: "registry.example/base/os".parse().unwrap(),
        digest: digest(5),
        tag: None,
        role: Role::Base,
        approved_at: at(0),
        expires_at: None,
        revocation: None,
        forgotten: false,
    };
    let of_base = Evidence {
        repository: base.repository.clone(),
        digest: base.digest.clone(),
        platforms: Fact::Known(vec![platform(&[1])]),
        ..evidence()
    };
    all.insert(of_base.into());
    let ledger: Ledger = [base].into_iter().collect();
    let evidence = evidence();
    let acceptance = Acceptance { namespace: "shop", from_root: true, from_namespace: false, max_age: None };
    let seen = Seen { evidence: Some(&evidence), all: &all, ledger: &ledger, acceptance, now: at(60) };
    let verdicts = evaluate(&policy.gates, &seen);
    assert!(!verdicts.is_empty());
    Some(verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Pass))
}

/// The paths of all leaves of a schema.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let properties = schema["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        leaves(property, &format!("{path}.{name}"), found);
    }
    if let Some(items) = schema.get("items") {
        leaves(items, &format!("{path}[]"), found);
    } else if let Some(values) = schema.get("additionalProperties") {
        leaves(values, &format!("{path}.*"), found);
    } else if properties.is_none() {
        found.insert(path.to_owned());
    }
}

/// If this fails, a policy says something and nothing comes of it.
#[test]
fn flipping_any_field_flips_the_verdict() {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == "ImagePolicy").unwrap();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    let spec = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let mut fields = BTreeSet::new();
    for block in BLOCKS {
        leaves(&spec[block], block, &mut fields);
    }
    let known: BTreeSet<String> = flips().keys().copied().chain(FOR_PEOPLE).map(str::to_owned).collect();
    assert_eq!(fields, known, "a field without a flip, or a flip without a field");
    assert_eq!(passes(&policy()), Some(true));
    for (field, (pointer, wrong)) in flips() {
        let mut spec = policy();
        if let Some(value) = spec.pointer_mut(pointer) {
            assert_ne!(*value, wrong, "{field}");
            *value = wrong;
        } else {
            // A default that is not written.
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[name] = wrong;
        }
        assert_eq!(passes(&spec), Some(false), "{field}");
    }
}

/// If this fails, a policy that was written in an old editor, or with another tool, is weaker than it reads.
#[test]
fn what_means_nothing_is_refused_by_name() {
    let refused = |pointer: &str, wrong: Value| {
        let mut spec = policy();
        *spec.pointer_mut(pointer).unwrap() = wrong;
        let object = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy", "metadata": {"name": "p", "namespace": "root"}, "spec": spec});
        serde_json::from_value::<ImagePolicy>(object).unwrap().policy("root").unwrap_err().to_string()
    };
    for (pointer, wrong, why) in [
        ("/signatures/0/cosign/keys/0/pem", json!("x"), "spec.signatures[0].cosign.keys[0].pem: "),
        ("/signatures/0/cosign/keys/0/pem", json!(pem("PRIVATE KEY", 1)), "private key"),
        ("/signatures/0/cosign/keys/0", json!({}), "spec.signatures[0].cosign.keys[0]: give exactly one"),
        ("/signatures/0/cosign/keys", json!([]), "spec.signatures[0].cosign: names no key"),
        (
            "/signatures/2/cosign/identities/0",
            json!({"issuer": "a"}),
            "spec.signatures[2].cosign.identities[0]: give exactly one of subject",
        ),
        (
            "/signatures/3/cosign/identities/0/subjectRegExp",
            json!("a)|(?:b"),
            "spec.signatures[3].cosign.identities[0].subjectRegExp: ",
        ),
        (
            "/signatures/4/notation/certificates",
            json!(pem("PUBLIC KEY", 1)),
            "spec.signatures[4].notation.certificates: ",
        ),
        ("/signatures/4", json!({"name": "x"}), "spec.signatures[4]: "),
        ("/attestations/0/signedBy", json!("nobody"), "spec.attestations[0].signedBy: "),
        (
            "/attestations/0/conditions/0/expression",
            json!("1 +"),
            "spec.attestations[0].conditions[0].expression: ",
        ),
        ("/scan/signedBy", json!("nobody"), "spec.scan.signedBy: "),
        ("/base/allow/0", json!("a/{b"), "spec.base.allow[0]: "),
    ] {
        let told = refused(pointer, wrong);
        assert!(told.contains(why), "{pointer}: {told}");
    }
}
