//! Every metric of the product, and nothing about metrics anywhere else.
//!
//! Labels come only from the closed sets in `labels`, never from names of objects: the number of series is fixed. All of them
//! are there from the start with the value 0, so that an alert on a rate sees the first event, and a typo in a dashboard
//! is an absent series. The list in `docs/reference/metrics.md` is generated from here.
//!
//! Gauges over the fleet are set from a whole count each time, not moved up and down: a missed event cannot make them
//! drift.

mod labels;

use std::{
    fmt::Debug,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric},
    metrics::{
        TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info,
    },
    registry::{Registry, Unit},
};

pub use self::labels::{
    Action, ActionOutcome, Alarm, BareState, Controller, Kind, Meddling, Mode, PushOutcome, Review,
    RollbackStage, SourceState, Stage, Standing, Suspendable, SyncOutcome, Verdict, Webhook, WorkloadState,
    WriteOutcome,
};

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of one process. A clone is the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    rollbacks: Histograms<RollbackStage>,
    actions: Family<(Action, ActionOutcome), Counter>,
    workloads: Family<WorkloadState, Gauge>,
    bare: Family<BareState, Gauge>,
    approvals: Family<Standing, Gauge>,
    policies: Family<Mode, Gauge>,
    suspended: Family<Suspendable, Gauge>,
    paused: Gauge,
    leader: Gauge,
    invalid_objects: Family<Kind, Gauge>,
    sources: Family<SourceState, Gauge>,
    source_syncs: Family<SyncOutcome, Counter>,
    pushes: Family<PushOutcome, Counter>,
    source_sync_durations: Histogram,
    reconcile_durations: Histograms<Controller>,
    reconcile_errors: Family<(Controller, Stage), Counter>,
    queue_depth: Family<Controller, Gauge>,
    history_records_pending: Gauge,
    history_writes: Family<WriteOutcome, Counter>,
    admission: Admission,
}

/// What the API server is told to ask, and what it is answered.
#[derive(Debug)]
struct Admission {
    registered: Gauge,
    repairs: Family<Meddling, Counter>,
    certificate_expiry: Gauge,
    reviews: Family<(Webhook, Review), Counter>,
    durations: Histograms<Webhook>,
    verdicts: Family<(Mode, Verdict), Counter>,
    alarms: Family<Alarm, Counter>,
}

impl Admission {
    fn new(r: &mut Registry) -> Self {
        Self {
            registered: gauge(
                r,
                "webhook_registered",
                "1 while both webhook configurations are as this process, which leads, wants them",
            ),
            repairs: family(
                r,
                "webhook_repairs",
                "Webhook configurations that were put right, by what somebody else had done to them",
                Meddling::ALL,
            ),
            certificate_expiry: webhook_certificate_expiry(r),
            reviews: family(
                r,
                "admission_reviews",
                "Requests that the API server asked about, by what it was answered",
                &pairs(Webhook::ALL, Review::ALL),
            ),
            durations: histograms(
                r,
                "admission_review_duration",
                "Time of one answer to the API server, without the network",
                Webhook::ALL,
                review_histogram,
            ),
            verdicts: family(
                r,
                "admission_verdicts",
                "What policies said of requests, each policy by itself",
                &pairs(Mode::ALL, Verdict::ALL),
            ),
            alarms: family(r, "admission_alarms", "Revoked images that were let in, as they run", Alarm::ALL),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, every series at 0.
    pub fn new() -> Self {
        let mut r = registry();
        Self(Arc::new(Inner {
            rollbacks: histograms(
                &mut r,
                "rollback_duration",
                "Time from the commit of a revocation until a workload that runs the image reached the stage",
                RollbackStage::ALL,
                rollback_histogram,
            ),
            actions: family(
                &mut r,
                "actions",
                "Actions sent to the cluster, by what became of them",
                &pairs(Action::ALL, ActionOutcome::ALL),
            ),
            workloads: family(
                &mut r,
                "workloads",
                "Workloads, by what was found about them",
                WorkloadState::ALL,
            ),
            bare: family(
                &mut r,
                "bare",
                "Governed Pods, Jobs and ReplicaSets that belong to no workload, by what was found about them",
                BareState::ALL,
            ),
            approvals: family(&mut r, "approvals", "Approved images, by their standing", Standing::ALL),
            policies: family(&mut r, "policies", "Policies, by their mode", Mode::ALL),
            suspended: family(&mut r, "suspended", "Objects that are suspended", Suspendable::ALL),
            paused: gauge(&mut r, "paused", "1 while all moves are paused on the root namespace, else 0"),
            leader: gauge(&mut r, "leader", "1 while this process leads: it acts, the others only watch"),
            invalid_objects: family(
                &mut r,
                "invalid_objects",
                "Objects that cannot be read and do not count",
                Kind::ALL,
            ),
            sources: family(&mut r, "sources", "Git sources, by how they are doing", SourceState::ALL),
            source_syncs: family(
                &mut r,
                "source_syncs",
                "Syncs of git sources, by what became of them",
                SyncOutcome::ALL,
            ),
            pushes: family(
                &mut r,
                "pushes",
                "Messages that something was pushed, by what became of them",
                PushOutcome::ALL,
            ),
            source_sync_durations: source_sync_histogram(&mut r),
            reconcile_durations: histograms(
                &mut r,
                "reconcile_duration",
                "Time of one round of a controller for one object",
                Controller::ALL,
                reconcile_histogram,
            ),
            reconcile_errors: family(
                &mut r,
                "reconcile_errors",
                "Rounds that failed, by the step that failed",
                &pairs(Controller::ALL, Stage::ALL),
            ),
            queue_depth: family(&mut r, "queue_depth", "Objects that wait for their round", Controller::ALL),
            history_records_pending: gauge(
                &mut r,
                "history_records_pending",
                "Records of what was done that are not written to their history yet",
            ),
            history_writes: history_writes(&mut r),
            admission: Admission::new(&mut r),
            registry: r,
        }))
    }

    /// All of it as `OpenMetrics` text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.0.registry).is_err() {
            // Writing to a string does not fail; without its end mark the scraper would refuse the text.
            tracing::error!("the metrics cannot be encoded");
        }
        text
    }

    /// A rollback reached `stage`, `since_commit` after the commit of the revocation.
    pub fn rollback_reached(&self, stage: RollbackStage, since_commit: Duration) {
        self.0.rollbacks.get_or_create(&stage).observe(since_commit.as_secs_f64());
    }

    /// An action came to its outcome.
    pub fn action(&self, action: Action, outcome: ActionOutcome) {
        self.0.actions.get_or_create(&(action, outcome)).inc();
    }

    /// There are `count` workloads in `state`.
    pub fn set_workloads(&self, state: WorkloadState, count: usize) {
        self.0.workloads.get_or_create(&state).set(whole(count));
    }

    /// So many of what belongs to no workload are permitted, not permitted, revoked.
    pub fn set_bare(&self, permitted: usize, not_permitted: usize, revoked: usize) {
        let all = [(BareState::Permitted, permitted), (BareState::NotPermitted, not_permitted)];
        for (state, count) in all.into_iter().chain([(BareState::Revoked, revoked)]) {
            self.0.bare.get_or_create(&state).set(whole(count));
        }
    }

    /// There are `count` approved images of this standing.
    pub fn set_approvals(&self, standing: Standing, count: usize) {
        self.0.approvals.get_or_create(&standing).set(whole(count));
    }

    /// There are `count` policies in `mode`.
    pub fn set_policies(&self, mode: Mode, count: usize) {
        self.0.policies.get_or_create(&mode).set(whole(count));
    }

    /// `count` objects of the kind are suspended.
    pub fn set_suspended(&self, kind: Suspendable, count: usize) {
        self.0.suspended.get_or_create(&kind).set(whole(count));
    }

    /// Whether all moves are paused.
    pub fn set_paused(&self, paused: bool) {
        self.0.paused.set(i64::from(paused));
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
    }

    /// `count` objects of the kind cannot be read.
    pub fn set_invalid_objects(&self, kind: Kind, count: usize) {
        self.0.invalid_objects.get_or_create(&kind).set(whole(count));
    }

    /// There are `count` sources in `state`.
    pub fn set_sources(&self, state: SourceState, count: usize) {
        self.0.sources.get_or_create(&state).set(whole(count));
    }

    /// A sync of a source came to its outcome.
    pub fn source_sync(&self, outcome: SyncOutcome) {
        self.0.source_syncs.get_or_create(&outcome).inc();
    }

    /// A message that something was pushed came in.
    pub fn push(&self, outcome: PushOutcome) {
        self.0.pushes.get_or_create(&outcome).inc();
    }

    /// Measures one sync of a source, until the timer is dropped.
    pub fn time_source_sync(&self) -> Timer {
        Timer::of(self.0.source_sync_durations.clone())
    }

    /// Measures one round of a controller, until the timer is dropped.
    pub fn time_reconcile(&self, controller: Controller) -> Timer {
        Timer::of(self.0.reconcile_durations.get_or_create_owned(&controller))
    }

    /// A round failed in this step.
    pub fn reconcile_error(&self, controller: Controller, stage: Stage) {
        self.0.reconcile_errors.get_or_create(&(controller, stage)).inc();
    }

    /// `count` objects wait for their round.
    pub fn set_queue_depth(&self, controller: Controller, count: usize) {
        self.0.queue_depth.get_or_create(&controller).set(whole(count));
    }

    /// `count` records are not written to their history yet.
    pub fn set_history_records_pending(&self, count: usize) {
        self.0.history_records_pending.set(whole(count));
    }

    /// Whether the API server asks admission as it should.
    pub fn set_webhook_registered(&self, registered: bool) {
        self.0.admission.registered.set(i64::from(registered));
    }

    /// A webhook configuration was put right.
    pub fn webhook_repair(&self, cause: Meddling) {
        self.0.admission.repairs.get_or_create(&cause).inc();
    }

    /// The certificate of the webhook that is served ends then.
    pub fn set_webhook_certificate_expiry(&self, ends: Timestamp) {
        self.0.admission.certificate_expiry.set(ends.as_second());
    }

    /// A write of a history came to its outcome.
    pub fn history_write(&self, outcome: WriteOutcome) {
        self.0.history_writes.get_or_create(&outcome).inc();
    }

    /// The API server was answered.
    pub fn reviewed(&self, webhook: Webhook, answer: Review) {
        self.0.admission.reviews.get_or_create(&(webhook, answer)).inc();
    }

    /// Measures one answer to the API server, until the timer is dropped.
    pub fn time_review(&self, webhook: Webhook) -> Timer {
        Timer::of(self.0.admission.durations.get_or_create_owned(&webhook))
    }

    /// A policy said something of a request.
    pub fn review_verdict(&self, mode: Mode, verdict: Verdict) {
        self.0.admission.verdicts.get_or_create(&(mode, verdict)).inc();
    }

    /// So many revoked images were let in, as they run.
    pub fn review_alarms(&self, why: Alarm, count: usize) {
        self.0.admission.alarms.get_or_create(&why).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Measures from its creation until it is dropped, on every way out of the measured code.
#[derive(Debug)]
#[must_use = "a timer measures until it is dropped"]
pub struct Timer {
    histogram: Histogram,
    started: Instant,
}

impl Timer {
    fn of(histogram: Histogram) -> Self {
        Self { histogram, started: Instant::now() }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.histogram.observe(self.started.elapsed().as_secs_f64());
    }
}

/// From a tenth of a second, because that is what one patch takes, to an hour, where somebody has long been called.
fn rollback_histogram() -> Histogram {
    Histogram::new([0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0])
}

/// An answer is a look into memory: tenths of a millisecond. Where it takes longer than a second, something is wrong.
fn review_histogram() -> Histogram {
    Histogram::new([0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0])
}

/// A round is local work and a few calls: it should take milliseconds, and ends with the time-outs of the calls.
fn reconcile_histogram() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// A sync without news is one call to a git server; a first clone of a large repository takes minutes.
fn source_sync_histogram(registry: &mut Registry) -> Histogram {
    let histogram = Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]);
    let help = "Time of one sync of a git source";
    registry.register_with_unit("source_sync_duration", help, Unit::Seconds, histogram.clone());
    histogram
}

/// The metrics, and the one that says which version this is.
fn registry() -> Registry {
    let mut registry = Registry::with_prefix("countersign");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The running version", version);
    registry
}

fn webhook_certificate_expiry(registry: &mut Registry) -> Gauge {
    let gauge = Gauge::default();
    let help =
        "When the webhook's certificate that is served ends, in seconds since 1970; 0 while none is served";
    registry.register_with_unit("webhook_certificate_expiry_timestamp", help, Unit::Seconds, gauge.clone());
    gauge
}

fn history_writes(registry: &mut Registry) -> Family<WriteOutcome, Counter> {
    let help = "Writes of release histories, by what became of them";
    family(registry, "history_writes", help, WriteOutcome::ALL)
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// A family with all its series.
fn family<L: Label, M: Value>(registry: &mut Registry, name: &str, help: &str, values: &[L]) -> Family<L, M> {
    let family = Family::default();
    for value in values {
        family.get_or_create_owned(value);
    }
    registry.register(name, help, family.clone());
    family
}

fn histograms<L: Label>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    values: &[L],
    new: fn() -> Histogram,
) -> Histograms<L> {
    let family = Histograms::new_with_constructor(new);
    for value in values {
        family.get_or_create_owned(value);
    }
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    family
}

/// What a family asks of its labels.
trait Label: EncodeLabelSet + Clone + Eq + Hash + Debug + Send + Sync + 'static {}
impl<L: EncodeLabelSet + Clone + Eq + Hash + Debug + Send + Sync + 'static> Label for L {}

/// What a family asks of its metrics.
trait Value: EncodeMetric + TypedMetric + Default + Clone + Debug + Send + Sync + 'static {}
impl<M: EncodeMetric + TypedMetric + Default + Clone + Debug + Send + Sync + 'static> Value for M {}

fn pairs<A: Copy, B: Copy>(left: &[A], right: &[B]) -> Vec<(A, B)> {
    left.iter().flat_map(|a| right.iter().map(|b| (*a, *b))).collect()
}

/// A count as the value of a gauge.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
