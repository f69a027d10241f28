//! The same by plain means: git's own program, and server-side applies.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, ensure};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    audit::Object,
    controlplane::ControlPlane,
    repository::{Changed, Repository, make_namespaces, written},
};

/// How many writes are in flight; as many as a sync of the operator has.
const IN_FLIGHT: usize = 16;

/// A bare mirror, and namespaces of its own.
pub struct Plain {
    client: Client,
    prefix: String,
    directory: TempDir,
}

impl Plain {
    pub async fn new(plane: &ControlPlane, repository: &Repository) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let name = directory.path().file_name().and_then(|name| name.to_str()).context("no name")?;
        let prefix =
            format!("plain{}", name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), ""));
        make_namespaces(&plane.client(), &prefix).await?;
        let plain = Self { client: plane.client(), prefix, directory };
        plain.git(&["init", "-q", "--bare", "."])?;
        let url = repository.repo.path().to_str().context("no path")?;
        plain.git(&["remote", "add", "origin", &format!("file://{url}")])?;
        Ok(plain)
    }

    /// Whether an object is one of ours.
    pub fn has(&self, object: &Object) -> bool {
        written(object) && object.namespace.starts_with(&self.prefix)
    }

    fn git(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut command = Command::new("git");
        command.current_dir(self.directory.path()).args(["-c", "gc.auto=0"]).args(arguments);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").stdin(Stdio::null());
        let output = command.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    /// Fetches the head; answers with how long that took.
    pub fn fetch(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.git(&["fetch", "-q", "origin", "+main:head"])?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Fetches everything and reads all files; answers with how long the fetch took.
    pub fn fetch_and_read(&self) -> anyhow::Result<f64> {
        let fetched = self.fetch()?;
        let all = self.git(&["archive", "head"])?;
        ensure!(!all.is_empty(), "the mirror is empty");
        Ok(fetched)
    }

    /// Applies every object.
    pub async fn apply_all(&self, repository: &Repository) -> anyhow::Result<()> {
        let (objects, next) =
            (Arc::new(repository.objects(&self.prefix).collect::<Vec<_>>()), Arc::new(AtomicUsize::new(0)));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, objects, next) = (self.client.clone(), Arc::clone(&objects), Arc::clone(&next));
            workers.spawn(async move {
                while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    apply(&client, object).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(())
    }

    /// Reads the changed file from the mirror, and applies it.
    pub async fn apply_changed(&self, changed: &Changed) -> anyhow::Result<()> {
        let paths = self.git(&["diff-tree", "--name-only", "-r", "head~1", "head"])?;
        let paths = String::from_utf8(paths)?;
        ensure!(paths.trim() == changed.path, "{paths}");
        let bytes = self.git(&["cat-file", "blob", &format!("head:{}", paths.trim())])?;
        let mut object: Value = serde_json::from_slice(&bytes)?;
        let namespace = object["metadata"]["namespace"].as_str().context("no namespace")?;
        let number = namespace.rsplit('-').next().unwrap_or_default();
        object["metadata"]["namespace"] = format!("{}-{number}", self.prefix).into();
        apply(&self.client, &object).await
    }
}

/// CPU time that this process and what it ran has used.
pub fn cpu() -> anyhow::Result<f64> {
    Ok(super::process::cpu_seconds(std::process::id())? + super::process::children_cpu_seconds()?)
}

async fn apply(client: &Client, object: &Value) -> anyhow::Result<()> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
    let gvk = GroupVersionKind::gvk(group, version, text("/kind"));
    let resource = ApiResource::from_gvk(&gvk);
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), text("/metadata/namespace"), &resource);
    let params = PatchParams::apply("countersign").force();
    api.patch(text("/metadata/name"), &params, &Patch::Apply(object)).await?;
    Ok(())
}
