//! What the operator knows: filled by the watches and by the sources, read by the plans. Everything here can be lost: after a
//! restart it is filled anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

use crate::{
    adapters::cluster::Account,
    api::{ApprovedImage, GitSource, ImagePolicy},
    domain::{
        admission::Running,
        bare::Report,
        blocked::Blocked,
        condition::READY,
        evidence::{Evidence, EvidenceOf, Fact},
        image::{Digest, ImageRef, Repository},
        intervention::Asked,
        inventory::Inventory,
        ledger::Ledger,
        packed::Packed,
        plan::{Live, Manifest, State as Found},
        policy::{Namespace, Policies, Policy, Reason},
        release::History,
        workload::{ContainerId, WorkloadId},
    },
};

/// Namespace and name of an object of ours.
pub type Key = (String, String);

/// A workload that a source says.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The source.
    pub source: Key,
    /// The service account that the source applies as; `None`: the operator's own rights.
    pub account: Option<Account>,
    /// What it says; `None` while the source cannot be read, or is suspended.
    pub manifest: Option<Arc<Manifest<Packed>>>,
    /// Earlier versions in the source's git log; filled for workloads without a history.
    pub earlier: Arc<Vec<Manifest<Packed>>>,
}

/// A history, and how much of it is stored.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// What is true.
    pub history: History,
    /// What the last plan said, for the conditions.
    pub said: Said,
    /// Since when it has not been stored.
    pub dirty: Option<tokio::time::Instant>,
    /// Whether the object exists.
    pub exists: bool,
    /// The version that was seen or written last: a write that expects another is out of date.
    pub version: Option<String>,
    /// The conditions as stored.
    pub conditions: Vec<crate::domain::condition::Recorded>,
    /// What goes wrong with it, if anything.
    pub problem: Option<String>,
    /// The last `countersign.dev/reconcile-requested-at` that was seen.
    pub requested: Option<String>,
    /// What a person asks for on it.
    pub asked: Asked,
    /// What budgets keep from being evicted.
    pub budget: Option<Blocked>,
}

impl Tracked {
    /// Whether the workload stays as it is although something in it is revoked. Who does not plan reads it from the conditions.
    fn stays(&self) -> bool {
        match self.said.state {
            Some(state) => state == Found::NoSafeRelease,
            None => self
                .conditions
                .iter()
                .any(|known| known.condition.type_ == READY && known.condition.reason == NO_SAFE_RELEASE),
        }
    }
}

/// The reason of Ready where a workload stays as it is although something in it is revoked.
pub const NO_SAFE_RELEASE: &str = "NoSafeRelease";

/// What a plan said of its workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What stands.
    pub state: Option<Found>,
    /// Why.
    pub message: String,
    /// What is missing.
    pub missing: Vec<String>,
    /// Whether there is a release to go back to.
    pub fallback: bool,
    /// What keeps a rollback from taking its full effect.
    pub blocked: Option<Blocked>,
}

/// What was found out about a workload by its last plan.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What the plan said.
    pub said: Said,
    /// The digests it runs.
    pub runs: BTreeSet<Digest>,
    /// Everything whose standing matters to it.
    pub repositories: BTreeSet<Repository>,
    /// The same, by digest.
    pub digests: BTreeSet<Digest>,
    /// What each policy that covers it has against it; an empty list: nothing.
    pub by_policy: BTreeMap<Key, Vec<(ContainerId, String, Reason)>>,
    /// The last problem with acting on it.
    pub problem: Option<String>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its name and labels.
    pub namespace: Namespace,
    /// It is being deleted.
    pub ending: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub struct State {
    /// All approvals and revocations.
    pub ledger: Ledger,
    /// What is known of images.
    pub evidence: EvidenceOf,
    /// How often ledger, policies or namespaces have changed.
    pub rules: u64,
    /// The approved images themselves.
    pub approvals: BTreeMap<Key, Arc<ApprovedImage>>,
    /// The policies that can be read.
    pub policies: Policies,
    /// The policies themselves.
    pub policy_objects: BTreeMap<Key, Arc<ImagePolicy>>,
    /// The git sources.
    pub sources: BTreeMap<Key, Arc<GitSource>>,
    /// The namespaces.
    pub namespaces: BTreeMap<String, Area>,
    /// Why everything is paused, if it is.
    pub paused: Option<String>,
    /// Why the API server does not ask admission as it should, if so.
    pub unguarded: Option<String>,
    /// What the sources say, by workload.
    pub desired: BTreeMap<WorkloadId, Desired>,
    /// Workloads that a sync is about to ask something else of, and until when their looks wait for it.
    pub expected: BTreeMap<WorkloadId, tokio::time::Instant>,
    /// Admission is served here.
    pub admits: bool,
    /// What runs, as admission looks it up; kept where it is served.
    pub running: Running,
    /// What each source applied.
    pub inventories: BTreeMap<Key, Arc<Inventory>>,
    /// The live workloads.
    pub live: BTreeMap<WorkloadId, Live<Packed>>,
    /// Their histories.
    pub histories: BTreeMap<WorkloadId, Tracked>,
    /// Since when the rollout of an object's generation has been seen complete.
    pub healthy: BTreeMap<WorkloadId, (String, i64, Timestamp)>,
    /// What the last plans found.
    pub findings: BTreeMap<WorkloadId, Finding>,
    /// What was last told of each workload in events.
    pub told: BTreeMap<WorkloadId, (Found, String)>,
    /// What policies say of what belongs to no workload.
    pub bare: Report,
    /// When the revocation of a digest was committed.
    pub revoked_at: BTreeMap<Digest, Timestamp>,
    /// Objects of ours that cannot be read, and why.
    pub invalid: BTreeMap<(&'static str, Key), String>,
}

/// The state behind a lock; held for look-ups and pure decisions only, never across an await.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<RwLock<State>>,
    news: Arc<Notify>,
}

impl Memory {
    /// To look something up.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Told whenever a watch changed something.
    pub fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// To change something.
    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }
}

impl State {
    /// The policies that cover a namespace. The root namespace and kube-system are never governed.
    pub fn policies_for(&self, namespace: &str, root: &str) -> Vec<&Policy> {
        if namespace == root || namespace == "kube-system" {
            return Vec::new();
        }
        self.policies.governing(namespace)
    }

    /// What is known of an image from now on; answers whether that is news.
    pub fn know(&mut self, evidence: Evidence) -> bool {
        if let Fact::Known(platforms) = &evidence.platforms {
            self.ledger.see_contents(&evidence.digest, platforms);
        }
        let news = self.evidence.insert(Arc::new(evidence));
        self.rules += u64::from(news);
        news
    }

    /// Tells what runs of a workload, as it is known now: whenever its object, its history or what its plan said changed.
    pub fn note_running(&mut self, id: &WorkloadId) {
        if !self.admits {
            return;
        }
        let tracked = self.histories.get(id);
        let stays = tracked.is_some_and(Tracked::stays);
        let live = self.live.get(id).map(Live::open);
        self.running.see_workload(id, tracked.map(|tracked| &tracked.history), live.as_ref(), stays);
    }

    /// Every workload there is something to decide about.
    pub fn workloads(&self) -> BTreeSet<WorkloadId> {
        self.live.keys().chain(self.desired.keys()).chain(self.histories.keys()).cloned().collect()
    }

    /// The workloads to which these repositories or digests matter.
    pub fn touched(
        &self,
        repositories: &BTreeSet<Repository>,
        digests: &BTreeSet<Digest>,
    ) -> Vec<WorkloadId> {
        self.findings
            .iter()
            .filter(|(_, finding)| {
                !finding.repositories.is_disjoint(repositories) || !finding.digests.is_disjoint(digests)
            })
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Which source applied an object.
    pub fn owner(&self, id: &crate::domain::inventory::ObjectId) -> Option<&Key> {
        self.inventories.iter().find(|(_, inventory)| inventory.contains(id)).map(|(key, _)| key)
    }
}

/// The repositories and digests that texts name.
pub fn named<'a>(texts: impl IntoIterator<Item = &'a str>) -> (BTreeSet<Repository>, BTreeSet<Digest>) {
    let mut repositories = BTreeSet::new();
    let mut digests = BTreeSet::new();
    for reference in texts.into_iter().filter_map(|text| text.parse::<ImageRef>().ok()) {
        repositories.insert(reference.repository);
        digests.extend(reference.digest);
    }
    (repositories, digests)
}
