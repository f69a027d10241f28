//! `spec.signatures[]`: who must have signed an image.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{Asks, Seen, Text, Verdict, known};
use crate::domain::evidence::{Evidence, Fact, Fingerprint, Signature, Signer, Trust};

/// Who may sign, and how many of them must have signed.
#[derive(Clone, Debug, PartialEq)]
pub struct SignatureGate {
    /// What the policy calls it.
    pub name: String,
    /// The keys that count.
    pub keys: Vec<Trust>,
    /// The identities that count, under the trust root.
    pub identities: Vec<CosignIdentity>,
    /// The trust root: its logs, its timestamp authorities, its certificate authorities.
    pub root: Option<Trust>,
    /// Whether a log of the trust root must have the signature.
    pub require_log: bool,
    /// Whether a certificate log of the trust root must have promised to have the certificate of an identity.
    pub require_sct: bool,
    /// What a cosign signature must say besides.
    pub annotations: BTreeMap<String, String>,
    /// Authorities of a Notation trust store.
    pub authorities: Vec<Trust>,
    /// The subjects (RFC 4514) of the Notation certificates that count.
    pub subjects: Vec<Text>,
    /// How many distinct signers there must be, at least one.
    pub threshold: usize,
}

/// Somebody who signs with a certificate of an authority of the trust root.
#[derive(Clone, Debug, PartialEq)]
pub struct CosignIdentity {
    /// Who vouches for it.
    pub issuer: Text,
    /// Whom.
    pub subject: Text,
}

/// What a gate trusts, as it is known now.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    keys: BTreeSet<Fingerprint>,
    roots: BTreeSet<Fingerprint>,
    authorities: BTreeSet<Fingerprint>,
    /// What is not known, or was not looked at.
    pub(super) open: Vec<String>,
}

impl SignatureGate {
    pub(super) fn check(&self, evidence: &Evidence, seen: &Seen<'_>) -> Verdict {
        let trusted = self.trusted(evidence, seen);
        let found = match known(&evidence.signatures, "signatures", "") {
            Ok(signatures) => signatures.as_slice(),
            Err(Verdict::Fail(_)) => &[],
            Err(verdict) => return verdict,
        };
        let counting = found.iter().filter(|signature| self.recognises(signature, &trusted));
        let signers: BTreeSet<(&str, &str)> = counting.map(|signature| who(&signature.signer)).collect();
        if signers.len() >= self.threshold.max(1) {
            return Verdict::Pass;
        }
        if let Some(open) = trusted.open.first() {
            return Verdict::Unknown(open.clone());
        }
        let mut why = format!("signed by {} of {}", signers.len(), self.threshold.max(1));
        let _ = match found.len() {
            0 => write!(why, "; there is no valid signature"),
            many => write!(why, "; of {many} valid signatures the others are not by {}", self.described()),
        };
        why.push_str("; sign the digest, or approve another one");
        Verdict::Fail(why)
    }

    pub(super) fn asks(&self) -> Asks {
        Asks {
            keys: self.keys.iter().cloned().collect(),
            roots: self.root.iter().cloned().collect(),
            authorities: self.authorities.iter().cloned().collect(),
            ..Asks::default()
        }
    }

    /// What it trusts: what is known, and was looked at for this image.
    pub(super) fn trusted(&self, evidence: &Evidence, seen: &Seen<'_>) -> Trusted {
        let mut trusted = Trusted::default();
        let Trusted { keys, roots, authorities, open } = &mut trusted;
        for (named, prints) in [
            (self.keys.as_slice(), keys),
            (self.root.as_slice(), roots),
            (self.authorities.as_slice(), authorities),
        ] {
            for trust in named {
                for print in prints_of(trust, seen, open) {
                    if evidence.checked.contains(print) {
                        prints.insert(print.clone());
                    } else {
                        open.push(format!("nobody looked for what {} says yet", describe(trust)));
                    }
                }
            }
        }
        trusted
    }

    /// Whether a valid signature is one that counts.
    pub(super) fn recognises(&self, signature: &Signature, trusted: &Trusted) -> bool {
        let rooted = signature.root.as_ref().is_some_and(|root| trusted.roots.contains(root));
        let logged = !self.require_log || (signature.logged && rooted);
        let said = |(key, value): (&String, &String)| {
            signature.annotations.iter().any(|(k, v)| k == key && v == value)
        };
        match &signature.signer {
            Signer::Key(print) => trusted.keys.contains(print) && logged && self.annotations.iter().all(said),
            Signer::Identity { issuer, subject, root } => {
                let known = |of: &CosignIdentity| of.issuer.is(issuer) && of.subject.is(subject);
                trusted.roots.contains(root)
                    && signature.root.as_ref() == Some(root)
                    // A certificate lives for minutes: without a time from somebody else it proves nothing.
                    && signature.at.is_some()
                    && logged
                    && (signature.sct || !self.require_sct)
                    && self.identities.iter().any(known)
                    && self.annotations.iter().all(said)
            }
            Signer::Certificate { subject, authority } => {
                trusted.authorities.contains(authority) && self.subjects.iter().any(|of| of.is(subject))
            }
        }
    }

    fn described(&self) -> String {
        let mut parts: Vec<String> = self.keys.iter().map(describe).collect();
        parts.extend(self.identities.iter().map(|of| format!("{} of {}", of.subject, of.issuer)));
        parts.extend(self.subjects.iter().map(ToString::to_string));
        let more = parts.len().saturating_sub(SHOWN);
        parts.truncate(SHOWN);
        let mut text = parts.join(", ");
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        for (condition, words) in [
            (self.require_log, "in a log of the trust root"),
            (!self.annotations.is_empty(), "with the annotations"),
        ] {
            if condition {
                let _ = write!(text, ", {words}");
            }
        }
        text
    }
}

/// How many of those who may sign are named.
const SHOWN: usize = 3;

/// The fingerprints of what is trusted; where it stands elsewhere and is not known, that is said.
fn prints_of<'a>(
    trust: &'a Trust,
    seen: &Seen<'a>,
    open: &mut Vec<String>,
) -> impl Iterator<Item = &'a Fingerprint> + use<'a> {
    let prints = match trust {
        Trust::Here { prints, .. } => Some(prints),
        Trust::At(place) => match seen.all.place(place) {
            Some(Fact::Known(prints)) if !prints.is_empty() => Some(prints),
            Some(Fact::Known(_)) => {
                open.push(format!("the {place} is empty"));
                None
            }
            Some(Fact::Absent) => {
                open.push(format!("there is no {place}; create it"));
                None
            }
            Some(Fact::Unavailable(why)) => {
                open.push(format!("the {place} could not be read: {why}"));
                None
            }
            None => {
                open.push(format!("the {place} was not read yet"));
                None
            }
        },
    };
    prints.into_iter().flatten()
}

fn describe(trust: &Trust) -> String {
    match trust {
        Trust::Here { prints, .. } => {
            let first = prints.first().map_or("", Fingerprint::as_str);
            format!("the key {}", first.get(..12).unwrap_or(first))
        }
        Trust::At(place) => format!("the {place}"),
    }
}

/// Whoever signs twice, also under two roots, is one.
fn who(signer: &Signer) -> (&str, &str) {
    match signer {
        Signer::Key(print) => (print.as_str(), ""),
        Signer::Identity { issuer, subject, .. } => (issuer, subject),
        Signer::Certificate { subject, authority } => (authority.as_str(), subject),
    }
}
