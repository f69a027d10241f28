//! What the story plays on: the control plane, the operator, the source that follows the repository.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use countersign::api::GitSource;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::json;

use super::{
    controlplane::{ControlPlane, Options, within},
    repository::{Commit, Repository},
    screen::Screen,
    table::{self, Row, Times, WORKLOADS},
};

/// The operator's own namespace.
pub const ROOT: &str = "countersign-system";
const OPERATOR: &str = "countersign";
const SOURCE: &str = "quickstart";
/// How long anything may take. On an idle machine it takes seconds.
const LIMIT: Duration = Duration::from_mins(2);
/// How often the cluster is looked at while something is expected.
const GLANCE: Duration = Duration::from_millis(100);

/// Everything that runs. Dropping it ends it.
pub struct Stage {
    pub plane: ControlPlane,
    pub client: Client,
    pub repository: Repository,
}

impl Stage {
    /// Starts the control plane and the operator, and makes the repository.
    pub async fn set(operator: Option<PathBuf>, screen: &Screen) -> anyhow::Result<Self> {
        super::repository::check_git()?;
        let operator = match operator {
            Some(operator) => {
                operator.canonicalize().with_context(|| format!("find {}", operator.display()))?
            }
            None => blocking(build_operator).await?,
        };
        let started = Instant::now();
        let plane = blocking(|| ControlPlane::start(Options::default())).await?;
        let client = plane.client();
        let version = client.apiserver_version().await?.git_version;
        screen.say(&format!(
            "Kubernetes {version} (API server, controllers, scheduler, etcd) is up: {:.1} s",
            started.elapsed().as_secs_f64()
        ));
        let repository = Repository::create(plane.directory().join("repository"))?;
        let stage = Self { plane, client, repository };
        stage.install().await?;
        let started = Instant::now();
        stage.start_operator(&operator).await?;
        screen
            .say(&format!("The operator runs, as countersign run: {:.1} s", started.elapsed().as_secs_f64()));
        Ok(stage)
    }

    /// What `countersign crds | kubectl apply -f -` and `kubectl create namespace` do.
    async fn install(&self) -> anyhow::Result<()> {
        let definitions = Api::all(self.client.clone());
        for definition in countersign::api::crds() {
            definitions.create(&PostParams::default(), &definition).await.context("install the kinds")?;
        }
        let root: Namespace = serde_json::from_value(json!({"metadata": {"name": ROOT}}))?;
        let namespaces = Api::all(self.client.clone());
        namespaces.create(&PostParams::default(), &root).await.with_context(|| format!("create {ROOT}"))?;
        self.expect("the kinds are served", async || {
            let served = self.client.list_api_group_resources("countersign.dev/v1alpha1").await?;
            let kinds = served.resources.iter().filter(|kind| !kind.name.contains('/')).count();
            ensure!(kinds == countersign::api::crds().len(), "{kinds} are");
            Ok(())
        })
        .await
    }

    async fn start_operator(&self, binary: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(binary);
        command
            .arg("run")
            .env("KUBECONFIG", self.plane.kubeconfig_path())
            .env("COUNTERSIGN_ROOT_NAMESPACE", ROOT)
            .env("COUNTERSIGN_CACHE_DIR", self.plane.directory().join("cache"))
            // Any free port; the log says which.
            .env("COUNTERSIGN_METRICS_ADDR", "127.0.0.1:0");
        self.plane.spawn(OPERATOR, command)?;
        self.expect("the operator is ready", async || {
            let address = self.operator_address().context("it does not serve yet")?;
            let answer = reqwest::get(format!("http://{address}/readyz")).await?;
            let status = answer.status();
            ensure!(status == 200, "{status}: {}", answer.text().await?);
            Ok(())
        })
        .await
    }

    /// Where its probes and metrics are.
    pub fn operator_address(&self) -> Option<String> {
        let log = self.plane.log(OPERATOR);
        let line = log.lines().find(|line| line.contains("serving probes and metrics"))?;
        let address = line.split("address=").nth(1)?.split_whitespace().next()?;
        Some(address.trim_matches('"').to_owned())
    }

    /// Makes the operator follow the repository.
    pub async fn follow(&self) -> anyhow::Result<()> {
        let source: GitSource = serde_json::from_value(json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": SOURCE, "namespace": ROOT},
            "spec": {
                "url": self.repository.directory(), "ref": {"branch": "main"}, "interval": "1s", "prune": true,
            },
        }))?;
        let sources: Api<GitSource> = Api::namespaced(self.client.clone(), ROOT);
        sources.create(&PostParams::default(), &source).await.context("create the GitSource")?;
        Ok(())
    }

    /// Waits until the operator applied a commit whole.
    pub async fn applied(&self, commit: &Commit) -> anyhow::Result<()> {
        let sources: Api<GitSource> = Api::namespaced(self.client.clone(), ROOT);
        self.expect(&format!("the GitSource {SOURCE} applies commit {}", commit.id), async || {
            let status = sources.get(SOURCE).await?.status.context("it has no status")?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            let ready = ready.context("it has no condition Ready")?;
            ensure!(
                status.last_applied_commit.as_deref() == Some(&commit.id) && ready.status == "True",
                "it says {}: {}",
                ready.reason,
                ready.message
            );
            Ok(())
        })
        .await
    }

    /// Waits, with an end, and with the operator's own words when it comes to that.
    pub async fn expect<T>(
        &self,
        what: &str,
        probe: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        within(LIMIT, probe).await.map_err(|last| self.late(what, &format!("{last:#}")))
    }

    /// Waits until every workload is as wanted, and shows the table meanwhile. Times count from `since`.
    pub async fn watch(
        &self,
        screen: &mut Screen,
        what: &str,
        since: Instant,
        image: &str,
        good: impl Fn(&Row) -> bool,
    ) -> anyhow::Result<Vec<Times>> {
        let mut rows = vec![(Row::default(), Times::default()); WORKLOADS.len()];
        let mut done = false;
        while !done {
            if since.elapsed() > LIMIT {
                let at = rows.iter().position(|(_, times)| times.done.is_none()).unwrap_or_default();
                let (workload, row) = (WORKLOADS[at], &rows[at].0);
                return Err(self.late(
                    &format!("{what}: {} {}/{}", workload.kind, workload.namespace, workload.name),
                    &format!("{row:?}"),
                ));
            }
            let looks = WORKLOADS.iter().zip(&mut rows).map(async |(workload, (row, times))| {
                *row = table::look(&self.client, *workload).await?;
                let passed = since.elapsed().as_secs_f64();
                let set = row.image.as_deref() == Some(image);
                let complete = row.pods.is_none_or(|(ready, all)| ready == all && all > 0);
                // As they are now, not as they once were: what moves away again was not there yet.
                times.set = set.then(|| times.set.unwrap_or(passed));
                times.done = (set && complete && good(row)).then(|| times.done.unwrap_or(passed));
                anyhow::Ok(())
            });
            futures::future::try_join_all(looks).await?;
            done = rows.iter().all(|(_, times)| times.done.is_some());
            screen.draft(&table::lines(screen, &rows));
            if !done {
                tokio::time::sleep(GLANCE).await;
            }
        }
        screen.settle(&table::lines(screen, &rows));
        Ok(rows.into_iter().map(|(_, times)| times).collect())
    }

    /// The reasons of the events about workloads, and how often each was given.
    pub async fn events(&self) -> anyhow::Result<Vec<(String, usize)>> {
        let events: Api<Event> = Api::all(self.client.clone());
        let mut counts: Vec<(String, usize)> = Vec::new();
        for event in events.list(&ListParams::default()).await?.items {
            let ours = event.reporting_component.as_deref() == Some("countersign");
            let about_workload = event.involved_object.kind.as_deref() != Some("GitSource");
            let Some(reason) = event.reason.filter(|_| ours && about_workload) else { continue };
            match counts.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => counts.push((reason, 1)),
            }
        }
        counts.sort();
        Ok(counts)
    }

    fn late(&self, what: &str, last: &str) -> anyhow::Error {
        let log = self.plane.log(OPERATOR);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n  ");
        anyhow::anyhow!(
            "not within {} s: {what}\nlast seen: {last}\nthe operator's last lines:\n  {end}",
            LIMIT.as_secs()
        )
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread ended early")?
}

/// Builds the operator with the profile that this program was built with, and answers with where it is.
fn build_operator() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    // <target directory>/<profile>/examples/quickstart
    let directory = own.ancestors().nth(2).context("this program is not where cargo puts examples")?;
    let (target, profile) = (directory.parent(), directory.file_name().and_then(std::ffi::OsStr::to_str));
    let (Some(target), Some(profile)) = (target, profile) else {
        anyhow::bail!("{} is not where cargo puts examples", own.display())
    };
    let profile = if profile == "debug" { "dev" } else { profile };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(&cargo)
        // Together with the example: by itself it would be built with other features of its dependencies, all anew.
        .args(["build", "--quiet", "--bin", "countersign", "--example", "quickstart", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("run {} to build the operator", cargo.display()))?;
    ensure!(status.success(), "cargo build --bin countersign ended with {status}");
    Ok(directory.join(format!("countersign{}", std::env::consts::EXE_SUFFIX)))
}
