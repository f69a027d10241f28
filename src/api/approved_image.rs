//! `ApprovedImage`: one digest that somebody approved, and perhaps revoked.
#![allow(clippy::doc_markdown, reason = "kubectl explain shows these lines as they stand")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

pub mod evidence;

/// One digest that somebody approved, and perhaps revoked.
///
/// In the operator's own namespace it counts for the whole cluster, elsewhere for its own namespace only.
/// Deleting it withdraws the approval; a revocation cannot be taken back.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "ApprovedImage",
    plural = "approvedimages",
    namespaced,
    status = "ApprovedImageStatus",
    derive = "PartialEq",
    shortname = "aimg",
    category = "countersign",
    doc = "One image digest that somebody approved, and perhaps revoked. In the operator's own namespace it counts for the whole cluster, elsewhere for its own namespace only. Deleting it withdraws the approval; a revocation cannot be taken back.",
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Tag", type_ = "string", json_path = ".spec.tag"),
    printcolumn(
        name = "Standing",
        type_ = "string",
        json_path = ".status.standing",
        description = "What the approval counts for: Approved, Revoked, Expired or Unlisted"
    ),
    printcolumn(
        name = "Workloads",
        type_ = "integer",
        json_path = ".status.workloads",
        description = "Workloads that run the digest"
    ),
    printcolumn(name = "Digest", type_ = "string", json_path = ".spec.digest", priority = 1),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.revocation) || has(self.revocation)")
        .message("a revocation cannot be taken back: approve another digest instead")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(self.approvedAt) || !has(self.expiresAt) || self.approvedAt < self.expiresAt")
        .message("expiresAt must be later than approvedAt")
)]
pub struct ApprovedImageSpec {
    /// The repository, without tag and digest, such as registry.example/shop/cart. Required, immutable.
    #[schemars(length(min = 1, max = schema::REPOSITORY_MAX), regex(pattern = schema::REPOSITORY))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("image is immutable: write another ApprovedImage"))]
    pub image: String,
    /// The digest of the image's index or manifest: sha256: and 64, or sha512: and 128 hexadecimal digits.
    /// Approving an index approves its platforms' manifests. Required, immutable.
    #[schemars(length(max = 135), regex(pattern = schema::DIGEST))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("digest is immutable: write another ApprovedImage"))]
    pub digest: String,
    /// The tag by which manifests may call the digest. A tag stands for the record with the newest approvedAt
    /// that claims it. Default: none, so that only the digest itself names the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = schema::TAG))]
    pub tag: Option<String>,
    /// What the image is. Application: it runs. Base: other images are built on it. Default Application.
    #[serde(default)]
    pub role: Role,
    /// From when the approval is in force. From the future it is not in force yet. Default: when the object was
    /// created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub approved_at: Option<Time>,
    /// Until when the approval is in force. What runs then keeps running. Default: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub expires_at: Option<Time>,
    /// Why the image was approved, such as the number of a change. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Set to revoke the digest, in every repository, whatever approves it. Cannot be removed again. An image may
    /// be revoked from the start. Default: not revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
}

/// What an image is.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[schemars(inline, transform = schema::without_description)]
pub enum Role {
    /// It runs.
    #[default]
    Application,
    /// Other images are built on it.
    Base,
}

/// Why a digest must not run any more.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Revocation {
    /// Why, such as CVE-2026-0001. Required.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// How bad it is: Low, Medium, High or Critical. Only told on. Default: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// When it was revoked. Only told on: a revocation counts at once. Default: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Option<Time>,
    /// Who revoked it. Only told on. Default: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub by: Option<String>,
    /// Where more is said, such as the address of an advisory. Only told on. Default: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reference: Option<String>,
}

/// How bad something is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth planning for.
    Medium,
    /// Worth acting on.
    High,
    /// Worth waking somebody.
    Critical,
}

/// What the operator found.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ApprovedImageStatus {
    /// The metadata.generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready always; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The value of the annotation countersign.dev/reconcile-requested-at that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub last_handled_reconcile_at: Option<String>,
    /// What all records together say of this image: Approved, Revoked, Expired, or Unlisted where none is in
    /// force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// How many workloads run the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<u32>,
    /// What is known of the image, by what policies ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<evidence::Evidence>,
}

/// What the ledger says of a pinned image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum Standing {
    /// An approval is in force.
    Approved,
    /// The digest is revoked.
    Revoked,
    /// The approval ended.
    Expired,
    /// No approval is in force.
    Unlisted,
}
