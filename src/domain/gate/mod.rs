//! Gates: the rules of a policy about evidence. All are evaluated, none short-circuits.
//!
//! A gate passes by what is known, fails by what is known, and says Unknown of everything else: what could not be looked at, or
//! was not looked at yet. Where enough is known to pass, what is unknown besides does not matter: nothing that would be found
//! could take a valid signature away.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    evidence::{Evidence, EvidenceOf, Fact, Fingerprint, Trust},
    ledger::{Acceptance, Ledger},
};

mod age;
mod attestation;
mod base;
mod scan;
mod signature;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use age::AgeGate;
pub use attestation::{AttestationGate, Expected};
pub use base::BaseGate;
pub use scan::{Accept, Looked, ScanGate};
pub use signature::{CosignIdentity, SignatureGate};
pub use text::{Text, TextError};

/// How far clocks may differ: what says that it is from later than this is from the future, and does not count.
pub const SKEW: Duration = Duration::from_mins(5);

/// What a gate says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has what is asked for.
    Pass,
    /// It does not; why, and what to do.
    Fail(String),
    /// That cannot be said; what is missing.
    Unknown(String),
}

/// One rule of a policy about evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// `spec.signatures[]`
    Signature(SignatureGate),
    /// `spec.attestations[]`
    Attestation(AttestationGate),
    /// A block of `spec.scan`
    Scan(ScanGate),
    /// `spec.base`
    Base(BaseGate),
    /// `spec.maxImageAge`
    Age(AgeGate),
}

/// What gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What is known of the image; none: nobody looked yet.
    pub evidence: Option<&'a Evidence>,
    /// What is known of all images, and of what stands where policies point to.
    pub all: &'a EvidenceOf,
    /// All records, for the bases.
    pub ledger: &'a Ledger,
    /// Which records count as bases.
    pub acceptance: Acceptance<'a>,
    /// The moment.
    pub now: Timestamp,
}

/// What has to be looked at for a gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Public keys.
    pub keys: BTreeSet<Trust>,
    /// Trust roots (`trusted_root.json`).
    pub roots: BTreeSet<Trust>,
    /// Certificates of Notation trust stores.
    pub authorities: BTreeSet<Trust>,
    /// CEL expressions, each with the predicate type it is about.
    pub expressions: BTreeMap<Fingerprint, (String, String)>,
    /// Whether signatures are needed.
    pub signatures: bool,
    /// The predicate types that are needed.
    pub predicate_types: BTreeSet<String>,
    /// Whether reports of scanners are needed.
    pub scans: bool,
    /// Whether platforms are needed.
    pub platforms: bool,
}

impl Asks {
    /// What both ask for.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        self.roots.extend(other.roots);
        self.authorities.extend(other.authorities);
        self.expressions.extend(other.expressions);
        self.predicate_types.extend(other.predicate_types);
        self.signatures |= other.signatures;
        self.scans |= other.scans;
        self.platforms |= other.platforms;
        self
    }
}

impl Gate {
    /// Where it stands in the policy, such as `signatures/release` or `scan/secrets`.
    pub fn name(&self) -> String {
        match self {
            Self::Signature(gate) => format!("signatures/{}", gate.name),
            Self::Attestation(gate) => format!("attestations/{}", gate.name),
            Self::Scan(gate) => format!("scan/{}", gate.looked.name()),
            Self::Base(_) => "base".to_owned(),
            Self::Age(_) => "maxImageAge".to_owned(),
        }
    }

    /// What it says of an image.
    pub fn check(&self, seen: &Seen<'_>) -> Verdict {
        let Some(evidence) = seen.evidence else {
            return Verdict::Unknown("nobody looked yet; the operator does so in a while".to_owned());
        };
        match self {
            Self::Signature(gate) => gate.check(evidence, seen),
            Self::Attestation(gate) => gate.check(evidence, seen),
            Self::Scan(gate) => gate.check(evidence, seen),
            Self::Base(gate) => gate.check(evidence, seen),
            Self::Age(gate) => gate.check(evidence, seen),
        }
    }

    /// What has to be looked at for it.
    pub fn asks(&self) -> Asks {
        match self {
            Self::Signature(gate) => Asks { signatures: true, ..gate.asks() },
            Self::Attestation(gate) => gate.asks(),
            Self::Scan(gate) => gate.asks(),
            Self::Base(_) | Self::Age(_) => Asks { platforms: true, ..Asks::default() },
        }
    }

    /// The next moment at which its verdict can change by itself.
    pub fn next_change(&self, seen: &Seen<'_>) -> Option<Timestamp> {
        let evidence = seen.evidence?;
        let moments = match self {
            Self::Signature(_) => Vec::new(),
            Self::Attestation(gate) => gate.moments(evidence),
            Self::Scan(gate) => gate.moments(evidence),
            Self::Base(gate) => gate.moments(seen),
            Self::Age(gate) => gate.moments(evidence),
        };
        moments.into_iter().filter(|moment| *moment > seen.now).min()
    }
}

/// What every gate says of an image, by name.
pub fn evaluate(gates: &[Gate], seen: &Seen<'_>) -> Vec<(String, Verdict)> {
    gates.iter().map(|gate| (gate.name(), gate.check(seen))).collect()
}

/// What is known, or what is to be said instead: a gate whose facts are absent fails, one that could not look does not know.
fn known<'f, T>(fact: &'f Fact<T>, what: &str, absent: &str) -> Result<&'f T, Verdict> {
    match fact {
        Fact::Known(value) => Ok(value),
        Fact::Absent => Err(Verdict::Fail(absent.to_owned())),
        Fact::Unavailable(why) => Err(Verdict::Unknown(format!("{what} could not be looked at: {why}"))),
    }
}

/// Whether something that is dated may count now; what is from the future may not.
fn is_past(at: Timestamp, now: Timestamp) -> bool {
    begin_of(at).is_none_or(|begin| begin <= now)
}

/// When something that is dated begins to count.
fn begin_of(at: Timestamp) -> Option<Timestamp> {
    at.checked_sub(SKEW).ok()
}

/// When something of this age is too old; never, where that is beyond all times.
fn end_of(at: Timestamp, max_age: Duration) -> Option<Timestamp> {
    at.checked_add(max_age).ok()
}

/// Whether something is not too old.
fn is_fresh(at: Timestamp, max_age: Option<Duration>, now: Timestamp) -> bool {
    max_age.and_then(|age| end_of(at, age)).is_none_or(|end| now < end)
}
