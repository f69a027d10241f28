//! `spec.attestations[]`: what somebody must attest of an image.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    Asks, Seen, SignatureGate, Verdict, begin_of, end_of, is_fresh, is_past, known, signature::Trusted,
};
use crate::domain::evidence::{Attestation, Evidence, Fact, Fingerprint};

/// Attestations of one type, by somebody, of which conditions hold.
#[derive(Clone, Debug, PartialEq)]
pub struct AttestationGate {
    /// What the policy calls it.
    pub name: String,
    /// The `predicateType`.
    pub predicate_type: String,
    /// Whose signature it needs: any that counts there. Its threshold is about signatures of the image.
    pub signed_by: SignatureGate,
    /// What must hold of it, all of it.
    pub conditions: Vec<Expected>,
    /// How many distinct builders must attest it, at least one. More than one: those that name no builder count for nothing.
    pub threshold: usize,
    /// How old it may be.
    pub max_age: Option<Duration>,
}

/// A CEL expression that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of the expression.
    pub print: Fingerprint,
    /// The expression.
    pub expression: String,
    /// What is said where it does not hold.
    pub message: String,
}

/// Why an attestation does not count.
enum Against {
    Fails(String),
    Open(String),
}

impl AttestationGate {
    pub(super) fn check(&self, evidence: &Evidence, seen: &Seen<'_>) -> Verdict {
        let trusted = self.signed_by.trusted(evidence, seen);
        let found = match known(&evidence.attestations, "attestations", "") {
            Ok(attestations) => attestations.as_slice(),
            Err(Verdict::Fail(_)) => &[],
            Err(verdict) => return verdict,
        };
        let of_type = found.iter().filter(|of| of.predicate_type == self.predicate_type);
        let (mut count, mut builders, mut fails, mut open) =
            (0, BTreeSet::new(), None, trusted.open.first().cloned());
        for attestation in of_type {
            match self.against(attestation, &trusted, seen.now) {
                None => {
                    count += 1;
                    builders.extend(&attestation.builder);
                }
                Some(Against::Fails(why)) => fails = fails.or(Some(why)),
                Some(Against::Open(why)) => open = open.or(Some(why)),
            }
        }
        let enough = if self.threshold > 1 { builders.len() >= self.threshold } else { count > 0 };
        if enough {
            return Verdict::Pass;
        }
        if let Some(open) = open {
            return Verdict::Unknown(open);
        }
        let have = if self.threshold > 1 {
            format!("attested by {} of {} distinct builders", builders.len(), self.threshold)
        } else {
            format!("no attestation of type {} counts", self.predicate_type)
        };
        let why = fails.unwrap_or_else(|| {
            format!("none more of type {} is there; attest the digest", self.predicate_type)
        });
        Verdict::Fail(format!("{have}: {why}"))
    }

    fn against(&self, attestation: &Attestation, trusted: &Trusted, now: Timestamp) -> Option<Against> {
        let signed = attestation.signatures.iter().any(|of| self.signed_by.recognises(of, trusted));
        if !signed {
            return Some(Against::Fails(format!("one is not signed by {}", self.signed_by.name)));
        }
        if let Some(max_age) = self.max_age {
            match attestation.at {
                None => return Some(Against::Fails("one does not say when it was made".to_owned())),
                Some(at) if !is_past(at, now) => {
                    return Some(Against::Fails(format!("one is from the future, {at}")));
                }
                Some(at) if !is_fresh(at, Some(max_age), now) => {
                    return Some(Against::Fails(format!("one is too old, of {at}; attest the digest anew")));
                }
                Some(_) => {}
            }
        }
        let mut open = None;
        for expected in &self.conditions {
            let found = attestation.conditions.iter().find(|of| of.expression == expected.print);
            match found.map(|of| &of.holds) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => return Some(Against::Fails(expected.message.clone())),
                Some(Err(why)) => {
                    return Some(Against::Fails(format!(
                        "{} (the expression fails: {why})",
                        expected.message
                    )));
                }
                None => open = Some(Against::Open("nobody evaluated its conditions yet".to_owned())),
            }
        }
        open
    }

    pub(super) fn asks(&self) -> Asks {
        Asks {
            predicate_types: BTreeSet::from([self.predicate_type.clone()]),
            expressions: self
                .conditions
                .iter()
                .map(|of| (of.print.clone(), (self.predicate_type.clone(), of.expression.clone())))
                .collect(),
            ..self.signed_by.asks()
        }
    }

    pub(super) fn moments(&self, evidence: &Evidence) -> Vec<Timestamp> {
        let (Some(max_age), Fact::Known(found)) = (self.max_age, &evidence.attestations) else {
            return Vec::new();
        };
        let of_type = found.iter().filter(|of| of.predicate_type == self.predicate_type);
        of_type.filter_map(|of| of.at).flat_map(|at| [begin_of(at), end_of(at, max_age)]).flatten().collect()
    }
}
