//! Policies, and the one judgement of an image reference that everything else uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    image::{ImageRef, PinnedImage, Repository},
    ledger::{Acceptance, Ledger, Scope, Standing},
    pattern::Pattern,
};

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
    /// What happens after a revocation; the more cautious value of several policies wins.
    pub on_revocation: Option<OnRevocation>,
    /// What happens to a new release whose containers keep crashing; the more cautious value of several policies wins.
    pub on_failed_rollout: Option<OnFailedRollout>,
    /// How long a rollout must have been healthy to count as good; the longest of several policies wins.
    pub healthy_for: Option<Duration>,
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

    /// Checks one reference against every gate of this policy.
    fn check(
        &self,
        reference: &ImageRef,
        ledger: &Ledger,
        namespace: &str,
        now: Timestamp,
    ) -> (Option<Resolved>, Vec<Reason>) {
        let mut reasons = Vec::new();
        if let Some(sources) = &self.sources {
            reasons.extend(sources.check(&reference.repository));
        }
        let acceptance = self.acceptance(namespace);
        let asks = self.approval.is_some() || self.require_digest;
        let resolved = match (reference.pinned(), reference.effective_tag()) {
            (Some(image), _) => {
                let standing = ledger.standing(&image, &acceptance, now);
                let approved_at = ledger.approved_at(&image, &acceptance, now);
                let must = self.approval.is_some() || matches!(standing, Standing::Revoked(_));
                reasons.extend(Reason::of(&standing, &image.to_string()).filter(|_| must));
                Some(Resolved { image, approved_at })
            }
            (None, Some(tag)) => {
                if let Some(claim) = ledger.resolve(&reference.repository, &tag, &acceptance, now) {
                    let must = asks || matches!(claim.standing, Standing::Revoked(_));
                    let image = reference.pin(claim.record.digest.clone());
                    reasons.extend(Reason::of(&claim.standing, &image.to_string()).filter(|_| must));
                    // Without anybody asking for approval, an expired claim pins nothing.
                    (must || claim.standing == Standing::Approved)
                        .then_some(Resolved { image, approved_at: Some(claim.record.approved_at) })
                } else {
                    reasons.extend(asks.then(|| Reason::unlisted_tag(reference)));
                    None
                }
            }
            (None, None) => None,
        };
        (resolved, reasons)
    }

    fn acceptance<'a>(&self, namespace: &'a str) -> Acceptance<'a> {
        let approval =
            self.approval.unwrap_or(Approval { from_root: true, from_namespace: true, max_age: None });
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
    fn of(standing: &Standing, image: &str) -> Option<Self> {
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

/// The pinned image that a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolved {
    image: PinnedImage,
    approved_at: Option<Timestamp>,
}

/// What all policies of one mode say of one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The reference as written.
    pub reference: String,
    /// Whether any policy covers it.
    pub governed: bool,
    /// The pinned image it stands for, where it names a digest or its tag stands for one.
    pub pinned: Option<PinnedImage>,
    /// When the record behind it was approved.
    pub approved_at: Option<Timestamp>,
    /// Every reason against it, each with the policy (`namespace/name`) that has it; empty means permitted.
    pub against: BTreeSet<(String, Reason)>,
}

impl Judgement {
    /// Whether nothing stands against it.
    pub fn permitted(&self) -> bool {
        self.against.is_empty()
    }

    /// Whether its digest is revoked.
    pub fn revoked(&self) -> bool {
        self.against.iter().any(|(_, reason)| reason.code == Code::Revoked)
    }

    /// What to set: the pinned image, or the reference as written where nobody asked for a pin.
    pub fn image(&self) -> String {
        match &self.pinned {
            Some(image) if self.governed => image.to_string(),
            Some(_) | None => self.reference.clone(),
        }
    }
}

/// Everything needed to judge images in one namespace at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The policies that cover the namespace.
    pub policies: &'a [&'a Policy],
    /// All records.
    pub ledger: &'a Ledger,
    /// The namespace.
    pub namespace: &'a str,
    /// The moment.
    pub now: Timestamp,
}

impl Judge<'_> {
    /// What the Enforce policies say.
    pub fn enforced(&self, reference: &str) -> Judgement {
        self.judge(reference, |policy| policy.mode == Mode::Enforce)
    }

    /// What one policy says, whatever its mode.
    pub fn reported(&self, reference: &str, key: &(String, String)) -> Judgement {
        self.judge(reference, |policy| policy.key == *key)
    }

    fn judge(&self, text: &str, counts: impl Fn(&Policy) -> bool) -> Judgement {
        let mut judgement = Judgement {
            reference: text.to_owned(),
            governed: false,
            pinned: None,
            approved_at: None,
            against: BTreeSet::new(),
        };
        let reference = text.parse::<ImageRef>();
        for policy in self.policies.iter().filter(|policy| counts(policy)) {
            let name = format!("{}/{}", policy.key.0, policy.key.1);
            let reference = match &reference {
                Ok(reference) if policy.covers(&reference.repository) => reference,
                Ok(_) => continue,
                Err(error) => {
                    judgement.governed = true;
                    let reason = Reason { code: Code::InvalidReference, message: error.to_string() };
                    judgement.against.insert((name, reason));
                    continue;
                }
            };
            judgement.governed = true;
            let (resolved, reasons) = policy.check(reference, self.ledger, self.namespace, self.now);
            judgement.against.extend(reasons.into_iter().map(|reason| (name.clone(), reason)));
            let Some(resolved) = resolved else { continue };
            match &judgement.pinned {
                Some(pinned) if !pinned.same_image(&resolved.image) => {
                    let message = format!("{pinned} for one policy, {} for another", resolved.image);
                    judgement.against.insert((name, Reason { code: Code::AmbiguousTag, message }));
                }
                Some(_) | None => {
                    judgement.approved_at = judgement.approved_at.max(resolved.approved_at);
                    judgement.pinned = Some(resolved.image);
                }
            }
        }
        if judgement.pinned.is_none() {
            judgement.pinned = reference.ok().and_then(|reference| reference.pinned());
        }
        judgement
    }

    /// Why the digest of an image as set is revoked here, whether or not a policy covers it.
    pub fn revocation(&self, image: &str) -> Option<&str> {
        let digest = image.parse::<ImageRef>().ok()?.digest?;
        self.ledger.revocation(&digest, self.namespace)
    }

    /// The image that a reference stands for, whether or not a policy covers it: its digest, or what the ledger says of its
    /// tag.
    pub fn stands_for(&self, reference: &str) -> Option<PinnedImage> {
        let reference = reference.parse::<ImageRef>().ok()?;
        if let Some(pinned) = reference.pinned() {
            return Some(pinned);
        }
        let all =
            Acceptance { namespace: self.namespace, from_root: true, from_namespace: true, max_age: None };
        let tag = reference.effective_tag()?;
        let claim = self.ledger.resolve(&reference.repository, &tag, &all, self.now)?;
        Some(reference.pin(claim.record.digest.clone()))
    }

    /// Whether any policy of any mode covers one of the references.
    pub fn governs<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> bool {
        references.into_iter().any(|text| match text.parse::<ImageRef>() {
            Ok(reference) => self.policies.iter().any(|policy| policy.covers(&reference.repository)),
            Err(_) => !self.policies.is_empty(),
        })
    }

    /// What happens on revocation, of the Enforce policies that cover one of the references: LastGood over None.
    pub fn on_revocation<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> OnRevocation {
        let said: Vec<OnRevocation> =
            self.enforcing(references).filter_map(|policy| policy.on_revocation).collect();
        if said.is_empty() || said.contains(&OnRevocation::LastGood) {
            OnRevocation::LastGood
        } else {
            OnRevocation::None
        }
    }

    /// What happens to a new release whose containers keep crashing, of the Enforce policies that cover one of the
    /// references: None over LastGood.
    pub fn on_failed_rollout<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> OnFailedRollout {
        let said: Vec<OnFailedRollout> =
            self.enforcing(references).filter_map(|policy| policy.on_failed_rollout).collect();
        if said.is_empty() || said.contains(&OnFailedRollout::None) {
            OnFailedRollout::None
        } else {
            OnFailedRollout::LastGood
        }
    }

    /// How long a rollout must have been healthy: the longest of the Enforce policies that cover one of the references.
    pub fn healthy_for<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> Duration {
        self.enforcing(references)
            .filter_map(|policy| policy.healthy_for)
            .max()
            .unwrap_or(DEFAULT_HEALTHY_FOR)
    }

    /// The next moment at which a judgement of these references can change by itself.
    pub fn next_change<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> Option<Timestamp> {
        let repositories: BTreeSet<Repository> = references
            .into_iter()
            .filter_map(|text| text.parse::<ImageRef>().ok())
            .map(|reference| reference.repository)
            .collect();
        self.policies
            .iter()
            .filter(|policy| repositories.iter().any(|repository| policy.covers(repository)))
            .filter_map(|policy| {
                self.ledger.next_change(&repositories, &policy.acceptance(self.namespace), self.now)
            })
            .min()
    }

    fn enforcing<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> impl Iterator<Item = &Policy> {
        let repositories: Vec<Repository> = references
            .into_iter()
            .filter_map(|text| text.parse::<ImageRef>().ok())
            .map(|reference| reference.repository)
            .collect();
        self.policies.iter().copied().filter(move |policy| {
            policy.mode == Mode::Enforce && repositories.iter().any(|repository| policy.covers(repository))
        })
    }
}

/// Where no policy says otherwise (`rollback.healthyFor`).
pub const DEFAULT_HEALTHY_FOR: Duration = Duration::from_secs(30);

#[cfg(test)]
pub(crate) mod tests;
