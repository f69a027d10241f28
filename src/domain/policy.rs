//! Policies, and the one judgement of an image reference that everything else uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{
    gate::Gate,
    image::{ImageRef, PinnedImage, Repository},
    ledger::{Acceptance, Record, Scope, Standing},
    pattern::Pattern,
};

mod governing;
mod judge;

pub use governing::Policies;
pub use judge::{Judge, Judgement, Opinion};

/// What a policy does with its verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Pins, holds, rolls back, denies.
    Enforce,
    /// Judges, reports and warns.
    Warn,
    /// Judges and reports.
    Audit,
}

/// One `ImagePolicy`.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Namespace and name of the object.
    pub key: (String, String),
    /// Where it counts.
    pub scope: Scope,
    /// What it does. A suspended policy is `Audit` here.
    pub mode: Mode,
    /// Which repositories it covers.
    pub images: Vec<Pattern>,
    /// Which namespaces it covers, by label.
    pub namespaces: Selector,
    /// Repositories it does not cover.
    pub exclude_images: Vec<Pattern>,
    /// Namespaces it does not cover, by name.
    pub exclude_namespaces: BTreeSet<String>,
    /// Where images may come from.
    pub sources: Option<Sources>,
    /// What runs is a digest: a tag must stand for an approved one.
    pub require_digest: bool,
    /// Whose approval it asks for, if any.
    pub approval: Option<Approval>,
    /// What it asks of evidence.
    pub gates: Vec<Gate>,
    /// The operator approves what passes them. Only in the root namespace.
    pub approves: bool,
    /// Secrets in its namespace with which evidence is read from registries.
    pub pull_secrets: BTreeSet<String>,
    /// What happens to what runs and newly fails a gate; the more cautious value of several policies wins.
    pub on_gate_failure: Option<OnGateFailure>,
    /// What happens after a revocation; the more cautious value of several policies wins.
    pub on_revocation: Option<OnRevocation>,
    /// What happens to a new release whose containers keep crashing; the more cautious value of several policies wins.
    pub on_failed_rollout: Option<OnFailedRollout>,
    /// How long a rollout must have been healthy to count as good; the longest of several policies wins.
    pub healthy_for: Option<Duration>,
    /// Whether permitted tags of Pods are rewritten to the digest they stand for; yes wins over no.
    pub pin_pods: Option<bool>,
}

/// Where images may come from: allowed by a pattern (an empty list allows all), denied by none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources {
    /// At least one must match, where there are any.
    pub allow: Vec<Pattern>,
    /// None may match.
    pub deny: Vec<Pattern>,
}

/// Whose approvals count, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Those in the root namespace.
    pub from_root: bool,
    /// Those in the workload's own namespace.
    pub from_namespace: bool,
    /// How long an approval lasts at most.
    pub max_age: Option<Duration>,
}

/// What happens to a workload whose present release holds a revoked digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRevocation {
    /// It moves to its own last good approved release.
    LastGood,
    /// It stays, with an alarm.
    None,
}

/// What happens to a workload that runs what newly fails a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGateFailure {
    /// As after a revocation.
    LastGood,
    /// It stays.
    None,
}

/// What happens to a new release whose containers started and kept crashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailedRollout {
    /// The workload goes back to its own last good approved release, once.
    LastGood,
    /// It stays.
    None,
}

/// A Kubernetes label selector; empty matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
    /// For `In` and `NotIn`.
    pub values: BTreeSet<String>,
}

/// The operators of Kubernetes' label selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in Kubernetes")]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Whether labels match.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match requirement.operator {
                Operator::In => value.is_some_and(|v| requirement.values.contains(v)),
                Operator::NotIn => !value.is_some_and(|v| requirement.values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// A namespace as policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels; `None` when they could not be looked up, which matches every selector.
    pub labels: Option<BTreeMap<String, String>>,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key.0, self.key.1)
    }
}

impl Policy {
    /// Whether the policy covers workloads of a namespace at all.
    pub fn covers_namespace(&self, namespace: &Namespace) -> bool {
        self.scope.reaches(&namespace.name)
            && !self.exclude_namespaces.contains(&namespace.name)
            && namespace.labels.as_ref().is_none_or(|labels| self.namespaces.matches(labels))
    }

    /// Whether the policy covers a repository.
    pub fn covers(&self, repository: &Repository) -> bool {
        self.images.iter().any(|pattern| pattern.matches(repository))
            && !self.exclude_images.iter().any(|pattern| pattern.matches(repository))
    }

    /// Whether it asks who approved an image.
    pub fn asks(&self) -> bool {
        self.approval.is_some() || self.require_digest
    }

    /// Whether a record counts for it where the two meet.
    pub fn accepts(&self, record: &Record) -> bool {
        let approvals = self.approvals();
        let from = match &record.scope {
            Scope::Root => approvals.from_root,
            Scope::Namespace(own) => approvals.from_namespace && self.scope.reaches(own),
        };
        from && self.asks() && self.covers(&record.repository)
    }

    /// Whose approvals count for it.
    fn approvals(&self) -> Approval {
        self.approval.unwrap_or(Approval { from_root: true, from_namespace: true, max_age: None })
    }

    /// Which records with role Base count for its gates. Where the root asks for bases and says nothing of who approves, tenants do not.
    fn bases<'a>(&self, namespace: &'a str) -> Acceptance<'a> {
        let open = self.approval.is_none();
        let acceptance = self.acceptance(namespace);
        Acceptance {
            from_namespace: acceptance.from_namespace && !(open && self.scope == Scope::Root),
            ..acceptance
        }
    }

    fn acceptance<'a>(&self, namespace: &'a str) -> Acceptance<'a> {
        let approval = self.approvals();
        Acceptance {
            namespace,
            from_root: approval.from_root,
            from_namespace: approval.from_namespace,
            max_age: approval.max_age,
        }
    }
}

impl Sources {
    fn check(&self, repository: &Repository) -> Option<Reason> {
        let reason = |message: String| Some(Reason { code: Code::SourceNotAllowed, message });
        if let Some(denied) = self.deny.iter().find(|pattern| pattern.matches(repository)) {
            return reason(format!("{repository} is denied by sources.deny {denied}"));
        }
        if !self.allow.is_empty() && !self.allow.iter().any(|pattern| pattern.matches(repository)) {
            return reason(format!("{repository} matches no pattern of sources.allow"));
        }
        None
    }
}

/// Why something is not permitted, from a closed set; the word stands in conditions, events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// No record approves it.
    Unlisted,
    /// Its digest is revoked.
    Revoked,
    /// Its approval ended.
    Expired,
    /// It comes from a source that is denied or not allowed.
    SourceNotAllowed,
    /// The text is no image reference.
    InvalidReference,
    /// Two policies resolve its tag to different digests.
    AmbiguousTag,
    /// Its tag now stands for an older image than the one that runs; tags move forward only.
    TagWouldMoveBack,
    /// Evidence says that it does not have what a gate asks for.
    GateFailed,
    /// Evidence does not say whether it has what a gate asks for.
    GateUnknown,
    /// A Pod names a tag where a digest is asked for: what runs it would resolve the tag anew.
    DigestRequired,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlisted => "Unlisted",
            Self::Revoked => "Revoked",
            Self::Expired => "Expired",
            Self::SourceNotAllowed => "SourceNotAllowed",
            Self::InvalidReference => "InvalidReference",
            Self::AmbiguousTag => "AmbiguousTag",
            Self::TagWouldMoveBack => "TagWouldMoveBack",
            Self::GateFailed => "GateFailed",
            Self::GateUnknown => "GateUnknown",
            Self::DigestRequired => "DigestRequired",
        })
    }
}

/// One reason why an image is not permitted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// The kind of reason.
    pub code: Code,
    /// The sentence for people.
    pub message: String,
}

impl Reason {
    fn of(standing: &Standing, image: &PinnedImage) -> Option<Self> {
        let (code, message) = match standing {
            Standing::Approved => return None,
            Standing::Revoked(why) => (Code::Revoked, format!("{image} is revoked: {why}")),
            Standing::Expired(at) => (Code::Expired, format!("the approval of {image} ended at {at}")),
            Standing::Unlisted => (Code::Unlisted, format!("no ApprovedImage in force lists {image}")),
        };
        Some(Self { code, message })
    }

    fn unlisted_tag(reference: &ImageRef) -> Self {
        let tag = reference.effective_tag().map_or_else(String::new, |tag| tag.to_string());
        let message =
            format!("no ApprovedImage in force says which digest {}:{tag} stands for", reference.repository);
        Self { code: Code::Unlisted, message }
    }
}

/// Where no policy says otherwise (`rollback.healthyFor`).
pub const DEFAULT_HEALTHY_FOR: Duration = Duration::from_secs(30);

#[cfg(test)]
pub(crate) mod tests;
