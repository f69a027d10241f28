//! The rules, in their order.

use std::collections::BTreeSet;

use super::{
    State, Step, Target, Wanted, World,
    failed::{back_once, failed_rollout, step_of_hold, without_target},
    observe::release_of,
    target::{Choice, all_of_present, choose, revoked, template_of},
    wish::{Against, Wish, wish},
};
use crate::domain::{
    image::{Digest, ImageRef, same_reference, short},
    packed::Packed,
    policy::OnRevocation,
    release::{Cause, History, Hold, Rejected, Release, ReleaseImage, Rollback, RollbackOutcome},
    workload::{ContainerId, Images, with_images},
};

/// What was decided: the target (if anything is to be seen to), and the history once it is reached.
pub(super) struct Decision {
    pub state: State,
    pub message: String,
    pub missing: Vec<String>,
    pub target: Option<Target>,
    pub history: History,
    /// The history comes first, and the plan is made anew after it.
    pub record_first: bool,
}

pub(super) fn decide(world: &World<'_>, history: &History) -> Decision {
    let history = &without_forgotten(world, history);
    if world.live.is_some_and(|live| live.deleting) {
        return nothing(State::Gone, "it is being deleted".to_owned(), history);
    }
    if world.live.is_none() && !matches!(world.wanted, Wanted::Git(_)) {
        return nothing(State::Gone, "it does not exist".to_owned(), history);
    }
    if let Some(decision) = own_rollback_not_yet_recorded(world, history) {
        return decision;
    }
    let wish = wish(world, history);
    let failed = failed_rollout(world, history);
    if let Some(wish) = wish.as_ref().filter(|wish| wish.against.is_empty()) {
        return match failed.filter(|_| history.present.as_ref() == Some(&wish.release(world).id)) {
            Some(why) => back_once(world, history, &why)
                .unwrap_or_else(|| without_target(forward(world, history, wish), &why)),
            None => forward(world, history, wish),
        };
    }
    let against = wish.map(|wish| wish.against).unwrap_or_default();
    let revoked = revoked_places(world, history);
    let decision = if let Some(held) = standing_hold(world, history) {
        hold(world, history, held, &against)
    } else if !revoked.is_empty() && (world.live.is_some() || history.hold.is_some()) {
        back(world, history, &revoked, &against)
    } else {
        let back = failed.and_then(|why| back_once(world, history, &why));
        back.unwrap_or_else(|| stay(world, history, &against))
    };
    Decision { missing: against.into_iter().map(|against| against.to_string()).collect(), ..decision }
}

/// A hold ends when the revocations behind it are forgotten, whatever is wanted now. A record that cannot be read is not
/// forgotten.
fn without_forgotten(world: &World<'_>, history: &History) -> History {
    let mut history = history.clone();
    if world.unreadable_records {
        return history;
    }
    let revoked = |digest: &Digest| world.judge.ledger.revocation(digest, world.judge.namespace).is_some();
    if let Some(hold) = &mut history.hold {
        let before = hold.rejected.len();
        hold.rejected.retain(|rejected| match rejected.cause {
            Cause::Revoked => rejected.digest.as_ref().is_none_or(revoked),
            Cause::FailedRollout => true,
        });
        if before > 0 && hold.rejected.is_empty() && hold.failed.is_none() {
            history.hold = None;
        }
    }
    history
}

/// Rule 2.
fn forward(world: &World<'_>, history: &History, wish: &Wish) -> Decision {
    let mut history = history.clone();
    let held = history.hold.take();
    let set = wish.set();
    let release = wish.release(world);
    let template = release.template.as_ref().map(Packed::open);
    let message = format!("runs {}", short_list(set.values()));
    // Where git does not own it and the hold ended because the revocation was forgotten, what runs is still the held
    // release: it stays until somebody sets something else.
    let ours_stays =
        wish.template.is_none() && held.is_some() && world.live_images().as_ref() != Some(&wish.images);
    if !ours_stays {
        history.set_present(release, world.now());
    }
    let target =
        template.map(|template| Target { step: Step::Forward, images: set, template: Some(template) });
    Decision { target, ..nothing(State::Permitted, message, &history) }
}

/// Rule 1: the hold, if it stands and its release holds nothing revoked.
fn standing_hold<'h>(world: &World<'_>, history: &'h History) -> Option<&'h Release> {
    let clean = |held: &&Release| {
        held.images.iter().all(|(id, own)| revoked(world, history, id, &own.image).is_none())
    };
    history.held().filter(clean)
}

fn hold(world: &World<'_>, history: &History, held: &Release, against: &[Against]) -> Decision {
    let why = history.hold.as_ref().map(|hold| hold.why.clone()).unwrap_or_default();
    let waits: Vec<&str> = against
        .iter()
        .filter(|against| against.snippet.is_some())
        .map(|against| against.message.as_str())
        .collect();
    let waits = if waits.is_empty() { String::new() } else { format!("; wanted now: {}", waits.join("; ")) };
    let step = step_of_hold(world, history);
    let done = if step == Step::RollBack { "rolled back to" } else { "held at" };
    let message = format!("{done} {}: {why}{waits}", short_list(held.images().values()));
    let mut after = history.clone();
    let images = held.images();
    let template = template_of(world, held).map(|template| with_images(&template, &images));
    if world.wanted.is_elsewhere() {
        let live = world.live_images().unwrap_or_default();
        let images = put_back_while_held(world, history, held, &live, against);
        let left = left_revoked(world, history, &live, &images);
        after.hold_with(amended(world, held, &live, &images), world.now());
        let target = Target { step, images, template: None };
        let (state, message) = match left {
            Some(why) => {
                (State::NoSafeRelease, format!("{why}; the held release does not have it; {message}"))
            }
            None => (State::Held, message),
        };
        return Decision { target: Some(target), ..nothing(state, message, &after) };
    }
    after.set_present(held.clone(), world.now());
    let target = Target { step, images, template };
    Decision { target: Some(target), ..nothing(State::Held, message, &after) }
}

/// Of a workload that git does not own, while a hold stands: what is rejected goes back to the held image, and what else
/// somebody set and is not permitted goes back, too.
fn put_back_while_held(
    world: &World<'_>,
    history: &History,
    held: &Release,
    live: &Images,
    against: &[Against],
) -> Images {
    let kept_out: BTreeSet<&ContainerId> =
        history.hold.iter().flat_map(|hold| &hold.rejected).map(|rejected| &rejected.container).collect();
    let named: BTreeSet<&ContainerId> = against.iter().map(|against| &against.container).collect();
    let mut images = unpermitted_or_revoked(world, live, held);
    images.extend(
        held.images()
            .into_iter()
            .filter(|(id, _)| kept_out.contains(id) && named.contains(id) && live.contains_key(id)),
    );
    images
}

/// The held release with what somebody else changed in it meanwhile, where that is permitted: it is what runs.
fn amended(world: &World<'_>, held: &Release, live: &Images, set: &Images) -> Release {
    let mut runs = live.clone();
    runs.extend(set.clone());
    if held.is(&runs) {
        let mut ours = held.clone();
        ours.adopted = false;
        return ours;
    }
    let mut images = release_of(world, &runs, None).images;
    for (id, own) in &mut images {
        let theirs = held.images.get(id);
        if let Some(theirs) = theirs.filter(|theirs| is_recorded(theirs, &runs[id])) {
            own.clone_from(theirs);
        }
    }
    Release::new(images, None, world.now())
}

/// Whether a text is what a release says of a place: as set, or (a tag where git does not own the workload) as asked for.
fn is_recorded(own: &ReleaseImage, text: &str) -> bool {
    own.is_recorded(text)
}

/// What runs revoked all the same: in a container that the held release does not have.
pub(super) fn left_revoked(
    world: &World<'_>,
    history: &History,
    live: &Images,
    set: &Images,
) -> Option<String> {
    live.iter().filter(|(id, _)| !set.contains_key(*id)).find_map(|(id, text)| {
        let why = revoked(world, history, id, &world.judge.enforced(text).image())?;
        Some(format!("{id} runs {}, which is revoked: {why}", short(text)))
    })
}

/// Of what somebody set, the images that are revoked or not permitted, with what ours says instead. What is as it was
/// recorded was not set by somebody since: that its approval ended moves nothing.
fn unpermitted_or_revoked(world: &World<'_>, live: &Images, ours: &Release) -> Images {
    live.iter()
        .filter_map(|(id, text)| {
            let own = ours.images.get(id).filter(|own| !is_recorded(own, text))?;
            let judged = world.judge.enforced(text);
            (!judged.permitted()).then(|| (id.clone(), own.image.clone()))
        })
        .collect()
}

/// The places of the present release (or, while a hold stands, of the held one) that hold a revoked digest which an
/// Enforce policy covers, with what is revoked.
fn revoked_places(world: &World<'_>, history: &History) -> Vec<(Rejected, String)> {
    let release = if world.live.is_some() { history.present() } else { history.held() };
    release
        .into_iter()
        .flat_map(|release| &release.images)
        .filter_map(|(id, own)| {
            // What was adopted before its tag stood for anything permitted is still recorded as a tag.
            let judged = world.judge.enforced(&own.image);
            let image = if own.digest().is_some() { own.image.clone() } else { judged.image() };
            let why = revoked(world, history, id, &image)?;
            let digest = image.parse::<ImageRef>().ok()?.digest;
            let cause = Cause::Revoked;
            let rejected = Rejected { container: id.clone(), reference: own.wanted.clone(), digest, cause };
            Some((rejected, format!("{} is revoked: {why}", short(&image))))
        })
        .collect()
}

fn stays_on_revocation(world: &World<'_>, history: &History) -> bool {
    let references = history.present().map(Release::images).unwrap_or_default();
    world.judge.on_revocation(references.values().map(String::as_str)) == OnRevocation::None
}

/// Rule 3.
fn back(
    world: &World<'_>,
    history: &History,
    revoked: &[(Rejected, String)],
    against: &[Against],
) -> Decision {
    let why = revoked.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ");
    if stays_on_revocation(world, history) {
        let message = format!("{why}; it keeps running: rollback.onRevocation is None");
        return Decision { target: keep(world, history), ..nothing(State::NoSafeRelease, message, history) };
    }
    let Moving { must, may } = moving(world, history, revoked);
    if must.is_empty() && may.is_empty() {
        // Nothing that runs is revoked any more: somebody moved it, to something that waits for other reasons.
        return stay(world, history, against);
    }
    let all = must.union(&may).cloned().collect();
    let Some(choice) = choose(world, history, &all).or_else(|| choose(world, history, &must)) else {
        let message = format!("{why}; no release to go back to is permitted now, so it keeps running");
        return Decision { target: keep(world, history), ..nothing(State::NoSafeRelease, message, history) };
    };
    rolled_back(world, history, revoked, &why, choice)
}

/// The places that a rollback moves.
struct Moving {
    /// What runs there is revoked.
    must: BTreeSet<ContainerId>,
    /// Somebody set something there since that is not permitted: it goes back, too, where the release has something for it.
    may: BTreeSet<ContainerId>,
}

fn moving(world: &World<'_>, history: &History, revoked: &[(Rejected, String)]) -> Moving {
    if !world.wanted.is_elsewhere() {
        return Moving { must: all_of_present(history), may: BTreeSet::new() };
    }
    let live = world.live_images().unwrap_or_default();
    let Some(present) = history.present() else {
        return Moving { must: BTreeSet::new(), may: BTreeSet::new() };
    };
    let recorded =
        |id: &ContainerId, text: &str| present.images.get(id).is_some_and(|own| is_recorded(own, text));
    let unpermitted = |text: &str| !world.judge.enforced(text).permitted();
    let still = |id: &ContainerId| live.get(id).is_some_and(|text| recorded(id, text) || unpermitted(text));
    let changed = |(id, text): &(&ContainerId, &String)| {
        present.images.contains_key(*id) && !recorded(id, text) && unpermitted(text)
    };
    Moving {
        must: revoked.iter().map(|(rejected, _)| rejected.container.clone()).filter(still).collect(),
        may: live.iter().filter(changed).map(|(id, _)| id.clone()).collect(),
    }
}

pub(super) fn rolled_back(
    world: &World<'_>,
    history: &History,
    places: &[(Rejected, String)],
    why: &str,
    choice: Choice,
) -> Decision {
    let now = world.now();
    let mut after = history.clone();
    let from = history.present.clone().unwrap_or_default();
    let unproven = choice.release.outcome != crate::domain::release::Outcome::Good;
    let release = release_after(world, &choice);
    let to = release.id.clone();
    after.set_present(release, now);
    let mut rejected = history.hold.as_ref().map(|hold| hold.rejected.clone()).unwrap_or_default();
    rejected.extend(
        places
            .iter()
            .map(|(rejected, _)| rejected.clone())
            .filter(|new| !rejected.contains(new))
            .collect::<Vec<_>>(),
    );
    let since = history.hold.as_ref().map_or(now, |hold| hold.since);
    let failed = history.hold.as_ref().and_then(|hold| hold.failed.clone());
    after.hold = Some(Hold { since, rejected, failed, target: to.clone(), why: why.to_owned() });
    after.add_rollback(Rollback {
        at: now,
        from,
        to,
        why: why.to_owned(),
        outcome: RollbackOutcome::InProgress,
    });
    let proof = if unproven { ", which never proved itself here" } else { "" };
    let message = format!("rolled back to {}{proof}: {why}", short_list(choice.images.values()));
    let target = Target { step: Step::RollBack, images: choice.images, template: choice.template };
    Decision { target: Some(target), ..nothing(State::Held, message, &after) }
}

/// The release that is present once a choice is set.
fn release_after(world: &World<'_>, choice: &Choice) -> Release {
    if let Some(template) = &choice.template {
        let mut release = choice.release.clone();
        for (id, own) in &mut release.images {
            if let Some(set) = choice.images.get(id) {
                own.image.clone_from(set);
            }
        }
        let mut new = Release::new(release.images, Some(template), world.now());
        new.outcome = release.outcome;
        new.commit = release.commit;
        return new;
    }
    let mut live = world.live_images().unwrap_or_default();
    live.extend(choice.images.clone());
    let mut release = release_of(world, &live, None);
    for (id, own) in &mut release.images {
        if let (true, Some(theirs)) = (choice.images.contains_key(id), choice.release.images.get(id)) {
            own.wanted.clone_from(&theirs.wanted);
            own.approved_at = theirs.approved_at.or(own.approved_at);
        }
    }
    Release::new(release.images, None, world.now())
}

/// Where git does not own the workload: it already is what the rollback would make of it, but the records still say
/// otherwise. That was us, before a crash; seen as somebody's wish, the hold would be lost.
fn own_rollback_not_yet_recorded(world: &World<'_>, history: &History) -> Option<Decision> {
    let live = world.live_images().filter(|_| world.wanted.is_elsewhere())?;
    let revoked = revoked_places(world, history);
    let present = history.present()?;
    if revoked.is_empty() || present.is(&live) || stays_on_revocation(world, history) {
        return None;
    }
    let places = revoked.iter().map(|(rejected, _)| rejected.container.clone()).collect();
    let choice = choose(world, history, &places)?;
    let same = live.len() == present.images.len()
        && live.iter().all(|(id, text)| match (choice.images.get(id), present.images.get(id)) {
            (Some(set), _) => same_reference(text, set),
            (None, own) => own.is_some_and(|own| is_recorded(own, text)),
        });
    let why = revoked.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ");
    same.then(|| rolled_back(world, history, &revoked, &why, choice))
}

/// Rule 4.
fn stay(world: &World<'_>, history: &History, against: &[Against]) -> Decision {
    let reasons = against.iter().map(|against| against.message.as_str()).collect::<Vec<_>>().join("; ");
    if world.live.is_none() {
        return match world.wanted {
            Wanted::Git(_) => nothing(State::NotCreated, format!("not created: {reasons}"), history),
            Wanted::GitAway | Wanted::Elsewhere => {
                nothing(State::Gone, "it does not exist".to_owned(), history)
            }
        };
    }
    if matches!(world.wanted, Wanted::GitAway) {
        if let Some(decision) = put_back_while_away(world, history) {
            return decision;
        }
        return nothing(
            State::Permitted,
            "its source cannot be read now, so nothing moves".to_owned(),
            history,
        );
    }
    let target = keep(world, history).or_else(|| put_back(world, history));
    let set = target.as_ref().map(|target| target.images.clone()).unwrap_or_default();
    let live = world.live_images().filter(|_| world.wanted.is_elsewhere()).unwrap_or_default();
    if let Some(why) = left_revoked(world, history, &live, &set) {
        let message = format!("{why}; no release to go back to has that container, so it keeps running");
        return Decision { target, ..nothing(State::NoSafeRelease, message, history) };
    }
    Decision { target, ..nothing(State::NotPermitted, reasons, history) }
}

/// The present release of a git-owned workload stays, with its whole template; other fields go on.
fn keep(world: &World<'_>, history: &History) -> Option<Target> {
    let Wanted::Git(_) = world.wanted else { return None };
    let live = world.live_images()?;
    let present = history.present()?;
    // What runs stays as it is written, so that a pin alone starts no rollout here.
    let images = if present.is(&live) { live } else { present.images() };
    let bad = images.iter().any(|(id, image)| revoked(world, history, id, image).is_some());
    if bad && !present.is(&world.live_images()?) {
        return None;
    }
    let template = with_images(&template_of(world, present)?, &images);
    Some(Target { step: Step::Keep, images, template: Some(template) })
}

/// While the source cannot be read nothing moves, but what somebody set meanwhile and is revoked does not stay.
fn put_back_while_away(world: &World<'_>, history: &History) -> Option<Decision> {
    let live = world.live_images()?;
    let present = history.present().filter(|present| !present.is(&live))?;
    let why = left_revoked(world, history, &live, &Images::new())?;
    let images = present.images();
    let clean = images.iter().all(|(id, image)| revoked(world, history, id, image).is_none());
    let template = with_images(&template_of(world, present).filter(|_| clean)?, &images);
    let target = Target { step: Step::Keep, images, template: Some(template) };
    Some(Decision { target: Some(target), ..nothing(State::NotPermitted, why, history) })
}

/// An unpermitted image that somebody set on a workload that git does not own is put back.
fn put_back(world: &World<'_>, history: &History) -> Option<Target> {
    let live = world.live_images().filter(|_| world.wanted.is_elsewhere())?;
    let present = history.present()?;
    if present.is(&live) {
        return None;
    }
    let images: Images = unpermitted_or_revoked(world, &live, present)
        .into_iter()
        .filter(|(id, set)| revoked(world, history, id, set).is_none())
        .collect();
    Some(Target { step: Step::Keep, images, template: None })
}

fn nothing(state: State, message: String, history: &History) -> Decision {
    Decision {
        state,
        message,
        missing: Vec::new(),
        target: None,
        history: history.clone(),
        record_first: false,
    }
}

pub(super) fn short_list<'a>(images: impl Iterator<Item = &'a String>) -> String {
    let texts: BTreeSet<String> = images.map(|image| short(image)).collect();
    texts.into_iter().collect::<Vec<_>>().join(", ")
}
