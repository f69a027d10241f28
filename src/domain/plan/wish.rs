//! What is wanted of a workload, and everything that stands against it.

use std::collections::BTreeMap;

use super::{Manifest, Wanted, World, target::revoked};
use crate::domain::{
    image::{ImageRef, same_name, same_reference},
    policy::{Code, Judgement},
    release::{Cause, History, Release, ReleaseImage},
    snippet::snippet,
    workload::{ContainerId, Images, images, with_images},
};

/// What is wanted, judged.
pub(super) struct Wish {
    pub images: Images,
    pub judged: BTreeMap<ContainerId, Judgement>,
    pub against: Vec<Against>,
    pub template: Option<serde_json::Value>,
    pub manifest_commit: Option<String>,
}

impl Wish {
    /// The images to set.
    pub fn set(&self) -> Images {
        self.judged.iter().map(|(id, judged)| (id.clone(), judged.image())).collect()
    }

    /// The release that it would be.
    pub fn release(&self, world: &World<'_>) -> Release {
        let image = |judged: &Judgement| ReleaseImage {
            image: judged.image(),
            wanted: judged.reference.clone(),
            approved_at: judged.approved_at,
        };
        let images = self.judged.iter().map(|(id, judged)| (id.clone(), image(judged))).collect();
        let template = self.template.as_ref().map(|template| with_images(template, &self.set()));
        let mut release = Release::new(images, template.as_ref(), world.now());
        release.commit.clone_from(&self.manifest_commit);
        release
    }

    /// Where git owns the workload, a release whose rollout failed is kept out as a whole: the same images with another
    /// template are something else. Whatever became of the policies since: also where a tag is not resolved any more.
    fn is_what_failed(&self, world: &World<'_>, history: &History) -> bool {
        let failed = history.hold.as_ref().and_then(|hold| history.release(hold.failed.as_deref()?));
        let (Some(failed), Some(template)) = (failed, &self.template) else { return false };
        let same_image = |(id, judged): (&ContainerId, &Judgement)| {
            let Some(own) = failed.images.get(id) else { return false };
            let stands_for = || world.judge.stands_for(&judged.reference);
            match (judged.pinned.clone().or_else(stands_for), own.digest()) {
                (Some(image), Some(digest)) => image.digest == digest,
                (Some(_) | None, Some(_) | None) => same_name(&own.wanted, &judged.reference),
            }
        };
        let same_template =
            failed.template.as_ref().is_none_or(|own| own.open() == with_images(template, &failed.images()));
        same_template && self.judged.len() == failed.images.len() && self.judged.iter().all(same_image)
    }
}

/// One thing that stands against what is wanted.
pub(super) struct Against {
    pub container: ContainerId,
    pub message: String,
    /// What would supply a missing approval.
    pub snippet: Option<String>,
}

impl std::fmt::Display for Against {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.container, self.message)?;
        self.snippet.as_ref().map_or(Ok(()), |snippet| write!(f, "; to approve it: {snippet}"))
    }
}

pub(super) fn wish(world: &World<'_>, history: &History) -> Option<Wish> {
    let (images, template, manifest) = match world.wanted {
        Wanted::Git(manifest) => {
            let template = world.id.kind.template_of(&manifest.object)?;
            (images(template), Some(template.clone()), Some(manifest))
        }
        Wanted::GitAway => return None,
        Wanted::Elsewhere => (set_by_somebody_else(world, history)?, None, None),
    };
    let judged: BTreeMap<_, _> =
        images.iter().map(|(id, text)| (id.clone(), world.judge.enforced(text))).collect();
    let against =
        judged.iter().flat_map(|(id, judgement)| against(world, history, id, judgement, manifest)).collect();
    let manifest_commit = manifest.map(|manifest| manifest.commit.clone());
    let mut wish = Wish { images, judged, against, template, manifest_commit };
    if wish.against.is_empty() && wish.is_what_failed(world, history) {
        let rejected = wish.judged.iter().map(|(id, judged)| Against {
            container: id.clone(),
            message: format!("{} is part of the release whose rollout failed", judged.reference),
            snippet: None,
        });
        wish.against = rejected.collect();
    }
    Some(wish)
}

/// Where git does not own the workload: the images that somebody else set last. While a hold stands, the held images are
/// ours, and what stays wanted is what was rejected.
fn set_by_somebody_else(world: &World<'_>, history: &History) -> Option<Images> {
    let mut images = world.live_images()?;
    if let (Some(hold), Some(held)) = (&history.hold, history.held()) {
        for rejected in &hold.rejected {
            let (Some(live), Some(ours)) =
                (images.get_mut(&rejected.container), held.images.get(&rejected.container))
            else {
                continue;
            };
            if same_reference(live, &ours.image) {
                live.clone_from(&rejected.reference);
            }
        }
    }
    Some(images)
}

fn against(
    world: &World<'_>,
    history: &History,
    id: &ContainerId,
    judged: &Judgement,
    manifest: Option<&Manifest>,
) -> Vec<Against> {
    let path = manifest.map(|manifest| manifest.path.as_str());
    let mut found: Vec<Against> = judged
        .against
        .iter()
        .map(|(policy, reason)| Against {
            container: id.clone(),
            message: format!("{} ({}, policy {policy})", reason.message, reason.code),
            // An approval beside the policy that asks for it counts.
            snippet: (reason.code == Code::Unlisted)
                .then(|| snippet(&judged.reference, policy.split('/').next().unwrap_or_default(), path))
                .flatten(),
        })
        .collect();
    let mut add = |message| found.push(Against { container: id.clone(), message, snippet: None });
    if history.hold.is_some() && judged.permitted() {
        // Whatever became of the policies: a hold never ends on a revoked image, whatever it is called.
        let image = match world.judge.stands_for(&judged.reference) {
            Some(image) if judged.pinned.is_none() => image.to_string(),
            Some(_) | None => judged.image(),
        };
        if let Some(why) = revoked(world, history, id, &image) {
            add(format!("{image} is revoked: {why}"));
        } else if still_rejected(world, history, id, judged) {
            add(format!("{} is what was rejected", judged.reference));
        }
    }
    if judged.permitted() && tag_moves_back(world, history, id, judged) {
        add(format!(
            "{} now stands for an older image than the one that runs; tags move forward only ({})",
            judged.reference,
            Code::TagWouldMoveBack
        ));
    }
    found
}

/// The same digest, or the same reference that stands for nothing else, of what a hold keeps out: still revoked, or (where
/// git does not own the workload) part of a release whose rollout failed.
fn still_rejected(world: &World<'_>, history: &History, id: &ContainerId, judged: &Judgement) -> bool {
    let digest = judged.pinned.as_ref().map(|pinned| &pinned.digest);
    history.hold.iter().flat_map(|hold| &hold.rejected).any(|rejected| {
        let revoked = rejected
            .digest
            .as_ref()
            .is_none_or(|digest| world.judge.ledger.revocation(digest, world.judge.namespace).is_some())
            || world.unreadable_records;
        let stands = match rejected.cause {
            Cause::Revoked => revoked,
            Cause::FailedRollout => world.wanted.is_elsewhere() && rejected.container == *id,
        };
        stands && rejected.is(id, &judged.reference, digest)
    })
}

/// While the wanted reference stays the same, a workload moves only to a record newer than the one it runs.
fn tag_moves_back(world: &World<'_>, history: &History, id: &ContainerId, judged: &Judgement) -> bool {
    // Where nothing runs, nothing moves back.
    let present = history.present().filter(|_| world.live.is_some());
    let Some(own) = present.and_then(|present| present.images.get(id)) else { return false };
    let (Some(runs), Some(pinned)) = (own.digest(), &judged.pinned) else { return false };
    let by_tag = judged.reference.parse::<ImageRef>().is_ok_and(|reference| reference.digest.is_none());
    by_tag
        && same_reference(&own.wanted, &judged.reference)
        && pinned.digest != runs
        && own.approved_at.is_some()
        && judged.approved_at <= own.approved_at
}
