//! The programs of the control plane: found on this machine, or built once with Go.
//!
//! Looked for, in this order: the directory in `KUBEBUILDER_ASSETS`, each directory of `PATH`, the user's
//! cache directory. What is nowhere is built into the cache directory from the pinned Go modules in `tools/`.
//! The programs of one module are always taken from one directory, so that no two of them come from different
//! releases.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};

/// A program that can be found or built.
#[derive(Debug)]
pub struct Tool {
    /// The file name of the program.
    pub name: &'static str,
    /// The pinned Go module it is built from.
    pub module: &'static Module,
    /// Its Go package.
    pub package: &'static str,
    /// The oldest (major, minor) release that is good enough when the program is already installed. None for a program that
    /// does not say its version: it is always built.
    pub oldest: Option<(u32, u32)>,
    /// How long a build from nothing takes on two cores, for the progress line.
    pub build_time: &'static str,
}

/// A folder of `tools/`: a `go.mod` that pins one release, embedded so that a test binary works from any
/// directory.
#[derive(Debug)]
pub struct Module {
    /// The folder's name.
    pub name: &'static str,
    /// The Go module whose version is the release.
    pub path: &'static str,
    /// The pinned versions.
    pub go_mod: &'static str,
    /// The checksums of everything that is downloaded.
    pub go_sum: &'static str,
    /// Linker flags; `{version}`, `{major}` and `{minor}` are replaced.
    pub ldflags: &'static str,
}

const KUBERNETES_MODULE: Module = Module {
    name: "kubernetes",
    path: "k8s.io/kubernetes",
    go_mod: include_str!("tools/kubernetes/go.mod"),
    go_sum: include_str!("tools/kubernetes/go.sum"),
    // Without these stamps the server says that it is v0.0.0, and clients take it for something very old.
    ldflags: "-s -w -X k8s.io/component-base/version.gitVersion={version} \
              -X k8s.io/component-base/version.gitMajor={major} \
              -X k8s.io/component-base/version.gitMinor={minor}",
};

const ETCD_MODULE: Module = Module {
    name: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    go_mod: include_str!("tools/etcd/go.mod"),
    go_sum: include_str!("tools/etcd/go.sum"),
    ldflags: "-s -w",
};

const KWOK_MODULE: Module = Module {
    name: "kwok",
    path: "sigs.k8s.io/kwok",
    go_mod: include_str!("tools/kwok/go.mod"),
    go_sum: include_str!("tools/kwok/go.sum"),
    ldflags: "-s -w",
};

const KUSTOMIZE_MODULE: Module = Module {
    name: "kustomize",
    path: "sigs.k8s.io/kustomize/kustomize/v5",
    go_mod: include_str!("tools/kustomize/go.mod"),
    go_sum: include_str!("tools/kustomize/go.sum"),
    ldflags: "-s -w",
};

const HELM_MODULE: Module = Module {
    name: "helm",
    path: "helm.sh/helm/v3",
    go_mod: include_str!("tools/helm/go.mod"),
    go_sum: include_str!("tools/helm/go.sum"),
    ldflags: "-s -w",
};

const KUSTOMIZE_CONTROLLER_MODULE: Module = Module {
    name: "kustomize-controller",
    path: "github.com/fluxcd/kustomize-controller",
    go_mod: include_str!("tools/kustomize-controller/go.mod"),
    go_sum: include_str!("tools/kustomize-controller/go.sum"),
    ldflags: "-s -w",
};

const GITOPS_ENGINE_MODULE: Module = Module {
    name: "gitops-engine",
    path: "github.com/argoproj/argo-cd/gitops-engine",
    go_mod: include_str!("tools/gitops-engine/go.mod"),
    go_sum: include_str!("tools/gitops-engine/go.sum"),
    ldflags: "-s -w",
};

const REGISTRY_MODULE: Module = Module {
    name: "registry",
    path: "github.com/distribution/distribution/v3",
    go_mod: include_str!("tools/registry/go.mod"),
    go_sum: include_str!("tools/registry/go.sum"),
    ldflags: "-s -w",
};

const OLDEST_KUBERNETES: (u32, u32) = (1, 33);

pub const ETCD: Tool = Tool {
    name: "etcd",
    module: &ETCD_MODULE,
    package: "go.etcd.io/etcd/server/v3",
    oldest: Some((3, 5)),
    build_time: "40 seconds",
};

pub const APISERVER: Tool = Tool {
    name: "kube-apiserver",
    module: &KUBERNETES_MODULE,
    package: "k8s.io/kubernetes/cmd/kube-apiserver",
    oldest: Some(OLDEST_KUBERNETES),
    build_time: "5 minutes",
};

pub const CONTROLLER_MANAGER: Tool = Tool {
    name: "kube-controller-manager",
    module: &KUBERNETES_MODULE,
    package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    oldest: Some(OLDEST_KUBERNETES),
    build_time: "1 minute",
};

pub const SCHEDULER: Tool = Tool {
    name: "kube-scheduler",
    module: &KUBERNETES_MODULE,
    package: "k8s.io/kubernetes/cmd/kube-scheduler",
    oldest: Some(OLDEST_KUBERNETES),
    build_time: "10 seconds",
};

pub const KWOK: Tool = Tool {
    name: "kwok",
    module: &KWOK_MODULE,
    package: "sigs.k8s.io/kwok/cmd/kwok",
    oldest: Some((0, 8)),
    build_time: "90 seconds",
};

/// Not a part of the control plane: what builds the overlays of git sources.
pub const KUSTOMIZE: Tool = Tool {
    name: "kustomize",
    module: &KUSTOMIZE_MODULE,
    package: "sigs.k8s.io/kustomize/kustomize/v5",
    oldest: Some((5, 8)),
    build_time: "15 seconds",
};

pub const HELM: Tool = Tool {
    name: "helm",
    module: &HELM_MODULE,
    package: "helm.sh/helm/v3/cmd/helm",
    oldest: Some((3, 22)),
    build_time: "2 minutes",
};

/// What applies in Flux.
pub const KUSTOMIZE_CONTROLLER: Tool = Tool {
    name: "kustomize-controller",
    module: &KUSTOMIZE_CONTROLLER_MODULE,
    package: "github.com/fluxcd/kustomize-controller",
    oldest: None,
    build_time: "6 minutes",
};

/// What applies in Argo CD, as a program of its own.
pub const GITOPS_AGENT: Tool = Tool {
    name: "gitops-agent",
    module: &GITOPS_ENGINE_MODULE,
    package: "github.com/argoproj/argo-cd/gitops-engine/agent",
    oldest: None,
    build_time: "2 minutes",
};

/// The registry that most others are compared with. It has no referrers API.
pub const REGISTRY: Tool = Tool {
    name: "registry",
    module: &REGISTRY_MODULE,
    package: "github.com/distribution/distribution/v3/cmd/registry",
    oldest: None,
    build_time: "2 minutes",
};

/// What [`ControlPlane::start`](super::ControlPlane::start) needs.
pub const CONTROL_PLANE: [&Tool; 5] = [&ETCD, &APISERVER, &CONTROLLER_MANAGER, &SCHEDULER, &KWOK];

/// The path of each tool, by name. Builds what is not installed, which takes minutes, once for each release.
pub fn find_or_build(tools: &[&'static Tool]) -> anyhow::Result<BTreeMap<&'static str, PathBuf>> {
    let mut by_module: BTreeMap<&str, Vec<&'static Tool>> = BTreeMap::new();
    for tool in tools {
        by_module.entry(tool.module.name).or_default().push(tool);
    }
    let mut found = BTreeMap::new();
    for tools in by_module.values() {
        let directory = match installed(tools) {
            Some(directory) => directory,
            None => cached_or_built(tools)?,
        };
        found.extend(tools.iter().map(|tool| (tool.name, directory.join(tool.name))));
    }
    Ok(found)
}

/// The directory where someone installed all of these tools, in one release that is new enough.
fn installed(tools: &[&Tool]) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let oldest: Option<Vec<_>> = tools.iter().map(|tool| tool.oldest).collect();
    let oldest = oldest?;
    assets.into_iter().chain(std::env::split_paths(&path)).find(|directory| {
        let releases: Option<Vec<_>> = tools
            .iter()
            .zip(&oldest)
            .map(|(tool, oldest)| release(&directory.join(tool.name)).filter(|at| at >= oldest))
            .collect();
        releases.is_some_and(|releases| releases.windows(2).all(|pair| pair[0] == pair[1]))
    })
}

/// (major, minor) from `program --version` or `program version`, or none if there is no such program.
fn release(program: &Path) -> Option<(u32, u32)> {
    if !program.is_file() {
        return None;
    }
    ["--version", "version"].into_iter().find_map(|argument| {
        let output = Command::new(program).arg(argument).output().ok()?;
        first_release(&String::from_utf8_lossy(&output.stdout))
    })
}

/// The first `<number>.<number>` of a text: `Kubernetes v1.36.3` and `go version go1.26.8` alike.
fn first_release(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// The `bin` directory of the module in the cache, after building what is missing in it.
///
/// # Guarantees
/// A program has its final name only when it is whole: it is built under another name and renamed. One
/// process builds, others wait.
fn cached_or_built(tools: &[&'static Tool]) -> anyhow::Result<PathBuf> {
    let module = tools[0].module;
    let home = module_directory(module)?;
    let bin = home.join("bin");
    let missing = || tools.iter().filter(|tool| !bin.join(tool.name).is_file()).collect::<Vec<_>>();
    if missing().is_empty() {
        return Ok(bin);
    }
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let _lock = lock(&home.join("lock"), module)?;
    // Another process may have built them while this one waited for the lock.
    let missing = missing();
    if !missing.is_empty() {
        fs::write(home.join("go.mod"), module.go_mod)?;
        fs::write(home.join("go.sum"), module.go_sum)?;
        remove_unfinished(&bin)?;
        check_go(&home, missing[0])?;
    }
    for tool in missing {
        build(tool, &home, &bin)?;
    }
    Ok(bin)
}

/// A directory for each release, pins and platform, so that nothing old is ever taken for new.
fn module_directory(module: &Module) -> anyhow::Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let mut hash = Sha256::new();
    for part in [module.go_mod, module.go_sum, module.ldflags, std::env::consts::OS, std::env::consts::ARCH] {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hex::encode(&hash.finalize()[..4]);
    Ok(cache.join("countersign/controlplane").join(format!("{}-{}-{hash}", module.name, module.version()?)))
}

impl Module {
    /// The pinned version, `v1.36.3`, as `go.mod` has it: written in one place only.
    fn version(&self) -> anyhow::Result<&'static str> {
        self.go_mod
            .lines()
            .map(|line| line.trim().trim_start_matches("require "))
            .find_map(|line| line.strip_prefix(self.path)?.strip_prefix(' ')?.split_whitespace().next())
            .with_context(|| format!("{} is not required by tools/{}/go.mod", self.path, self.name))
    }
}

/// Held while building; the kernel releases it when the process ends, however it ends.
fn lock(path: &Path, module: &Module) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress(&format!("waiting for another process that builds {}", module.name));
            file.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", path.display()));
        }
    }
    Ok(file)
}

/// Asked in the module's directory, where a Go that is only a little too old fetches the right one by itself.
fn check_go(home: &Path, tool: &Tool) -> anyhow::Result<()> {
    const NEEDED: (u32, u32) = (1, 26);
    let advice = format!(
        "Go {}.{} or newer builds {} and its companions, once. Install it from https://go.dev/dl, or set \
         KUBEBUILDER_ASSETS to a directory that has etcd, kube-apiserver, kube-controller-manager, \
         kube-scheduler ({}.{} or newer) and kwok",
        NEEDED.0, NEEDED.1, tool.name, OLDEST_KUBERNETES.0, OLDEST_KUBERNETES.1
    );
    let output = match Command::new("go").arg("version").current_dir(home).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("there is no go on PATH. {advice}"),
        Err(error) => return Err(error).context("run go version"),
    };
    let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr })
        .into_owned();
    let found =
        output.status.success().then(|| first_release(said.trim_start_matches("go version "))).flatten();
    ensure!(found.is_some_and(|found| found >= NEEDED), "this Go is too old ({}). {advice}", said.trim());
    Ok(())
}

/// What interrupted builds left behind. Only the holder of the lock may do this.
fn remove_unfinished(bin: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(bin)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".building-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn build(tool: &Tool, home: &Path, bin: &Path) -> anyhow::Result<()> {
    let version = tool.module.version()?;
    let (major, minor) = first_release(version).context("the pinned version has no number")?;
    let ldflags = tool
        .module
        .ldflags
        .replace("{version}", version)
        .replace("{major}", &major.to_string())
        .replace("{minor}", &minor.to_string());
    // A name of this process's own: a Go that an interrupted build left behind may still be writing to its own.
    let unfinished = bin.join(format!(".building-{}-{}", tool.name, std::process::id()));
    progress(&format!("building {} {version} (about {}, once)...", tool.name, tool.build_time));
    let started = Instant::now();
    let output = Command::new("go")
        .args(["build", "-trimpath", "-ldflags", &ldflags, "-o"])
        .arg(&unfinished)
        .arg(tool.package)
        .current_dir(home)
        .output()
        .context("run go build")?;
    ensure!(
        output.status.success(),
        "go build {} in {} failed:\n{}",
        tool.package,
        home.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&unfinished, bin.join(tool.name))
        .with_context(|| format!("rename {}", unfinished.display()))?;
    progress(&format!("built {} in {} s", tool.name, started.elapsed().as_secs()));
    Ok(())
}

/// Straight to standard error: the test harness would hold `eprintln!` back until a test fails.
fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "control plane: {line}");
}
