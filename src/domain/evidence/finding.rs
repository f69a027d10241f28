//! What scanners find.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;

use super::Signature;

/// What kind of thing a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A known vulnerability in a package.
    Vulnerability,
    /// A credential that was left in the image.
    Secret,
    /// Malicious content.
    Malware,
    /// A weak configuration.
    Misconfiguration,
    /// Something that nobody maintains any more.
    Outdated,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vulnerability => "vulnerabilities",
            Self::Secret => "secrets",
            Self::Malware => "malware",
            Self::Misconfiguration => "misconfigurations",
            Self::Outdated => "outdated systems",
        })
    }
}

/// How bad a finding is. Unknown is the worst: nobody has looked how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Hardly of any effect.
    Negligible,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
    /// Not said, or said in a way that is not known.
    Unknown,
}

impl Severity {
    /// What a scanner calls it, in any case.
    pub fn named(name: &str) -> Self {
        match name.trim().to_ascii_lowercase().as_str() {
            "negligible" | "none" | "info" | "informational" => Self::Negligible,
            "low" => Self::Low,
            "medium" | "moderate" => Self::Medium,
            "high" | "important" => Self::High,
            "critical" => Self::Critical,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Negligible => "Negligible",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
            Self::Unknown => "Unknown",
        })
    }
}

/// One thing that a scanner found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind of thing it is.
    pub class: Class,
    /// How bad it is.
    pub severity: Severity,
    /// Of a vulnerability its CVE or other name; else the rule that found it.
    pub id: String,
    /// The package, or the file.
    pub package: String,
    /// The version of the package, where there is one.
    pub version: Option<String>,
    /// The version that mends it, if there is one.
    pub fixed_version: Option<String>,
    /// What VEX says of it.
    pub vex: Option<Vex>,
}

/// What an `OpenVEX` statement says of a vulnerability in a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vex {
    /// The product is not affected.
    NotAffected,
    /// The product is affected.
    Affected,
    /// It is mended in the product.
    Fixed,
    /// Somebody is looking.
    UnderInvestigation,
}

/// What one scanner said of one digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Its name.
    pub scanner: String,
    /// When it looked.
    pub at: Timestamp,
    /// What it looked for: no finding of a class that is not here says nothing.
    pub covers: BTreeSet<Class>,
    /// Its signatures that were found valid; none where the report stands beside the approval in git, or in the cluster.
    pub signatures: Vec<Signature>,
    /// What it found, the worst first, as many as are kept.
    pub findings: Vec<Finding>,
    /// How many more there are of each class and severity, which are not kept one by one.
    pub more: Vec<(Class, Severity, u64)>,
}
