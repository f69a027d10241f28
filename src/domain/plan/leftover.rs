//! Pods that a rollback leaves behind, where the workload does not replace them by itself: under `OnDelete`, and where an ordered
//! `StatefulSet` waits for a broken pod before it replaces any.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{World, target::revoked};
use crate::domain::{
    image::{ImageRef, short},
    pods::{digests, images_of, is_controlled_by, is_ending, is_of_revision, is_ready, name_of},
    release::{History, Release},
    rollout::{Rollout, Updates, is_observed, updates},
    workload::Progress,
};

/// What to do about pods that a rollback left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// None is left, or the workload replaces them by itself.
    None,
    /// This pod is next.
    Evict(Doomed),
    /// One is left, and has to wait for this.
    Wait(String),
}

/// A pod that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its name.
    pub name: String,
    /// Its UID: a pod of the same name that came since is another one.
    pub uid: String,
    /// Why, for people.
    pub why: String,
}

/// The pods of a workload as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// What the selector of the workload matches.
    pub all: &'a [Value],
    /// The newest revision.
    pub newest: &'a str,
    /// The nodes that are known not to be Ready: what runs there can be neither waited for nor replaced.
    pub lost_nodes: &'a BTreeSet<String>,
}

/// Whether a rollback may have left pods behind: it is done to the template, and the workload waits for somebody.
pub fn may_leave_pods(world: &World<'_>) -> bool {
    let history = world.history;
    let (Some(live), Some(hold), Some(present)) = (world.live, &history.hold, history.present()) else {
        return false;
    };
    let waits = match world.id.kind.progress {
        Progress::StatefulSet => updates(&live.object) != Updates::ByItself,
        Progress::DaemonSet => updates(&live.object) == Updates::OnDelete,
        Progress::Deployment | Progress::CronJob | Progress::Configured(_) => false,
    };
    let reverted = hold.target == present.id && world.live_images().is_some_and(|live| present.is(&live));
    let under_way = match live.rollout {
        Rollout::Progressing | Rollout::Stuck | Rollout::Waits => true,
        Rollout::Complete | Rollout::Idle => false,
    };
    // Before, its status is about the template of the release that was left.
    waits && is_observed(&live.object) && reverted && under_way && !live.deleting && world.paused.is_none()
}

/// The pod that is next, one at a time.
pub fn leftover(world: &World<'_>, pods: &Pods<'_>) -> Leftover {
    let Some(live) = world.live.filter(|_| may_leave_pods(world)) else { return Leftover::None };
    let own: Vec<&Value> = pods.all.iter().filter(|pod| is_controlled_by(pod, &live.uid)).collect();
    let old = own.iter().copied().filter(|pod| !is_ending(pod) && !is_of_revision(pod, pods.newest));
    let mut left: Vec<(bool, u64, Doomed)> =
        old.filter_map(|pod| Some((is_ready(pod), ordinal(pod), doomed(world, pod)?))).collect();
    // What is broken goes first, as it serves nobody; then as a rolling update goes, from the highest ordinal.
    left.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(a.2.name.cmp(&b.2.name)));
    let Some((serves, _, next)) = left.into_iter().next() else { return Leftover::None };
    if let Some(ending) = own.iter().find(|pod| is_ending(pod)) {
        return Leftover::Wait(format!("pod {} is ending", name_of(ending)));
    }
    if !serves {
        return Leftover::Evict(next);
    }
    match (updates(&live.object), not_yet_replaced(&live.object, &own, pods)) {
        // Healthy pods are replaced by the StatefulSet itself.
        (Updates::Ordered | Updates::ByItself, _) => Leftover::None,
        (Updates::OnDelete, Some(why)) => Leftover::Wait(why),
        (Updates::OnDelete, None) => Leftover::Evict(next),
    }
}

/// Why the pod that went last is not replaced yet.
fn not_yet_replaced(object: &Value, own: &[&Value], pods: &Pods<'_>) -> Option<String> {
    let lost = |pod: &Value| {
        pod.pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .is_some_and(|node| pods.lost_nodes.contains(node))
    };
    let starts = own.iter().find(|pod| is_of_revision(pod, pods.newest) && !is_ready(pod) && !lost(pod));
    if let Some(starts) = starts {
        return Some(format!("pod {} of the release that it goes back to is not ready", name_of(starts)));
    }
    let wanted =
        object.pointer("/status/desiredNumberScheduled").or_else(|| object.pointer("/spec/replicas"));
    let wanted = wanted.and_then(Value::as_u64).unwrap_or(1);
    ((own.len() as u64) < wanted).then(|| format!("{} of {wanted} pods are there", own.len()))
}

/// Why a pod has to go: it runs what is revoked, or is what a failed release left broken.
fn doomed(world: &World<'_>, pod: &Value) -> Option<Doomed> {
    let history = world.history;
    let images = images_of(pod);
    let names_revoked = || {
        crate::domain::workload::images(pod).iter().find_map(|(place, image)| {
            let why = revoked(world, history, place, image)?;
            Some(format!("{place} runs {}, which is revoked: {why}", short(image)))
        })
    };
    let runs_revoked = || {
        digests(pod).into_iter().find_map(|(place, digest)| {
            let why =
                revoked(world, history, &place, &format!("{}@{digest}", repository(images.get(&place)?)))?;
            Some(format!("{place} runs {}, which is revoked: {why}", digest.short()))
        })
    };
    let broken = || {
        let is_failed = failed(history).is_some_and(|failed| failed.is(&images));
        (is_failed && !is_ready(pod)).then(|| "it is what the failed rollout left".to_owned())
    };
    let why = names_revoked().or_else(runs_revoked).or_else(broken)?;
    let uid = pod.pointer("/metadata/uid")?.as_str()?.to_owned();
    Some(Doomed { name: name_of(pod).to_owned(), uid, why })
}

fn failed(history: &History) -> Option<&Release> {
    history.release(history.hold.as_ref()?.failed.as_deref()?)
}

fn repository(image: &str) -> String {
    image.parse::<ImageRef>().map_or_else(|_| image.to_owned(), |own| own.repository.to_string())
}

fn ordinal(pod: &Value) -> u64 {
    name_of(pod).rsplit('-').next().and_then(|last| last.parse().ok()).unwrap_or(0)
}
