//! What is known of an image, as it stands in the status of its `ApprovedImage`: the same facts as
//! [`Evidence`](crate::domain::evidence::Evidence), for every replica to judge by.
#![allow(clippy::doc_markdown, reason = "kubectl explain shows these lines as they stand")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::schema;

/// What is known of the image, by all that was looked at when it was approved, and again on a clock.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Evidence {
    /// Parts that could not be looked at, or not yet, and why. A part that is neither here nor below is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub unavailable: Vec<Unavailable>,
    /// The images of an index, or the one that a manifest describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub platforms: Option<Vec<Platform>>,
    /// The signatures that were found valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub signatures: Option<Vec<Signature>>,
    /// The attestations whose signatures were found valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub attestations: Option<Vec<Attestation>>,
    /// The newest report of each scanner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub scans: Option<Vec<Scan>>,
    /// The fingerprints of the keys, trust roots and expressions that were looked at: lower-case SHA-256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)), extend("x-kubernetes-list-type" = "atomic"))]
    pub checked: Vec<String>,
}

/// Part of the evidence.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum Part {
    /// What it consists of.
    Platforms,
    /// Who signed it.
    Signatures,
    /// What is attested of it.
    Attestations,
    /// What scanners say of it.
    Scans,
}

/// A part that could not be looked at.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct Unavailable {
    /// Which one.
    pub part: Part,
    /// Why.
    #[schemars(length(max = 1024))]
    pub why: String,
}

/// One image for one platform.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Platform {
    /// os/architecture or os/architecture/variant.
    #[schemars(length(max = 128))]
    pub name: String,
    /// The digest of its manifest.
    #[schemars(length(max = 135))]
    pub manifest: String,
    /// The digest of its config.
    #[schemars(length(max = 135))]
    pub config: String,
    /// The digests of its layers, uncompressed, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 135)), extend("x-kubernetes-list-type" = "atomic"))]
    pub diff_ids: Vec<String>,
    /// When it says that it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub created: Option<Time>,
}

/// A signature that was found valid, by exactly one of key, identity and certificate.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Signature {
    /// The fingerprint of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key: Option<String>,
    /// Who an authority vouched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Whose certificate ends in a trust store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// The fingerprint of the trust root that it was checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub root: Option<String>,
    /// When it was made, by a log or a timestamp authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Option<Time>,
    /// Whether a transparency log has it.
    #[serde(default)]
    pub logged: bool,
    /// Whether a certificate log promised to have its certificate.
    #[serde(default)]
    pub sct: bool,
    /// What it says besides, signed, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub annotations: Vec<Annotation>,
}

/// Who an authority vouched for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct Identity {
    /// Who vouched for the identity to the authority.
    #[schemars(length(max = 1024))]
    pub issuer: String,
    /// Whom: an address, or the URI of a workflow.
    #[schemars(length(max = 1024))]
    pub subject: String,
    /// The fingerprint of the trust root.
    #[schemars(length(max = 64))]
    pub root: String,
}

/// Whose certificate ends in a trust store.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct Certificate {
    /// The subject, as an RFC 4514 name.
    #[schemars(length(max = 1024))]
    pub subject: String,
    /// The fingerprint of the authority in the trust store.
    #[schemars(length(max = 64))]
    pub authority: String,
}

/// What a signature says besides.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct Annotation {
    /// Its key.
    #[schemars(length(max = 256))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// An in-toto statement about the image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Attestation {
    /// Its predicateType.
    #[schemars(length(max = 1024))]
    pub predicate_type: String,
    /// Its signatures that were found valid; none where it stands beside the approval in git.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub signatures: Vec<Signature>,
    /// Who built the image, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub builder: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Option<Time>,
    /// What became of the expressions of policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub conditions: Vec<Expression>,
}

/// What became of one expression.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct Expression {
    /// The fingerprint of the expression.
    #[schemars(length(max = 64))]
    pub expression: String,
    /// Whether it holds; absent: that cannot be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// Why that cannot be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub error: Option<String>,
}

/// What one scanner said.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Scan {
    /// Its name.
    #[schemars(length(max = 128))]
    pub scanner: String,
    /// When it looked.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Time,
    /// What it looked for.
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub covers: Vec<Class>,
    /// The valid signatures of the report; none where it stands beside the approval in git, or in the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub signatures: Vec<Signature>,
    /// What it found, the worst first, as many as are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub findings: Vec<Finding>,
    /// How many more there are, which are not kept one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 35), extend("x-kubernetes-list-type" = "atomic"))]
    pub more: Vec<More>,
}

/// What kind of thing a finding is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
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

/// How bad a finding is; Unknown counts as the worst.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
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
    /// Nobody said how bad it is.
    Unknown,
}

/// What VEX says of a vulnerability.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum Vex {
    /// The image is not affected.
    NotAffected,
    /// The image is affected.
    Affected,
    /// It is mended in the image.
    Fixed,
    /// Somebody is looking.
    UnderInvestigation,
}

/// One thing that a scanner found.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Finding {
    /// What kind of thing it is.
    pub class: Class,
    /// How bad it is.
    pub severity: Severity,
    /// Of a vulnerability its name; else the rule that found it.
    #[schemars(length(max = 256))]
    pub id: String,
    /// The package, or the file.
    #[schemars(length(max = 512))]
    pub package: String,
    /// The version of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub version: Option<String>,
    /// The version that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub fixed_version: Option<String>,
    /// What VEX says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vex: Option<Vex>,
}

/// Findings that are only counted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct More {
    /// Of which kind.
    pub class: Class,
    /// How bad.
    pub severity: Severity,
    /// How many.
    #[schemars(range(min = 1))]
    pub count: u64,
}
