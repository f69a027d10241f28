//! The real operator binary, beside a real control plane.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kube::{Api, api::PostParams};

use crate::controlplane::{ControlPlane, KUSTOMIZE, eventually, find_or_build};

/// The namespace in which the operators of tests live.
pub const ROOT: &str = "countersign-system";

/// A running operator; it ends with its control plane.
pub struct Operator<'a> {
    plane: &'a ControlPlane,
    name: &'static str,
    program: PathBuf,
    settings: Vec<(String, String)>,
    pub metrics_port: u16,
    pub receiver_port: u16,
}

const BINARY: &str = env!("CARGO_BIN_EXE_countersign");

/// The real kustomize.
pub fn kustomize() -> PathBuf {
    find_or_build(&[&KUSTOMIZE]).unwrap().remove(KUSTOMIZE.name).unwrap()
}

/// Installs the definitions and makes the root namespace.
pub async fn install(plane: &ControlPlane) {
    let client = plane.client();
    let definitions = Api::all(client.clone());
    for crd in countersign::api::crds() {
        definitions.create(&PostParams::default(), &crd).await.unwrap();
    }
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let root = serde_json::from_value(serde_json::json!({"metadata": {"name": ROOT}})).unwrap();
    namespaces.create(&PostParams::default(), &root).await.unwrap();
    eventually("the definitions are served", Duration::from_secs(20), async || {
        for crd in countersign::api::crds() {
            let name = crd.metadata.name.clone().unwrap_or_default();
            let found = definitions.get(&name).await?;
            let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
            ensure!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"), "{name}");
        }
        Ok(())
    })
    .await;
}

impl<'a> Operator<'a> {
    /// An operator that is not started yet, and leads without a lease: one that is killed leads again at once.
    pub fn new(plane: &'a ControlPlane) -> Self {
        Self::named(plane, "countersign").with("COUNTERSIGN_LEADER_ELECT", "false")
    }

    /// One of several, with its own name and cache, and the defaults of the product.
    pub fn named(plane: &'a ControlPlane, name: &'static str) -> Self {
        let cache = if name == "countersign" { "cache".to_owned() } else { format!("cache-{name}") };
        let cache = plane.directory().join(cache).display().to_string();
        let settings = vec![("COUNTERSIGN_CACHE_DIR".to_owned(), cache)];
        Self {
            plane,
            name,
            program: BINARY.into(),
            settings,
            metrics_port: free_port(),
            receiver_port: free_port(),
        }
    }

    /// As another version calls itself: a copy of the program with a number of the same length in it.
    pub fn calling_itself(mut self, version: &str) -> Self {
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(own.len(), version.len());
        self.program = self.plane.directory().join(format!("{}-{version}", self.name));
        std::fs::copy(BINARY, &self.program).unwrap();
        let replace = format!("s|countersign/{}|countersign/{version}|g", own.replace('.', "\\."));
        let mut sed = Command::new("sed");
        let done = sed.env("LC_ALL", "C").args(["-i", &replace]).arg(&self.program).status().unwrap();
        assert!(done.success());
        self
    }

    /// Asked by the API server what may be let in. As the operator runs beside it, and in no cluster: by an address.
    pub fn admitting(self) -> Self {
        let addr = format!("127.0.0.1:{}", free_port());
        let url = format!("https://{addr}");
        self.with("COUNTERSIGN_WEBHOOK_ADDR", addr).with("COUNTERSIGN_WEBHOOK_URL", url)
    }

    /// Where it is asked.
    pub fn webhook_url(&self) -> &str {
        let url = self.settings.iter().find(|(variable, _)| *variable == "COUNTERSIGN_WEBHOOK_URL");
        &url.expect("it is admitting").1
    }

    /// With an environment variable.
    pub fn with(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.settings.push((variable.to_owned(), value.into()));
        self
    }

    /// Starts an operator and waits until it is ready.
    pub async fn start(plane: &'a ControlPlane) -> Self {
        let operator = Self::new(plane);
        operator.restart().await;
        operator
    }

    /// Starts it (again), with the same cache, and waits until it is ready.
    pub async fn restart(&self) {
        self.spawn();
        self.ready().await;
    }

    /// Starts it (again), with the same cache.
    pub fn spawn(&self) {
        self.spawn_with_kustomize(&kustomize());
    }

    /// Starts it (again), with the same cache and a kustomize of the test's own.
    pub fn spawn_with_kustomize(&self, program: &Path) {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--kustomize").arg(program);
        self.spawn_as(command);
    }

    /// Starts it with a volume for its cache that holds 8 MiB. Where this user may mount one it is a real file system of that
    /// size, elsewhere no file may grow beyond it; a full volume is met in both.
    pub fn spawn_on_small_volume(&self) {
        let cache = self.plane.directory().join("cache");
        std::fs::create_dir_all(&cache).unwrap();
        let unshare = ["--map-root-user", "--mount", "sh", "-c"];
        let mount = "mount -t tmpfs -o size=8m none \"$0\"";
        let probe = Command::new("unshare").args(unshare).arg(mount).arg(&cache).output();
        let mut command = if probe.is_ok_and(|probe| probe.status.success()) {
            let mut command = Command::new("unshare");
            command.args(unshare).arg(format!("{mount} && exec \"$1\" run"));
            command
        } else {
            eprintln!("no file system can be mounted here: the size of files is limited instead");
            let mut command = Command::new("sh");
            // In units of 512 bytes.
            command.arg("-c").arg("trap '' XFSZ; ulimit -f 16384; exec \"$1\" run");
            command
        };
        command.arg(&cache).arg(BINARY);
        self.spawn_as(command);
    }

    fn spawn_as(&self, mut command: Command) {
        command
            .env("KUBECONFIG", self.plane.kubeconfig_path())
            .env("COUNTERSIGN_ROOT_NAMESPACE", ROOT)
            .env("COUNTERSIGN_METRICS_ADDR", format!("127.0.0.1:{}", self.metrics_port))
            .env("COUNTERSIGN_RECEIVER_ADDR", format!("127.0.0.1:{}", self.receiver_port))
            .env("COUNTERSIGN_PIN_INTERVAL_SECONDS", "0")
            // Where the git servers of tests are; nothing else on this machine is opened to tenants.
            .env("COUNTERSIGN_PRIVATE_GIT_HOSTS", "127.0.0.1")
            .env("COUNTERSIGN_BARE_INTERVAL_SECONDS", "1")
            .env("COUNTERSIGN_LOG", "countersign=debug,info")
            .envs(self.settings.iter().map(|(variable, value)| (variable, value)));
        self.plane.spawn(self.name, command).expect("the operator binary starts");
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.metrics_port);
        eventually("the operator is ready", Duration::from_mins(1), async || {
            let answer = reqwest::get(&url).await?;
            let status = answer.status();
            let body = answer.text().await?;
            ensure!(status == 200, "{status}: {body}");
            Ok(())
        })
        .await;
    }

    /// Ends it as kill -9 does.
    pub fn kill(&self) {
        self.plane.kill(self.name).unwrap();
    }

    /// Sends it a signal by name.
    pub fn signal(&self, signal: &str) {
        self.plane.signal(self.name, signal).unwrap();
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.plane.log(self.name)
    }

    /// All its metrics.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port);
        Ok(reqwest::get(&url).await?.text().await?)
    }

    /// One sample of its metrics, by the text of its series.
    pub async fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let line =
            text.lines().find(|line| line.starts_with(series)).with_context(|| format!("no {series}"))?;
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).with_context(|| line.to_owned())
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
