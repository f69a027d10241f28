//! What following a repository costs, beside plain git and the same writes.
//!
//! `cargo bench --bench sync` starts a control plane of its own and the operator for each size of repository: ConfigMaps, and a
//! Deployment in every fifty manifests. Measured are the first sync, a look at which nothing changed, a commit that
//! changes one file, and (of the smallest size) such a commit of which a push tells. Beside each, in the same round, the same
//! is done by plain means: `git fetch` into a bare mirror, reading what changed from it, and the same server-side applies,
//! with as many in flight; who begins alternates. Figures are medians of the rounds.
//!
//! Standard output has one line for each figure: `figure<TAB>name<TAB>value<TAB>unit<TAB>reference<TAB>ratio`. The reference
//! is what the plain way came to. Everything else is said on standard error.
//!
//! How it is measured:
//! - From the moment `git commit` has returned: the source is asked to look by its annotation, and that request counts. For
//!   `push_seen` a signed push is sent to the receiver instead, as GitHub sends it, and that counts.
//! - To times in the API server's own audit log, where something is applied; to the status that says that the source was
//!   looked at, where nothing is.
//! - `beyond_fetch` is what is left of the time when that of the plain `git fetch` of the same round is taken off.
//! - CPU of the operator counts until the whole look is over and nobody writes any more: also of what it does after the changed
//!   file is applied. The reference is that of git and of the loop.
//!
//! | variable | default | what |
//! |---|---|---|
//! | `COUNTERSIGN_BENCH_SIZES` | `1000,10000` | manifests in the repository |
//! | `COUNTERSIGN_BENCH_ROUNDS` | 7 | how many times everything but the first sync is measured |
//! | `COUNTERSIGN_BENCH_FIRST` | 1 | how many times the first sync is measured, each of a repository of its own |
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

#[path = "shared/audit.rs"]
#[allow(dead_code, reason = "shared with another bench: this uses a part")]
mod audit;
#[path = "../tests/controlplane/mod.rs"]
mod controlplane;
#[path = "sync/plain.rs"]
mod plain;
#[path = "shared/process.rs"]
#[allow(dead_code, reason = "shared with another bench: this uses a part")]
mod process;
#[path = "sync/repository.rs"]
mod repository;
#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, clippy::pedantic, reason = "shared with the tests: this uses a part")]
mod support;
#[path = "shared/wait.rs"]
mod wait;

use std::{fmt::Write as _, time::Instant};

use anyhow::Context as _;
use jiff::Timestamp;

use audit::AuditLog;
use controlplane::{ControlPlane, Options};
use plain::Plain;
use process::cpu_seconds;
use repository::Repository;
use support::operator::{Operator, install};
use wait::until;

const OPERATOR: &str = "countersign";

/// Seconds, and those of a processor: ours, and the plain way's.
#[derive(Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    cpu: f64,
}

#[derive(Clone, Copy, Default)]
struct Round {
    ours: Cost,
    plain: Cost,
    /// What of the plain way's time was the fetch.
    fetch: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Only `cargo bench` says so; a test run of all targets must not take minutes here.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("measured by cargo bench --bench sync");
        return Ok(());
    }
    let sizes = std::env::var("COUNTERSIGN_BENCH_SIZES").unwrap_or_else(|_| "1000,10000".to_owned());
    let parse = |size: &str| {
        size.trim().parse::<usize>().with_context(|| format!("COUNTERSIGN_BENCH_SIZES: {size:?}"))
    };
    let sizes = sizes.split(',').map(parse).collect::<anyhow::Result<Vec<_>>>()?;
    for size in &sizes {
        print!("{}", measure(*size, Some(size) == sizes.iter().min()).await?);
    }
    Ok(())
}

fn number(variable: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}: {text:?} is no number")),
        Err(_) => Ok(default),
    }
}

/// All figures of one size; of one size also that of a push.
async fn measure(size: usize, pushes: bool) -> anyhow::Result<String> {
    let plane = ControlPlane::start(Options::default())?;
    install(&plane).await;
    // As shipped: stories look at bare objects every second, and log more.
    let operator = Operator::new(&plane)
        .with("COUNTERSIGN_BARE_INTERVAL_SECONDS", "300")
        .with("COUNTERSIGN_LOG", "info");
    operator.restart().await;
    let log = AuditLog::new(plane.directory().join("audit.log"));
    let mut bench = Bench { plane: &plane, receiver_port: operator.receiver_port, log, size };
    let mut first = Vec::new();
    let mut last = None;
    for round in 0..number("COUNTERSIGN_BENCH_FIRST", 1)?.max(1) {
        let (measured, repository, plain) = bench.first(round).await?;
        first.push(measured);
        last = Some((repository, plain));
    }
    let (repository, plain) = last.context("no round")?;
    let (mut unchanged, mut changed) = (Vec::new(), Vec::new());
    let rounds = number("COUNTERSIGN_BENCH_ROUNDS", 7)?;
    for round in 0..rounds {
        let ours_first = round.is_multiple_of(2);
        unchanged.push(bench.round(&repository, &plain, ours_first, What::Nothing).await?);
        changed.push(bench.round(&repository, &plain, ours_first, What::OneFile(round)).await?);
    }
    let mut out = String::new();
    for (name, measured) in
        [("first_sync", &first), ("no_change", &unchanged), ("one_changed_file", &changed)]
    {
        figures(&mut out, &format!("{name}_{size}"), measured);
    }
    if pushes {
        repository.receive_pushes().await?;
        let mut pushed = Vec::new();
        for round in 0..rounds {
            let what = What::Push(rounds + round);
            pushed.push(bench.round(&repository, &plain, round.is_multiple_of(2), what).await?);
        }
        let ratio = median(&pushed, |round| round.ours.seconds / round.plain.seconds);
        let ours = median(&pushed, |round| round.ours.seconds * 1e3);
        let plain = median(&pushed, |round| round.plain.seconds * 1e3);
        let _ = writeln!(out, "figure\tpush_seen_{size}\t{ours:.1}\tms\t{plain:.1}\t{ratio:.2}");
    }
    Ok(out)
}

/// What is looked at, and how it is asked for.
#[derive(Clone, Copy, Debug)]
enum What {
    Nothing,
    /// A commit of the round with this number.
    OneFile(usize),
    /// The same, told by a push.
    Push(usize),
}

struct Bench<'a> {
    plane: &'a ControlPlane,
    receiver_port: u16,
    log: AuditLog,
    size: usize,
}

impl Bench<'_> {
    fn operator_cpu(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.plane.process_ids()[OPERATOR])
    }

    /// A repository is followed for the first time.
    async fn first(&mut self, round: usize) -> anyhow::Result<(Round, Repository, Plain)> {
        say(&format!("a repository of {} manifests is made", self.size));
        let repository = Repository::new(self.plane, self.size, round).await?;
        let plain = Plain::new(self.plane, &repository).await?;
        let mut measured = Round::default();
        let ours_first = round.is_multiple_of(2);
        for turn in [ours_first, !ours_first] {
            self.log.until_quiet().await?;
            let since = self.log.now();
            if turn {
                let (cpu, began) = (self.operator_cpu()?, Timestamp::now());
                repository.follow().await?;
                let all = self
                    .log
                    .until_all("all is applied", &since, self.size, |object| repository.has(object))
                    .await?;
                repository.until_looked().await?;
                self.log.until_quiet().await?;
                measured.ours = Cost { seconds: after(began, all.last), cpu: self.operator_cpu()? - cpu };
            } else {
                let (cpu, began) = (plain::cpu()?, Timestamp::now());
                self.pause_operator()?;
                let done = async {
                    measured.fetch = plain.fetch_and_read()?;
                    plain.apply_all(&repository).await
                };
                let done = done.await;
                self.resume_operator()?;
                done?;
                let all = self
                    .log
                    .until_all("all is applied", &since, self.size, |object| plain.has(object))
                    .await?;
                measured.plain = Cost { seconds: after(began, all.last), cpu: plain::cpu()? - cpu };
            }
        }
        self.tell("first sync", &measured);
        Ok((measured, repository, plain))
    }

    /// A look at a repository of which one file changed, or nothing.
    async fn round(
        &mut self,
        repository: &Repository,
        plain: &Plain,
        ours_first: bool,
        what: What,
    ) -> anyhow::Result<Round> {
        let mut measured = Round::default();
        let changed = match what {
            What::Nothing => None,
            What::OneFile(round) | What::Push(round) => Some(repository.change(round)?),
        };
        for turn in [ours_first, !ours_first] {
            self.log.until_quiet().await?;
            let since = self.log.now();
            if turn {
                let cpu = self.operator_cpu()?;
                let (began, from) = (Timestamp::now(), Instant::now());
                match what {
                    What::Nothing | What::OneFile(_) => repository.poke().await?,
                    What::Push(_) => repository.push(self.receiver_port).await?,
                }
                let mut seconds = None;
                if let Some(changed) = &changed {
                    let patched = self
                        .log
                        .until_all("the changed object is applied", &since, 1, |object| changed.is(object))
                        .await?;
                    seconds = Some(after(began, patched.last));
                }
                repository.until_looked().await?;
                let looked = from.elapsed().as_secs_f64();
                self.log.until_quiet().await?;
                measured.ours = Cost { seconds: seconds.unwrap_or(looked), cpu: self.operator_cpu()? - cpu };
            } else {
                let (cpu, began, from) = (plain::cpu()?, Timestamp::now(), Instant::now());
                measured.fetch = plain.fetch()?;
                let mut seconds = from.elapsed().as_secs_f64();
                if let Some(changed) = &changed {
                    plain.apply_changed(changed).await?;
                    let patched = self
                        .log
                        .until_all("the changed object is applied", &since, 1, |object| plain.has(object))
                        .await?;
                    seconds = after(began, patched.last);
                }
                measured.plain = Cost { seconds, cpu: plain::cpu()? - cpu };
            }
        }
        let told = match what {
            What::Nothing => "no change",
            What::OneFile(_) => "one changed file",
            What::Push(_) => "one changed file, told by a push",
        };
        self.tell(told, &measured);
        Ok(measured)
    }

    /// While the plain way runs it has the machine for itself.
    fn pause_operator(&self) -> anyhow::Result<()> {
        self.plane.signal(OPERATOR, "STOP")
    }

    fn resume_operator(&self) -> anyhow::Result<()> {
        self.plane.signal(OPERATOR, "CONT")
    }

    fn tell(&self, what: &str, round: &Round) {
        say(&format!(
            "{} manifests, {what}: {:.3} s ({:.2} s of CPU); plainly {:.3} s ({:.2} s of CPU), of which the fetch {:.3} s",
            self.size, round.ours.seconds, round.ours.cpu, round.plain.seconds, round.plain.cpu, round.fetch
        ));
    }
}

fn after(began: Timestamp, moment: Timestamp) -> f64 {
    moment.duration_since(began).as_secs_f64()
}

fn say(text: &str) {
    eprintln!("{} {text}", Timestamp::now().strftime("%H:%M:%S"));
}

fn figures(out: &mut String, name: &str, rounds: &[Round]) {
    // A CPU time is counted in hundredths of a second: a reference may be none.
    let ratio = |value: fn(&Round) -> f64, reference: fn(&Round) -> f64| {
        let ratio = median(rounds, |round| value(round) / reference(round));
        if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
    };
    let mut line = |suffix: &str, unit: &str, value: fn(&Round) -> f64, reference: fn(&Round) -> f64| {
        let _ = writeln!(
            out,
            "figure\t{name}{suffix}\t{:.3}\t{unit}\t{:.3}\t{}",
            median(rounds, value),
            median(rounds, reference),
            ratio(value, reference)
        );
    };
    line("", "s", |round| round.ours.seconds, |round| round.plain.seconds);
    line("_operator_cpu", "s", |round| round.ours.cpu, |round| round.plain.cpu);
    let beyond = median(rounds, |round| (round.ours.seconds - round.fetch) * 1e3);
    let plain = median(rounds, |round| (round.plain.seconds - round.fetch) * 1e3);
    let _ = writeln!(out, "figure\t{name}_beyond_fetch\t{beyond:.1}\tms\t{plain:.1}\t-");
}

fn median(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.get((values.len().max(1) - 1) / 2)) {
        (Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
        _ => f64::NAN,
    }
}
