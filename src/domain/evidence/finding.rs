//! What scanners find.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Signer;

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

/// What an OpenVEX statement says of a vulnerability in a product.
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
    /// Who signed the report; empty where it stands beside the approval in git, or in the cluster.
    pub signers: BTreeSet<Signer>,
    /// What it found, the worst first, as many as are kept.
    pub findings: Vec<Finding>,
    /// How many more there are of each class and severity, which are not kept one by one.
    pub more: Vec<(Class, Severity, u64)>,
}
