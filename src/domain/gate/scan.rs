//! `spec.scan`: what scanners may have found.
#![allow(clippy::type_complexity, reason = "said once")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{Asks, Seen, SignatureGate, Verdict, begin_of, end_of, is_fresh, is_past, known};
use crate::domain::evidence::{Class, Evidence, Fact, Finding, Scan, Severity, Vex};

/// One class of findings.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanGate {
    /// What is looked for, and how much of it is let through.
    pub looked: Looked,
    /// How old a report may be. An older one says nothing: that is unknown, not a failure.
    pub max_age: Duration,
    /// Whose signature a report needs; none: any report that was found counts.
    pub signed_by: Option<SignatureGate>,
}

/// What is looked for, and how much of it is let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Vulnerabilities.
    Vulnerabilities {
        /// The worst severity that is let through; none: none is.
        max: Option<Severity>,
        /// Whether those that no version mends are let through.
        fixable_only: bool,
        /// Whether those that VEX calls not affected or fixed are let through.
        vex: bool,
        /// What somebody decided to live with, for a time.
        accept: Vec<Accept>,
    },
    /// So many secrets are let through.
    Secrets(u64),
    /// So many malicious files are let through.
    Malware(u64),
    /// Misconfigurations up to this severity are let through; none: none is.
    Misconfigurations(Option<Severity>),
    /// Nothing that its makers gave up is let through.
    EndOfLife,
}

/// A vulnerability that somebody decided to live with, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Its name, as reports call it.
    pub id: String,
    /// Until then.
    pub until: Timestamp,
}

impl Looked {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Vulnerabilities { .. } => "vulnerabilities",
            Self::Secrets(_) => "secrets",
            Self::Malware(_) => "malware",
            Self::Misconfigurations(_) => "misconfigurations",
            Self::EndOfLife => "outdated",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Vulnerabilities { .. } => Class::Vulnerability,
            Self::Secrets(_) => Class::Secret,
            Self::Malware(_) => Class::Malware,
            Self::Misconfigurations(_) => Class::Misconfiguration,
            Self::EndOfLife => Class::Outdated,
        }
    }

    /// How many findings are let through.
    fn most(&self) -> u64 {
        match self {
            Self::Secrets(max) | Self::Malware(max) => *max,
            Self::Vulnerabilities { .. } | Self::Misconfigurations(_) | Self::EndOfLife => 0,
        }
    }

    fn is_too_bad(&self, severity: Severity) -> bool {
        match self {
            Self::Vulnerabilities { max, .. } | Self::Misconfigurations(max) => {
                severity == Severity::Unknown || max.is_none_or(|max| severity > max)
            }
            Self::Secrets(_) | Self::Malware(_) | Self::EndOfLife => true,
        }
    }

    /// Whether a finding of the class counts against the image.
    fn counts(&self, finding: &Finding, now: Timestamp) -> bool {
        let excused = match self {
            Self::Vulnerabilities { fixable_only, vex, accept, .. } => {
                (*fixable_only && finding.fixed_version.is_none())
                    || (*vex && matches!(finding.vex, Some(Vex::NotAffected | Vex::Fixed)))
                    || accept.iter().any(|of| of.id == finding.id && now < of.until)
            }
            Self::Secrets(_) | Self::Malware(_) | Self::Misconfigurations(_) | Self::EndOfLife => false,
        };
        self.is_too_bad(finding.severity) && !excused
    }
}

impl ScanGate {
    pub(super) fn check(&self, evidence: &Evidence, seen: &Seen<'_>) -> Verdict {
        let class = self.looked.class();
        let absent = format!("no report covers {class}; scan the digest");
        let scans = match known(&evidence.scans, "reports", &absent) {
            Ok(scans) => scans,
            Err(verdict) => return verdict,
        };
        let trusted = self.signed_by.as_ref().map(|gate| (gate, gate.trusted(evidence, seen)));
        let open = trusted.as_ref().and_then(|(_, trusted)| trusted.open.first());
        let signed = |scan: &&Scan| {
            trusted.as_ref().is_none_or(|(gate, trusted)| {
                scan.signatures.iter().any(|signature| gate.recognises(signature, trusted))
            })
        };
        let covering = scans.iter().filter(|scan| scan.covers.contains(&class)).filter(signed);
        let newest = newest(covering, seen.now);
        let fresh: Vec<&Scan> =
            newest.values().copied().filter(|scan| is_fresh(scan.at, Some(self.max_age), seen.now)).collect();
        for scan in &fresh {
            if let Some(why) = self.against(scan, seen.now) {
                return Verdict::Fail(why);
            }
        }
        match (open, newest.values().max_by_key(|scan| scan.at)) {
            // A report that does not count yet may say worse.
            (Some(open), _) => Verdict::Unknown(open.clone()),
            (None, _) if !fresh.is_empty() => Verdict::Pass,
            (None, Some(stale)) => Verdict::Unknown(format!(
                "the newest report that covers {class} is of {}, which is too old; scan the digest again",
                stale.at
            )),
            (None, None) => {
                let signed = self.signed_by.as_ref().map(|gate| format!(" that {} signed", gate.name));
                Verdict::Fail(format!(
                    "no report{} covers {class}; scan the digest",
                    signed.unwrap_or_default()
                ))
            }
        }
    }

    /// What a report has against the image.
    fn against(&self, scan: &Scan, now: Timestamp) -> Option<String> {
        let class = self.looked.class();
        let bad: BTreeSet<(&str, &str, Severity)> = scan
            .findings
            .iter()
            .filter(|finding| finding.class == class && self.looked.counts(finding, now))
            .map(|finding| (finding.id.as_str(), finding.package.as_str(), finding.severity))
            .collect();
        let more: u64 = scan
            .more
            .iter()
            .filter(|(of, severity, _)| *of == class && self.looked.is_too_bad(*severity))
            .fold(0, |sum, (_, _, many)| sum.saturating_add(*many));
        let count = u64::try_from(bad.len()).unwrap_or(u64::MAX).saturating_add(more);
        if count <= self.looked.most() {
            return None;
        }
        let worst = bad.iter().max_by_key(|(_, _, severity)| *severity).map_or_else(
            String::new,
            |(id, package, severity)| {
                let severity = match self.looked {
                    Looked::Vulnerabilities { .. } | Looked::Misconfigurations(_) => format!("{severity} "),
                    Looked::Secrets(_) | Looked::Malware(_) | Looked::EndOfLife => String::new(),
                };
                format!(", such as {severity}{id} in {package}")
            },
        );
        Some(format!("{} found {count} {class} that the policy does not let through{worst}", scan.scanner))
    }

    pub(super) fn asks(&self) -> Asks {
        let signed_by = self.signed_by.as_ref().map(SignatureGate::asks);
        Asks { scans: true, ..signed_by.unwrap_or_default() }
    }

    pub(super) fn moments(&self, evidence: &Evidence) -> Vec<Timestamp> {
        let Fact::Known(scans) = &evidence.scans else { return Vec::new() };
        let mut moments: Vec<Timestamp> = scans
            .iter()
            .flat_map(|scan| [begin_of(scan.at), end_of(scan.at, self.max_age)])
            .flatten()
            .collect();
        if let Looked::Vulnerabilities { accept, .. } = &self.looked {
            moments.extend(accept.iter().map(|of| of.until));
        }
        moments
    }
}

/// In which order reports of one scanner count: the newest, of several of one moment the one with most findings, whatever came first.
fn worth(scan: &Scan) -> (Timestamp, usize, &[Finding], &[(Class, Severity, u64)]) {
    (scan.at, scan.findings.len() + scan.more.len(), &scan.findings, &scan.more)
}

/// Of each scanner its newest report.
fn newest<'s>(scans: impl Iterator<Item = &'s Scan>, now: Timestamp) -> BTreeMap<&'s str, &'s Scan> {
    let mut newest: BTreeMap<&str, &Scan> = BTreeMap::new();
    for scan in scans.filter(|scan| is_past(scan.at, now)) {
        let known = newest.entry(&scan.scanner).or_insert(scan);
        if worth(scan) > worth(known) {
            *known = scan;
        }
    }
    newest
}
