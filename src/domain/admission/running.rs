//! What runs in each namespace: the images of its Pods, and the releases of its workloads that still have any.
//!
//! Kept while pods, workloads and histories are seen, so that a review looks up and never scans. Only what the operator
//! recorded counts as a release; whose a Pod is, by whatever it says of itself, is never asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::Value;

use crate::domain::{
    image::{Digest, ImageRef, PinnedImage},
    plan::Live,
    release::{History, Release, ReleaseImage},
    workload::{ContainerId, Progress, WorkloadId, images, places},
};

/// What runs, by namespace.
#[derive(Debug, Default)]
pub struct Running {
    areas: BTreeMap<String, Area>,
}

/// What runs in one namespace.
#[derive(Debug, Default)]
struct Area {
    /// The digests that each Pod names.
    pods: BTreeMap<String, Arc<BTreeSet<Digest>>>,
    /// How many Pods name just these digests.
    sets: BTreeMap<Arc<BTreeSet<Digest>>, usize>,
    /// The same, by each digest.
    sets_by_digest: BTreeMap<Digest, BTreeSet<Arc<BTreeSet<Digest>>>>,
    /// What each workload adds to the records.
    workloads: BTreeMap<WorkloadId, BTreeMap<Arc<Images>, Standing>>,
    /// The recorded releases, and how many workloads they are what of.
    records: BTreeMap<Arc<Images>, Standing>,
    /// The same, by each name of their images.
    records_by_name: BTreeMap<Name, BTreeSet<Arc<Images>>>,
}

/// The images of a release.
pub(super) type Images = BTreeMap<ContainerId, Image>;

/// One image of a release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Image {
    /// What was set, where it was pinned.
    pub pinned: Option<PinnedImage>,
    /// What it was called: by a tag, or as it was set.
    wanted: Option<Name>,
    /// When the record behind it was approved.
    pub approved_at: Option<Timestamp>,
}

/// What an image is called: its repository with its digest where it has one, else with its tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(ImageRef);

impl Name {
    pub(super) fn of(reference: &ImageRef) -> Self {
        let tag = reference.effective_tag().filter(|_| reference.digest.is_none());
        Self(ImageRef { repository: reference.repository.clone(), tag, digest: reference.digest.clone() })
    }

    fn of_pinned(image: &PinnedImage) -> Self {
        let digest = Some(image.digest.clone());
        Self(ImageRef { repository: image.repository.clone(), tag: None, digest })
    }
}

impl Image {
    fn of(recorded: &ReleaseImage) -> Self {
        let wanted = recorded.wanted.parse().ok();
        Self {
            pinned: recorded.image.parse().ok(),
            wanted: wanted.map(|reference| Name::of(&reference)),
            approved_at: recorded.approved_at,
        }
    }

    fn names(&self) -> impl Iterator<Item = Name> {
        self.pinned.as_ref().map(Name::of_pinned).into_iter().chain(self.wanted.clone())
    }

    /// Whether it is called so.
    pub(super) fn is(&self, name: &Name) -> bool {
        let pinned = |own: &PinnedImage| {
            name.0.digest.as_ref() == Some(&own.digest) && name.0.repository == own.repository
        };
        self.wanted.as_ref() == Some(name) || self.pinned.as_ref().is_some_and(pinned)
    }
}

/// How many workloads a release is something of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// It is one of the releases that are remembered.
    remembered: usize,
    /// It is the present one of a workload that exists and is to have pods.
    present: usize,
    /// The same, and it is what the template of that workload still says.
    in_template: usize,
    /// The same, of a workload that stays as it is although something in it is revoked.
    stays: usize,
}

impl Standing {
    fn add(&mut self, other: Self) {
        self.remembered += other.remembered;
        self.present += other.present;
        self.in_template += other.in_template;
        self.stays += other.stays;
    }

    fn remove(&mut self, other: Self) {
        self.remembered -= other.remembered;
        self.present -= other.present;
        self.in_template -= other.in_template;
        self.stays -= other.stays;
    }
}

/// Why a revoked image goes on running for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoesOn {
    /// Pods of it run, and their workload was not rolled back yet.
    NotRolledBackYet,
    /// Its workload stays as it is: there is nothing to go back to, or its policies say so.
    Stays,
}

impl Running {
    /// A Pod as it was last seen; `None`: it is gone. One that has ended runs no more.
    pub fn see_pod(&mut self, namespace: &str, name: &str, pod: Option<&Value>) {
        let runs = pod.filter(|pod| {
            let phase = pod.pointer("/status/phase").and_then(Value::as_str);
            !matches!(phase, Some("Succeeded" | "Failed"))
        });
        let digests = runs.map(|pod| {
            places(pod)
                .filter_map(|place| place.image.parse::<ImageRef>().ok()?.digest)
                .collect::<BTreeSet<_>>()
        });
        let digests = digests.filter(|digests| !digests.is_empty());
        let known = self.areas.get(namespace).and_then(|area| area.pods.get(name));
        if known.map(AsRef::as_ref) == digests.as_ref() {
            return;
        }
        let area = self.areas.entry(namespace.to_owned()).or_default();
        area.forget_pod(name);
        if let Some(digests) = digests {
            area.add_pod(name, digests);
        }
        self.tidy(namespace);
    }

    /// A workload as it was last seen: its history, if one is kept; its live object, if there is one; and whether its last
    /// plan said that it stays as it is although something in it is revoked.
    pub fn see_workload(
        &mut self,
        id: &WorkloadId,
        history: Option<&History>,
        live: Option<&Live>,
        stays: bool,
    ) {
        let says = history.map(|history| records(id, history, live, stays)).unwrap_or_default();
        let known = self.areas.get(&id.namespace).and_then(|area| area.workloads.get(id));
        if known.map_or(says.is_empty(), |known| *known == says) {
            return;
        }
        let area = self.areas.entry(id.namespace.clone()).or_default();
        for (images, standing) in area.workloads.remove(id).into_iter().flatten() {
            area.forget_record(&images, standing);
        }
        for (images, standing) in &says {
            area.add_record(images, *standing);
        }
        if !says.is_empty() {
            area.workloads.insert(id.clone(), says);
        }
        self.tidy(&id.namespace);
    }

    /// Whether a Pod of a namespace names a digest.
    pub fn runs(&self, namespace: &str, digest: &Digest) -> bool {
        self.areas.get(namespace).is_some_and(|area| area.sets_by_digest.contains_key(digest))
    }

    /// Whether all of these belong to one release that runs: it still has pods, or is the present one of a workload that is
    /// to have some.
    pub(super) fn is_of_what_runs(&self, namespace: &str, names: &[Name]) -> bool {
        self.holding(namespace, names).any(|(area, images, standing)| area.runs(images, standing))
    }

    /// Why images of which some are revoked go on: all belong to one release that the template of a live workload still
    /// says, and each revoked digest runs, or that workload stays as it is.
    pub(super) fn goes_on(
        &self,
        namespace: &str,
        names: &[Name],
        revoked: &BTreeSet<Digest>,
    ) -> Option<GoesOn> {
        let all_run = revoked.iter().all(|digest| self.runs(namespace, digest));
        self.holding(namespace, names).filter(|(.., standing)| standing.in_template > 0).find_map(
            |(.., standing)| match standing.stays {
                0 => all_run.then_some(GoesOn::NotRolledBackYet),
                _ => Some(GoesOn::Stays),
            },
        )
    }

    /// The release that runs and whose images a Pod names, each at its place; the newest, where it could be several.
    pub(super) fn release_of(&self, namespace: &str, pod: &BTreeMap<ContainerId, Name>) -> Option<&Images> {
        let area = self.areas.get(namespace)?;
        pod.values()
            .filter_map(|name| area.records_by_name.get(name))
            .min_by_key(|records| records.len())?
            .iter()
            .filter(|images| images.iter().all(|(id, own)| pod.get(id).is_some_and(|name| own.is(name))))
            .filter(|images| area.records.get(*images).is_some_and(|standing| area.runs(images, *standing)))
            .max_by_key(|images| images.values().map(|image| image.approved_at).max())
            .map(AsRef::as_ref)
    }

    /// The releases that hold all of these images.
    fn holding<'r>(
        &'r self,
        namespace: &str,
        names: &'r [Name],
    ) -> impl Iterator<Item = (&'r Area, &'r Images, Standing)> {
        self.areas.get(namespace).into_iter().flat_map(move |area| {
            let by_name: Option<Vec<_>> = names.iter().map(|name| area.records_by_name.get(name)).collect();
            // The name that the fewest have: one that many have is mostly that of a sidecar.
            let fewest = by_name.into_iter().flatten().min_by_key(|records| records.len());
            fewest
                .into_iter()
                .flatten()
                .filter(move |images| names.iter().all(|name| images.values().any(|own| own.is(name))))
                .filter_map(move |images| Some((area, images.as_ref(), *area.records.get(images)?)))
        })
    }

    fn tidy(&mut self, namespace: &str) {
        if self.areas.get(namespace).is_some_and(|area| area.pods.is_empty() && area.workloads.is_empty()) {
            self.areas.remove(namespace);
        }
    }
}

impl Area {
    /// Whether a release is the present one of a workload that is to have pods, or there are pods with all of its images.
    fn runs(&self, images: &Images, standing: Standing) -> bool {
        let has_pods = || {
            let pinned = || images.values().filter_map(|image| image.pinned.as_ref());
            let by_digest: Option<Vec<_>> =
                pinned().map(|image| self.sets_by_digest.get(&image.digest)).collect();
            let fewest = by_digest.into_iter().flatten().min_by_key(|sets| sets.len());
            fewest.into_iter().flatten().any(|set| pinned().all(|image| set.contains(&image.digest)))
        };
        standing.present > 0 || (standing.remembered > 0 && has_pods())
    }

    fn add_pod(&mut self, name: &str, digests: BTreeSet<Digest>) {
        let set = match self.sets.get_key_value(&digests) {
            Some((set, _)) => Arc::clone(set),
            None => Arc::new(digests),
        };
        *self.sets.entry(Arc::clone(&set)).or_default() += 1;
        for digest in set.iter() {
            self.sets_by_digest.entry(digest.clone()).or_default().insert(Arc::clone(&set));
        }
        self.pods.insert(name.to_owned(), set);
    }

    fn forget_pod(&mut self, name: &str) {
        let Some(set) = self.pods.remove(name) else { return };
        let Some(count) = self.sets.get_mut(&set) else { return };
        *count -= 1;
        if *count == 0 {
            self.sets.remove(&set);
            for digest in set.iter() {
                remove_from(&mut self.sets_by_digest, digest, &set);
            }
        }
    }

    fn add_record(&mut self, images: &Arc<Images>, standing: Standing) {
        self.records.entry(Arc::clone(images)).or_default().add(standing);
        for name in images.values().flat_map(Image::names) {
            self.records_by_name.entry(name).or_default().insert(Arc::clone(images));
        }
    }

    fn forget_record(&mut self, images: &Arc<Images>, standing: Standing) {
        let Some(known) = self.records.get_mut(images) else { return };
        known.remove(standing);
        if *known == Standing::default() {
            self.records.remove(images);
            for name in images.values().flat_map(Image::names) {
                remove_from(&mut self.records_by_name, &name, images);
            }
        }
    }
}

fn remove_from<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<Arc<V>>>, key: &K, value: &Arc<V>) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

/// What a workload adds to the records of its namespace.
fn records(
    id: &WorkloadId,
    history: &History,
    live: Option<&Live>,
    stays: bool,
) -> BTreeMap<Arc<Images>, Standing> {
    let mut records: BTreeMap<Arc<Images>, Standing> = BTreeMap::new();
    let mut add = |images: Images, standing| {
        if !images.is_empty() {
            records.entry(Arc::new(images)).or_default().add(standing);
        }
    };
    for release in &history.releases {
        add(images_of(release, |_, _| true), Standing { remembered: 1, ..Standing::default() });
    }
    let live = live.filter(|live| history.uid.as_ref() == Some(&live.uid) && is_to_have_pods(id, live));
    if let (Some(live), Some(present)) = (live, history.present()) {
        add(images_of(present, |_, _| true), Standing { present: 1, ..Standing::default() });
        let says = id.kind.template_of(&live.object).map(images).unwrap_or_default();
        let still_says =
            |id: &ContainerId, own: &ReleaseImage| says.get(id).is_some_and(|text| own.is_recorded(text));
        let standing = Standing { in_template: 1, stays: usize::from(stays), ..Standing::default() };
        add(images_of(present, still_says), standing);
    }
    records
}

fn images_of(release: &Release, which: impl Fn(&ContainerId, &ReleaseImage) -> bool) -> Images {
    let counting = release.images.iter().filter(|(id, own)| which(id, own));
    counting.map(|(id, own)| (id.clone(), Image::of(own))).collect()
}

/// Whether there are to be pods of a workload: it is not going, and neither scaled to nothing nor suspended.
fn is_to_have_pods(id: &WorkloadId, live: &Live) -> bool {
    let says =
        |pointer: &str, value: Value| live.object.pointer(pointer).is_some_and(|found| *found == value);
    let rests = match id.kind.progress {
        Progress::CronJob => says("/spec/suspend", Value::Bool(true)),
        Progress::Deployment | Progress::StatefulSet | Progress::DaemonSet | Progress::Configured(_) => {
            says("/spec/replicas", Value::from(0))
        }
    };
    !live.deleting && !rests
}

#[cfg(test)]
mod tests;
