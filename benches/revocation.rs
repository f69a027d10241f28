//! How fast a revocation takes a whole fleet back, beside a plain loop that makes the same writes.
//!
//! `cargo bench --bench revocation` starts a control plane of its own and the operator (release profile), makes two fleets
//! of identical Deployments, one governed and one not, and then, several times over: both move to a new image; the image
//! is revoked in git and the operator takes the governed fleet back; a loop takes the other fleet back with the same full
//! server-side applies (same bodies, same client library, as many in flight) as fast as the API server takes them. Once with
//! the controllers running, once with them stopped; who begins alternates. Figures are medians of the rounds.
//!
//! Standard output has one line for each figure: `figure<TAB>name<TAB>value<TAB>unit<TAB>reference<TAB>ratio`. The reference
//! is what the plain loop came to. Everything else is said on standard error.
//!
//! How it is measured:
//! - From the moment `git commit` has returned; the source is poked by its reconcile annotation, so the whole sync counts.
//! - To times in the API server's own audit log: the answer to the last Deployment's patch, and to its history's record.
//! - While the plain loop runs the operator is stopped: the reference has the machine for itself.
//! - Replicas: the good release proves itself with one replica each; then the fleets are scaled to none. With pods, on a
//!   machine of a few cores, kubelets and scheduler would take most of what the API server gives, from both sides alike,
//!   and the difference between them would vanish in it. The controllers still roll out: every move is a new ReplicaSet
//!   and its status.
//!
//! | variable | default | what |
//! |---|---|---|
//! | `COUNTERSIGN_BENCH_WORKLOADS` | 1000 | Deployments in each fleet |
//! | `COUNTERSIGN_BENCH_ROUNDS` | 5 | how many times everything is measured |
//! | `COUNTERSIGN_BENCH_REPLICAS` | 0 | replicas while it is measured |
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

#[path = "shared/audit.rs"]
mod audit;
#[path = "../tests/controlplane/mod.rs"]
mod controlplane;
#[path = "revocation/fleet.rs"]
mod fleet;
#[path = "shared/process.rs"]
mod process;
#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, clippy::pedantic, reason = "shared with the tests: this uses a part")]
mod support;
#[path = "shared/wait.rs"]
mod wait;

use anyhow::Context as _;
use jiff::Timestamp;

use audit::AuditLog;
use controlplane::{ControlPlane, Options};
use fleet::{Fleet, Governed};
use process::{cpu_seconds, rss_mebibytes};
use support::operator::{Operator, install};
use wait::until;

/// How many writes the plain loop has in flight; as many as the operator.
const IN_FLIGHT: usize = 32;
const OPERATOR: &str = "countersign";

struct Settings {
    workloads: usize,
    rounds: usize,
    replicas: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Only `cargo bench` says so; a test run of all targets must not take minutes here.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("measured by cargo bench --bench revocation");
        return Ok(());
    }
    let settings = Settings {
        workloads: number("COUNTERSIGN_BENCH_WORKLOADS", 1000)?,
        rounds: number("COUNTERSIGN_BENCH_ROUNDS", 5)?,
        replicas: number("COUNTERSIGN_BENCH_REPLICAS", 0)?,
    };
    let plane = ControlPlane::start(Options::default())?;
    install(&plane).await;
    // As shipped: stories look at bare objects every second, and log more.
    let operator = Operator::new(&plane)
        .with("COUNTERSIGN_BARE_INTERVAL_SECONDS", "300")
        .with("COUNTERSIGN_LOG", "info");
    operator.restart().await;
    let mut bench = Bench::prepare(&plane, settings).await?;
    let mut running = Vec::new();
    let mut stopped = Vec::new();
    for round in 0..bench.settings.rounds {
        let ours_first = round % 2 == 0;
        running.push(bench.round(ours_first, true).await?);
        stopped.push(bench.round(ours_first, false).await?);
    }
    let writes = f64::from(u32::try_from(bench.settings.workloads)?);
    print(&running, &stopped, writes);
    Ok(())
}

fn number(variable: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}: {text:?} is no number")),
        Err(_) => Ok(default),
    }
}

struct Bench<'a> {
    plane: &'a ControlPlane,
    settings: Settings,
    log: AuditLog,
    governed: Governed,
    plain: Fleet,
    /// The image that both fleets run, beside 1.0.
    image: usize,
}

/// One revocation by the operator.
#[derive(Clone, Copy, Default)]
struct Ours {
    first_patch: f64,
    last_patch: f64,
    last_record: f64,
    cpu: f64,
    rss: f64,
}

/// The same writes by the plain loop.
#[derive(Clone, Copy, Default)]
struct Plain {
    seconds: f64,
    cpu: f64,
}

type Round = (Ours, Plain);

impl<'a> Bench<'a> {
    /// Both fleets run 1.0; in the governed one it is good.
    async fn prepare(plane: &'a ControlPlane, settings: Settings) -> anyhow::Result<Self> {
        let log = AuditLog::new(plane.directory().join("audit.log"));
        let governed = Governed::new(plane, settings.workloads).await?;
        let plain = Fleet::new(plane, "plain", settings.workloads).await?;
        let bench = Self { plane, settings, log, governed, plain, image: 0 };
        say(&format!("{} Deployments start and prove themselves", bench.settings.workloads));
        bench.governed.approve(0, None);
        bench.governed.run(0, 1);
        bench.governed.push("run 1.0").await?;
        bench.governed.until_proven().await?;
        bench.governed.run(0, bench.settings.replicas);
        bench.governed.push("scale").await?;
        bench.plain.write(0, bench.settings.replicas, IN_FLIGHT).await?;
        bench.log.until_quiet().await?;
        Ok(bench)
    }

    /// Both fleets move to a new image, and are taken back from it.
    async fn round(&mut self, ours_first: bool, controllers: bool) -> anyhow::Result<Round> {
        self.image += 1;
        self.governed.approve(self.image, None);
        self.governed.run(self.image, self.settings.replicas);
        let since = self.log.now();
        self.governed.push("run a new image").await?;
        self.plain.write(self.image, self.settings.replicas, IN_FLIGHT).await?;
        self.log.until_patched(&since, &self.governed.fleet).await?;
        self.governed.fleet.check(self.image).await?;
        self.log.until_quiet().await?;
        if !controllers {
            self.plane.pause_controller_manager()?;
        }
        let (mut ours, mut plain) = (Ours::default(), Plain::default());
        for turn in [ours_first, !ours_first] {
            if turn {
                ours = self.ours().await?;
            } else {
                plain = self.plain().await?;
            }
            self.log.until_quiet().await?;
        }
        if !controllers {
            self.plane.resume_controller_manager()?;
            self.log.until_quiet().await?;
        }
        let rate = f64::from(u32::try_from(self.settings.workloads)?);
        say(&format!(
            "controllers {}: first patch after {:.2} s, last after {:.2} s ({:.0}/s), last record after {:.2} s, {:.2} s of CPU, {:.0} MiB; \
             plain loop {:.2} s ({:.0}/s, {:.2} s of CPU); ratio {:.2}",
            if controllers { "running" } else { "stopped" },
            ours.first_patch,
            ours.last_patch,
            rate / ours.last_patch,
            ours.last_record,
            ours.cpu,
            ours.rss,
            plain.seconds,
            rate / plain.seconds,
            plain.cpu,
            plain.seconds / ours.last_patch,
        ));
        Ok((ours, plain))
    }

    /// The present image is revoked in git.
    async fn ours(&mut self) -> anyhow::Result<Ours> {
        let pid = self.plane.process_ids()[OPERATOR];
        let cpu = cpu_seconds(pid)?;
        self.governed.approve(self.image, Some("CVE-2026-0001"));
        self.governed.stage();
        let since = self.log.now();
        self.governed.commit("revoke");
        let pushed = Timestamp::now();
        self.governed.poke().await?;
        let patched = self.log.until_patched(&since, &self.governed.fleet).await?;
        let recorded = self.log.until_recorded(&since, self.settings.workloads).await?;
        self.governed.check_held().await?;
        self.governed.fleet.check(0).await?;
        let after = |moment: Timestamp| moment.duration_since(pushed).as_secs_f64();
        Ok(Ours {
            first_patch: after(patched.first),
            last_patch: after(patched.last),
            last_record: after(recorded.last),
            cpu: cpu_seconds(pid)? - cpu,
            rss: rss_mebibytes(pid)?,
        })
    }

    /// The same writes, to the other fleet.
    async fn plain(&mut self) -> anyhow::Result<Plain> {
        let own = std::process::id();
        let fleet = self.plain.bodies(0, self.settings.replicas).await?;
        self.plane.signal(OPERATOR, "STOP")?;
        let (since, cpu) = (self.log.now(), cpu_seconds(own)?);
        let began = Timestamp::now();
        let written = self.plain.write_bodies(fleet, IN_FLIGHT).await;
        let cpu = cpu_seconds(own)? - cpu;
        self.plane.signal(OPERATOR, "CONT")?;
        written?;
        let patched = self.log.until_patched(&since, &self.plain).await?;
        self.plain.check(0).await?;
        Ok(Plain { seconds: patched.last.duration_since(began).as_secs_f64(), cpu })
    }
}

fn say(text: &str) {
    eprintln!("{} {text}", Timestamp::now().strftime("%H:%M:%S"));
}

fn print(running: &[Round], stopped: &[Round], writes: f64) {
    for (rounds, suffix) in [(running, ""), (stopped, "_stopped")] {
        let with =
            |name: &str, unit: &str, value: fn(f64, &Round) -> f64, reference: fn(f64, &Round) -> f64| {
                let ratio = median(rounds, |round| value(writes, round) / reference(writes, round));
                let (value, reference) = (
                    median(rounds, |round| value(writes, round)),
                    median(rounds, |round| reference(writes, round)),
                );
                println!("figure\t{name}{suffix}\t{value:.2}\t{unit}\t{reference:.2}\t{ratio:.2}");
            };
        let alone = |name: &str, unit: &str, value: fn(&Round) -> f64| {
            println!("figure\t{name}{suffix}\t{:.2}\t{unit}\t-\t-", median(rounds, value));
        };
        with("rate_to_last_patch", "writes/s", |n, r| n / r.0.last_patch, |n, r| n / r.1.seconds);
        with("seconds_to_last_patch", "s", |_, r| r.0.last_patch, |_, r| r.1.seconds);
        alone("seconds_to_first_patch", "s", |r| r.0.first_patch);
        with("seconds_to_last_record", "s", |_, r| r.0.last_record, |_, r| r.1.seconds);
        with("operator_cpu_seconds", "s", |_, r| r.0.cpu, |_, r| r.1.cpu);
        alone("operator_rss", "MiB", |r| r.0.rss);
    }
}

fn median(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.get((values.len().max(1) - 1) / 2)) {
        (Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
        _ => f64::NAN,
    }
}
