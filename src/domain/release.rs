//! What a workload ran: releases, the present one, the hold, the last rollbacks. The only history there is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    image::{Digest, ImageRef, same_reference},
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
    pub template: Option<Value>,
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
    pub fn new(images: BTreeMap<ContainerId, ReleaseImage>, template: Option<Value>, now: Timestamp) -> Self {
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
            && self.images.iter().all(|(id, own)| {
                images
                    .get(id)
                    .is_some_and(|text| same_reference(text, &own.image) || same_reference(text, &own.wanted))
            })
    }

    fn same_images(&self, other: &Self) -> bool {
        self.images.len() == other.images.len()
            && self
                .images
                .iter()
                .all(|(id, own)| other.images.get(id).is_some_and(|theirs| theirs.image == own.image))
    }

    /// When it was last present.
    fn recency(&self) -> Timestamp {
        self.until.unwrap_or(self.since)
    }
}

fn id_of(images: &BTreeMap<ContainerId, ReleaseImage>, template: Option<&Value>) -> String {
    let mut hash = Sha256::new();
    for (id, image) in images {
        hash.update(format!("{id}={}\n", image.image));
    }
    if let Some(template) = template {
        hash.update(template.to_string());
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
}

/// The present release is kept although something else is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// What is kept out.
    pub rejected: Vec<Rejected>,
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
    /// The release it went to proved itself (again).
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
    /// Since when the workload no longer exists.
    pub gone_since: Option<Timestamp>,
}

/// How many distinct sets of images are remembered besides the present, the held and the last good one.
const SETS: usize = 8;
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
        let mut kept: Vec<Release> = Vec::new();
        let mut sets = 0;
        for release in std::mem::take(&mut self.releases).into_iter().rev() {
            let id = Some(&release.id);
            let needed = id == self.present.as_ref() || id == held.as_ref() || id == last_good.as_ref();
            let newer = kept.iter().filter(|newer| newer.same_images(&release)).collect::<Vec<_>>();
            let superseded = if release.outcome == Outcome::Good {
                newer.iter().any(|newer| newer.outcome == Outcome::Good)
            } else {
                !newer.is_empty()
            };
            let new_set = newer.is_empty();
            if needed || (!superseded && (!new_set || sets < SETS)) {
                sets += usize::from(new_set);
                kept.push(release);
            }
        }
        kept.reverse();
        self.releases = kept;
    }
}
