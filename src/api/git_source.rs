//! `GitSource`: a repository whose manifests the operator applies.
#![allow(clippy::doc_markdown, reason = "kubectl explain shows these lines as they stand")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::domain::duration::Duration;

/// A git repository whose manifests the operator applies.
///
/// Deleting it deletes nothing that it applied.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "GitSource",
    plural = "gitsources",
    namespaced,
    status = "GitSourceStatus",
    derive = "PartialEq",
    shortname = "gsrc",
    category = "countersign",
    doc = "A git repository whose manifests the operator applies: approvals, policies and workloads. Deleting it deletes nothing that it applied.",
    validation = Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 63 characters: it becomes the value of a label"),
    validation = Rule::new("has(self.spec.secretRef) || !self.spec.url.matches('^(ssh://|[^/:]+@)')")
        .message("an ssh repository needs a key: name a Secret with identity and known_hosts in spec.secretRef"),
    validation = Rule::new("!has(self.spec.secretRef) || !self.spec.url.matches('^(file://|/)')")
        .message("a repository on the operator's machine needs no credentials: remove spec.secretRef"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Commit", type_ = "string", json_path = ".status.lastAppliedCommit", description = "The commit that was applied last"),
    printcolumn(name = "Tag", type_ = "string", json_path = ".status.lastAppliedTag", description = "The tag of the version that was applied last", priority = 1),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GitSourceSpec {
    /// Where the repository is: https://, http://, ssh://user@ or file:// and what follows, user@host:path, or an
    /// absolute path on the operator's machine. No password in it, and no user name but ssh's. Required.
    #[schemars(
        length(min = 1, max = 2048),
        regex(
            pattern = r"^(https?://[^/\s]+/|ssh://[^/@\s]+@[^/\s]+/|[A-Za-z0-9._][A-Za-z0-9._-]*@[^/@\s]+:|file:///|/)[^\s]+$"
        )
    )]
    #[x_kube(validation = Rule::new("!self.matches('^(https?://[^/]*@|ssh://[^/]*:[^/]*@)')").message("no user name and no password in a URL: every reader of this object would see them"))]
    pub url: String,
    /// The Secret that opens the repository, in the namespace of this object. With https:// its keys are username and
    /// password, or bearerToken; tls.crt and tls.key; ca.crt. With ssh they are identity and known_hosts, and
    /// password if the key has a passphrase. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// What to follow: a branch, a tag, a range of versions or a commit; exactly one of them. Required.
    #[serde(rename = "ref")]
    pub reference: GitReference,
    /// Files and directories to apply, from the root of the repository. Default: the whole tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::repository_paths")]
    pub paths: Vec<String>,
    /// How long to wait between two looks at the repository, in days, hours, minutes and seconds; at least 1s.
    /// Default 1m.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("interval must be at least 1s"))]
    pub interval: Duration,
    /// How long one look at the repository may take, in minutes and seconds; at least 1s and at most 10m.
    /// Default 60s.
    #[serde(default = "default_timeout")]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("timeout must be at least 1s"))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]m)?([0-5]?[0-9]s)?$|^10m(0s)?$|^([0-9]{1,2}|[1-5][0-9]{2}|600)s$')").message("timeout must be at most 10m: a look that hangs keeps others waiting"))]
    pub timeout: Duration,
    /// Whether a new head may drop the commit that was applied last, as after a forced push. Otherwise such a
    /// head is held back. Default false.
    #[serde(default)]
    pub allow_rewrite: bool,
    /// Whether objects that this source applied and that are gone from the repository are deleted. Default false.
    #[serde(default)]
    pub prune: bool,
    /// How many approvals and policies the commits since the last applied one may withdraw together. More, or
    /// all of either, is held back. Default 5.
    #[serde(default = "default_max_withdrawals")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_withdrawals: u32,
    /// The service account, in the namespace of the source, that it applies as. Outside of the operator's namespace
    /// required. Default: the account that the operator was given for this, or its own rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
    /// The namespace that all its objects are put into, whatever they say. Outside of the operator's namespace only
    /// the source's own. Default: where each says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub target_namespace: Option<String>,
    /// Sources of the same namespace that must be ready before this one is applied. Its revocations count all the
    /// same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub depends_on: Vec<SourceRef>,
    /// Where its git server says that something was pushed, so that it is looked at at once: POST
    /// /hooks/NAMESPACE/NAME at the operator's --receiver-addr. Default: nobody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<Receiver>,
    /// Whether the source rests: nothing is fetched and nothing applied, and it says so. Rollbacks and holds go
    /// on. Default false.
    #[serde(default)]
    pub suspend: bool,
}

fn default_interval() -> Duration {
    Duration::from_secs(60)
}

fn default_timeout() -> Duration {
    Duration::from_secs(60)
}

fn default_max_withdrawals() -> u32 {
    5
}

/// What to follow: exactly one of these.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("[has(self.branch), has(self.tag), has(self.semver), has(self.commit)].filter(given, given).size() == 1")
        .message("give exactly one of branch, tag, semver and commit")
)]
pub struct GitReference {
    /// A branch, without refs/heads/.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^\s~^:?*\[\\/-][^\s~^:?*\[\\]*$"))]
    #[x_kube(validation = Rule::new("!self.contains('..')").message("no .. in the name of a branch"))]
    pub branch: Option<String>,
    /// A tag, without refs/tags/.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^\s~^:?*\[\\/-][^\s~^:?*\[\\]*$"))]
    #[x_kube(validation = Rule::new("!self.contains('..')").message("no .. in the name of a tag"))]
    pub tag: Option<String>,
    /// A range of versions, such as ">=1.2.0 <2.0.0", "1.4.x" or "~1.4 || ^2.1": the tag of the highest version in it.
    /// Pre-releases only where the range names one of the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[0-9A-Za-z.+*<>=~^|, -]+$"))]
    pub semver: Option<String>,
    /// A commit, by its whole hash: 40 or 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub commit: Option<String>,
}

/// A GitSource of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct SourceRef {
    /// Its name. Required.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub name: String,
}

/// Who says that something was pushed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Receiver {
    /// How the sender shows who it is: GitHub, Gitea and Generic sign the message, GitLab sends the token. Required.
    #[serde(rename = "type")]
    pub sender: SenderType,
    /// The Secret in the namespace of the source whose key "token" holds what the sender and the operator share, at
    /// least 16 bytes. Required.
    pub secret_ref: SecretRef,
}

/// How a sender shows who it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum SenderType {
    /// X-Hub-Signature-256, an HMAC of the body.
    GitHub,
    /// X-Gitlab-Token, the token itself.
    GitLab,
    /// X-Gitea-Signature, an HMAC of the body; Forgejo sends it, too.
    Gitea,
    /// X-Signature: sha256= and an HMAC of the body in hexadecimal digits.
    Generic,
}

/// A Secret in the namespace of the object that names it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct SecretRef {
    /// Its name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// What the operator found and did.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct GitSourceStatus {
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
    /// The commit that was looked at last, whether it was applied or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub last_attempted_commit: Option<String>,
    /// The tag by which it was chosen from the range in spec.ref.semver. Absent: the source follows something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub last_attempted_tag: Option<String>,
    /// The commit that was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub last_applied_commit: Option<String>,
    /// The tag by which it was chosen from the range in spec.ref.semver. Absent: the source follows something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub last_applied_tag: Option<String>,
    /// The value of the annotation countersign.dev/accept-commit that was acted on last. It passes nothing more;
    /// who removes the annotation and sets it again accepts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub accepted_commit: Option<String>,
    /// The commit whose workloads were last handed over to be rolled out: lastAppliedCommit, but for a sync that is
    /// under way or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub published_commit: Option<String>,
    /// The commit that is not applied until a person accepts it. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// How many objects the applied commit holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u32>,
    /// How many of them are workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<u32>,
    /// How many documents were passed over because they have no apiVersion and kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_documents: Option<u32>,
    /// How many problems there are in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_count: Option<u32>,
    /// The first 50 problems, by path and line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub problems: Vec<SourceProblem>,
}

/// A commit that is not applied until a person sets countersign.dev/accept-commit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct HeldBack {
    /// The commit: the value for the annotation countersign.dev/accept-commit.
    #[schemars(length(max = 64), regex(pattern = schema::COMMIT))]
    pub commit: String,
    /// Why, as one CamelCase word for machines.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// Why, for people.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// How many approvals and policies it would withdraw.
    #[serde(default)]
    pub withdrawals: u32,
    /// How many objects it would delete.
    #[serde(default)]
    pub prunes: u32,
}

/// One thing in the repository that could not be read or applied.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct SourceProblem {
    /// The file, from the root of the repository.
    #[schemars(length(max = 1024))]
    pub path: String,
    /// The line in the file, from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub line: Option<u32>,
    /// Which document of the file, from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub document: Option<u32>,
    /// The object, as kind, namespace and name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub object: Option<String>,
    /// What is wrong.
    #[schemars(length(max = 2048))]
    pub message: String,
}
