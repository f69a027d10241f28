//! The git repository that people write to: made from `repository/` beside this file, with the real git program.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

/// The repository as it begins: path and content of each file.
const FILES: [(&str, &str); 8] = [
    ("namespaces.yaml", include_str!("repository/namespaces.yaml")),
    ("policy.yaml", include_str!("repository/policy.yaml")),
    ("approvals/cart-1.0.yaml", include_str!("repository/approvals/cart-1.0.yaml")),
    ("approvals/cart-1.1.yaml", include_str!("repository/approvals/cart-1.1.yaml")),
    ("shop/cart.yaml", include_str!("repository/shop/cart.yaml")),
    ("shop/store.yaml", include_str!("repository/shop/store.yaml")),
    ("edge/cache.yaml", include_str!("repository/edge/cache.yaml")),
    ("edge/report.yaml", include_str!("repository/edge/report.yaml")),
];
/// What joins later.
pub const APPROVAL_1_2: &str = include_str!("repository/approvals/cart-1.2.yaml");
/// The files of the workloads.
pub const WORKLOADS: [&str; 4] = ["shop/cart.yaml", "shop/store.yaml", "edge/cache.yaml", "edge/report.yaml"];

/// A repository with a work tree.
#[derive(Debug)]
pub struct Repository {
    directory: PathBuf,
}

/// One commit.
#[derive(Debug)]
pub struct Commit {
    pub id: String,
    /// What it changes, in short.
    pub diff: Vec<String>,
}

impl Repository {
    /// Makes the repository with the files of the beginning; nothing is committed yet.
    pub fn create(directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let repository = Self { directory };
        repository.git(["init", "-q"])?;
        repository.git(["symbolic-ref", "HEAD", "refs/heads/main"])?;
        // Of its own, so that commits work here without the user's configuration, and with --keep afterwards.
        repository.git(["config", "user.name", "Quick Start"])?;
        repository.git(["config", "user.email", "quickstart@example.invalid"])?;
        for (path, content) in FILES {
            repository.write(path, content)?;
        }
        Ok(repository)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn write(&self, path: &str, content: &str) -> anyhow::Result<()> {
        let path = self.directory.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    pub fn read(&self, path: &str) -> anyhow::Result<String> {
        let path = self.directory.join(path);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Appends to a file.
    pub fn append(&self, path: &str, more: &str) -> anyhow::Result<()> {
        self.write(path, &format!("{}{more}", self.read(path)?))
    }

    /// Makes every workload ask for another version.
    pub fn ask_for(&self, version: &str) -> anyhow::Result<()> {
        for path in WORKLOADS {
            let lines = self.read(path)?;
            let lines = lines.lines().map(|line| match line.split_once("image: ") {
                Some((indent, _)) => format!("{indent}image: registry.example/shop/cart:{version}\n"),
                None => format!("{line}\n"),
            });
            self.write(path, &lines.collect::<String>())?;
        }
        Ok(())
    }

    /// Commits the whole work tree.
    pub fn commit(&self, message: &str) -> anyhow::Result<Commit> {
        self.git(["add", "-A"])?;
        self.git(["commit", "-q", "-m", message])?;
        let id = self.git(["rev-parse", "HEAD"])?.trim().to_owned();
        let first = self.git(["rev-list", "--count", "HEAD"])?.trim() == "1";
        let diff = if first {
            self.git(["show", "--format=", "--name-only", "HEAD"])?
                .lines()
                .map(|line| format!("+ {line}"))
                .collect()
        } else {
            in_short(&self.git(["show", "--format=", "-U0", "--no-color", "HEAD"])?)
        };
        Ok(Commit { id, diff })
    }

    fn git(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<String> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mut command = Command::new("git");
        command.args(&args).current_dir(&self.directory);
        // Nothing of the user's: no signing, no hooks, and no other repository that a variable names.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_TEMPLATE_DIR"] {
            command.env_remove(variable);
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(NO_GIT),
            Err(error) => return Err(error).context("run git"),
        };
        ensure!(
            output.status.success(),
            "git {args:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

const NO_GIT: &str = "there is no git on PATH: install it (for example apt-get install git, dnf install git, or brew install git)";

/// Asked before anything is built.
pub fn check_git() -> anyhow::Result<()> {
    match Command::new("git").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            bail!("git --version failed: {}", String::from_utf8_lossy(&output.stderr).trim())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(NO_GIT),
        Err(error) => Err(error).context("run git"),
    }
}

/// The files of a diff and their changed lines; files with the same change together.
fn in_short(diff: &str) -> Vec<String> {
    let mut files: Vec<(Vec<&str>, Vec<String>)> = Vec::new();
    for part in diff.split("diff --git ").skip(1) {
        let name = part.lines().find_map(|line| line.strip_prefix("+++ b/")).unwrap_or("(removed)");
        let body = part.lines().skip_while(|line| !line.starts_with("@@"));
        let changes: Vec<String> = body
            .filter(|line| line.starts_with(['+', '-']))
            .map(|line| format!("  {} {}", &line[..1], line[1..].trim_end()))
            .collect();
        match files
            .iter_mut()
            .find(|(_, known)| *known == changes || unindented(known) == unindented(&changes))
        {
            Some((names, _)) => names.push(name),
            None => files.push((vec![name], changes)),
        }
    }
    files.into_iter().flat_map(|(names, changes)| std::iter::once(names.join(", ")).chain(changes)).collect()
}

fn unindented(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
