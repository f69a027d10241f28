//! Judging one reference: what each policy says of it, and what they say together.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Approval, Code, DEFAULT_HEALTHY_FOR, Mode, OnFailedRollout, OnGateFailure, OnRevocation, Policy, Reason,
};
use crate::domain::{
    evidence::EvidenceOf,
    gate::{Seen, Verdict, evaluate},
    image::{ImageRef, ParseError, PinnedImage, Repository},
    ledger::{Acceptance, Ledger, Standing},
};

/// What one policy says of a reference that it covers.
#[derive(Clone, Debug)]
pub struct Opinion<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// What it has against the reference; empty means permitted.
    pub against: Vec<Reason>,
    /// What the reference stands for, for this policy.
    resolved: Option<Arc<Resolved>>,
}

impl Opinion<'_> {
    /// The pinned image that the reference stands for, for this policy.
    pub fn pinned(&self) -> Option<&PinnedImage> {
        self.resolved.as_ref().map(|resolved| &resolved.image)
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
    /// All evidence.
    pub evidence: &'a EvidenceOf,
    /// The namespace.
    pub namespace: &'a str,
    /// The moment.
    pub now: Timestamp,
}

impl<'a> Judge<'a> {
    /// What the Enforce policies say.
    pub fn enforced(&self, reference: &str) -> Judgement {
        self.judge(reference, |policy| policy.mode == Mode::Enforce)
    }

    /// What one policy says, whatever its mode.
    pub fn reported(&self, reference: &str, key: &(String, String)) -> Judgement {
        self.judge(reference, |policy| policy.key == *key)
    }

    /// What every policy that covers a reference says of it, whatever its mode; those of Enforce policies also say where
    /// they contradict each other.
    pub fn opinions(&self, text: &str) -> Vec<Opinion<'a>> {
        let mut opinions = self.opinions_of(&text.parse(), |_| true);
        contradict(opinions.iter_mut().filter(|opinion| opinion.policy.mode == Mode::Enforce));
        opinions
    }

    fn judge(&self, text: &str, counts: impl Fn(&Policy) -> bool) -> Judgement {
        let reference = text.parse::<ImageRef>();
        let mut opinions = self.opinions_of(&reference, counts);
        contradict(opinions.iter_mut());
        let resolved = || opinions.iter().filter_map(|opinion| opinion.resolved.as_deref());
        let first = resolved().next();
        let same = |of: &&Resolved| first.is_some_and(|first| first.image.same_image(&of.image));
        Judgement {
            reference: text.to_owned(),
            governed: !opinions.is_empty(),
            approved_at: resolved().filter(same).filter_map(|of| of.approved_at).max(),
            pinned: match first {
                Some(first) => Some(first.image.clone()),
                None => reference.ok().and_then(|reference| reference.pinned()),
            },
            against: opinions
                .into_iter()
                .flat_map(|opinion| {
                    opinion.against.into_iter().map(|reason| (opinion.policy.to_string(), reason))
                })
                .collect(),
        }
    }

    fn opinions_of(
        &self,
        reference: &Result<ImageRef, ParseError>,
        counts: impl Fn(&Policy) -> bool,
    ) -> Vec<Opinion<'a>> {
        let counting = self.policies.iter().copied().filter(|policy| counts(policy));
        match reference {
            Ok(reference) => {
                let mut asked = Asked { judge: *self, reference, answers: Vec::new() };
                counting
                    .filter(|policy| policy.covers(&reference.repository))
                    .map(|policy| asked.opinion(policy))
                    .collect()
            }
            Err(error) => {
                let reason = Reason { code: Code::InvalidReference, message: error.to_string() };
                counting
                    .map(|policy| Opinion { policy, against: vec![reason.clone()], resolved: None })
                    .collect()
            }
        }
    }

    /// Why the digest of an image as set is revoked here, whether or not a policy covers it.
    pub fn revocation(&self, image: &str) -> Option<String> {
        self.ledger.revocation(&image.parse::<ImageRef>().ok()?.digest?, self.namespace)
    }

    /// What the gates of a policy have against an image.
    fn gates(&self, policy: &Policy, image: &PinnedImage) -> impl Iterator<Item = Reason> {
        let verdicts = evaluate(&policy.gates, &self.seen(policy, image));
        verdicts.into_iter().filter_map(|(gate, verdict)| {
            let (code, why) = match verdict {
                Verdict::Pass => return None,
                Verdict::Fail(why) => (Code::GateFailed, why),
                Verdict::Unknown(why) => (Code::GateUnknown, why),
            };
            Some(Reason { code, message: format!("{gate}: {why}") })
        })
    }

    /// What the gates of a policy look at.
    pub fn seen(&self, policy: &Policy, image: &PinnedImage) -> Seen<'a> {
        Seen {
            evidence: self.evidence.get(image),
            all: self.evidence,
            ledger: self.ledger,
            acceptance: policy.bases(self.namespace),
            now: self.now,
        }
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
        let said = self.enforcing(references).filter_map(|policy| policy.on_revocation);
        cautious(said, OnRevocation::LastGood)
    }

    /// What happens to a new release whose containers keep crashing, of the Enforce policies that cover one of the
    /// references: None over LastGood.
    pub fn on_failed_rollout<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> OnFailedRollout {
        let said = self.enforcing(references).filter_map(|policy| policy.on_failed_rollout);
        cautious(said, OnFailedRollout::None)
    }

    /// What happens to what runs and newly fails a gate, of the Enforce policies that cover one of the references: None
    /// over LastGood.
    pub fn on_gate_failure<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> OnGateFailure {
        let said = self.enforcing(references).filter_map(|policy| policy.on_gate_failure);
        cautious(said, OnGateFailure::None)
    }

    /// Whether tags of Pods are rewritten, of the Enforce policies that cover one of the references: yes over no.
    pub fn pin_pods<'b>(&self, references: impl IntoIterator<Item = &'b str>) -> bool {
        cautious(self.enforcing(references).filter_map(|policy| policy.pin_pods), true)
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
        let references: Vec<ImageRef> =
            references.into_iter().filter_map(|text| text.parse::<ImageRef>().ok()).collect();
        let repositories: BTreeSet<Repository> =
            references.iter().map(|reference| reference.repository.clone()).collect();
        let covering = self
            .policies
            .iter()
            .filter(|policy| repositories.iter().any(|repository| policy.covers(repository)));
        covering
            .filter_map(|policy| {
                let acceptance = policy.acceptance(self.namespace);
                let by_record = self.ledger.next_change(&repositories, &acceptance, self.now);
                let images = references.iter().filter(|_| !policy.gates.is_empty()).filter_map(|reference| {
                    let answer = self.look_up(reference, &acceptance);
                    answer.resolved.map(|resolved| resolved.image.clone())
                });
                let by_gates = images.filter_map(|image| {
                    let seen = self.seen(policy, &image);
                    policy.gates.iter().filter_map(|gate| gate.next_change(&seen)).min()
                });
                by_gates.chain(by_record).min()
            })
            .min()
    }

    fn enforcing<'b>(
        &self,
        references: impl IntoIterator<Item = &'b str>,
    ) -> impl Iterator<Item = &'a Policy> {
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

/// The more cautious of two values where anybody says it, or nobody says anything; else the other, which all say.
fn cautious<T: PartialEq>(said: impl Iterator<Item = T>, cautious: T) -> T {
    let mut other = None;
    for value in said {
        if value == cautious {
            return cautious;
        }
        other = Some(value);
    }
    other.unwrap_or(cautious)
}

/// One reference that policies are asked about: the ledger is looked up once for all that count the same approvals.
struct Asked<'a, 'r> {
    judge: Judge<'a>,
    reference: &'r ImageRef,
    answers: Vec<(Approval, Answer)>,
}

/// What the ledger says of it.
#[derive(Clone)]
struct Answer {
    /// What it stands for, if it stands for anything.
    resolved: Option<Arc<Resolved>>,
    /// What is to be said of that.
    standing: Standing,
}

impl<'a> Asked<'a, '_> {
    /// Checks the reference against every gate of a policy.
    fn opinion(&mut self, policy: &'a Policy) -> Opinion<'a> {
        let mut against = Vec::new();
        if let Some(sources) = &policy.sources {
            against.extend(sources.check(&self.reference.repository));
        }
        let by_digest = self.reference.digest.is_some();
        let Answer { resolved, standing } = self.answer(policy);
        let asks = if by_digest { policy.approval.is_some() } else { policy.asks() };
        let must = asks || matches!(standing, Standing::Revoked(_));
        match &resolved {
            Some(resolved) => against.extend(must.then(|| Reason::of(&standing, &resolved.image)).flatten()),
            None => against.extend(must.then(|| Reason::unlisted_tag(self.reference))),
        }
        // Without anybody asking for approval, an expired claim pins nothing.
        let counts = by_digest || must || standing == Standing::Approved;
        let resolved = resolved.filter(|_| counts);
        if !policy.gates.is_empty() {
            against.extend(self.gates(policy, resolved.as_deref(), &standing));
        }
        Opinion { policy, against, resolved }
    }

    /// What gates have against what the reference stands for.
    fn gates(&self, policy: &Policy, resolved: Option<&Resolved>, standing: &Standing) -> Vec<Reason> {
        let Judge { evidence, .. } = self.judge;
        let Some(Resolved { image, .. }) = resolved else {
            let message =
                format!("gates look at digests, and nothing says which one {} stands for", self.reference);
            return vec![Reason { code: Code::GateUnknown, message }];
        };
        // Nobody looks at what nobody approved; that is said already.
        let is_told = *standing == Standing::Unlisted && policy.approval.is_some() && !policy.approves;
        if is_told && evidence.get(image).is_none() {
            return Vec::new();
        }
        self.judge.gates(policy, image).collect()
    }

    fn answer(&mut self, policy: &Policy) -> Answer {
        let approvals = policy.approvals();
        if let Some((_, answer)) = self.answers.iter().find(|(of, _)| *of == approvals) {
            return answer.clone();
        }
        let answer = self.judge.look_up(self.reference, &policy.acceptance(self.judge.namespace));
        self.answers.push((approvals, answer.clone()));
        answer
    }
}

impl Judge<'_> {
    /// What the ledger says of a reference.
    fn look_up(&self, reference: &ImageRef, acceptance: &Acceptance<'_>) -> Answer {
        let Judge { ledger, now, .. } = *self;
        if let Some(image) = reference.pinned() {
            let standing = ledger.standing(&image, acceptance, now);
            let approved_at = ledger.approved_at(&image, acceptance, now);
            Answer { resolved: Some(Arc::new(Resolved { image, approved_at })), standing }
        } else {
            let tag = reference.effective_tag();
            let claim = tag.and_then(|tag| ledger.resolve(&reference.repository, &tag, acceptance, now));
            match claim {
                Some(claim) => {
                    let image = reference.pin(claim.record.digest.clone());
                    let approved_at = Some(claim.record.approved_at);
                    let resolved = Some(Arc::new(Resolved { image, approved_at }));
                    Answer { resolved, standing: claim.standing }
                }
                None => Answer { resolved: None, standing: Standing::Unlisted },
            }
        }
    }
}

/// Where a policy resolves a tag otherwise than the first that does, it has that against it.
fn contradict<'o, 'a: 'o>(opinions: impl Iterator<Item = &'o mut Opinion<'a>>) {
    let mut first: Option<Arc<Resolved>> = None;
    for opinion in opinions {
        let Some(resolved) = &opinion.resolved else { continue };
        let known = &first.get_or_insert_with(|| Arc::clone(resolved)).image;
        if !known.same_image(&resolved.image) {
            let message = format!("{known} for one policy, {} for another", resolved.image);
            opinion.against.push(Reason { code: Code::AmbiguousTag, message });
        }
    }
}
