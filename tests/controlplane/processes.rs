//! Child processes that never outlive this one, and the loopback ports they listen on.
//!
//! A watchdog, a small shell that reads from a pipe, does the tidying. The pipe closes when this process
//! ends, whatever ended it (return, panic, Ctrl-C, SIGKILL); then the watchdog kills the group of all tools
//! and removes their directory. The kernel's parent death signal would not do: it fires when the *thread*
//! that started the child ends, and tests run in threads that come and go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, bail, ensure};

/// The last line it read is the process group to kill, or `none`. Its own group is another one, so that
/// neither Ctrl-C nor the kill ends it before it is done. Killed processes may still be finishing a write,
/// hence the few tries.
const WATCHDOG: &str = r#"
trap "" HUP INT TERM
group=none
while read -r line; do group=$line; done
if [ "$group" != none ]; then kill -s KILL -- "-$group"; fi
for try in 1 2 3 4 5; do
  rm -rf -- "$1" && break
  sleep 1
done
"#;

/// The tools of one control plane: one process group, one directory.
#[derive(Debug)]
pub struct Processes {
    directory: PathBuf,
    running: BTreeMap<&'static str, Child>,
    /// The first tool leads the group. It is reaped last, so that the group's number stays taken while
    /// anything is in the group.
    leader: Option<(&'static str, u32)>,
    watchdog: Child,
    pipe: Option<ChildStdin>,
}

/// A tool that ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("{name} ended with {status}; the end of its log:\n{log}")]
pub struct Ended {
    name: &'static str,
    status: std::process::ExitStatus,
    log: String,
}

impl Ended {
    /// Someone else took the port between our choosing it and the tool's binding it.
    pub fn port_was_taken(&self) -> bool {
        self.log.contains("address already in use")
    }
}

impl Processes {
    /// From now on `directory` is removed when this value is dropped or this process ends.
    pub fn new(directory: PathBuf) -> anyhow::Result<Self> {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "countersign-watchdog"])
            .arg(&directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start sh, which tidies up after the control plane")?;
        let pipe = watchdog.stdin.take();
        Ok(Self { directory, running: BTreeMap::new(), leader: None, watchdog, pipe })
    }

    /// Starts a tool; its output goes to `<name>.log` in the directory.
    pub fn spawn(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        ensure!(!self.running.contains_key(name), "{name} is already running");
        let log = File::options().create(true).append(true).open(self.log_path(name))?;
        let group = self.leader.map_or(Ok(0), |(_, pid)| i32::try_from(pid))?;
        let child = command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(group)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        if self.leader.is_none() {
            self.leader = Some((name, child.id()));
            self.tell_watchdog(&child.id().to_string());
        }
        self.running.insert(name, child);
        Ok(())
    }

    /// SIGKILL, as when a machine fails: no goodbye to clients.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        ensure!(self.leader.is_none_or(|(leader, _)| leader != name), "{name} leads the process group");
        let mut child = self.running.remove(name).with_context(|| format!("{name} is not running"))?;
        child.kill().with_context(|| format!("kill {name}"))?;
        child.wait().with_context(|| format!("wait for {name}"))?;
        Ok(())
    }

    /// Sends a signal by name: `STOP`, `CONT`.
    pub fn signal(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        let child = self.running.get(name).with_context(|| format!("{name} is not running"))?;
        let status = Command::new("kill")
            .args(["-s", signal, "--", &child.id().to_string()])
            .status()
            .context("run kill")?;
        if !status.success() {
            bail!("kill -s {signal} of {name} ended with {status}");
        }
        Ok(())
    }

    /// An error if any tool ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let log = tail(&self.directory.join(log_name(name)), 15);
                return Err(Ended { name, status, log }.into());
            }
        }
        Ok(())
    }

    /// The process of each tool, and of the watchdog.
    pub fn ids(&self) -> BTreeMap<&'static str, u32> {
        let tools = self.running.iter().map(|(name, child)| (*name, child.id()));
        tools.chain([("watchdog", self.watchdog.id())]).collect()
    }

    /// The end of each tool's log, for an error: the directory will be gone when someone reads it.
    pub fn logs(&self) -> String {
        let logs = self.running.keys().map(|name| format!("{name}:\n{}\n", tail(&self.log_path(name), 5)));
        logs.collect()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.directory.join(log_name(name))
    }

    fn tell_watchdog(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe {
            let _ = writeln!(pipe, "{line}");
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        for child in running.values_mut() {
            let _ = child.kill();
        }
        let leader = self.leader.and_then(|(name, _)| running.remove(name));
        for mut child in running.into_values().chain(leader) {
            let _ = child.wait();
        }
        // All are gone and their numbers are free for others: nothing is left to kill, only the directory to
        // remove.
        self.tell_watchdog("none");
        self.pipe = None;
        let _ = self.watchdog.wait();
    }
}

fn log_name(tool: &str) -> String {
    format!("{tool}.log")
}

fn tail(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A loopback port that nobody listens on.
///
/// From below the range that kernels hand out for outgoing connections, so that a tool that is restarted
/// finds its port still free.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Different processes begin at different places: the check below cannot see a port that is chosen but not
    // yet bound.
    let offset = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + u16::try_from((offset + u32::from(step)) % u32::from(COUNT))?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no loopback port from {FIRST} to {} is free", FIRST + COUNT)
}
