//! How the commands reach the cluster.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::cluster::{Cluster, Fence},
    controllers::lead::{Candidate, Lost},
    telemetry::Metrics,
};

/// Where the operator is, and how long a command that needs it to stand still waits for that.
#[derive(Debug, clap::Args)]
pub(super) struct Quiet {
    /// The operator's own namespace
    #[arg(
        long,
        env = "COUNTERSIGN_ROOT_NAMESPACE",
        default_value = "countersign-system",
        value_name = "NAME"
    )]
    pub root_namespace: String,
    /// How long to wait until no operator leads; an operator that failed leads for 15 s more
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait_seconds: u64,
}

/// The configuration of the cluster that is found.
pub(super) async fn config() -> anyhow::Result<kube::Config> {
    let mut config = kube::Config::infer().await.context(
        "no cluster to talk to: neither a kubeconfig (KUBECONFIG, ~/.kube/config) nor a service account was found",
    )?;
    config.connect_timeout = Some(Duration::from_secs(10));
    // Watches are made anew every minute; a connection that is silent for longer is dead.
    config.read_timeout = Some(Duration::from_secs(90));
    config.headers.push((
        http::header::USER_AGENT,
        http::HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION"))),
    ));
    Ok(config)
}

/// Runs a command's work on a runtime of its own.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // One TLS provider for everything; an error only says that it was chosen before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let ended = runtime.block_on(work);
    // What still reads a repository has nothing to say any more.
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

/// The cluster, while this command holds the operators' lease: none of them acts meanwhile.
pub(super) struct Alone {
    pub cluster: Cluster,
    done: CancellationToken,
    keeping: tokio::task::JoinHandle<Result<(), Lost>>,
}

impl Alone {
    /// Waits until no operator leads.
    pub async fn wait(quiet: &Quiet) -> anyhow::Result<Self> {
        let Quiet { root_namespace: root, wait_seconds } = quiet;
        let config = config().await?;
        let fence = Fence::shut();
        let cluster =
            Cluster::new(fence.client(config.clone()).context("cannot make a client of the cluster")?);
        let unfenced = kube::Client::try_from(config).context("cannot make a client of the cluster")?;
        let candidate = Candidate::new(unfenced, root, fence, Metrics::new());
        let Ok(lease) = timeout(Duration::from_secs(*wait_seconds), candidate.acquire()).await else {
            bail!(
                "after {wait_seconds} s an operator still leads (see the Lease countersign in the namespace {root}), or the lease cannot be had; \
                 end it first: kubectl -n {root} scale deployment countersign --replicas=0"
            )
        };
        let done = CancellationToken::new();
        let until = done.clone();
        let keeping = tokio::spawn(async move { candidate.keep(lease, &until).await });
        Ok(Self { cluster, done, keeping })
    }

    /// Lets operators lead again.
    pub async fn end(self) -> anyhow::Result<()> {
        self.done.cancel();
        Ok(self.keeping.await.context("what keeps the lease ended")??)
    }
}
