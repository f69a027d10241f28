//! What a workload ran: releases, the present one, the hold, the last rollbacks. The only history there is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    image::{Digest, ImageRef, same_name, same_reference},
    intervention::Intervention,
    packed::Packed,
    workload::{ContainerId, Images},
};

/// One image of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseImage {
    /// What was set: pinned, or as written where nobody asked for a pin.
    pub image: String,
    /// What was asked for.
    pub wanted: String,
    /// When the record behind it was approved: a tag moves forward only from here.
    pub approved_at: Option<Timestamp>,
}

impl ReleaseImage {
    /// Whether a text says this image: as set, or (a tag where git does not own the workload) as asked for.
    pub fn is_recorded(&self, text: &str) -> bool {
        same_reference(text, &self.image) || same_reference(text, &self.wanted)
    }

    /// The digest, where it is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.image.parse::<ImageRef>().ok()?.digest
    }
}

/// Whether a release proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Its rollout exceeded its deadline.
    Failed,
    /// Neither of the others, so far.
    Unproven,
    /// Its rollout was complete and healthy for long enough.
    Good,
}

/// A pod template's set of images; for a git-owned workload with the template itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// A hash of images and template.
    pub id: String,
    /// The images.
    pub images: BTreeMap<ContainerId, ReleaseImage>,
    /// The git commit that brought it.
    pub commit: Option<String>,
    /// The pod template, images set; for git-owned workloads.
    pub template: Option<Packed>,
    /// When it last became present (for one from git's log: when it was committed).
    pub since: Timestamp,
    /// When it last ceased to be present; of the present release: not yet.
    pub until: Option<Timestamp>,
    /// Whether it proved itself.
    pub outcome: Outcome,
    /// It was found running, or in git's log: the operator did not let it in.
    pub adopted: bool,
}

impl Release {
    /// A release that begins now, unproven.
    pub fn new(
        images: BTreeMap<ContainerId, ReleaseImage>,
        template: Option<&Value>,
        now: Timestamp,
    ) -> Self {
        let template = template.map(Packed::new);
        let id = id_of(&images, template.as_ref());
        Self {
            id,
            images,
            commit: None,
            template,
            since: now,
            until: None,
            outcome: Outcome::Unproven,
            adopted: false,
        }
    }

    /// What is set, by place.
    pub fn images(&self) -> Images {
        self.images.iter().map(|(id, image)| (id.clone(), image.image.clone())).collect()
    }

    /// The images for people: `containers/app registry.example/app:1.0@sha256:…`, in order.
    pub fn summary(&self) -> String {
        let texts: Vec<&str> = self.images.values().map(|image| image.image.as_str()).collect();
        texts.join(", ")
    }

    /// Whether these images are this release's: as set, or (an unowned workload that names tags) as asked for.
    pub fn is(&self, images: &Images) -> bool {
        self.images.len() == images.len()
            && self.images.iter().all(|(id, own)| images.get(id).is_some_and(|text| own.is_recorded(text)))
    }

    fn same_images(&self, other: &Self) -> bool {
        self.images.len() == other.images.len()
            && self
                .images
                .iter()
                .all(|(id, own)| other.images.get(id).is_some_and(|theirs| theirs.image == own.image))
    }

    /// How much room its template takes, as JSON.
    fn bytes(&self) -> usize {
        self.template.as_ref().map_or(0, |template| template.as_str().len())
    }

    /// When it was last present.
    fn recency(&self) -> Timestamp {
        self.until.unwrap_or(self.since)
    }
}

fn id_of(images: &BTreeMap<ContainerId, ReleaseImage>, template: Option<&Packed>) -> String {
    let mut hash = Sha256::new();
    for (id, image) in images {
        hash.update(format!("{id}={}\n", image.image));
    }
    if let Some(template) = template {
        hash.update(template.as_str());
    }
    hex::encode(hash.finalize()).chars().take(16).collect()
}

/// An image that a hold keeps out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where it was.
    pub container: ContainerId,
    /// What it was called when it was rejected.
    pub reference: String,
    /// Which image it was.
    pub digest: Option<Digest>,
    /// Why it was rejected.
    pub cause: Cause,
}

impl Rejected {
    /// Whether what is asked for at a place is this: by its digest, where that is known; else by its name, at this place.
    pub fn is(&self, container: &ContainerId, reference: &str, digest: Option<&Digest>) -> bool {
        match digest {
            Some(digest) => self.digest.as_ref() == Some(digest),
            // Without a policy a tag is not resolved: it is what was rejected if that was called so.
            None => self.container == *container && same_name(&self.reference, reference),
        }
    }
}

/// Why an image was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was revoked: kept out as long as it is.
    Revoked,
    /// Its rollout failed: kept out until something else is asked for.
    FailedRollout,
}

/// The present release is kept although something else is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// What is kept out.
    pub rejected: Vec<Rejected>,
    /// The release whose rollout failed, if one did: kept out as a whole where git owns the workload.
    pub failed: Option<String>,
    /// The release that is kept.
    pub target: String,
    /// Why, for people.
    pub why: String,
}

/// How a rollback went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackOutcome {
    /// The workload was changed; its rollout goes on.
    InProgress,
    /// The release it went to proved itself (again), or nothing runs that could be moved.
    Completed,
    /// The release it went to failed.
    Failed,
}

/// One rollback that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// When.
    pub at: Timestamp,
    /// From which release.
    pub from: String,
    /// To which release.
    pub to: String,
    /// Why, for people.
    pub why: String,
    /// How it went.
    pub outcome: RollbackOutcome,
}

/// The history of one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The UID of the live object that the present release belongs to.
    pub uid: Option<String>,
    /// The present release.
    pub present: Option<String>,
    /// All remembered releases, the newest last.
    pub releases: Vec<Release>,
    /// The hold, while one stands.
    pub hold: Option<Hold>,
    /// The last rollbacks, the newest last.
    pub rollbacks: Vec<Rollback>,
    /// What people asked for and was taken up, the newest last.
    pub interventions: Vec<Intervention>,
    /// Since when the workload no longer exists.
    pub gone_since: Option<Timestamp>,
}

/// How many distinct sets of images are remembered besides the present, the held and the last good one.
const SETS: usize = 8;
/// How many bytes the templates of all remembered releases may take together: etcd holds 1.5 MiB of one object at most, and
/// what else a history says needs its room.
const TEMPLATES: usize = 1 << 20;
/// How many rollbacks are remembered.
const ROLLBACKS: usize = 10;

impl History {
    /// A release by id.
    pub fn release(&self, id: &str) -> Option<&Release> {
        self.releases.iter().find(|release| release.id == id)
    }

    /// The present release.
    pub fn present(&self) -> Option<&Release> {
        self.release(self.present.as_deref()?)
    }

    /// The release that the hold keeps.
    pub fn held(&self) -> Option<&Release> {
        self.release(&self.hold.as_ref()?.target)
    }

    /// Whether there is no release but the present one, and so nothing to go back to.
    pub fn is_alone(&self) -> bool {
        self.releases.iter().all(|release| Some(&release.id) == self.present.as_ref())
    }

    /// No release is present any more.
    pub fn clear_present(&mut self, now: Timestamp) {
        let present = self.present.take();
        if let Some(release) = self.releases.iter_mut().find(|release| Some(&release.id) == present.as_ref())
        {
            release.until = Some(now);
        }
    }

    /// Makes a release the present one. A release that is known keeps what it proved.
    pub fn set_present(&mut self, mut release: Release, now: Timestamp) {
        if self.present.as_ref() == Some(&release.id) {
            if let Some(known) = self.releases.iter_mut().find(|known| known.id == release.id) {
                known.images = release.images;
                known.adopted &= release.adopted;
                known.commit = known.commit.take().or(release.commit);
            }
            return;
        }
        self.clear_present(now);
        if let Some(at) = self.releases.iter().position(|known| known.id == release.id) {
            let known = self.releases.remove(at);
            release.outcome = known.outcome;
            release.adopted &= known.adopted;
            release.commit = release.commit.or(known.commit);
        }
        release.since = now;
        release.until = None;
        self.present = Some(release.id.clone());
        self.releases.push(release);
        self.evict();
    }

    /// Remembers a release that was never seen running.
    pub fn remember(&mut self, release: Release) {
        if self.releases.iter().all(|known| known.id != release.id) {
            self.releases.push(release);
            self.evict();
        }
    }

    /// Whether the present release is what the last rollback went to, and has not come up (again) since.
    pub fn rollback_under_way(&self) -> bool {
        let last = self.rollbacks.last().filter(|last| Some(&last.to) == self.present.as_ref());
        last.is_some_and(|last| last.outcome != RollbackOutcome::Completed)
    }

    /// Sets what the present release proved; a rollback to it goes the same way. What proved itself once did so, whatever
    /// becomes of it later.
    pub fn prove(&mut self, outcome: Outcome) {
        let present = self.present.clone();
        let is = |release: &&mut Release| {
            Some(&release.id) == present.as_ref() && release.outcome != Outcome::Good
        };
        for release in self.releases.iter_mut().filter(is) {
            release.outcome = outcome;
        }
        let ended = match outcome {
            Outcome::Good => RollbackOutcome::Completed,
            Outcome::Failed => RollbackOutcome::Failed,
            Outcome::Unproven => return,
        };
        if let Some(last) = self.rollbacks.last_mut().filter(|last| Some(&last.to) == present.as_ref())
            && last.outcome != RollbackOutcome::Completed
        {
            last.outcome = ended;
        }
    }

    /// Makes a release the present one that a hold keeps. Where it is what a rollback went to, with something else changed in
    /// it meanwhile, the rollback went to it.
    pub fn hold_with(&mut self, release: Release, now: Timestamp) {
        let (before, id) = (self.present.clone(), release.id.clone());
        if let Some(hold) = &mut self.hold {
            hold.target.clone_from(&id);
        }
        self.set_present(release, now);
        if let Some(last) = self.rollbacks.last_mut().filter(|last| Some(&last.to) == before.as_ref()) {
            last.to = id;
        }
    }

    /// The last rollback, to the present release, has nothing left to do.
    pub fn end_rollback(&mut self) {
        if self.rollback_under_way()
            && let Some(last) = self.rollbacks.last_mut()
        {
            last.outcome = RollbackOutcome::Completed;
        }
    }

    /// Adds a rollback.
    pub fn add_rollback(&mut self, rollback: Rollback) {
        self.rollbacks.push(rollback);
        let excess = self.rollbacks.len().saturating_sub(ROLLBACKS);
        self.rollbacks.drain(..excess);
    }

    /// Keeps the newest release of each distinct set of images (and its newest good one), of the last sets only; never
    /// drops the present release, the held one and the last good one.
    fn evict(&mut self) {
        self.releases.sort_by_key(Release::recency);
        let last_good =
            self.releases.iter().rev().find(|release| release.outcome == Outcome::Good).map(|r| r.id.clone());
        let held = self.hold.as_ref().map(|hold| hold.target.clone());
        let failed = self.hold.as_ref().and_then(|hold| hold.failed.clone());
        let mut kept: Vec<Release> = Vec::new();
        let (mut sets, mut bytes) = (0, 0);
        let is_needed = |release: &Release| {
            let id = Some(&release.id);
            [self.present.as_ref(), held.as_ref(), failed.as_ref(), last_good.as_ref()].contains(&id)
        };
        // What is needed takes its room first, wherever it stands in the order.
        bytes += self.releases.iter().filter(|release| is_needed(release)).map(Release::bytes).sum::<usize>();
        for release in std::mem::take(&mut self.releases).into_iter().rev() {
            let needed = is_needed(&release);
            let newer = kept.iter().filter(|newer| newer.same_images(&release)).collect::<Vec<_>>();
            let superseded = if release.outcome == Outcome::Good {
                newer.iter().any(|newer| newer.outcome == Outcome::Good)
            } else {
                !newer.is_empty()
            };
            let new_set = newer.is_empty();
            let fits = || bytes + release.bytes() <= TEMPLATES;
            if needed || (!superseded && (!new_set || sets < SETS) && fits()) {
                bytes += if needed { 0 } else { release.bytes() };
                sets += usize::from(new_set);
                kept.push(release);
            }
        }
        kept.reverse();
        self.releases = kept;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The n-th image, with a pod template of so many bytes and some.
    fn release(n: i64, bytes: usize) -> Release {
        let id = ContainerId { list: super::super::workload::List::Containers, name: "app".to_owned() };
        let image = format!("registry.example/cart:1.{n}");
        let own = ReleaseImage { image: image.clone(), wanted: image, approved_at: None };
        Release::new(BTreeMap::from([(id, own)]), Some(&json!({"n": n, "padding": "x".repeat(bytes)})), at(n))
    }

    fn kept(history: &History) -> Vec<i64> {
        history.releases.iter().map(|release| release.since.as_second()).collect()
    }

    /// Else the history of a workload with a large pod template could not be stored any more, and nothing be rolled back.
    #[test]
    fn large_templates_leave_only_as_many_releases_as_fit_and_never_the_last_good_one() {
        let mut history = History::default();
        for n in 0..20 {
            history.set_present(release(n, 300_000), at(n));
            if n == 1 {
                history.prove(Outcome::Good);
            }
        }
        assert_eq!(kept(&history), [1, 18, 19], "the last good one, and the newest that fit");
        let mut small = History::default();
        for n in 0..20 {
            small.set_present(release(n, 300), at(n));
        }
        assert_eq!(small.releases.len(), SETS);
    }

    #[test]
    fn a_rollback_ends_once() {
        let mut history = History::default();
        history.set_present(release(1, 0), at(1));
        history.end_rollback();
        let rollback = Rollback {
            at: at(2),
            from: "other".to_owned(),
            to: history.present.clone().unwrap(),
            why: String::new(),
            outcome: RollbackOutcome::InProgress,
        };
        history.add_rollback(rollback);
        assert!(history.rollback_under_way());
        history.end_rollback();
        assert!(!history.rollback_under_way());
        assert_eq!(history.present().unwrap().outcome, Outcome::Unproven, "it proved nothing");
    }
}
