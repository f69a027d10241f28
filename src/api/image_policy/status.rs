//! What the operator says of a policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::schema;

/// What the operator found.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ImagePolicyStatus {
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
    /// How many workloads the policy matches, and how they stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<PolicyWorkloads>,
    /// How many Pods, Jobs and ReplicaSets that belong to no workload the policy matches. They are never moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bare: Option<PolicyBare>,
    /// The first 20 images that are not permitted, by namespace, kind, name and container; those of workloads first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub not_permitted: Vec<NotPermitted>,
    /// What the policy kept out at admission, dry runs apart. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<PolicyDenied>,
}

/// What a policy kept out at admission.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PolicyDenied {
    /// How many attempts there were, those that are not listed any more included.
    pub total: u32,
    /// The newest 20 that differ in namespace, kind, image, user or reason, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub recent: Vec<DeniedAttempt>,
}

/// Attempts that differ in nothing but time, and the object's name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct DeniedAttempt {
    /// The object's namespace.
    #[schemars(length(max = 253))]
    pub namespace: String,
    /// The object's kind.
    #[schemars(length(max = 253))]
    pub kind: String,
    /// The name of the last object. Absent: it had none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// The first image that the policy does not permit, as written.
    #[schemars(length(max = 512))]
    pub image: String,
    /// Who asked.
    #[schemars(length(max = 253))]
    pub user: String,
    /// The kind of reason why the image is not permitted.
    #[schemars(length(max = 63))]
    pub reason: String,
    /// How often.
    pub count: u32,
    /// For the first time.
    #[schemars(schema_with = "schema::timestamp")]
    pub first_seen: Time,
    /// For the last time.
    #[schemars(schema_with = "schema::timestamp")]
    pub last_seen: Time,
}

/// How many workloads a policy matches, and how they stand.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PolicyWorkloads {
    /// Workloads with an image that the policy matches.
    pub governed: u32,
    /// Governed workloads whose images this policy permits, all of them.
    pub permitted: u32,
    /// Governed workloads with an image that this policy does not permit.
    pub not_permitted: u32,
}

/// What a policy says of what belongs to no workload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PolicyBare {
    /// Those with an image that the policy matches.
    pub governed: u32,
    /// Those with an image that this policy does not permit.
    pub not_permitted: u32,
}

/// An image that a policy does not permit, and where it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct NotPermitted {
    /// The workload's namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The workload's kind.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// The workload's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Where the image stands in the pod template, such as containers/app.
    #[schemars(length(max = 320))]
    pub container: String,
    /// The image as it is wanted.
    #[schemars(length(max = 512))]
    pub image: String,
    /// Why it is not permitted, and what would permit it.
    #[schemars(length(max = 1024))]
    pub reason: String,
}
