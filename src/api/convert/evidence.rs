//! Evidence as it stands in statuses, and back.
#![allow(clippy::ref_option, reason = "as the fields are")]

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Meaningless, meaningless};
use crate::{
    api::approved_image::evidence as wire,
    domain::{
        evidence::{
            Attestation, Class, Condition, Evidence, Fact, Finding, Fingerprint, Platform, Scan, Severity,
            Signature, Signer, Vex,
        },
        image::{Digest, Repository},
    },
};

/// Two enums of the same words.
macro_rules! same_words {
    ($to:ident, $from:ident, $name:ident { $($word:ident),* }) => {
        fn $to(value: $name) -> wire::$name {
            match value { $($name::$word => wire::$name::$word),* }
        }

        fn $from(value: wire::$name) -> $name {
            match value { $(wire::$name::$word => $name::$word),* }
        }
    };
}

same_words!(class_to_api, class, Class { Vulnerability, Secret, Malware, Misconfiguration, Outdated });
same_words!(severity_to_api, severity, Severity { Negligible, Low, Medium, High, Critical, Unknown });
same_words!(vex_to_api, vex, Vex { NotAffected, Affected, Fixed, UnderInvestigation });

/// What is stored of evidence. Everything of it, or other replicas would judge otherwise.
pub fn evidence_to_api(evidence: &Evidence) -> wire::Evidence {
    let Evidence { repository: _, digest: _, platforms, signatures, attestations, scans, checked } = evidence;
    let mut unavailable = Vec::new();
    wire::Evidence {
        platforms: part(platforms, wire::Part::Platforms, &mut unavailable, platform_to_api),
        signatures: part(signatures, wire::Part::Signatures, &mut unavailable, signature_to_api),
        attestations: part(attestations, wire::Part::Attestations, &mut unavailable, attestation_to_api),
        scans: part(scans, wire::Part::Scans, &mut unavailable, scan_to_api),
        checked: checked.iter().map(ToString::to_string).collect(),
        unavailable,
    }
}

fn part<T, W>(
    fact: &Fact<Vec<T>>,
    of: wire::Part,
    unavailable: &mut Vec<wire::Unavailable>,
    to_api: impl Fn(&T) -> W,
) -> Option<Vec<W>> {
    match fact {
        Fact::Known(all) => Some(all.iter().map(to_api).collect()),
        Fact::Absent => None,
        Fact::Unavailable(why) => {
            unavailable.push(wire::Unavailable { part: of, why: why.clone() });
            None
        }
    }
}

fn platform_to_api(platform: &Platform) -> wire::Platform {
    wire::Platform {
        name: platform.name.clone(),
        manifest: platform.manifest.to_string(),
        config: platform.config.to_string(),
        diff_ids: platform.diff_ids.iter().map(ToString::to_string).collect(),
        created: platform.created.map(Time),
    }
}

fn signature_to_api(signature: &Signature) -> wire::Signature {
    let annotation =
        |(name, value): &(String, String)| wire::Annotation { name: name.clone(), value: value.clone() };
    let mut stored = wire::Signature {
        root: signature.root.as_ref().map(ToString::to_string),
        at: signature.at.map(Time),
        logged: signature.logged,
        sct: signature.sct,
        annotations: signature.annotations.iter().map(annotation).collect(),
        ..wire::Signature::default()
    };
    match &signature.signer {
        Signer::Key(key) => stored.key = Some(key.to_string()),
        Signer::Identity { issuer, subject, root } => {
            let (issuer, subject, root) = (issuer.clone(), subject.clone(), root.to_string());
            stored.identity = Some(wire::Identity { issuer, subject, root });
        }
        Signer::Certificate { subject, authority } => {
            let (subject, authority) = (subject.clone(), authority.to_string());
            stored.certificate = Some(wire::Certificate { subject, authority });
        }
    }
    stored
}

fn attestation_to_api(attestation: &Attestation) -> wire::Attestation {
    let condition = |condition: &Condition| wire::Expression {
        expression: condition.expression.to_string(),
        holds: condition.holds.as_ref().ok().copied(),
        error: condition.holds.as_ref().err().cloned(),
    };
    wire::Attestation {
        predicate_type: attestation.predicate_type.clone(),
        signatures: attestation.signatures.iter().map(signature_to_api).collect(),
        builder: attestation.builder.clone(),
        at: attestation.at.map(Time),
        conditions: attestation.conditions.iter().map(condition).collect(),
    }
}

fn scan_to_api(scan: &Scan) -> wire::Scan {
    let finding = |finding: &Finding| wire::Finding {
        class: class_to_api(finding.class),
        severity: severity_to_api(finding.severity),
        id: finding.id.clone(),
        package: finding.package.clone(),
        version: finding.version.clone(),
        fixed_version: finding.fixed_version.clone(),
        vex: finding.vex.map(vex_to_api),
    };
    let more = |(class, severity, count): &(Class, Severity, u64)| wire::More {
        class: class_to_api(*class),
        severity: severity_to_api(*severity),
        count: *count,
    };
    wire::Scan {
        scanner: scan.scanner.clone(),
        at: Time(scan.at),
        covers: scan.covers.iter().copied().map(class_to_api).collect(),
        signatures: scan.signatures.iter().map(signature_to_api).collect(),
        findings: scan.findings.iter().map(finding).collect(),
        more: scan.more.iter().map(more).collect(),
    }
}

/// What was stored. What cannot be read whole is not believed in parts.
///
/// # Errors
/// Which field says something that nobody stores.
pub fn evidence(
    stored: &wire::Evidence,
    repository: Repository,
    digest: Digest,
) -> Result<Evidence, Meaningless> {
    let unavailable = |of: wire::Part| {
        stored.unavailable.iter().find(|unavailable| unavailable.part == of).map(|found| found.why.clone())
    };
    Ok(Evidence {
        repository,
        digest,
        platforms: fact(&stored.platforms, unavailable(wire::Part::Platforms), platform)?,
        signatures: fact(&stored.signatures, unavailable(wire::Part::Signatures), signature)?,
        attestations: fact(&stored.attestations, unavailable(wire::Part::Attestations), attestation)?,
        scans: fact(&stored.scans, unavailable(wire::Part::Scans), scan)?,
        checked: all(&stored.checked, |text| fingerprint(text))?.into_iter().collect(),
    })
}

fn fact<W, T>(
    stored: &Option<Vec<W>>,
    unavailable: Option<String>,
    read: impl Fn(&W) -> Result<T, Meaningless>,
) -> Result<Fact<Vec<T>>, Meaningless> {
    match (stored, unavailable) {
        (Some(known), _) => Ok(Fact::Known(all(known, read)?)),
        (None, Some(why)) => Ok(Fact::Unavailable(why)),
        (None, None) => Ok(Fact::Absent),
    }
}

fn all<W, T>(stored: &[W], read: impl Fn(&W) -> Result<T, Meaningless>) -> Result<Vec<T>, Meaningless> {
    stored.iter().map(read).collect()
}

fn invalid(field: &str, text: &str) -> Meaningless {
    meaningless(&format!("status.evidence.{field}"))(format!(
        "{text:?} is nothing that the operator stores there"
    ))
}

fn fingerprint(text: &str) -> Result<Fingerprint, Meaningless> {
    Fingerprint::stored(text).ok_or_else(|| invalid("checked", text))
}

fn digest(text: &str) -> Result<Digest, Meaningless> {
    text.parse().map_err(|_| invalid("platforms", text))
}

fn time(time: &Time) -> Timestamp {
    time.0
}

fn platform(stored: &wire::Platform) -> Result<Platform, Meaningless> {
    Ok(Platform {
        name: stored.name.clone(),
        manifest: digest(&stored.manifest)?,
        config: digest(&stored.config)?,
        diff_ids: all(&stored.diff_ids, |text| digest(text))?,
        created: stored.created.as_ref().map(time),
    })
}

fn signature(stored: &wire::Signature) -> Result<Signature, Meaningless> {
    let signer = match (&stored.key, &stored.identity, &stored.certificate) {
        (Some(key), None, None) => Signer::Key(fingerprint(key)?),
        (None, Some(wire::Identity { issuer, subject, root }), None) => {
            Signer::Identity { issuer: issuer.clone(), subject: subject.clone(), root: fingerprint(root)? }
        }
        (None, None, Some(wire::Certificate { subject, authority })) => {
            Signer::Certificate { subject: subject.clone(), authority: fingerprint(authority)? }
        }
        _ => return Err(invalid("signatures", "a signature by not exactly one signer")),
    };
    let annotations = stored.annotations.iter();
    Ok(Signature {
        signer,
        root: stored.root.as_deref().map(fingerprint).transpose()?,
        at: stored.at.as_ref().map(time),
        logged: stored.logged,
        sct: stored.sct,
        annotations: annotations.map(|found| (found.name.clone(), found.value.clone())).collect(),
    })
}

fn attestation(stored: &wire::Attestation) -> Result<Attestation, Meaningless> {
    let condition = |stored: &wire::Expression| {
        let unknown = || stored.error.clone().unwrap_or_default();
        Ok(Condition {
            expression: fingerprint(&stored.expression)?,
            holds: stored.holds.ok_or_else(unknown),
        })
    };
    Ok(Attestation {
        predicate_type: stored.predicate_type.clone(),
        signatures: all(&stored.signatures, signature)?,
        builder: stored.builder.clone(),
        at: stored.at.as_ref().map(time),
        conditions: all(&stored.conditions, condition)?,
    })
}

fn scan(stored: &wire::Scan) -> Result<Scan, Meaningless> {
    let finding = |stored: &wire::Finding| Finding {
        class: class(stored.class),
        severity: severity(stored.severity),
        id: stored.id.clone(),
        package: stored.package.clone(),
        version: stored.version.clone(),
        fixed_version: stored.fixed_version.clone(),
        vex: stored.vex.map(vex),
    };
    let more = |stored: &wire::More| (class(stored.class), severity(stored.severity), stored.count);
    Ok(Scan {
        scanner: stored.scanner.clone(),
        at: time(&stored.at),
        covers: stored.covers.iter().copied().map(class).collect::<BTreeSet<_>>(),
        signatures: all(&stored.signatures, signature)?,
        findings: stored.findings.iter().map(finding).collect(),
        more: stored.more.iter().map(more).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of(text.as_bytes())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// If this fails, replicas judge by other facts than those that were found, or after a restart otherwise than before.
    #[test]
    fn what_is_stored_reads_back() {
        let digest: Digest = format!("sha256:{}", "0a".repeat(32)).parse().unwrap();
        let signed = |signer| Signature {
            signer,
            root: Some(print("root")),
            at: Some(at(7)),
            logged: true,
            sct: false,
            annotations: vec![("team".into(), "shop".into())],
        };
        let [issuer, subject] = ["https://issuer.example", "ana@example.com"].map(str::to_owned);
        let evidence = Evidence {
            repository: "registry.example/shop/cart".parse().unwrap(),
            digest: digest.clone(),
            platforms: Fact::Known(vec![Platform {
                name: "linux/arm64/v8".into(),
                manifest: digest.clone(),
                config: digest.clone(),
                diff_ids: vec![digest.clone()],
                created: Some(at(1)),
            }]),
            signatures: Fact::Known(vec![
                signed(Signer::Key(print("key"))),
                signed(Signer::Identity { issuer, subject, root: print("root") }),
                signed(Signer::Certificate { subject: "CN=ana".into(), authority: print("ca") }),
            ]),
            attestations: Fact::Known(vec![Attestation {
                predicate_type: "https://slsa.dev/provenance/v1".into(),
                signatures: vec![signed(Signer::Key(print("key")))],
                builder: Some("https://builder.example".into()),
                at: Some(at(3)),
                conditions: vec![
                    Condition { expression: print("a"), holds: Ok(false) },
                    Condition { expression: print("b"), holds: Err("no such key".into()) },
                ],
            }]),
            scans: Fact::Known(vec![Scan {
                scanner: "trivy".into(),
                at: at(5),
                covers: [Class::Vulnerability, Class::Outdated].into(),
                signatures: Vec::new(),
                findings: vec![Finding {
                    class: Class::Vulnerability,
                    severity: Severity::Unknown,
                    id: "CVE-2026-0001".into(),
                    package: "openssl".into(),
                    version: Some("3.0".into()),
                    fixed_version: None,
                    vex: Some(Vex::UnderInvestigation),
                }],
                more: vec![(Class::Vulnerability, Severity::Low, 9)],
            }]),
            checked: [print("key"), print("root")].into(),
        };
        let others = Evidence {
            platforms: Fact::Absent,
            signatures: Fact::Unavailable("the registry is away".into()),
            attestations: Fact::Known(Vec::new()),
            scans: Fact::Absent,
            ..evidence.clone()
        };
        for evidence in [evidence, others] {
            let stored = serde_json::to_value(evidence_to_api(&evidence)).unwrap();
            let stored: wire::Evidence = serde_json::from_value(stored).unwrap();
            let read = super::evidence(&stored, evidence.repository.clone(), evidence.digest.clone());
            assert_eq!(read, Ok(evidence));
        }
    }

    /// If this fails, somebody who may write a status makes up a signature that counts.
    #[test]
    fn what_nobody_stores_is_not_believed_in_parts() {
        let digest: Digest = format!("sha256:{}", "0a".repeat(32)).parse().unwrap();
        let by_nobody = wire::Signature { logged: true, ..wire::Signature::default() };
        let short = wire::Signature { key: Some("abc".into()), ..wire::Signature::default() };
        for signature in [by_nobody, short] {
            let stored = wire::Evidence { signatures: Some(vec![signature]), ..wire::Evidence::default() };
            let read = super::evidence(&stored, "registry.example/a".parse().unwrap(), digest.clone());
            assert!(read.is_err(), "{read:?}");
        }
    }
}
