//! Thin loops: observe, decide (in `domain`), act, record, report.
//!
//! ```text
//!  git ──> source ──────────────┐ desired workloads, applied approvals and policies
//!                               v
//!  watches ──────────────> memory ──> workload: plan ──> act ──> memory ──> trail: histories, events
//!                               └───> report: status of approvals, policies, sources; gauges
//! ```

pub mod admission;
pub mod admit;
pub mod approval;
pub mod attempts;
mod bare;
pub mod certify;
mod changes;
mod evidence;
pub mod lead;
pub mod memory;
pub mod queue;
pub mod receive;
pub mod register;
pub mod report;
mod run;
mod see;
pub mod source;
mod takeover;
pub mod trail;
pub mod watch;
pub mod workload;

pub use run::{Clients, RunError, START, Settings, run};
pub use takeover::StartError;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    adapters::{cluster::Cluster, git::Mirrors, kustomize::Kustomize, registry::Registry},
    domain::{destination::PrivateHosts, workload::WorkloadId},
    telemetry::{Metrics, http::Readiness},
};
use attempts::Denied;
use memory::{Key, Memory};
use queue::Queue;
use trail::Trail;

/// What every controller has at hand.
pub struct Ctx {
    /// The cluster.
    pub cluster: Cluster,
    /// What is known.
    pub memory: Memory,
    /// The operator's own namespace.
    pub root: String,
    /// The service account of it that sources apply as which name none.
    pub applier: Option<String>,
    /// Hosts that are not public, and that sources of every namespace may reach.
    pub private_git_hosts: Arc<PrivateHosts>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is loaded.
    pub readiness: Readiness,
    /// Workloads to look at.
    pub workloads: Queue<WorkloadId>,
    /// Mirrors of the sources' repositories.
    pub mirrors: Mirrors,
    /// Builds overlays.
    pub kustomize: Kustomize,
    /// What is kept of sources between syncs.
    pub source_state: source::Sources,
    /// Approvals to look at.
    pub approvals: Queue<Key>,
    /// Approvals whose images are to be looked at.
    pub evidence: Queue<Key>,
    /// Where images are.
    pub registry: Registry,
    /// Sources to look at.
    pub sources: Queue<Key>,
    /// Who may say that something was pushed.
    pub receivers: receive::Receivers,
    /// Histories and events to write.
    pub trail: Trail,
    /// Denied attempts to write.
    pub denied: Denied,
    /// Pins that only add a digest are spread in time.
    pub pacer: Pacer,
}

/// Lets something through once in a while.
pub struct Pacer {
    gap: Duration,
    next: Mutex<Instant>,
}

impl Pacer {
    /// One every `gap`.
    pub fn new(gap: Duration) -> Self {
        Self { gap, next: Mutex::new(Instant::now()) }
    }

    /// Takes a turn now, or answers how long to wait for one.
    fn turn(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut next = self.next.lock();
        if *next > now {
            return Err(*next - now);
        }
        *next = now + self.gap;
        Ok(())
    }
}

/// The one place that looks at the clock for decisions. In whole seconds: Kubernetes keeps no more, and a time that reads
/// back differently would be written again and again.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// How long ago a moment was; nothing if it is still to come.
fn since(moment: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(moment)).unwrap_or_default()
}

/// How long until a moment, and a little more, so that it has really come.
fn until(moment: Timestamp) -> Duration {
    let left = Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default();
    left + Duration::from_millis(100)
}

type Shared = Arc<Ctx>;
