//! Reports of scanners: read into [`Scan`]s.
//!
//! Fields that are not known are passed over. What would make a finding disappear is not: duplicate keys, lists that are no lists,
//! findings without a name, counts that are not there, and reports about something else are errors, and a severity that is missing
//! or not known is the worst. What a scanner itself left out (its ignore files, suppressed findings of Trivy and Grype) is left
//! out: whoever may make the report decides that. Suppressions in SARIF count: those stand in the image's own source.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Class, Finding, Scan, Severity, Signature};
use crate::domain::{image::Digest, manifest::read_json};

mod grype;
mod openvex;
mod sarif;
#[cfg(test)]
mod tests;
mod trivy;
mod trivy_operator;
mod vuln_predicate;

pub use openvex::{Says, read_vex, read_vex_value};
pub use vuln_predicate::VULN_PREDICATE;

/// How large a report may be, in bytes.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_NODES: usize = 2_000_000;
const MAX_DEPTH: usize = 64;
/// How many findings of a report are looked at.
const MAX_FINDINGS: usize = 50_000;
/// How many findings of a report are kept one by one.
pub const KEPT: usize = 200;

/// What is known of a report before it is read.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// What it must be about.
    pub digest: &'a Digest,
    /// Digests by which scanners name the same image: of the manifest and the config of an image of one platform. None for an index
    /// of several: a report about one platform says nothing of the others.
    pub alike: &'a BTreeSet<Digest>,
    /// Whether where it was found says what it is about: a signed statement about the digest, a referrer of it.
    pub bound: bool,
    /// When it was made, where the report itself does not say it.
    pub at: Option<Timestamp>,
    /// What it looked for, where it does not say it: several scanners say nothing of what they did not find.
    pub covers: BTreeSet<Class>,
    /// Its signatures that were found valid.
    pub signatures: &'a [Signature],
}

impl About<'_> {
    fn is(&self, digest: &str) -> bool {
        self.digest.as_str() == digest || self.alike.iter().any(|alike| alike.as_str() == digest)
    }

    /// Whether a report that names these digests, or references with digests, is about ours.
    fn check<'t>(&self, named: impl Iterator<Item = &'t str>) -> Result<(), String> {
        let mut other = None;
        for name in named {
            let digest = name.rsplit_once('@').map_or(name, |(_, digest)| digest);
            if self.is(digest) {
                return Ok(());
            }
            if digest.parse::<Digest>().is_ok() {
                other = other.or(Some(digest));
            }
        }
        match other {
            Some(other) => Err(format!("is about {other}, not about {}", self.digest)),
            None if self.bound => Ok(()),
            None => Err(format!("does not say that it is about {}", self.digest)),
        }
    }

    fn time(&self, said: Option<&Value>) -> Result<Timestamp, String> {
        let said = said.and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
        said.or(self.at).ok_or_else(|| "does not say when it was made".to_owned())
    }

    fn scan(
        &self,
        scanner: &str,
        at: Timestamp,
        covers: impl IntoIterator<Item = Class>,
        findings: Vec<Finding>,
    ) -> Scan {
        let mut covers: BTreeSet<Class> = covers.into_iter().chain(self.covers.iter().copied()).collect();
        covers.extend(findings.iter().map(|finding| finding.class));
        Scan {
            scanner: text(scanner, 64),
            at,
            covers,
            signatures: self.signatures.to_vec(),
            findings,
            more: Vec::new(),
        }
    }
}

/// The words for classes in annotations and file names: `vulnerabilities`, `secrets`, `malware`, `misconfigurations`, `outdated`.
pub fn classes(words: &str) -> BTreeSet<Class> {
    let class = |word: &str| match word.trim() {
        "vulnerabilities" => Some(Class::Vulnerability),
        "secrets" => Some(Class::Secret),
        "malware" => Some(Class::Malware),
        "misconfigurations" => Some(Class::Misconfiguration),
        "outdated" => Some(Class::Outdated),
        _ => None,
    };
    words.split(',').filter_map(class).collect()
}

/// Reads a report of any kind that is known; all its findings, before [`Scan::cut`].
///
/// # Errors
/// With what is wrong with it, in a few words.
pub fn read(bytes: &[u8], about: &About<'_>) -> Result<Vec<Scan>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is no text".to_owned())?;
    let value = read_json(text, MAX_DEPTH, MAX_NODES).map_err(|error| self::text(&error, 200))?;
    read_value(&value, about)
}

/// Reads a report that was read as JSON, strictly, such as the predicate of a statement.
///
/// # Errors
/// As [`read`].
pub fn read_value(value: &Value, about: &About<'_>) -> Result<Vec<Scan>, String> {
    let object = value.as_object().ok_or("is no JSON object")?;
    let has = |key: &str| object.contains_key(key);
    if has("SchemaVersion") {
        trivy::read(object, about).map(|scan| vec![scan])
    } else if has("matches") && has("descriptor") {
        grype::read(object, about).map(|scan| vec![scan])
    } else if has("runs") {
        sarif::read(object, about)
    } else if has("scanner") && has("metadata") && !has("kind") {
        vuln_predicate::read(object, about)
    } else if has("kind") && has("report") {
        trivy_operator::read(object, about).map(|scan| vec![scan])
    } else {
        Err("is no report of a kind that is known".to_owned())
    }
}

impl Scan {
    /// Keeps the worst findings one by one, and counts the others. Do so after VEX was applied.
    #[must_use]
    pub fn cut(mut self) -> Self {
        let rank = |of: &Finding| (of.severity, of.fixed_version.is_some());
        self.findings.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.cmp(b)));
        self.findings.dedup();
        let mut more: BTreeMap<(Class, Severity), u64> = BTreeMap::new();
        for (class, severity, many) in std::mem::take(&mut self.more) {
            *more.entry((class, severity)).or_default() += many;
        }
        for finding in self.findings.drain(KEPT.min(self.findings.len())..) {
            *more.entry((finding.class, finding.severity)).or_default() += 1;
        }
        self.more = more.into_iter().map(|((class, severity), many)| (class, severity, many)).collect();
        self
    }
}

/// A list that may be absent or null; anything else in its place is an error.
fn list<'v>(object: &'v Map<String, Value>, key: &str) -> Result<&'v [Value], String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) if items.len() <= MAX_FINDINGS => Ok(items),
        Some(Value::Array(_)) => Err(format!("{key} has more than {MAX_FINDINGS} items")),
        Some(_) => Err(format!("{key} is no list")),
    }
}

fn object<'v>(value: &'v Value, what: &str) -> Result<&'v Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{what} is no object"))
}

/// A text that must be there and say something.
fn required(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    let said = object.get(key).and_then(Value::as_str).map(|said| text(said, 200));
    said.filter(|said| !said.is_empty()).ok_or_else(|| format!("a finding has no {key}"))
}

/// A text that may be there; an empty one is none.
fn optional(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).map(|said| text(said, 200)).filter(|said| !said.is_empty())
}

fn severity(object: &Map<String, Value>, key: &str) -> Severity {
    object.get(key).and_then(Value::as_str).map_or(Severity::Unknown, Severity::named)
}

/// Text of somebody else, short and without control characters.
fn text(said: &str, most: usize) -> String {
    said.trim().chars().filter(|c| !c.is_control()).take(most).collect()
}

/// No more findings than are looked at.
fn bounded(findings: Vec<Finding>) -> Result<Vec<Finding>, String> {
    if findings.len() > MAX_FINDINGS {
        Err(format!("has more than {MAX_FINDINGS} findings"))
    } else {
        Ok(findings)
    }
}
