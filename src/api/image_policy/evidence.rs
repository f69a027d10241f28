//! The blocks of a policy that ask for evidence: signatures, attestations, reports of scanners, bases.
#![allow(clippy::doc_markdown, reason = "kubectl explain shows these lines as they stand")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{api::schema, domain::duration::Duration};

const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
const DATA_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// No line breaks and no other control characters.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f]+$";

/// Who must have signed an image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("has(self.cosign) || has(self.notation)")
        .message("say who may sign: cosign, notation or both")
        .reason(Reason::FieldValueRequired)
)]
pub struct Signatures {
    /// What attestations and messages call it. Required.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub name: String,
    /// Who may sign with cosign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosign: Option<Cosign>,
    /// Who may sign with Notation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notation: Option<Notation>,
    /// How many distinct signers there must be; who signs twice is one. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub threshold: u32,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Who may sign with cosign.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("has(self.keys) || has(self.identities)")
        .message("name at least one key or identity")
        .reason(Reason::FieldValueRequired),
    validation = Rule::new("has(self.trustRootRef) || (!has(self.identities) && has(self.requireLog) && !self.requireLog)")
        .message("identities and requireLog need a trustRootRef; keys without a log need requireLog: false")
        .reason(Reason::FieldValueRequired)
)]
pub struct Cosign {
    /// The public keys that count: ECDSA P-256 or P-384, Ed25519 or RSA. A signature by any of them counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub keys: Vec<PublicKey>,
    /// Who counts without a key of their own: somebody for whom a certificate authority of the trust root vouches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub identities: Vec<Identity>,
    /// The trust root (trusted_root.json of Sigstore): the certificate authorities, transparency logs and timestamp
    /// authorities that count. Nothing else is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_root_ref: Option<TrustRootRef>,
    /// Whether a transparency log of the trust root must have the signature. Default true.
    #[serde(default = "yes")]
    pub require_log: bool,
    /// Whether a certificate log of the trust root must have promised to have the certificate of an identity (SCT).
    /// Default true.
    #[serde(default = "yes")]
    pub require_sct: bool,
    /// What a signature must say besides, as in cosign sign -a KEY=VALUE. Default: nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
}

fn annotations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 256},
    })
}

/// A public key: exactly one of these.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = Rule::new("has(self.pem) != has(self.secretRef)").message("give exactly one of pem and secretRef"))]
pub struct PublicKey {
    /// The key itself: -----BEGIN PUBLIC KEY----- and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub pem: Option<String>,
    /// A Secret in the namespace of the policy that holds it, as cosign generate-key-pair k8s:// makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
}

/// A key of a Secret in the namespace of the policy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct KeyRef {
    /// The Secret's name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Which of its keys. Default cosign.pub.
    #[serde(default = "cosign_pub")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

fn cosign_pub() -> String {
    "cosign.pub".to_owned()
}

/// Somebody for whom a certificate authority vouches. Expressions are RE2 and about the whole text.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("has(self.issuer) != has(self.issuerRegExp)").message("give exactly one of issuer and issuerRegExp"),
    validation = Rule::new("has(self.subject) != has(self.subjectRegExp)").message("give exactly one of subject and subjectRegExp")
)]
pub struct Identity {
    /// Who vouched for the identity to the authority (the OIDC issuer), exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = ONE_LINE))]
    pub issuer: Option<String>,
    /// The same, as a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = ONE_LINE))]
    pub issuer_reg_exp: Option<String>,
    /// Whom: an address, or the URI of a workflow, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = ONE_LINE))]
    pub subject: Option<String>,
    /// The same, as a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = ONE_LINE))]
    pub subject_reg_exp: Option<String>,
}

/// A key of a ConfigMap or Secret in the namespace of the policy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct TrustRootRef {
    /// Whether it is a ConfigMap or a Secret. Default ConfigMap.
    #[serde(default)]
    pub kind: HolderKind,
    /// Its name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Which of its keys. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

/// What may hold a trust root.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline, transform = schema::without_description)]
pub enum HolderKind {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A Secret.
    Secret,
}

/// Who may sign with Notation.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("has(self.certificates) != has(self.trustStoreRef)")
        .message("give exactly one of certificates and trustStoreRef")
)]
pub struct Notation {
    /// Certificates of the authorities that count, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub certificates: Option<String>,
    /// A ConfigMap or Secret in the namespace of the policy that holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_store_ref: Option<TrustRootRef>,
    /// Whose certificates count. Required.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub identities: Vec<NotationIdentity>,
}

/// The holder of a certificate: exactly one of these. Expressions are RE2 and about the whole text.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = Rule::new("has(self.subject) != has(self.subjectRegExp)").message("give exactly one of subject and subjectRegExp"))]
pub struct NotationIdentity {
    /// The subject of the certificate, as in CN=release,O=Example,C=DE (RFC 4514), exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = ONE_LINE))]
    pub subject: Option<String>,
    /// The same, as a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = ONE_LINE))]
    pub subject_reg_exp: Option<String>,
}

/// What somebody must attest of an image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct AttestationRule {
    /// What messages call it. Required.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub name: String,
    /// The predicateType of the in-toto statement, such as https://slsa.dev/provenance/v1. Required.
    #[schemars(length(min = 1, max = 256), regex(pattern = ONE_LINE))]
    pub predicate_type: String,
    /// The name of the entry of signatures that says who must have signed it: any of those counts. Required.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub signed_by: String,
    /// What must hold of it, all of it. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub conditions: Vec<ConditionRule>,
    /// How many distinct builders must attest it; 2 asks for a build that was reproduced. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub threshold: u32,
    /// How old it may be, in days, hours, minutes and seconds, such as 30d or 720h. Default: of any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("maxAge must be longer than zero"))]
    pub max_age: Option<Duration>,
}

/// An expression that must hold.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct ConditionRule {
    /// CEL over predicate and subject of the statement and over image (repository, digest): true is what is asked
    /// for. Required.
    #[schemars(length(min = 1, max = 4096))]
    pub expression: String,
    /// What people are told where it does not hold. Required.
    #[schemars(length(min = 1, max = 256), regex(pattern = ONE_LINE))]
    pub message: String,
}

/// What scanners may have found, and how old their reports may be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("has(self.vulnerabilities) || has(self.secrets) || has(self.malware) || has(self.misconfigurations) || has(self.outdated)")
        .message("say what scanners look for: vulnerabilities, secrets, malware, misconfigurations or outdated")
        .reason(Reason::FieldValueRequired)
)]
pub struct ScanRule {
    /// How old a report may be, in days, hours, minutes and seconds, such as 7d. An older one says nothing. Required.
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("maxAge must be longer than zero"))]
    pub max_age: Duration,
    /// The name of the entry of signatures that says who must have signed the reports. Default: any report counts that
    /// was found with the image, beside its approval in git or in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub signed_by: Option<String>,
    /// Known vulnerabilities. A report must cover them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<Vulnerabilities>,
    /// Credentials that were left in the image. A report must cover them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<AtMost>,
    /// Malicious files. A report must cover them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malware: Option<AtMost>,
    /// Weak configurations. A report must cover them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misconfigurations: Option<Misconfigurations>,
    /// What its makers gave up. A report must cover it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outdated: Option<Outdated>,
}

/// Which vulnerabilities are let through.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Vulnerabilities {
    /// The worst severity that is let through; None: not even a negligible one. One that a report does not rate is
    /// worse than Critical. Required.
    pub max_severity: MaxSeverity,
    /// Whether those that no version mends are let through. Default false.
    #[serde(default)]
    pub fixable_only: bool,
    /// Whether those are let through that an OpenVEX statement calls not_affected or fixed. Default false.
    #[serde(default)]
    pub vex: bool,
    /// Those that somebody decided to live with, for a time. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub accept: Vec<Accepted>,
}

/// A severity.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline, transform = schema::without_description)]
pub enum MaxSeverity {
    /// Not even a negligible one.
    #[default]
    None,
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
}

/// A vulnerability that somebody decided to live with, for a time.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Accepted {
    /// Its name in the report, such as CVE-2026-0001. Required.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$"))]
    pub id: String,
    /// Until when, such as 2027-01-01T00:00:00Z. Required.
    #[schemars(schema_with = "schema::timestamp")]
    pub until: Time,
    /// Why. Required.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// How many are let through.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct AtMost {
    /// So many are let through. Required.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max: u32,
}

/// Which weak configurations are let through.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Misconfigurations {
    /// The worst severity that is let through; None: not even a negligible one. One that a report does not rate is
    /// worse than Critical. Required.
    pub max_severity: MaxSeverity,
}

/// Whether what its makers gave up is let through.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Outdated {
    /// Whether systems are let through that get no corrections any more. Required.
    pub end_of_life: bool,
}

/// What an image may be built on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct BaseRule {
    /// Globs on repositories in their full form: the first layers of the image must be those of an ApprovedImage with
    /// role Base, of one of these, that is in force. Required.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 255), regex(pattern = schema::REPOSITORY_GLOB)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub allow: Vec<String>,
}

/// A Secret in the namespace of the policy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PullSecret {
    /// Its name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}
