//! `countersign run`: the operator.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::connect::{block_on, config};
use crate::{
    adapters::{
        cluster::{Cluster, Fence},
        registry,
    },
    api::{read_workload_kinds, webhooks::Endpoint},
    controllers::{self, Clients, Settings, admission, lead::Candidate},
    domain::{destination::PrivateHosts, workload::configure},
    telemetry::{
        LogFormat, Metrics,
        http::{PROBES, Readiness, Server, router},
        init_logs,
    },
};

/// What `countersign run` takes. Every flag has an environment variable.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The operator's own namespace: policies, approvals and sources in it count for the whole cluster
    #[arg(
        long,
        env = "COUNTERSIGN_ROOT_NAMESPACE",
        default_value = "countersign-system",
        value_name = "NAME"
    )]
    root_namespace: String,
    /// Where mirrors of git repositories are kept; may be lost at any time
    #[arg(long, env = "COUNTERSIGN_CACHE_DIR", default_value = "/var/cache/countersign", value_name = "DIR")]
    cache_dir: PathBuf,
    /// The kustomize program (5 or newer), which builds overlays [default: the one on PATH]
    #[arg(long, env = "COUNTERSIGN_KUSTOMIZE", value_name = "FILE")]
    kustomize: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        env = "COUNTERSIGN_METRICS_ADDR",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS:PORT"
    )]
    metrics_addr: SocketAddr,
    /// The service account in the operator's namespace that git sources there apply as which name none; without it they
    /// apply with the operator's own rights
    #[arg(long, env = "COUNTERSIGN_APPLIER", value_name = "NAME")]
    applier: Option<String>,
    /// Hosts that are not public, and that git sources outside of the operator's namespace may reach all the same: names as in
    /// their URLs, addresses and ranges (git.example,10.1.2.3,10.0.0.0/8). What is link-local or serves metadata only its own
    /// address opens, for all sources
    #[arg(
        long,
        env = "COUNTERSIGN_PRIVATE_GIT_HOSTS",
        default_value = "",
        hide_default_value = true,
        value_name = "HOST,..."
    )]
    private_git_hosts: PrivateHosts,
    /// Registries that are not public, and that images may be looked at in all the same: names as in images, addresses and ranges
    /// (registry.example,10.0.0.0/8)
    #[arg(
        long,
        env = "COUNTERSIGN_PRIVATE_REGISTRIES",
        default_value = "",
        hide_default_value = true,
        value_name = "HOST,..."
    )]
    private_registries: PrivateHosts,
    /// Registries that are spoken to without encryption, as in names of images (registry.example:5000)
    #[arg(long, env = "COUNTERSIGN_PLAIN_HTTP_REGISTRIES", value_delimiter = ',', value_name = "HOST,...")]
    plain_http_registries: Vec<String>,
    /// A file with certificates, as PEM, of authorities to trust for registries besides the system's
    #[arg(long, env = "COUNTERSIGN_REGISTRY_CA", value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    /// Where git servers say that something was pushed (POST /hooks/NAMESPACE/NAME, see spec.receiver of a GitSource);
    /// not served unless given
    #[arg(long, env = "COUNTERSIGN_RECEIVER_ADDR", value_name = "ADDRESS:PORT")]
    receiver_addr: Option<SocketAddr>,
    /// Where the API server asks about admission (POST /validate and /mutate, over TLS); not served, nor registered, unless given
    #[arg(long, env = "COUNTERSIGN_WEBHOOK_ADDR", value_name = "ADDRESS:PORT")]
    webhook_addr: Option<SocketAddr>,
    /// How the API server gets there when the operator runs outside of the cluster, such as `https://10.0.0.5:9443` [default: the
    /// Service countersign-webhook of the operator's namespace]
    #[arg(long, env = "COUNTERSIGN_WEBHOOK_URL", value_name = "URL", requires = "webhook_addr", value_parser = Endpoint::url)]
    webhook_url: Option<Endpoint>,
    /// Where tls.crt, tls.key and ca.crt of the webhook's certificate are, where somebody else makes it, such as cert-manager;
    /// without it the operator makes its own
    #[arg(long, env = "COUNTERSIGN_WEBHOOK_CERT_DIR", value_name = "DIR", requires = "webhook_addr")]
    webhook_cert_dir: Option<PathBuf>,
    /// How many workloads are looked at at once
    #[arg(long, env = "COUNTERSIGN_CONCURRENCY", default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    concurrency: u16,
    /// How far apart pins are that only add a digest to what already runs; each restarts pods of one workload
    #[arg(long, env = "COUNTERSIGN_PIN_INTERVAL_SECONDS", default_value_t = 2, value_name = "SECONDS")]
    pin_interval_seconds: u64,
    /// Act only while holding the Lease `countersign` of the root namespace; without it a second operator would act as well
    #[arg(long, env = "COUNTERSIGN_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    leader_elect: bool,
    /// How often Pods and Jobs are looked at that belong to no workload; all pods are listed. 0: never
    #[arg(long, env = "COUNTERSIGN_BARE_INTERVAL_SECONDS", default_value_t = 300, value_name = "SECONDS")]
    bare_interval_seconds: u64,
    /// A file that adds kinds with a pod template to those that are governed
    #[arg(long, env = "COUNTERSIGN_WORKLOAD_KINDS", value_name = "FILE")]
    workload_kinds: Option<PathBuf>,
    /// How logs are written
    #[arg(long, env = "COUNTERSIGN_LOG_FORMAT", default_value = "text", value_enum)]
    log_format: LogFormat,
    /// What is logged, as tracing's filters say it, such as info or countersign=debug
    #[arg(long, env = "COUNTERSIGN_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    init_logs(args.log_format, &args.log).context("cannot set up logs")?;
    block_on(operate(args))
}

async fn operate(args: Args) -> anyhow::Result<()> {
    if let Some(path) = &args.workload_kinds {
        add_workload_kinds(path)?;
    }
    let registry_ca = args.registry_ca.as_deref().map(|path| {
        std::fs::read_to_string(path).with_context(|| format!("--registry-ca {}", path.display()))
    });
    let registry_ca = registry_ca.transpose()?;
    let stop = CancellationToken::new();
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    // Nothing is ready before everything that must be loaded is named.
    readiness.part(controllers::START);
    let server = Server::bind(args.metrics_addr, PROBES).await?;
    tracing::info!(address = %server.addr(), version = env!("CARGO_PKG_VERSION"), "serving probes and metrics");
    let serving = tokio::spawn(server.serve(router(metrics.clone(), readiness.clone()), stop.clone()));
    let config = config().await?;
    let fence = if args.leader_elect { Fence::shut() } else { Fence::open() };
    let made = "cannot make a client of the cluster";
    let acting = Cluster::connect(config.clone(), &fence).context(made)?;
    let open = kube::Client::try_from(config).context(made)?;
    let candidate =
        args.leader_elect.then(|| Candidate::new(open.clone(), &args.root_namespace, fence, metrics.clone()));
    let clients = Clients { acting, open };
    // Without it sources cannot be read, and say so; rollbacks and holds need none.
    if let Err(error) = std::fs::create_dir_all(&args.cache_dir) {
        let directory = args.cache_dir.display();
        tracing::error!(%directory, %error, "the cache directory (--cache-dir) cannot be created: no source can be read");
    }
    stop_on_signals(&stop)?;
    let registry = registry::Settings {
        ca: registry_ca.into_iter().collect(),
        plain_http: args.plain_http_registries.into_iter().filter(|host| !host.is_empty()).collect(),
        private: args.private_registries,
        ..registry::Settings::default()
    };
    let settings = Settings {
        root_namespace: args.root_namespace,
        cache_dir: args.cache_dir,
        kustomize: args.kustomize,
        concurrency: usize::from(args.concurrency),
        bare_interval: Some(Duration::from_secs(args.bare_interval_seconds)).filter(|every| !every.is_zero()),
        pin_interval: Duration::from_secs(args.pin_interval_seconds),
        receiver_addr: args.receiver_addr,
        admission: args.webhook_addr.map(|addr| admission::Settings {
            addr,
            endpoint: args.webhook_url.unwrap_or(Endpoint::Service),
            cert_dir: args.webhook_cert_dir,
        }),
        applier: args.applier,
        private_git_hosts: args.private_git_hosts,
        registry,
    };
    let ended = controllers::run(clients, settings, metrics, readiness, candidate, stop.clone()).await;
    stop.cancel();
    let _ = serving.await;
    ended.context("the operator ended")?;
    tracing::info!("stopped");
    Ok(())
}

/// Before anything reads the table of kinds.
fn add_workload_kinds(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let content = std::fs::read(path).with_context(|| format!("cannot read --workload-kinds {shown}"))?;
    let kinds = read_workload_kinds(&shown.to_string(), &content).map_err(anyhow::Error::msg)?;
    let names: Vec<String> =
        kinds.iter().map(|kind| format!("{} {}", kind.api_version(), kind.kind)).collect();
    anyhow::ensure!(configure(kinds), "the workload kinds are configured already");
    tracing::info!(kinds = names.join(", "), "workload kinds are added");
    Ok(())
}

/// SIGTERM and Ctrl-C end it in good order: what is under way is finished, and what is left to record is recorded.
fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}
