//! After a failed rollout: a new release whose containers started and kept crashing goes back to the last good one, once.

use super::{
    World,
    decide::{Decision, rolled_back},
    observe::{deadline, observe},
    target::{Choice, choose_good},
};
use crate::domain::{
    image::same_reference,
    intervention::was_released,
    plan::Step,
    pods::Trouble,
    policy::OnFailedRollout,
    release::{Cause, History, Outcome, Rejected, Release},
};

/// Whether it decides something why the newest pods do not come up.
pub fn pods_matter(world: &World<'_>) -> bool {
    let known = world.history.present().map(|present| present.outcome);
    known != Some(Outcome::Good) && goes_back(world, &observe(world).history) == Some(true)
}

/// Why the rollout of the present release failed, where policy takes it back for that.
pub(super) fn failed_rollout(world: &World<'_>, history: &History) -> Option<String> {
    let Some(Trouble::Crashing(why)) = &world.live?.trouble else { return None };
    goes_back(world, history)?.then(|| why.clone())
}

/// Whether the present release goes back if its containers keep crashing.
fn goes_back(world: &World<'_>, history: &History) -> Option<bool> {
    let live = world.live?;
    let present = history.present()?;
    // What was found running was not let in; what a rollback went to, or a hold keeps, is not rolled back in turn.
    let new = !present.adopted && history.hold.is_none() && !history.rollback_under_way();
    let unproven = present.outcome != Outcome::Good && present.is(&world.live_images()?);
    let new = new && !was_released(history, &present.id);
    let due = deadline(world, live, present)? <= world.now();
    // The rollback is recorded before it is done: while everything is paused not even that.
    let may = new && unproven && due && world.paused.is_none();
    let references = present.images();
    let asked = || world.judge.on_failed_rollout(references.values().map(String::as_str));
    Some(may && asked() == OnFailedRollout::LastGood)
}

/// The way back, if there is a good release. It is on record before it is done: what failed must not be tried again and
/// again by an operator that crashes in between, and nothing is lost by waiting for the record.
pub(super) fn back_once(world: &World<'_>, history: &History, why: &str) -> Option<Decision> {
    let failed = history.present()?;
    let choice = choose_good(world, history)?;
    let rejected: Vec<(Rejected, String)> =
        moved(failed, &choice).map(|rejected| (rejected, String::new())).collect();
    let id = failed.id.clone();
    let why = format!("the rollout of {} failed: {why}", super::decide::short_list(failed.images().values()));
    let mut decision = rolled_back(world, history, &rejected, &why, choice);
    if let Some(hold) = &mut decision.history.hold {
        hold.failed = Some(id);
    }
    Some(Decision { target: None, record_first: true, ..decision })
}

/// What stands in the failed release where the choice has something else.
fn moved<'a>(failed: &'a Release, choice: &'a Choice) -> impl Iterator<Item = Rejected> + 'a {
    let stays = |id, image: &str| {
        choice.release.images.get(id).is_some_and(|theirs| same_reference(&theirs.image, image))
    };
    failed.images.iter().filter(move |(id, own)| !stays(id, &own.image)).map(|(id, own)| Rejected {
        container: id.clone(),
        reference: own.wanted.clone(),
        digest: own.digest(),
        cause: Cause::FailedRollout,
    })
}

/// Nothing to go back to: it stays as it is, and says so.
pub(super) fn without_target(decision: Decision, why: &str) -> Decision {
    let message =
        format!("{}; its rollout failed: {why}; there is no good release to go back to", decision.message);
    Decision { message, ..decision }
}

/// The step of a hold: the first write of a rollback that was recorded before is that rollback.
pub(super) fn step_of_hold(world: &World<'_>, history: &History) -> Step {
    let failed = history.hold.as_ref().and_then(|hold| hold.failed.as_ref());
    let begins = history.rollbacks.last().is_some_and(|last| Some(&last.from) == failed);
    let runs = |release: &Release| world.live_images().is_some_and(|live| release.is(&live));
    let still_there = failed.and_then(|id| history.release(id)).is_some_and(runs);
    if begins && still_there && history.rollback_under_way() { Step::RollBack } else { Step::Hold }
}
