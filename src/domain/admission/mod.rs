//! What is let into the cluster: the verdict on one request, from memory.
//!
//! - **What is new is judged.** Of a new object every image; of a changed one those that are new or differ at their place.
//! - **What runs goes on.** Nothing short of a revocation keeps a Pod out whose images belong to a release that runs in its
//!   namespace, as the operator recorded it; a revoked one goes on only while it runs and its workload was not moved yet, or is
//!   not to be moved, and every time with an alarm.
//! - **Nothing that an object says of itself is believed:** neither labels nor annotations, owners or managers.
//! - **Every policy by itself:** Enforce denies, Warn warns, Audit counts.

mod attempts;
mod denial;
pub mod own;
mod rewrite;
mod running;
mod subject;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

use super::{
    image::{Digest, ImageRef},
    policy::{Code, Judge, Mode, Opinion, Policy, Reason},
    release::{History, Release},
    workload::{ContainerId, Place, places},
};
pub use attempts::{Attempt, Attempts, By, LISTED, Pace, Tried, attempts};
pub use denial::{Denial, Refused};
pub use rewrite::{Rewrite, patch, rewrites};
use running::Name;
pub use running::{GoesOn, Running};
pub use subject::{PARTS, Part, Subject};

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What is asked about.
    pub subject: Subject,
    /// The object as it is to be.
    pub object: &'a Value,
    /// The object as it is; `None`: it is to be created.
    pub before: Option<&'a Value>,
    /// Of a workload: its history, if one is kept.
    pub history: Option<&'a History>,
}

/// What is known when a request comes.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Policies, ledger, namespace, the moment.
    pub judge: Judge<'a>,
    /// What runs.
    pub running: &'a Running,
    /// Some record of the ledger cannot be read: what it does not say may only be unreadable.
    pub unreadable_records: bool,
}

/// The verdict on one request.
#[derive(Clone, Debug, Default)]
pub struct Verdict<'a> {
    /// Why it is denied, if it is.
    pub denial: Option<Denial>,
    /// What the client is told all the same.
    pub warnings: Vec<String>,
    /// Revoked images that were let in, and why.
    pub alarms: Vec<String>,
    /// The same, in a word.
    pub goes_on: Option<GoesOn>,
    /// What each policy says that covers an image of it.
    pub answers: Vec<(&'a Policy, Answer)>,
}

/// What one policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It permits every image.
    Permitted,
    /// It does not permit all images, but those belong to what runs.
    Runs,
    /// It does not permit all images.
    NotPermitted,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permitted => "Permitted",
            Self::Runs => "Runs",
            Self::NotPermitted => "NotPermitted",
        })
    }
}

/// The verdict on a request.
pub fn review<'a>(asked: &Asked<'_>, known: &Known<'a>) -> Verdict<'a> {
    let images: Vec<Image<'_, 'a>> =
        asked.changed().map(|place| Image::judged(asked, known, place)).collect();
    let heard = heard(known.judge.policies, &images);
    let mut bench = Bench { asked, known, images: &images, rulings: BTreeMap::new() };
    let enforcing = heard.iter().filter(|heard| heard.policy.mode == Mode::Enforce);
    let enforced = bench.rule(enforcing.flat_map(|heard| &heard.opinions));
    let mut verdict = Verdict::default();
    match enforced {
        Ruling::Denied => {
            verdict.denial = Some(denial::denial(asked.subject, &images, known.judge.namespace));
        }
        Ruling::GoesOn(why) => {
            verdict.alarms = denial::alarms(asked.subject, &images, why);
            verdict.goes_on = Some(why);
        }
        Ruling::Nothing | Ruling::Runs => {}
    }
    verdict.warnings.clone_from(&verdict.alarms);
    for Heard { policy, opinions } in &heard {
        let ruling = match policy.mode {
            Mode::Enforce => enforced,
            Mode::Warn | Mode::Audit => bench.rule(opinions),
        };
        let answer = match ruling {
            _ if !opinions.iter().any(|(_, opinion)| has_something(opinion)) => Answer::Permitted,
            Ruling::Denied => Answer::NotPermitted,
            Ruling::Nothing | Ruling::Runs | Ruling::GoesOn(_) => Answer::Runs,
        };
        if (policy.mode, answer) == (Mode::Warn, Answer::NotPermitted) {
            verdict.warnings.extend(denial::warnings(asked.subject, &images, opinions));
        }
        verdict.answers.push((policy, answer));
    }
    denial::bound(&mut verdict.warnings);
    verdict
}

impl<'a> Asked<'a> {
    /// The places whose images are new, or differ from what stood there.
    fn changed(&self) -> impl Iterator<Item = Place<'a>> {
        let before: BTreeSet<(ContainerId, &str)> = self
            .before
            .and_then(|before| self.subject.template_of(before))
            .into_iter()
            .flat_map(places)
            .map(|place| (place.id, place.image))
            .collect();
        let template = self.subject.template_of(self.object);
        template
            .into_iter()
            .flat_map(places)
            .filter(move |place| !before.contains(&(place.id.clone(), place.image)))
    }

    /// The recorded release that a workload may always be set to, whatever became of its approvals: what it runs, or is held
    /// at. A new object of that name only inherits the hold.
    fn own_releases(&self) -> impl Iterator<Item = &'a Release> {
        let uid = self.object.pointer("/metadata/uid").and_then(Value::as_str);
        let history = self.history.filter(|_| matches!(self.subject, Subject::Workload(_)));
        let is_this = move |history: &&History| self.before.is_some() && history.uid.as_deref() == uid;
        let present = history.filter(is_this).and_then(History::present);
        present.into_iter().chain(history.and_then(History::held))
    }
}

/// One image that is judged.
struct Image<'o, 'a> {
    id: ContainerId,
    text: &'o str,
    /// What it is called; `None`: it is no reference.
    name: Option<Name>,
    /// What the policies say that cover it.
    opinions: Vec<Opinion<'a>>,
    /// It is what the workload runs, or is held at.
    is_own: bool,
}

impl<'o, 'a> Image<'o, 'a> {
    fn judged(asked: &Asked<'o>, known: &Known<'a>, place: Place<'o>) -> Self {
        let reference = place.image.parse::<ImageRef>().ok();
        let mut opinions = known.judge.opinions(place.image);
        if let (Subject::Pod, Some(ImageRef { digest: None, .. })) = (asked.subject, &reference) {
            for opinion in opinions.iter_mut().filter(|opinion| wants_digest(opinion.policy)) {
                opinion.against.push(digest_required(place.image, opinion));
            }
        }
        let is_own = asked
            .own_releases()
            .any(|release| release.images.get(&place.id).is_some_and(|own| own.is_recorded(place.image)));
        let name = reference.as_ref().map(Name::of);
        Self { id: place.id, text: place.image, name, opinions, is_own }
    }
}

impl Image<'_, '_> {
    /// Whether it is what the workload runs, or is held at, and not revoked: it may be set again.
    fn is_let_be(&self) -> bool {
        let mut reasons = self.opinions.iter().flat_map(|opinion| &opinion.against);
        self.is_own && reasons.all(|reason| reason.code != Code::Revoked)
    }
}

/// Whether a policy asks that Pods name digests. One that only tells what Enforce would do takes tags as rewritten.
fn wants_digest(policy: &Policy) -> bool {
    policy.require_digest && (policy.mode == Mode::Enforce || policy.pin_pods == Some(false))
}

fn digest_required(text: &str, opinion: &Opinion<'_>) -> Reason {
    let name = opinion.pinned().map_or_else(|| format!("{text}@sha256:…"), ToString::to_string);
    let message =
        format!("a Pod must name a digest, as a tag may come to stand for another image; write {name}");
    Reason { code: Code::DigestRequired, message }
}

/// What one policy says of the images that it covers, each with its index.
struct Heard<'v, 'a> {
    policy: &'a Policy,
    opinions: Vec<(usize, &'v Opinion<'a>)>,
}

/// What each policy says that covers any of the images, in their order.
fn heard<'v, 'a>(policies: &[&'a Policy], images: &'v [Image<'_, 'a>]) -> Vec<Heard<'v, 'a>> {
    let mut waiting: Vec<_> = images.iter().map(|image| image.opinions.iter().peekable()).collect();
    let opinions_of = |policy: &'a Policy| {
        let next =
            waiting.iter_mut().map(|opinions| opinions.next_if(|next| std::ptr::eq(next.policy, policy)));
        let opinions = next.enumerate().filter_map(|(index, opinion)| Some((index, opinion?))).collect();
        Heard { policy, opinions }
    };
    policies.iter().copied().map(opinions_of).filter(|heard| !heard.opinions.is_empty()).collect()
}

fn has_something(opinion: &Opinion<'_>) -> bool {
    !opinion.against.is_empty()
}

/// What becomes of the images that some policies do not permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruling {
    /// There are none.
    Nothing,
    /// They are let in: they belong to what runs.
    Runs,
    /// They are let in although one is revoked.
    GoesOn(GoesOn),
    /// They are not let in.
    Denied,
}

/// Where rulings are made.
struct Bench<'b, 'o, 'a> {
    asked: &'b Asked<'o>,
    known: &'b Known<'a>,
    images: &'b [Image<'o, 'a>],
    /// By the images concerned: most policies that have something against any have it against the same.
    rulings: BTreeMap<(BTreeSet<usize>, BTreeSet<Digest>), Ruling>,
}

impl<'a> Bench<'_, '_, 'a> {
    /// What becomes of the images that these opinions are against.
    fn rule<'v>(&mut self, opinions: impl IntoIterator<Item = &'v (usize, &'v Opinion<'a>)>) -> Ruling
    where
        'a: 'v,
    {
        let mut concerned = BTreeSet::new();
        let mut revoked = BTreeSet::new();
        for (index, opinion) in opinions {
            for reason in &opinion.against {
                match reason.code {
                    Code::InvalidReference | Code::DigestRequired => return Ruling::Denied,
                    Code::Revoked => revoked.extend(opinion.pinned().map(|image| image.digest.clone())),
                    Code::Unlisted
                    | Code::Expired
                    | Code::SourceNotAllowed
                    | Code::AmbiguousTag
                    | Code::TagWouldMoveBack
                    | Code::GateFailed
                    | Code::GateUnknown => {}
                }
                concerned.insert(*index);
            }
        }
        if concerned.is_empty() {
            return Ruling::Nothing;
        }
        let key = (concerned, revoked);
        if let Some(known) = self.rulings.get(&key) {
            return *known;
        }
        let ruling = self.ruling(&key.0, &key.1);
        self.rulings.insert(key, ruling);
        ruling
    }

    fn ruling(&self, concerned: &BTreeSet<usize>, revoked: &BTreeSet<Digest>) -> Ruling {
        let images = || concerned.iter().filter_map(|index| self.images.get(*index));
        if matches!(self.asked.subject, Subject::Workload(_)) {
            let own = images().all(Image::is_let_be);
            return if own { Ruling::Runs } else { Ruling::Denied };
        }
        let names: Vec<Name> = images().filter_map(|image| image.name.clone()).collect();
        let Known { judge, running, .. } = self.known;
        if revoked.is_empty() {
            let runs = running.is_of_what_runs(judge.namespace, &names);
            return if runs { Ruling::Runs } else { Ruling::Denied };
        }
        running.goes_on(judge.namespace, &names, revoked).map_or(Ruling::Denied, Ruling::GoesOn)
    }
}

#[cfg(test)]
mod tests;
