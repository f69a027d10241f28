//! `ReleaseHistory`: what a workload ran, and where it may go back to.
#![allow(clippy::doc_markdown, reason = "kubectl explain shows these lines as they stand")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What one workload ran, and where it may go back to.
///
/// Written by the operator alone, in its own namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "ReleaseHistory",
    plural = "releasehistories",
    namespaced,
    status = "ReleaseHistoryStatus",
    derive = "PartialEq",
    shortname = "relhist",
    category = "countersign",
    doc = "What one workload ran, and where it may go back to. Written by the operator alone, in its own namespace.",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.workloadRef.kind"),
    printcolumn(
        name = "Namespace",
        type_ = "string",
        json_path = ".spec.workloadRef.namespace",
        description = "The workload's namespace"
    ),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workloadRef.name"),
    printcolumn(
        name = "Present",
        type_ = "string",
        priority = 1,
        json_path = ".status.presentImages",
        description = "The images of the present release"
    ),
    printcolumn(
        name = "Hold",
        type_ = "string",
        priority = 1,
        json_path = ".status.hold.reason",
        description = "Why the workload is held, if it is"
    ),
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
pub struct ReleaseHistorySpec {
    /// The workload. Required, immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("workloadRef is immutable"))]
    pub workload_ref: WorkloadRef,
}

/// A workload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct WorkloadRef {
    /// Its API group and version, such as apps/v1. Required.
    #[schemars(
        length(min = 1, max = 317),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub api_version: String,
    /// Its kind, such as Deployment. Required.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Its namespace. Required.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub namespace: String,
    /// Its name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// What the operator recorded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ReleaseHistoryStatus {
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
    /// The metadata.uid of the workload that the present release belongs to. A workload that was created anew
    /// has another one, and starts without a present release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub uid: Option<String>,
    /// The id of the release that the operator let in last. Absent: none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub present: Option<String>,
    /// The images of the present release in one line, for kubectl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub present_images: Option<String>,
    /// The newest releases, at most 40. The last good one is never dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40), extend("x-kubernetes-list-type" = "atomic"))]
    pub releases: Vec<Release>,
    /// Why the workload stays at a release although something else is wanted. Absent: it is not held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// The last rollbacks, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub rollbacks: Vec<RecordedRollback>,
    /// What people asked for by annotations of this object, and was taken up: the last 5 of each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub interventions: Vec<Intervention>,
    /// Since when the workload is gone. This history goes 30 days later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub workload_gone_since: Option<Time>,
}

/// A set of images that the workload ran together.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Release {
    /// What the rest of this status calls the release.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// Its images.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub containers: Vec<ReleaseContainer>,
    /// The git commit it came from, for a workload that git owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub commit: Option<String>,
    /// The pod template, for a workload that git owns: enough to apply it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pod_template")]
    pub template: Option<std::sync::Arc<serde_json::Value>>,
    /// Since when it is the present release. Absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub present_since: Option<Time>,
    /// When it stopped being the present release. Absent: it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub last_present_at: Option<Time>,
    /// Whether it proved itself: Unproven, Good or Failed.
    pub outcome: Outcome,
    /// Whether the workload already ran it when the operator saw the workload for the first time.
    #[serde(default)]
    pub adopted: bool,
}

/// One image of a release.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ReleaseContainer {
    /// Where the image stands in the pod template: containers/app, initContainers/setup, volumes/models.
    #[schemars(length(min = 1, max = 320))]
    pub container: String,
    /// The pinned image: repository, tag if there was one, and digest.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// The reference that was asked for.
    #[schemars(length(min = 1, max = 512))]
    pub wanted: String,
    /// The approvedAt of the approval it was let in by. Absent: it was let in without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timestamp")]
    pub approved_at: Option<Time>,
}

/// Whether a release proved itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum Outcome {
    /// Not yet known.
    Unproven,
    /// It was completely rolled out, and healthy for long enough.
    Good,
    /// It did not roll out in time.
    Failed,
}

/// Why a workload stays where it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Hold {
    /// Since when.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Time,
    /// The images that were rejected. The hold ends when permitted ones other than these are wanted, and after
    /// a failed rollout of a workload that git owns when git asks for anything else in its pod template.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub rejected: Vec<Rejected>,
    /// The id of the release whose rollout failed, and is kept out. Absent: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failed_release: Option<String>,
    /// The id of the release that is held.
    #[schemars(length(min = 1, max = 64))]
    pub target: String,
    /// Why, for people.
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// An image that was rejected.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Rejected {
    /// Where the image stands in the pod template.
    #[schemars(length(min = 1, max = 320))]
    pub container: String,
    /// The reference that was asked for.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
    /// The digest it stood for, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 135), regex(pattern = schema::DIGEST))]
    pub digest: Option<String>,
    /// Why it was rejected. Revoked: it was revoked. FailedRollout: its containers kept crashing.
    #[serde(default)]
    pub cause: RejectionCause,
}

/// Why an image was rejected.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[schemars(inline, transform = schema::without_description)]
pub enum RejectionCause {
    /// It was revoked.
    #[default]
    Revoked,
    /// Its containers started and kept crashing.
    FailedRollout,
}

/// One move back to an earlier release.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RecordedRollback {
    /// When.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Time,
    /// The id of the release the workload moved from.
    #[schemars(length(max = 64))]
    pub from: String,
    /// The id of the release it moved to. Absent: there was no safe one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub to: Option<String>,
    /// Why, for people.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// How it went: InProgress, Completed, Failed or NoSafeRelease.
    pub outcome: RollbackOutcome,
    /// The revoked digests that the workload ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 135), regex(pattern = schema::DIGEST)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub revoked: Vec<String>,
}

/// How a rollback went.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum RollbackOutcome {
    /// The workload is on its way.
    InProgress,
    /// The workload runs the earlier release.
    Completed,
    /// The earlier release did not come up.
    Failed,
    /// There was no release to go back to; the workload keeps running.
    NoSafeRelease,
}

/// One thing that a person asked for by an annotation.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Intervention {
    /// What was asked for. ReleaseHold: that the hold on a release whose rollout failed ends. Retry: that what
    /// failed is tried once more.
    pub way: InterventionWay,
    /// The value of the annotation. The same value is not taken up twice.
    #[schemars(length(min = 1, max = 255))]
    pub value: String,
    /// When it was taken up.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Time,
    /// What came of it. Done: it was done. NothingToDo: nothing was held or had failed. StillRevoked: the hold
    /// stands, as what it keeps out is revoked.
    pub effect: InterventionEffect,
    /// The id of the release that it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub release: Option<String>,
}

/// What a person can ask for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum InterventionWay {
    /// That a hold ends.
    ReleaseHold,
    /// That what failed is tried once more.
    Retry,
}

/// What came of what a person asked for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum InterventionEffect {
    /// It was done.
    Done,
    /// There was nothing to do.
    NothingToDo,
    /// What the hold keeps out is revoked.
    StillRevoked,
}
