//! The quick start, run as a user runs it: the first thing that anybody sees of this must work, and leave nothing behind.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::ensure;
use tempfile::TempDir;

use crate::controlplane::{CONTROL_PLANE, eventually, find_or_build};

/// A run of the example, with a directory for temporary files of its own, so that what it leaves is seen.
struct Run {
    child: Child,
    temporary: TempDir,
}

impl Run {
    fn start() -> Self {
        // Built by whichever test is first; the limits below are about the story alone.
        find_or_build(&CONTROL_PLANE).unwrap();
        let operator = Path::new(env!("CARGO_BIN_EXE_countersign"));
        let example: PathBuf = operator.with_file_name("examples").join("quickstart");
        assert!(
            example.exists(),
            "{}: cargo test builds it; cargo test --test it does not",
            example.display()
        );
        let temporary = TempDir::new().unwrap();
        let child = Command::new(example)
            .arg("--operator")
            .arg(operator)
            .env("TMPDIR", temporary.path())
            // No identity, no configuration: git must work without.
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, temporary }
    }

    /// Every process that has a file or its directory below the run's directory for temporary files.
    fn processes(&self) -> BTreeSet<u32> {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let directory = std::fs::read_link(entry.path().join("cwd")).ok()?;
            directory.starts_with(self.temporary.path()).then_some(id)
        })
        .collect()
    }

    async fn nothing_is_left(&self) {
        eventually("nothing is left of the quick start", Duration::from_secs(20), async || {
            let files: Vec<_> = std::fs::read_dir(self.temporary.path())?.flatten().collect();
            ensure!(files.is_empty(), "{files:?}");
            ensure!(self.processes().is_empty(), "{:?}", self.processes());
            Ok(())
        })
        .await;
    }
}

/// What it tells must be what happened; and it must end well, with nothing left.
#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_tells_its_story() {
    let mut run = Run::start();
    let mut stderr = run.child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let mut told = String::new();
    run.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let status = run.child.wait().unwrap();
    let errors = errors.join().unwrap();
    assert!(status.success(), "{status}\n{told}\n{errors}");
    let mut rest = told.as_str();
    for milestone in [
        "played, by kwok",
        "1. Approve 1.0 and 1.1, and run 1.0",
        "Deployment   shop/cart    cart:1.0@",
        "2. Roll out 1.1",
        "CronJob      edge/report  cart:1.1@",
        "3. Revoke 1.1",
        "revocation: {reason: CVE-2026-0001",
        "StatefulSet  shop/store   cart:1.0@",
        "Held",
        "CVE-2026-0001",
        "4. Somebody applies the manifests by force",
        "shop/cart.yaml",
        "now cart:1.1",
        "DaemonSet    edge/cache   cart:1.0@",
        "5. Approve 1.2 and run it",
        "DaemonSet    edge/cache   cart:1.2@",
        "What happened",
        "RolledBack 4",
    ] {
        let Some(at) = rest.find(milestone) else {
            panic!("{milestone:?} is not told, or too early:\n{told}")
        };
        rest = &rest[at + milestone.len()..];
    }
    assert!(!told.contains('\u{1b}'), "no colours without a terminal:\n{told}");
    run.nothing_is_left().await;
}

/// Whoever stops it in the middle must not be left with a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_quick_start_leaves_nothing() {
    let mut run = Run::start();
    let lines = BufReader::new(run.child.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("2. Roll out")), "it did not come to the middle");
    assert!(run.processes().len() >= 6, "{:?}", run.processes());
    let id = run.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    let status = run.child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{rest:?}");
    assert!(!rest.iter().any(|line| line.starts_with("What happened")), "{rest:?}");
    run.nothing_is_left().await;
}
