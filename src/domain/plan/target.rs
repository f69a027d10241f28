//! Which release to go back to: chosen afresh each time, never "the previous one".

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Wanted, World};
use crate::domain::{
    image::same_reference,
    release::{History, Outcome, Release, ReleaseImage},
    workload::{ContainerId, Images, images, named_config, with_images},
};

/// A release that can be gone back to, with the images to set.
pub(super) struct Choice {
    /// The release.
    pub release: Release,
    /// What to set: every image of a git-owned workload, else those that move.
    pub images: Images,
    /// The pod template with the images, of a git-owned workload.
    pub template: Option<Value>,
}

/// The places that a rollback from the present release moves.
pub(super) fn all_of_present(history: &History) -> BTreeSet<ContainerId> {
    history.present().into_iter().flat_map(|release| release.images.keys().cloned()).collect()
}

/// The release that was present last among the good ones whose images are permitted now and whose ConfigMaps and Secrets
/// exist; if there is none, the same among the unproven ones; never a failed one. `moving` are the places that must move.
pub(super) fn choose(world: &World<'_>, history: &History, moving: &BTreeSet<ContainerId>) -> Option<Choice> {
    let mut candidates: Vec<&Release> = history
        .releases
        .iter()
        .filter(|release| Some(&release.id) != history.present.as_ref() && release.outcome != Outcome::Failed)
        .collect();
    candidates.sort_by_key(|release| (release.outcome, release.until.unwrap_or(release.since)));
    candidates.into_iter().rev().find_map(|release| usable(world, history, release, moving))
}

/// The good release to go back to after a failed rollout. Where git does not own the workload, what differs from it moves.
pub(super) fn choose_good(world: &World<'_>, history: &History) -> Option<Choice> {
    let present = history.present()?;
    let mut candidates: Vec<&Release> = history
        .releases
        .iter()
        .filter(|release| release.id != present.id && release.outcome == Outcome::Good)
        .collect();
    candidates.sort_by_key(|release| release.until.unwrap_or(release.since));
    candidates.into_iter().rev().find_map(|release| {
        let differs = |(id, own): &(&ContainerId, &ReleaseImage)| {
            release.images.get(id).is_none_or(|theirs| !same_reference(&theirs.image, &own.image))
        };
        let moving = present.images.iter().filter(differs).map(|(id, _)| id.clone()).collect();
        usable(world, history, release, &moving)
    })
}

fn usable(
    world: &World<'_>,
    history: &History,
    release: &Release,
    moving: &BTreeSet<ContainerId>,
) -> Option<Choice> {
    if matches!(world.wanted, Wanted::Elsewhere) {
        let images = moving
            .iter()
            .map(|id| Some((id.clone(), permitted(world, history, id, &release.images.get(id)?.image)?)))
            .collect::<Option<Images>>()?;
        return (!images.is_empty()).then(|| Choice { release: release.clone(), images, template: None });
    }
    let images = release
        .images
        .iter()
        .map(|(id, own)| Some((id.clone(), permitted(world, history, id, &own.image)?)))
        .collect::<Option<Images>>()?;
    let template = with_images(&template_of(world, release)?, &images);
    let whole = named_config(&template).iter().all(|named| !world.missing.contains(named));
    whole.then(|| Choice { release: release.clone(), images, template: Some(template) })
}

/// The pod template of a release. One that dates from before git owned the workload has none: then the live one, if it
/// has the same places.
pub(super) fn template_of(world: &World<'_>, release: &Release) -> Option<Value> {
    if let Some(template) = &release.template {
        return Some(template.open());
    }
    let live = world.id.kind.template_of(&world.live?.object)?;
    images(live).keys().eq(release.images.keys()).then(|| live.clone())
}

/// What to set for an image of a release, if it is permitted now.
fn permitted(world: &World<'_>, history: &History, id: &ContainerId, image: &str) -> Option<String> {
    let judged = world.judge.enforced(image);
    let revoked = revoked(world, history, id, &judged.image()).is_some();
    (judged.permitted() && !revoked).then(|| judged.image())
}

/// Why an image is revoked at a place, if that counts there: where an Enforce policy covers it, or (whatever became of the
/// policies) where the hold keeps something out. What no policy matches is left alone.
pub(super) fn revoked(world: &World<'_>, history: &History, id: &ContainerId, image: &str) -> Option<String> {
    let held = history.hold.iter().flat_map(|hold| &hold.rejected).any(|rejected| rejected.container == *id);
    let why = world.judge.revocation(image)?;
    (held || world.judge.enforced(image).governed).then_some(why)
}
