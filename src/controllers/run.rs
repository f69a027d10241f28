//! Starts everything: watches first, then what decides, once all that is decided by is loaded.

use std::{fmt::Debug, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Ctx, Pacer, Shared,
    admission::{self, Serving},
    approval,
    attempts::{self, Denied},
    bare,
    changes::{Changes, spread},
    evidence,
    lead::{Candidate, Lost},
    memory::{Key, Memory},
    queue::{self, queue},
    receive, report,
    see::{watch_everything, watch_pods},
    source,
    takeover::{StartError, take_over},
    trail::{self, Trail},
    workload::{self},
};
use crate::{
    adapters::{
        cluster::Cluster,
        git::Mirrors,
        kustomize::Kustomize,
        registry::{self, InvalidSettings, Registry},
    },
    domain::{destination::PrivateHosts, workload::WorkloadId},
    telemetry::{
        self, Metrics,
        http::{Readiness, Server},
    },
};

/// How the operator is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own namespace.
    pub root_namespace: String,
    /// Where mirrors are kept.
    pub cache_dir: PathBuf,
    /// The program that builds overlays; else it is looked for on `PATH`.
    pub kustomize: Option<PathBuf>,
    /// How many workloads are looked at at once.
    pub concurrency: usize,
    /// How far apart pins are that only add a digest to what already runs.
    pub pin_interval: Duration,
    /// The service account of the root namespace that sources of it apply as which name none; absent: the operator's rights.
    pub applier: Option<String>,
    /// Hosts that are not public, and that sources of every namespace may reach.
    pub private_git_hosts: PrivateHosts,
    /// How registries are reached.
    pub registry: registry::Settings,
    /// Where pushes are received, if they are.
    pub receiver_addr: Option<SocketAddr>,
    /// How admission is served, if it is.
    pub admission: Option<admission::Settings>,
    /// How often what belongs to no workload is looked at, if at all.
    pub bare_interval: Option<Duration>,
}

/// How the API server is asked.
pub struct Clients {
    /// For what only the one that leads may do: a fence holds its writes.
    pub acting: Cluster,
    /// For what every replica may write.
    pub open: Client,
}

/// Why it ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Receiver(telemetry::http::Error),
    #[error(transparent)]
    Admission(telemetry::http::Error),
    #[error(transparent)]
    Registry(InvalidSettings),
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error("what keeps the lease ended")]
    Keeping(#[source] tokio::task::JoinError),
}

/// How many images are looked at in registries at once.
const IMAGES: usize = 8;
/// How many sources are synced at once: one whose server hangs takes a place for as long as its timeout.
const SOURCES: usize = 16;

/// What the queues run.
struct Wishes {
    workloads: queue::Wishes<WorkloadId>,
    sources: queue::Wishes<Key>,
    approvals: queue::Wishes<Key>,
    evidence: queue::Wishes<Key>,
}

/// The part of the readiness that is missing until all the others have been named.
pub const START: &str = "start";

/// Runs until the token is cancelled: watches, and acts while it leads. Without a candidate it leads at once.
pub async fn run(
    clients: Clients,
    settings: Settings,
    metrics: Metrics,
    readiness: Readiness,
    candidate: Option<Candidate>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (workloads, workload_wishes) = queue();
    let (sources, source_wishes) = queue();
    let (approvals, approval_wishes) = queue();
    let (evidence, evidence_wishes) = queue();
    let wishes = Wishes {
        workloads: workload_wishes,
        sources: source_wishes,
        approvals: approval_wishes,
        evidence: evidence_wishes,
    };
    let ctx = Arc::new(Ctx {
        cluster: clients.acting,
        memory: Memory::default(),
        root: settings.root_namespace.clone(),
        applier: settings.applier.clone(),
        private_git_hosts: Arc::new(settings.private_git_hosts.clone()),
        metrics,
        readiness,
        mirrors: Mirrors::new(&settings.cache_dir),
        kustomize: Kustomize::new(&settings.cache_dir, settings.kustomize.clone()),
        source_state: source::Sources::default(),
        workloads,
        approvals,
        evidence,
        registry: Registry::new(settings.registry.clone()).map_err(RunError::Registry)?,
        sources,
        receivers: receive::Receivers::new(Cluster::new(clients.open.clone())),
        trail: Trail::default(),
        denied: Denied::default(),
        pacer: Pacer::new(settings.pin_interval),
    });
    let mut tasks = JoinSet::new();
    if let Some(addr) = settings.receiver_addr {
        let server = Server::bind(addr, receive::PURPOSE).await.map_err(RunError::Receiver)?;
        tracing::info!(address = %server.addr(), "receiving pushes");
        tasks.spawn(server.serve(receive::router(Arc::clone(&ctx)), stop.clone()));
        tasks.spawn(receive::keep(Arc::clone(&ctx), stop.clone()));
    }
    let changes = Changes::default();
    let serving = match &settings.admission {
        Some(admission) => {
            ctx.memory.write().admits = true;
            let begun = Serving::begin(&ctx, admission, clients.open.clone(), &stop).await;
            Some(Arc::new(begun.map_err(RunError::Admission)?))
        }
        None => None,
    };
    // Until the last request is answered: no verdict is given from what has grown old.
    let watching = serving.as_ref().map_or_else(|| stop.clone(), |serving| serving.ended.clone());
    watch_everything(&ctx, &changes, &mut tasks, &watching);
    let mut telling = None;
    if serving.is_some() {
        watch_pods(&ctx, &mut tasks, &watching);
        telling = Some(tokio::spawn(attempts::run(Arc::clone(&ctx), clients.open, watching.clone())));
    }
    // All that must be loaded has its name in the readiness by now.
    ctx.readiness.part(START).ready();
    let ended =
        lead(&ctx, (changes, wishes), &settings, candidate, serving.as_ref(), &mut tasks, &stop).await;
    stop.cancel();
    watching.cancelled().await;
    if let Some(telling) = telling {
        let _ = telling.await;
    }
    ended
}

/// Waits until everything is loaded and it is this process's turn, and acts.
async fn lead(
    ctx: &Shared,
    (changes, wishes): (Changes, Wishes),
    settings: &Settings,
    candidate: Option<Candidate>,
    serving: Option<&Arc<Serving>>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    while !ctx.readiness.is_ready() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    let acted = CancellationToken::new();
    let until = acted.clone();
    let mut keeping = if let Some(candidate) = candidate {
        let lease = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = all_end(tasks, stop) => return Ok(()),
            lease = candidate.acquire() => lease,
        };
        tokio::spawn(async move { candidate.keep(lease, &until).await })
    } else {
        ctx.metrics.set_leader(true);
        tokio::spawn(async move {
            until.cancelled().await;
            Ok(())
        })
    };
    if let Some(serving) = serving.cloned() {
        let (at, until) = (Arc::clone(ctx), stop.clone());
        tasks.spawn(async move { serving.register(at, until).await });
    }
    let ended = tokio::select! {
        ended = act(ctx, changes, wishes, settings, tasks, stop) => ended,
        // Nothing it does has an effect any more.
        kept = &mut keeping => return Ok(kept.map_err(RunError::Keeping)??),
    };
    acted.cancel();
    keeping.await.map_err(RunError::Keeping)??;
    Ok(ended?)
}

/// Takes over from whoever led before, and acts until the token is cancelled.
async fn act(
    ctx: &Shared,
    changes: Changes,
    wishes: Wishes,
    settings: &Settings,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        taken = take_over(ctx) => taken?,
    }
    changes.everything();
    tasks.spawn(spread(Arc::clone(ctx), changes.clone(), stop.clone()));
    let last = CancellationToken::new();
    let trailing = tokio::spawn(trail::run(Arc::clone(ctx), last.clone()));
    tasks.spawn(trail::look_after_actions(Arc::clone(ctx), stop.clone()));
    tasks.spawn(report::run(Arc::clone(ctx), stop.clone()));
    if let Some(every) = settings.bare_interval {
        tasks.spawn(bare::run(Arc::clone(ctx), every, stop.clone()));
    }
    let at = |ctx: &Shared| Arc::clone(ctx);
    let (a, b, c) = (at(ctx), at(ctx), at(ctx));
    let look = move |id| workload::look(Arc::clone(&a), id);
    tasks.spawn(queue::run(
        ctx.workloads.clone(),
        wishes.workloads,
        settings.concurrency,
        stop.clone(),
        look,
    ));
    let look = move |key| source::look(Arc::clone(&b), key);
    tasks.spawn(queue::run(ctx.sources.clone(), wishes.sources, SOURCES, stop.clone(), look));
    let look = move |key| approval::look(Arc::clone(&c), key);
    tasks.spawn(queue::run(ctx.approvals.clone(), wishes.approvals, SOURCES, stop.clone(), look));
    let d = at(ctx);
    let look = move |key| evidence::look(Arc::clone(&d), changes.clone(), key);
    tasks.spawn(queue::run(ctx.evidence.clone(), wishes.evidence, IMAGES, stop.clone(), look));
    all_end(tasks, stop).await;
    // The last actions are done: what they left to record is recorded.
    last.cancel();
    let _ = trailing.await;
    Ok(())
}

/// Waits until all tasks have ended; one that panics ends the others.
async fn all_end(tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the operator panicked; it stops, to be started anew");
            stop.cancel();
        }
    }
}
