//! What the live object adds to the records, before anything is decided.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use super::{Live, Manifest, Wanted, World};
use crate::domain::{
    intervention::take_up,
    packed::Packed,
    release::{History, Outcome, Release, ReleaseImage},
    rollout::Rollout,
    workload::{Images, Progress, images},
};

/// Kinds without a deadline of their own have failed when they are not complete after this.
const DEADLINE: Duration = Duration::from_mins(10);

pub(super) struct Observed {
    pub history: History,
    /// The live object was not known before.
    pub adopted: bool,
    /// When the present release may have proved itself.
    pub recheck: Option<Timestamp>,
}

pub(super) fn observe(world: &World<'_>) -> Observed {
    let mut history = world.history.clone();
    let now = world.now();
    take_up(&mut history, world.asked, now);
    let Some(live) = world.live else {
        // What git asks for and never was is only not created yet.
        let gone = history.uid.is_some() || !matches!(world.wanted, Wanted::Git(_));
        if gone && history != History::default() && history.gone_since.is_none() {
            history.gone_since = Some(now);
        }
        remember_earlier(world, &mut history);
        return Observed { history, adopted: false, recheck: None };
    };
    history.gone_since = None;
    let adopted = history.uid.as_ref() != Some(&live.uid);
    if adopted {
        adopt(world, live, &mut history);
    }
    remember_earlier(world, &mut history);
    let recheck = prove(world, live, &mut history);
    Observed { history, adopted, recheck }
}

/// A workload seen for the first time, or re-created: what it runs becomes its present release.
fn adopt(world: &World<'_>, live: &Live, history: &mut History) {
    let now = world.now();
    let Some(template) = world.id.kind.template_of(&live.object) else { return };
    history.clear_present(now);
    history.uid = Some(live.uid.clone());
    let git_owned = !matches!(world.wanted, Wanted::Elsewhere);
    let mut release = release_of(world, &images(template), git_owned.then_some(template));
    release.adopted = true;
    history.set_present(release, now);
}

/// What its source's git log says it ran before enters as unproven, as long as there is nothing else to go back to: also
/// for a workload that is created only now, or was known before git owned it.
fn remember_earlier(world: &World<'_>, history: &mut History) {
    if history.is_alone() {
        for earlier in world.earlier.iter().rev() {
            history.remember(from_log(world, earlier));
        }
    }
}

/// A release of what stands in a template now, tags resolved where they are permitted.
pub(super) fn release_of(world: &World<'_>, images: &Images, template: Option<&Value>) -> Release {
    let images: BTreeMap<_, _> = images
        .iter()
        .map(|(id, text)| {
            let judged = world.judge.enforced(text);
            let image = if judged.permitted() { judged.image() } else { text.clone() };
            (id.clone(), ReleaseImage { image, wanted: text.clone(), approved_at: judged.approved_at })
        })
        .collect();
    Release::new(images, template, world.now())
}

fn from_log(world: &World<'_>, earlier: &Manifest<Packed>) -> Release {
    let template = world.id.kind.template_of(&earlier.object.open()).cloned().unwrap_or_default();
    let mut release = release_of(world, &images(&template), Some(&template));
    release.commit = Some(earlier.commit.clone());
    release.since = earlier.committed_at;
    release.until = Some(earlier.committed_at);
    release.adopted = true;
    release
}

/// Sets the outcome of the present release from the rollout; answers when to look again.
fn prove(world: &World<'_>, live: &Live, history: &mut History) -> Option<Timestamp> {
    let now = world.now();
    let live_images = world.live_images()?;
    let present = history.present()?;
    let rolling_back = history.rollback_under_way();
    if (present.outcome == Outcome::Good && !rolling_back) || !present.is(&live_images) {
        return None;
    }
    let references: Vec<String> = present.images().into_values().collect();
    let due = match (live.rollout, world.id.kind.progress) {
        (Rollout::Complete, Progress::CronJob) => (now, Outcome::Good),
        // It ran before, and nothing is rolled out: it waits for its schedule.
        (Rollout::Idle, Progress::CronJob) if present.outcome == Outcome::Good => (now, Outcome::Good),
        (Rollout::Complete, _) => {
            let healthy_for = world.judge.healthy_for(references.iter().map(String::as_str));
            (world.healthy_since?.checked_add(healthy_for).ok()?, Outcome::Good)
        }
        (Rollout::Stuck | Rollout::Progressing, _) => (deadline(world, live, present)?, Outcome::Failed),
        (Rollout::Waits, _) => return None,
        (Rollout::Idle, _) => {
            // Nothing runs, so nothing is left to be moved; it proves nothing all the same.
            history.end_rollback();
            return None;
        }
    };
    let (at, outcome) = due;
    if at > now {
        return Some(at);
    }
    if present.outcome != outcome || rolling_back {
        history.prove(outcome);
    }
    None
}

/// When the rollout of a release counts as failed if it stays as it is; `None`: as it is it never does.
pub(super) fn deadline(world: &World<'_>, live: &Live, release: &Release) -> Option<Timestamp> {
    match (live.rollout, world.id.kind.progress) {
        (Rollout::Stuck, _) if release.adopted => Some(world.now()),
        // What the status says may still be about the release before.
        (Rollout::Stuck, _) => release.since.checked_add(own_deadline(&live.object)).ok(),
        (Rollout::Progressing, Progress::StatefulSet | Progress::DaemonSet | Progress::Configured(_)) => {
            release.since.checked_add(DEADLINE).ok()
        }
        (Rollout::Progressing, Progress::Deployment | Progress::CronJob)
        | (Rollout::Complete | Rollout::Idle | Rollout::Waits, _) => None,
    }
}

fn own_deadline(deployment: &Value) -> Duration {
    let seconds = deployment.pointer("/spec/progressDeadlineSeconds").and_then(Value::as_u64);
    seconds.map_or(DEADLINE, Duration::from_secs)
}
