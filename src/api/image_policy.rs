//! `ImagePolicy`: what images must be for the workloads it matches.
//!
//! Its blocks and lists are atomic: a server-side apply of a block replaces all of it, so that nobody can add an
//! excluded namespace or an allowed registry beside what git says in that block.
#![allow(clippy::doc_markdown, reason = "kubectl explain shows these lines as they stand")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::domain::duration::Duration;

pub mod evidence;
mod status;

pub use status::{DeniedAttempt, ImagePolicyStatus, NotPermitted, PolicyBare, PolicyDenied, PolicyWorkloads};

use evidence::{AttestationRule, BaseRule, PullSecret, ScanRule, Signatures};

/// What images must be for the workloads this policy matches.
///
/// Policies only add up: all that match must pass. In the operator's own namespace a policy counts for the
/// whole cluster, elsewhere for its own namespace only. A block that is absent asks for nothing.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "ImagePolicy",
    plural = "imagepolicies",
    namespaced,
    status = "ImagePolicyStatus",
    derive = "PartialEq",
    shortname = "ipol",
    category = "countersign",
    doc = "What images must be for the workloads it matches. Policies only add up: all that match must pass. In the operator's own namespace a policy counts for the whole cluster, elsewhere for its own namespace only.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        description = "Whether the policy acts, warns or only reports"
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
    printcolumn(
        name = "Governed",
        type_ = "integer",
        json_path = ".status.workloads.governed",
        description = "Workloads that the policy matches"
    ),
    printcolumn(
        name = "Not-Permitted",
        type_ = "integer",
        json_path = ".status.workloads.notPermitted",
        description = "Workloads with an image that the policy does not permit"
    ),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.attestations) || self.attestations.all(a, has(self.signatures) && self.signatures.exists(s, s.name == a.signedBy))")
        .message("signedBy of an attestation must name an entry of signatures"),
    validation = Rule::new("!has(self.scan) || !has(self.scan.signedBy) || (has(self.signatures) && self.signatures.exists(s, s.name == self.scan.signedBy))")
        .message("signedBy of scan must name an entry of signatures"),
    validation = Rule::new("!has(self.approval) || self.approval.by != 'Gates' || has(self.signatures) || has(self.attestations) || has(self.scan) || has(self.base) || has(self.maxImageAge)")
        .message("approval by Gates needs signatures, attestations, scan, base or maxImageAge")
)]
pub struct ImagePolicySpec {
    /// How strict the policy is. Enforce: images are pinned, moved and denied. Warn: clients are warned, nothing
    /// is changed or denied. Audit: only the status and the metrics say what Enforce would do. Required.
    pub mode: Mode,
    /// Whether the policy rests: it then only reports, as under Audit, and says that it is suspended.
    /// Default false.
    #[serde(default)]
    pub suspend: bool,
    /// What the policy is for. Default: every image in every namespace it counts for.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// Which repositories images may come from. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Sources>,
    /// Whether what runs must be a digest. A tag must then stand for an approved digest, and is pinned to it.
    /// Default false.
    #[serde(default)]
    pub require_digest: bool,
    /// Which approval an image needs. Absent: none, only the rules about the reference itself apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Who must have signed an image: every entry must be met. Default: nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub signatures: Vec<Signatures>,
    /// What somebody must attest of an image: every entry must be met. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub attestations: Vec<AttestationRule>,
    /// What scanners may have found. Absent: anything, and no report is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanRule>,
    /// What an image may be built on. Absent: anything that is not revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRule>,
    /// How old an image may be, by what each of its platforms says of when it was built, in days, hours, minutes and
    /// seconds, such as 90d. An image that does not say it is too old. Default: of any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("maxImageAge must be longer than zero"))]
    pub max_image_age: Option<Duration>,
    /// Secrets in the namespace of the policy with which evidence is read from registries
    /// (kubernetes.io/dockerconfigjson). Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pull_secrets: Vec<PullSecret>,
    /// When a workload goes back to an earlier release. Only in the operator's own namespace. Where several
    /// matching policies say something, the more cautious value counts, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// What is changed on the way into the cluster. Only in the operator's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
}

/// How strict a policy is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum Mode {
    /// Images are pinned, moved and denied.
    Enforce,
    /// Clients are warned, nothing is changed or denied.
    Warn,
    /// Only the status and the metrics say what Enforce would do.
    Audit,
}

/// What a policy is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Match {
    /// Globs on repositories in their full form, such as docker.io/library/nginx: * stands for anything but a
    /// slash, ** for anything. An image is governed when one of them matches. Default: all images.
    #[serde(default = "all_images")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 255), regex(pattern = schema::REPOSITORY_GLOB)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub images: Vec<String>,
    /// Labels of the namespaces the policy is for. Only in the operator's own namespace. A namespace that cannot
    /// be looked up is a match. Default: every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// What the policy is not for, although it matches. Only in the operator's own namespace. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Exclude>,
}

fn all_images() -> Vec<String> {
    vec!["**".to_owned()]
}

impl Default for Match {
    fn default() -> Self {
        Self { images: all_images(), namespace_selector: None, exclude: None }
    }
}

/// What a policy is not for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Exclude {
    /// Globs on repositories in their full form whose images the policy leaves alone. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 255), regex(pattern = schema::REPOSITORY_GLOB)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub images: Vec<String>,
    /// Names of namespaces that the policy leaves alone. A namespace that every policy excludes by name is left
    /// out of admission altogether. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub namespaces: Vec<String>,
}

/// Which repositories images may come from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("has(self.allow) || has(self.deny)")
        .message("name at least one repository to allow or to deny")
        .reason(Reason::FieldValueRequired)
)]
pub struct Sources {
    /// Globs on repositories in their full form: an image passes when one of them matches. Default: any
    /// repository that is not denied. An empty list is refused, since it could mean either all or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 255), regex(pattern = schema::REPOSITORY_GLOB)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub allow: Vec<String>,
    /// Globs on repositories in their full form: an image fails when one of them matches, whatever else allows
    /// it. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 255), regex(pattern = schema::REPOSITORY_GLOB)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub deny: Vec<String>,
}

/// Which approval an image needs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Approval {
    /// Who approves. People: somebody wrote the ApprovedImage. Gates: the operator writes it, in its own namespace, once
    /// signatures, attestations, scan, base and maxImageAge all pass; only in the operator's own namespace, and only where
    /// the policy has one of these. Required.
    pub by: ApprovedBy,
    /// Whose ApprovedImages count. Root: those in the operator's own namespace. Namespace: those in the
    /// workload's namespace. Default: both.
    #[serde(default = "from_everywhere")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("size(self) < 2 || self[0] != self[1]").message("from must not name anything twice"))]
    pub from: Vec<ApprovedFrom>,
    /// How long an approval is in force, counted from its approvedAt, in days, hours, minutes and seconds, such
    /// as 90d or 720h. Default: until it expires by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("maxAge must be longer than zero"))]
    pub max_age: Option<Duration>,
}

fn from_everywhere() -> Vec<ApprovedFrom> {
    vec![ApprovedFrom::Root, ApprovedFrom::Namespace]
}

/// Who approves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum ApprovedBy {
    /// Somebody wrote the `ApprovedImage`.
    People,
    /// The operator writes it once all gates pass.
    Gates,
}

/// Whose `ApprovedImages` count.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[schemars(inline, transform = schema::without_description)]
pub enum ApprovedFrom {
    /// Those in the operator's own namespace.
    Root,
    /// Those in the workload's namespace.
    Namespace,
}

/// When a workload goes back to an earlier release.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Rollback {
    /// What happens to a workload that runs a revoked digest. LastGood: it moves to its last good release whose
    /// images are permitted, and is held there. None: it keeps running, with an alarm. LastGood where no
    /// matching policy says anything, or where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_revocation: Option<OnRevocation>,
    /// What happens to a workload that runs an image which newly fails signatures, attestations, scan, base or
    /// maxImageAge, as a second look confirmed. LastGood: it goes back as from a revoked digest. None: it keeps
    /// running. What could not be looked at never sends a release back. None where no matching policy says anything, or
    /// where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_gate_failure: Option<OnGateFailure>,
    /// What happens to a workload whose new release does not roll out in time because its containers started and
    /// kept crashing. LastGood: it goes back to its last good release, once, and is held there. None: it stays.
    /// Images that cannot be pulled, pods that find no node and quotas never send a release back. None where no
    /// matching policy says anything, or where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failed_rollout: Option<OnFailedRollout>,
    /// How long a release must run completely rolled out before it counts as good, in days, hours, minutes and
    /// seconds. 30s where no matching policy says anything; the longest where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_for: Option<Duration>,
}

/// What happens to a workload that runs a revoked digest.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[schemars(inline, transform = schema::without_description)]
pub enum OnRevocation {
    /// It moves to its last good release whose images are permitted, and is held there.
    #[default]
    LastGood,
    /// It keeps running, with an alarm.
    None,
}

/// What happens to a workload that runs an image which newly fails a gate.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[schemars(inline, transform = schema::without_description)]
pub enum OnGateFailure {
    /// It moves to its last good release whose images are permitted, and is held there.
    LastGood,
    /// It keeps running.
    #[default]
    None,
}

/// What happens to a workload whose new release does not roll out because its containers keep crashing.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[schemars(inline, transform = schema::without_description)]
pub enum OnFailedRollout {
    /// It goes back to its last good release, once, and is held there.
    LastGood,
    /// It stays.
    #[default]
    None,
}

/// What is changed on the way into the cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
pub struct Admission {
    /// Whether a permitted tag in a Pod is rewritten to the digest that it stands for. Nothing but Pods is
    /// rewritten. true where no matching policy in mode Enforce says anything, or where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_pods: Option<bool>,
}

impl Rollback {
    /// How long a release must be healthy where no policy says it.
    pub const DEFAULT_HEALTHY_FOR: Duration = Duration::from_secs(30);
}

impl ImagePolicy {
    /// The fields that are set although they count only in the operator's own namespace: what a policy anywhere
    /// else has to be refused for. The definition cannot say this, as CEL there does not know the namespace.
    pub fn root_only_fields(&self) -> Vec<&'static str> {
        let ImagePolicySpec {
            mode: _,
            suspend: _,
            matches,
            sources: _,
            require_digest: _,
            approval,
            signatures: _,
            attestations: _,
            scan: _,
            base: _,
            max_image_age: _,
            pull_secrets: _,
            rollback,
            admission,
        } = &self.spec;
        let by_gates = approval.as_ref().is_some_and(|approval| approval.by == ApprovedBy::Gates);
        let Match { images: _, namespace_selector, exclude } = matches;
        [
            ("spec.match.namespaceSelector", namespace_selector.is_some()),
            ("spec.match.exclude", exclude.is_some()),
            ("spec.approval.by", by_gates),
            ("spec.rollback", rollback.is_some()),
            ("spec.admission", admission.is_some()),
        ]
        .into_iter()
        .filter_map(|(path, set)| set.then_some(path))
        .collect()
    }
}
