//! The gates of a policy.

use std::time::Duration;

use super::{Meaningless, meaningless, patterns};
use crate::{
    api::{
        ImagePolicySpec,
        image_policy::evidence::{
            AttestationRule, Cosign, HolderKind, Identity, MaxSeverity, Notation, PublicKey, ScanRule,
            Signatures, TrustRootRef,
        },
    },
    domain::{
        evidence::{Fingerprint, Holder, Place, Severity, Trust, expression, pem},
        gate::{
            Accept, AgeGate, AttestationGate, BaseGate, CosignIdentity, Expected, Gate, Looked, ScanGate,
            SignatureGate, Text,
        },
    },
};

/// The gates in the order of the specification.
pub(super) fn gates(spec: &ImagePolicySpec, namespace: &str) -> Result<Vec<Gate>, Meaningless> {
    let signatures = spec.signatures.iter().enumerate();
    let signatures: Vec<SignatureGate> = signatures
        .map(|(index, entry)| signature(entry, namespace, &format!("spec.signatures[{index}]")))
        .collect::<Result<_, _>>()?;
    let named = |name: &str, field: &str| {
        let found = signatures.iter().find(|gate| gate.name == name).cloned();
        found.ok_or_else(|| meaningless(field)(format!("no entry of spec.signatures is called {name:?}")))
    };
    let mut gates: Vec<Gate> = signatures.iter().cloned().map(Gate::Signature).collect();
    for (index, rule) in spec.attestations.iter().enumerate() {
        let field = format!("spec.attestations[{index}]");
        let signed_by = named(&rule.signed_by, &format!("{field}.signedBy"))?;
        gates.push(Gate::Attestation(attestation(rule, signed_by, &field)?));
    }
    if let Some(rule) = &spec.scan {
        let signed_by =
            rule.signed_by.as_deref().map(|name| named(name, "spec.scan.signedBy")).transpose()?;
        gates.extend(scans(rule, signed_by.as_ref()));
    }
    if let Some(rule) = &spec.base {
        gates.push(Gate::Base(BaseGate { allow: patterns(&rule.allow, "spec.base.allow")? }));
    }
    if let Some(age) = spec.max_image_age {
        gates.push(Gate::Age(AgeGate { max_age: age.into() }));
    }
    Ok(gates)
}

fn signature(entry: &Signatures, namespace: &str, field: &str) -> Result<SignatureGate, Meaningless> {
    let (cosign, notation) = (entry.cosign.as_ref(), entry.notation.as_ref());
    if cosign.is_none() && notation.is_none() {
        return Err(meaningless(field)("says nothing of who may sign".to_owned()));
    }
    let at = |of: &TrustRootRef| place(of, namespace);
    let no_cosign = Cosign { require_log: true, require_sct: true, ..Cosign::default() };
    let cosign = cosign.unwrap_or(&no_cosign);
    if entry.cosign.is_some() && cosign.keys.is_empty() && cosign.identities.is_empty() {
        return Err(meaningless(&format!("{field}.cosign"))("names no key and no identity".to_owned()));
    }
    let keys = cosign.keys.iter().enumerate();
    let identities = cosign.identities.iter().enumerate();
    Ok(SignatureGate {
        name: entry.name.clone(),
        keys: keys
            .map(|(index, of)| key(of, namespace, &format!("{field}.cosign.keys[{index}]")))
            .collect::<Result<_, _>>()?,
        identities: identities
            .map(|(index, of)| identity(of, &format!("{field}.cosign.identities[{index}]")))
            .collect::<Result<_, _>>()?,
        root: cosign.trust_root_ref.as_ref().map(at),
        require_log: cosign.require_log,
        require_sct: cosign.require_sct,
        annotations: cosign.annotations.clone(),
        authorities: match notation {
            Some(notation) => vec![authorities(notation, namespace, &format!("{field}.notation"))?],
            None => Vec::new(),
        },
        subjects: notation
            .map(|notation| subjects(notation, &format!("{field}.notation")))
            .transpose()?
            .unwrap_or_default(),
        threshold: usize::try_from(entry.threshold).unwrap_or(usize::MAX),
    })
}

fn key(of: &PublicKey, namespace: &str, field: &str) -> Result<Trust, Meaningless> {
    match (&of.pem, &of.secret_ref) {
        (Some(text), None) => {
            let prints = pem::prints(text, pem::PUBLIC_KEY).map_err(meaningless(&format!("{field}.pem")))?;
            Ok(Trust::Here { text: text.clone(), prints })
        }
        (None, Some(at)) => Ok(Trust::At(Place {
            holder: Holder::Secret,
            namespace: namespace.to_owned(),
            name: at.name.clone(),
            key: at.key.clone(),
        })),
        _ => Err(meaningless(field)("give exactly one of pem and secretRef".to_owned())),
    }
}

fn place(of: &TrustRootRef, namespace: &str) -> Trust {
    Trust::At(Place {
        holder: match of.kind {
            HolderKind::ConfigMap => Holder::ConfigMap,
            HolderKind::Secret => Holder::Secret,
        },
        namespace: namespace.to_owned(),
        name: of.name.clone(),
        key: of.key.clone(),
    })
}

fn identity(of: &Identity, field: &str) -> Result<CosignIdentity, Meaningless> {
    Ok(CosignIdentity {
        issuer: text(of.issuer.as_ref(), of.issuer_reg_exp.as_ref(), field, "issuer")?,
        subject: text(of.subject.as_ref(), of.subject_reg_exp.as_ref(), field, "subject")?,
    })
}

fn text(
    exact: Option<&String>,
    regex: Option<&String>,
    field: &str,
    name: &str,
) -> Result<Text, Meaningless> {
    match (exact, regex) {
        (Some(exact), None) => Ok(Text::Exact(exact.clone())),
        (None, Some(regex)) => Text::matching(regex)
            .map_err(|error| meaningless(&format!("{field}.{name}RegExp"))(error.to_string())),
        _ => Err(meaningless(field)(format!("give exactly one of {name} and {name}RegExp"))),
    }
}

fn authorities(of: &Notation, namespace: &str, field: &str) -> Result<Trust, Meaningless> {
    match (&of.certificates, &of.trust_store_ref) {
        (Some(text), None) => {
            let field = format!("{field}.certificates");
            let prints = pem::prints(text, pem::CERTIFICATE).map_err(meaningless(&field))?;
            Ok(Trust::Here { text: text.clone(), prints })
        }
        (None, Some(at)) => Ok(place(at, namespace)),
        _ => Err(meaningless(field)("give exactly one of certificates and trustStoreRef".to_owned())),
    }
}

fn subjects(of: &Notation, field: &str) -> Result<Vec<Text>, Meaningless> {
    let identities = of.identities.iter().enumerate();
    identities
        .map(|(index, of)| {
            let field = format!("{field}.identities[{index}]");
            text(of.subject.as_ref(), of.subject_reg_exp.as_ref(), &field, "subject")
        })
        .collect()
}

fn attestation(
    rule: &AttestationRule,
    signed_by: SignatureGate,
    field: &str,
) -> Result<AttestationGate, Meaningless> {
    let conditions = rule.conditions.iter().enumerate().map(|(index, of)| {
        let field = format!("{field}.conditions[{index}].expression");
        expression::Program::new(&of.expression).map_err(meaningless(&field))?;
        Ok(Expected {
            print: Fingerprint::of(of.expression.as_bytes()),
            expression: of.expression.clone(),
            message: of.message.clone(),
        })
    });
    Ok(AttestationGate {
        name: rule.name.clone(),
        predicate_type: rule.predicate_type.clone(),
        signed_by,
        conditions: conditions.collect::<Result<_, _>>()?,
        threshold: usize::try_from(rule.threshold).unwrap_or(usize::MAX),
        max_age: rule.max_age.map(Duration::from),
    })
}

fn scans(rule: &ScanRule, signed_by: Option<&SignatureGate>) -> Vec<Gate> {
    let ScanRule { max_age, signed_by: _, vulnerabilities, secrets, malware, misconfigurations, outdated } =
        rule;
    let vulnerabilities = vulnerabilities.as_ref().map(|of| Looked::Vulnerabilities {
        max: severity(of.max_severity),
        fixable_only: of.fixable_only,
        vex: of.vex,
        accept: of.accept.iter().map(|of| Accept { id: of.id.clone(), until: of.until.0 }).collect(),
    });
    let looked = [
        vulnerabilities,
        secrets.map(|of| Looked::Secrets(of.max.into())),
        malware.map(|of| Looked::Malware(of.max.into())),
        misconfigurations.map(|of| Looked::Misconfigurations(severity(of.max_severity))),
        outdated.filter(|of| !of.end_of_life).map(|_| Looked::EndOfLife),
    ];
    let gate =
        |looked| Gate::Scan(ScanGate { looked, max_age: (*max_age).into(), signed_by: signed_by.cloned() });
    looked.into_iter().flatten().map(gate).collect()
}

fn severity(of: MaxSeverity) -> Option<Severity> {
    match of {
        MaxSeverity::None => None,
        MaxSeverity::Negligible => Some(Severity::Negligible),
        MaxSeverity::Low => Some(Severity::Low),
        MaxSeverity::Medium => Some(Severity::Medium),
        MaxSeverity::High => Some(Severity::High),
        MaxSeverity::Critical => Some(Severity::Critical),
    }
}

#[cfg(test)]
mod tests;
