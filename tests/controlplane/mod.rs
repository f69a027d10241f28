//! A real Kubernetes control plane on loopback, without containers: for the tests, the benches and the quick
//! start.
//!
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real programs, so Deployments
//! roll out, Jobs run and garbage is collected. [kwok](https://kwok.sigs.k8s.io) plays the kubelets: pods run
//! without containers, and `kwok-stages.yaml` says how a test makes one crash. Whoever needs it includes this
//! file by its path, as `tests/it/main.rs` does; it needs nothing of the library.
//!
//! ```ignore
//! let plane = controlplane::shared(); // one for the whole test process, started by the first that asks
//! let namespace = plane.namespace("rollback").await; // a namespace of the test's own
//! let deployments: Api<Deployment> = Api::namespaced(plane.client(), &namespace);
//! ```
//!
//! A test that stops the API server, pauses controllers or loses nodes starts a plane of its own with
//! [`ControlPlane::start`].
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "shared by tests, benches and examples: each uses a part, and none can go on without it"
)]

mod audit;
mod binaries;
mod certificates;
mod components;
mod nodes;
mod processes;
mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};

#[allow(unused_imports, reason = "each of the crates that include this module uses a part")]
pub use self::{
    audit::{AuditEvent, AuditObject, AuditUser},
    binaries::{
        CONTROL_PLANE, GITOPS_AGENT, HELM, KUSTOMIZE, KUSTOMIZE_CONTROLLER, Module, REGISTRY, Tool,
        find_or_build,
    },
    certificates::{Authority, Certified},
    wait::{eventually, within},
};
use self::{
    binaries::{APISERVER, CONTROLLER_MANAGER, ETCD, KWOK, SCHEDULER},
    components::Components,
    processes::{Ended, Processes},
};

/// Generous, because several planes may start at once on a small machine. A component that ends is noticed at
/// once.
const START_TIMEOUT: Duration = Duration::from_mins(2);

/// How a control plane is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many fake nodes there are: `node-0`, `node-1`, ….
    pub nodes: usize,
    /// What the audit log holds.
    pub audit: Audit,
    /// More flags for kube-apiserver.
    pub apiserver_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, audit: Audit::Metadata, apiserver_args: Vec::new() }
    }
}

/// How much the audit log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Who did what to which object.
    Metadata,
    /// Also the bodies of writes of the groups `apps` and `batch`.
    RequestBodies,
}

/// A running control plane. Dropping it kills its processes and removes its directory; so does the end of
/// this process.
pub struct ControlPlane {
    processes: Mutex<Processes>,
    components: Components,
    config: kube::Config,
}

/// The control plane that all tests of this process share, with request bodies in its audit log.
///
/// # Panics
/// When it cannot be started; then for every caller, without trying again.
pub fn shared() -> &'static ControlPlane {
    static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    start_once(&SHARED)
}

/// Another one for the whole process: where the API server asks the operator what may be let in.
pub fn shared_guarded() -> &'static ControlPlane {
    static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    start_once(&SHARED)
}

fn start_once(shared: &'static OnceLock<Result<ControlPlane, String>>) -> &'static ControlPlane {
    let started = shared.get_or_init(|| {
        let options = Options { audit: Audit::RequestBodies, ..Options::default() };
        ControlPlane::start(options).map_err(|error| format!("{error:#}"))
    });
    started.as_ref().unwrap_or_else(|error| panic!("the shared control plane did not start: {error}"))
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready, nodes take pods and controllers work.
    ///
    /// Blocks the calling thread, inside an async runtime too: that keeps it usable everywhere, and it is
    /// done once.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        // A runtime of its own: the caller may be inside one, where blocking on another future is not
        // allowed.
        let starting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(Self::start_with_retry(&options))
        });
        starting.join().map_err(|_panic| anyhow!("the thread that starts the control plane panicked"))?
    }

    async fn start_with_retry(options: &Options) -> anyhow::Result<Self> {
        const ATTEMPTS: usize = 3;
        // Both TLS providers may be compiled in, so one must be chosen; an error says that someone already
        // did.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let programs = find_or_build(&CONTROL_PLANE)?;
        let mut attempt = 1;
        loop {
            match Self::start_once(programs.clone(), options).await {
                Err(error)
                    if attempt < ATTEMPTS
                        && error.downcast_ref::<Ended>().is_some_and(Ended::port_was_taken) =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn start_once(
        programs: BTreeMap<&'static str, PathBuf>,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("countersign-plane-").tempdir()?.keep();
        let mut processes = Processes::new(directory.clone())?;
        let components = Components::prepare(programs, &directory, options)?;
        processes.spawn(ETCD.name, components.etcd())?;
        let kubeconfig = Kubeconfig::read_from(components.path("kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let plane = Self { processes: Mutex::new(processes), components, config };
        plane
            .wait_for("etcd listens", async || {
                tokio::net::TcpStream::connect(plane.components.etcd_address()).await?;
                Ok(())
            })
            .await?;
        plane.start_apiserver().await?;
        for (name, command) in [
            (KWOK.name, plane.components.kwok()),
            (CONTROLLER_MANAGER.name, plane.components.controller_manager()),
            (SCHEDULER.name, plane.components.scheduler()),
        ] {
            plane.processes().spawn(name, command)?;
        }
        plane.wait_until_usable(options.nodes).await?;
        Ok(plane)
    }

    async fn wait_until_usable(&self, nodes: usize) -> anyhow::Result<()> {
        let client = self.client();
        for node in 0..nodes {
            nodes::create(&client, &format!("node-{node}")).await?;
        }
        for node in 0..nodes {
            self.node_is_ready(&format!("node-{node}")).await?;
        }
        // The controllers' first work in a new cluster; without it no pod can be created.
        self.wait_for("the controllers work", async || has_service_account(&client, "default").await).await
    }

    /// A new client with all rights, for the runtime that the caller is in: a client belongs to the runtime
    /// that made it.
    pub fn client(&self) -> Client {
        Client::try_from(self.config.clone()).expect("the configuration is complete")
    }

    /// How to reach the API server with all rights.
    pub fn config(&self) -> kube::Config {
        self.config.clone()
    }

    /// The same as a file, for `kubectl` and for programs under test.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.components.path("kubeconfig")
    }

    /// A kubeconfig with the rights of a service account, and a token of it: to run a program under test with
    /// its own RBAC rules.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        let token = answer.status.context("a token request is answered with a token")?.token;
        let text = self.components.kubeconfig(name, &format!("token: {token}"));
        self.components.write(&format!("{namespace}.{name}.kubeconfig"), &text)
    }

    /// A server certificate that the authority of [`ControlPlane::ca_pem`] signed: for webhooks under test.
    pub fn serving_certificate(&self, names: &[&str]) -> anyhow::Result<Certified> {
        self.components.authority.server(names)
    }

    /// The certificate authority: what a webhook's `caBundle` holds.
    pub fn ca_pem(&self) -> String {
        self.components.authority.pem()
    }

    /// Makes a namespace whose name begins with `prefix` and is not used otherwise, and answers with its
    /// name.
    pub async fn namespace(&self, prefix: &str) -> String {
        let client = self.client();
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = Namespace { metadata, ..Namespace::default() };
        let created =
            namespaces.create(&PostParams::default(), &namespace).await.expect("create a namespace");
        let name = created.name_any();
        // Pods are refused until it is there.
        eventually("the namespace has its service account", START_TIMEOUT, async || {
            has_service_account(&client, &name).await
        })
        .await;
        name
    }

    /// Everything the API server was asked to do, in the order of its answers. An event may appear a moment
    /// after the answer.
    pub fn audit_events(&self) -> anyhow::Result<Vec<AuditEvent>> {
        let log = std::fs::read_to_string(self.components.path("audit.log")).context("read the audit log")?;
        audit::parse(&log).context("parse the audit log")
    }

    /// The audited requests that changed such objects of a namespace themselves (not a subresource):
    /// `("deployments", namespace)`.
    pub fn writes(&self, resource: &str, namespace: &str) -> anyhow::Result<Vec<AuditEvent>> {
        let events = self.audit_events()?.into_iter();
        Ok(events
            .filter(|event| event.is_successful_write() && event.is_about(resource, namespace))
            .collect())
    }

    /// Starts a program beside the control plane: it ends with it, and its output goes to `<name>.log` in the directory.
    pub fn spawn(&self, name: &'static str, command: std::process::Command) -> anyhow::Result<()> {
        self.processes().spawn(name, command)
    }

    /// Ends a program as kill -9 does.
    pub fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.processes().kill(name)
    }

    /// Sends a signal by name (`STOP`, `CONT`, `TERM`).
    pub fn signal(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        self.processes().signal(name, signal)
    }

    /// The output of a program so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.components.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Freezes all controllers: nothing rolls out, nothing is garbage collected.
    pub fn pause_controller_manager(&self) -> anyhow::Result<()> {
        self.processes().signal(CONTROLLER_MANAGER.name, "STOP")
    }

    /// Undoes [`ControlPlane::pause_controller_manager`].
    pub fn resume_controller_manager(&self) -> anyhow::Result<()> {
        self.processes().signal(CONTROLLER_MANAGER.name, "CONT")
    }

    /// Kills the API server: connections break, and new ones are refused. What was written stays, in etcd.
    pub fn stop_apiserver(&self) -> anyhow::Result<()> {
        self.processes().kill(APISERVER.name)?;
        audit::remove_torn_end(&self.components.path("audit.log"))
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        self.processes().spawn(APISERVER.name, self.components.apiserver())?;
        let client = self.client();
        self.wait_for("the API server is ready", async || {
            let request = axum::http::Request::get("/readyz").body(Vec::new())?;
            let answer = client.request_text(request).await?;
            ensure!(answer == "ok", "/readyz says {answer}");
            Ok(())
        })
        .await
    }

    /// The process of each component, by name, and of the `watchdog` that tidies up.
    pub fn process_ids(&self) -> BTreeMap<&'static str, u32> {
        self.processes().ids()
    }

    /// Where everything is: logs as `<component>.log`, keys, the data of etcd. Gone with the control plane.
    pub fn directory(&self) -> PathBuf {
        self.components.path("")
    }

    /// Waits, but not for a component that has ended.
    async fn wait_for(
        &self,
        what: &str,
        mut probe: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let ended = std::cell::RefCell::new(None);
        let waited = within(START_TIMEOUT, async || {
            if let Err(error) = self.processes().check() {
                *ended.borrow_mut() = Some(error);
                return Ok(());
            }
            probe().await
        })
        .await;
        if let Some(error) = ended.into_inner() {
            return Err(error);
        }
        waited
            .with_context(|| format!("waited until {what}; the logs end with:\n{}", self.processes().logs()))
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn has_service_account(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    accounts.get("default").await?;
    Ok(())
}
