//! The plan for one workload: what to do now, decided completely, with reasons. Same world in, same plan out.
//!
//! The rules, of which the first that applies decides (all of them see tags already resolved):
//!
//! 1. **A hold stands:** the held release stays, until permitted images other than the rejected ones are wanted.
//! 2. **All wanted images are permitted:** forward.
//! 3. **The present release holds a revoked digest:** back to the last good release that is permitted now.
//! 4. **Otherwise nothing moves.**
//!
//! The shell acts first and records after: [`Plan::history`] is what to record once [`Plan::action`] is done.

mod decide;
mod failed;
mod leftover;
mod observe;
mod target;
mod unreadable;
mod wish;

pub use failed::pods_matter;
pub use leftover::{Doomed, Leftover, Pods, leftover, may_leave_pods};
pub use unreadable::without_history;

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    blocked::{Blocked, by_spec},
    drift::{Applied, in_step},
    image::{ImageRef, same_reference},
    intervention::Asked,
    packed::Packed,
    pods::Trouble,
    policy::Judge,
    release::History,
    rollout::Rollout,
    workload::{Images, WorkloadId, images, places},
};

/// Everything the plan for one workload is made from. Nothing else is looked at.
#[derive(Clone, Debug)]
pub struct World<'a> {
    /// Which workload.
    pub id: &'a WorkloadId,
    /// The live object, if there is one.
    pub live: Option<&'a Live>,
    /// Who says what it should run.
    pub wanted: Wanted<'a>,
    /// What was recorded.
    pub history: &'a History,
    /// What a person asks for on its history.
    pub asked: &'a Asked,
    /// Policies, ledger, namespace, the moment.
    pub judge: Judge<'a>,
    /// ConfigMaps and Secrets `(kind, name)` of the namespace that are known not to exist.
    pub missing: &'a BTreeSet<(&'static str, String)>,
    /// Earlier versions of it in its source's git log, the newest first; looked at when the workload is first seen.
    pub earlier: &'a [Manifest<Packed>],
    /// Since when the present rollout has been seen complete.
    pub healthy_since: Option<Timestamp>,
    /// Why everything is paused, if it is.
    pub paused: Option<&'a str>,
    /// Some record of the ledger cannot be read: what it does not say may only be unreadable.
    pub unreadable_records: bool,
}

/// A live object as it was last seen; packed where it is only kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Live<O = Arc<Value>> {
    /// Its UID: a re-created object of the same name is another one.
    pub uid: String,
    /// Its version: an action expects to find just this one.
    pub resource_version: String,
    /// The object without its managed fields.
    pub object: O,
    /// How far its rollout is.
    pub rollout: Rollout,
    /// Why it does not come up, where that was looked at.
    pub trouble: Option<Trouble>,
    /// Another field manager owns something in its pod spec.
    pub others_own_pod_spec: bool,
    /// A patch of ours left its entry in the managed fields.
    pub own_update_entry: bool,
    /// What our own applies put there (`fieldsV1`).
    pub own_fields: Option<O>,
    /// It is being deleted.
    pub deleting: bool,
    /// What the last apply of ours left.
    pub applied: Option<Applied>,
}

impl Live {
    /// To be kept.
    pub fn pack(self) -> Live<Packed> {
        let object = Packed::new(&self.object);
        let own_fields = self.own_fields.as_deref().map(Packed::new);
        self.with(object, own_fields)
    }
}

impl Live<Packed> {
    /// To be looked at.
    pub fn open(&self) -> Live {
        let own_fields = self.own_fields.as_ref().map(|fields| Arc::new(fields.open()));
        self.clone().with(Arc::new(self.object.open()), own_fields)
    }
}

impl<O> Live<O> {
    /// The same, held in another way.
    fn with<P>(self, object: P, own_fields: Option<P>) -> Live<P> {
        let Self { uid, resource_version, object: _, rollout, trouble, .. } = self;
        let Self { others_own_pod_spec, own_update_entry, own_fields: _, deleting, applied, .. } = self;
        Live {
            uid,
            resource_version,
            object,
            rollout,
            trouble,
            others_own_pod_spec,
            own_update_entry,
            own_fields,
            deleting,
            applied,
        }
    }
}

/// A workload as a source's commit says it; packed where it is only kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest<O = Arc<Value>> {
    /// The object, as it is to be applied but for its images.
    pub object: O,
    /// The commit.
    pub commit: String,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The file, for messages.
    pub path: String,
}

impl<O> Manifest<O> {
    /// The same, held in another way.
    pub fn with<P>(&self, object: P) -> Manifest<P> {
        let Self { object: _, commit, committed_at, path } = self;
        Manifest { object, commit: commit.clone(), committed_at: *committed_at, path: path.clone() }
    }
}

/// Who says what a workload should run.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A git source.
    Git(&'a Manifest),
    /// A git source that cannot be read now, or is suspended: nothing new is wanted.
    GitAway,
    /// Whoever last changed the object.
    Elsewhere,
}

/// What to do, what to record after it, what to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What stands.
    pub state: State,
    /// Why, in a sentence.
    pub message: String,
    /// Everything that stands against the wanted images, and what would supply what is missing.
    pub missing: Vec<String>,
    /// The one thing to do.
    pub action: Option<Action>,
    /// What to record once the action (if any) is done; `None`: nothing governs the workload.
    pub history: Option<History>,
    /// Record the history before anything else, then plan again.
    pub record_first: bool,
    /// Whether there is a release to go back to.
    pub fallback: bool,
    /// What keeps a rollback from taking its full effect, as far as the workload's own spec says it.
    pub blocked: Option<Blocked>,
    /// When to look again, if nothing changes before.
    pub recheck: Option<Timestamp>,
}

/// What stands for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// What is wanted is permitted, and is what runs.
    Permitted,
    /// A hold keeps the present release.
    Held,
    /// What is wanted is not permitted; the present release stays.
    NotPermitted,
    /// The present release is revoked, and there is none to go back to (or policy says to stay).
    NoSafeRelease,
    /// A new workload is not created: its images are not permitted.
    NotCreated,
    /// Something would move, but everything is paused.
    Paused,
    /// No policy covers it.
    Ungoverned,
    /// Its history cannot be read: nothing of it moves.
    Unreadable,
    /// It does not exist, or is being deleted.
    Gone,
}

/// Why an action is done; also its name in metrics and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A git-owned workload that does not exist.
    Create,
    /// What is wanted is permitted.
    Forward,
    /// Only digests are added to what already runs; paced by the shell.
    Pin,
    /// To the last good release.
    RollBack,
    /// The held release is put back.
    Hold,
    /// The present release is put back, or the other fields of a git-owned workload go on.
    Keep,
    /// Our entry in the managed fields goes: the hold ended.
    Release,
}

/// One write, with what it expects to find.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Why.
    pub step: Step,
    /// The write.
    pub change: Change,
    /// The object it was decided for; `None`: there must be none.
    pub expect: Option<Expect>,
    /// What to do instead where the API server refuses the object: what is wrong with the rest of a manifest must not keep a
    /// revoked image running.
    pub instead: Option<Change>,
}

/// What an action expects to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The object, not another one of that name.
    pub uid: String,
    /// The version that was looked at.
    pub resource_version: String,
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A full, forced server-side apply.
    Apply {
        /// The object.
        object: Value,
        /// What others own in the pod spec is taken over first.
        take_over: bool,
    },
    /// A JSON patch of images, each tested first.
    Images(Vec<ImageChange>),
    /// A JSON patch of the pod template: of a git-owned workload whose source cannot be read.
    Template(Value),
    /// Our update entry in the managed fields is dropped.
    DropEntry,
}

/// One image in a pod template that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageChange {
    /// Pointer from the template to the entry's name; where it has none, to its image.
    pub name_pointer: String,
    /// The name that must stand there.
    pub name: String,
    /// Pointer from the template to the image.
    pub pointer: String,
    /// The image that must stand there.
    pub expect: String,
    /// The image to set.
    pub set: String,
}

/// Makes the plan for one workload.
pub fn plan(world: &World<'_>) -> Plan {
    let observed = observe::observe(world);
    let decision = decide::decide(world, &observed.history);
    let mut plan = Plan {
        state: decision.state,
        message: decision.message,
        missing: decision.missing,
        action: decision.target.as_ref().and_then(|target| action(world, target)),
        history: Some(decision.history),
        record_first: decision.record_first,
        fallback: target::choose(world, &observed.history, &target::all_of_present(&observed.history))
            .is_some(),
        blocked: world.live.and_then(|live| by_spec(world.id.kind.progress, &live.object)),
        recheck: [observed.recheck, world.next_change(&observed.history)].into_iter().flatten().min(),
    };
    if plan.action.is_none() {
        plan.action = world.leftover(plan.history.as_ref());
    }
    let moves = plan.action.as_ref().is_some_and(|action| action.step != Step::Release);
    if let (Some(why), true) = (world.paused, moves) {
        plan.state = State::Paused;
        plan.message = format!("paused ({why}), or it would be: {}", plan.message);
        plan.action = None;
        plan.history = Some(observed.history.clone());
    }
    // What was adopted is what a rollback moves away from: it must be on record before.
    let rolls_back = plan.action.as_ref().is_some_and(|action| action.step == Step::RollBack);
    if rolls_back && observed.adopted {
        plan.action = None;
        plan.history = Some(observed.history);
        plan.record_first = true;
    }
    if !world.tracked() {
        plan.history = None;
        if world.wanted.is_elsewhere() {
            plan.state = State::Ungoverned;
        }
    }
    plan
}

/// What a workload should be.
#[derive(Clone, Debug)]
struct Target {
    step: Step,
    /// The images to set, by place.
    images: Images,
    /// The pod template with them, for a git-owned workload.
    template: Option<Value>,
}

/// The write that makes the live object the target, if it is not.
fn action(world: &World<'_>, target: &Target) -> Option<Action> {
    let kind = world.id.kind;
    let Some(live) = world.live else {
        let (Wanted::Git(manifest), Some(template)) = (world.wanted, &target.template) else { return None };
        let object = kind.with_template(&manifest.object, template.clone());
        let step = if target.step == Step::Forward { Step::Create } else { target.step };
        let change = Change::Apply { object, take_over: false };
        return Some(Action { step, change, expect: None, instead: None });
    };
    let expect = Some(Expect { uid: live.uid.clone(), resource_version: live.resource_version.clone() });
    let template = kind.template_of(&live.object)?;
    match (world.wanted, &target.template) {
        (Wanted::Git(manifest), Some(wanted)) => {
            let object = kind.with_template(&manifest.object, wanted.clone());
            let same_places = images(template).keys().eq(images(wanted).keys());
            if same_places
                && !live.others_own_pod_spec
                && in_step(&object, &live.object, live.applied.as_ref(), live.own_fields.as_deref())
            {
                return None;
            }
            let step = if only_pins(template, wanted, target.step) { Step::Pin } else { target.step };
            let change = Change::Apply { object, take_over: live.others_own_pod_spec };
            let back = matches!(step, Step::RollBack | Step::Hold | Step::Keep)
                && images(template) != images(wanted);
            let instead = back.then(|| Change::Template(wanted.clone()));
            Some(Action { step, change, expect, instead })
        }
        (Wanted::GitAway, Some(wanted)) => {
            if images(template) == images(wanted) {
                return None;
            }
            let change = Change::Template(wanted.clone());
            Some(Action { step: target.step, change, expect, instead: None })
        }
        (Wanted::Git(_) | Wanted::GitAway, None) => None,
        (Wanted::Elsewhere, _) => {
            let changes = image_changes(template, &target.images);
            (!changes.is_empty()).then_some(Action {
                step: target.step,
                change: Change::Images(changes),
                expect,
                instead: None,
            })
        }
    }
}

fn image_changes(template: &Value, wanted: &Images) -> Vec<ImageChange> {
    places(template)
        .filter_map(|place| {
            let set = wanted.get(&place.id).filter(|set| !same_reference(place.image, set))?;
            let unnamed = place.name_pointer == place.pointer;
            Some(ImageChange {
                name: if unnamed { place.image.to_owned() } else { place.id.name },
                name_pointer: place.name_pointer,
                pointer: place.pointer,
                expect: place.image.to_owned(),
                set: set.clone(),
            })
        })
        .collect()
}

/// Whether the only difference of two templates is digests that are added to the same tags.
fn only_pins(live: &Value, wanted: &Value, step: Step) -> bool {
    let (before, after) = (images(live), images(wanted));
    let mut pins = 0;
    let same = before.len() == after.len()
        && before.iter().all(|(id, old)| {
            let (Some(new), Ok(old)) = (after.get(id), old.parse::<ImageRef>()) else { return false };
            let Ok(new) = new.parse::<ImageRef>() else { return false };
            let pinned = old.digest.is_none() && new.digest.is_some();
            pins += usize::from(pinned);
            old.repository == new.repository
                && old.effective_tag() == new.tag.clone().or(old.effective_tag())
                && (pinned || old.digest == new.digest)
        });
    step == Step::Forward
        && same
        && pins > 0
        && in_step(&super::workload::with_images(wanted, &before), live, None, None)
}

impl Wanted<'_> {
    fn is_elsewhere(self) -> bool {
        matches!(self, Wanted::Elsewhere)
    }
}

impl World<'_> {
    fn now(&self) -> Timestamp {
        self.judge.now
    }

    fn live_images(&self) -> Option<Images> {
        self.id.kind.template_of(&self.live?.object).map(images)
    }

    /// Every reference that matters: wanted, live, present, held.
    fn references(&self, history: &History) -> BTreeSet<String> {
        let wanted = match self.wanted {
            Wanted::Git(manifest) => self.id.kind.template_of(&manifest.object).map(images),
            Wanted::GitAway | Wanted::Elsewhere => None,
        };
        let releases =
            [history.present(), history.held()].into_iter().flatten().map(super::release::Release::images);
        [wanted, self.live_images()]
            .into_iter()
            .flatten()
            .chain(releases)
            .flat_map(Images::into_values)
            .collect()
    }

    /// Whether a history is kept: a policy of any mode covers it, or one was kept before.
    fn tracked(&self) -> bool {
        let references = self.references(self.history);
        *self.history != History::default() || self.judge.governs(references.iter().map(String::as_str))
    }

    fn next_change(&self, history: &History) -> Option<Timestamp> {
        let references = self.references(history);
        self.judge.next_change(references.iter().map(String::as_str))
    }

    /// Once no hold stands any more, our entry goes from the managed fields of what others own.
    fn leftover(&self, history: Option<&History>) -> Option<Action> {
        let live = self.live.filter(|live| live.own_update_entry && self.wanted.is_elsewhere())?;
        history.is_none_or(|history| history.hold.is_none()).then(|| Action {
            step: Step::Release,
            change: Change::DropEntry,
            expect: Some(Expect { uid: live.uid.clone(), resource_version: live.resource_version.clone() }),
            instead: None,
        })
    }
}

#[cfg(test)]
mod tests;
