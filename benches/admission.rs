//! What being asked costs: dry-run Pod creates without a webhook, with one that does nothing, and with ours.
//!
//! `cargo bench --bench admission` starts a control plane of its own and two replicas of the operator (release profile), which
//! hold what a large cluster has; and a webhook in Go's standard library that lets everything in. Then, several times over,
//! with 1, 16 and 32 requests in flight: Pods are created without effect in three namespaces, of which one is asked about
//! nobody, one the webhook that does nothing, and one the operator. Who begins alternates. Figures are medians of the rounds;
//! ratios are medians of the rounds' ratios.
//!
//! Standard output has one line for each figure: `figure<TAB>name<TAB>value<TAB>unit<TAB>reference<TAB>ratio`. The reference
//! of our figures is what the webhook that does nothing came to; of its figures (`nothing_…`), what no webhook came to; where
//! there is a goal instead, the goal. Everything else is said on standard error.
//!
//! How it is measured:
//! - Client, API server, etcd and webhooks share the machine: latency is that of the whole request, as the client sees it.
//! - CPU per review is that of the webhook's process, in all of a round, by its number of requests.
//! - RSS is that of each replica after everything: the one that leads, and the other.
//! - A revocation counts from the answer to the patch that stores it until a replica that is asked directly denies; both replicas
//!   are asked at once, again and again, while 16 requests are in flight at the API server.
//!
//! | variable | default | what |
//! |---|---|---|
//! | `COUNTERSIGN_BENCH_WORKLOADS` | 5000 | Deployments, each with a Pod |
//! | `COUNTERSIGN_BENCH_POLICIES` | 200 | policies |
//! | `COUNTERSIGN_BENCH_APPROVALS` | 2000 | approved images |
//! | `COUNTERSIGN_BENCH_ROUNDS` | 5 | how many times everything is measured |
//! | `COUNTERSIGN_BENCH_REQUESTS` | 4000 | how many requests each time; a quarter of it with one in flight |
//! | `COUNTERSIGN_BENCH_REVOCATIONS` | 200 | how many revocations are measured |
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
#[path = "admission/load.rs"]
mod load;
#[path = "admission/nothing.rs"]
mod nothing;
#[path = "shared/process.rs"]
#[allow(dead_code, reason = "shared with another bench: this uses a part")]
mod process;
#[path = "admission/replica.rs"]
mod replica;
#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, clippy::pedantic, reason = "shared with the tests: this uses a part")]
mod support;
#[path = "shared/wait.rs"]
mod wait;
#[path = "admission/world.rs"]
mod world;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;

use audit::AuditLog;
use controlplane::{ControlPlane, Options};
use load::Load;
use nothing::NOTHING;
use process::{cpu_seconds, rss_mebibytes};
use replica::Replica;
use support::operator::{Operator, install};
use wait::until;
use world::{GOVERNED, World};

const IN_FLIGHT: [usize; 3] = [1, 16, 32];
const REPLICAS: [&str; 2] = ["leading", "other"];

struct Settings {
    approvals: usize,
    policies: usize,
    workloads: usize,
    rounds: usize,
    requests: usize,
    revocations: usize,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Nobody,
    Nothing,
    Ours,
}

const SIDES: [Side; 3] = [Side::Nobody, Side::Nothing, Side::Ours];

impl Side {
    fn namespace(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Nothing => "nothing",
            Self::Ours => GOVERNED,
        }
    }

    fn process(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Nothing => Some(NOTHING),
            Self::Ours => Some(REPLICAS[0]),
        }
    }
}

/// What one side came to in one round: seconds, and requests in a second, by how many were in flight.
#[derive(Default)]
struct Round {
    p50: BTreeMap<usize, f64>,
    p99: BTreeMap<usize, f64>,
    throughput: BTreeMap<usize, f64>,
    cpu_per_review: f64,
}

type Rounds = Vec<BTreeMap<Side, Round>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Only `cargo bench` says so; a test run of all targets must not take minutes here.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("measured by cargo bench --bench admission");
        return Ok(());
    }
    let settings = Settings {
        approvals: number("COUNTERSIGN_BENCH_APPROVALS", 2000)?,
        policies: number("COUNTERSIGN_BENCH_POLICIES", 200)?,
        workloads: number("COUNTERSIGN_BENCH_WORKLOADS", 5000)?,
        rounds: number("COUNTERSIGN_BENCH_ROUNDS", 5)?,
        requests: number("COUNTERSIGN_BENCH_REQUESTS", 4000)?,
        revocations: number("COUNTERSIGN_BENCH_REVOCATIONS", 200)?,
    };
    let plane = ControlPlane::start(Options::default())?;
    install(&plane).await;
    let operators = REPLICAS.map(|name| {
        Operator::named(&plane, name)
            .admitting()
            .with("COUNTERSIGN_BARE_INTERVAL_SECONDS", "300")
            .with("COUNTERSIGN_LOG", "info")
    });
    // The first that starts leads.
    for operator in &operators {
        operator.restart().await;
    }
    let world = World::new(&plane, &settings, &[Side::Nobody, Side::Nothing].map(Side::namespace)).await?;
    say(&format!("{} start and prove themselves", world.said(&settings)));
    world.until_proven(settings.workloads).await?;
    nothing::start(&plane, Side::Nothing.namespace()).await?;
    AuditLog::new(plane.directory().join("audit.log")).until_quiet().await?;

    let load = Load::new(&plane);
    load.asks_only_whom_it_should(&operators[0]).await?;
    let mut rounds = Rounds::new();
    for round in 0..settings.rounds {
        rounds.push(measure(&plane, &load, &settings, round).await?);
    }
    let [leading, other] = &operators;
    let replicas = [Replica::of(&plane, leading).await?, Replica::of(&plane, other).await?];
    let refused = refused(&world, &load, &replicas, &settings).await?;
    print(&rounds, &refused);
    for (name, suffix) in REPLICAS.iter().zip(["", "_other"]) {
        let rss = rss_mebibytes(plane.process_ids()[name])?;
        figure(&format!("rss{suffix}"), rss, "MiB", 128.0, rss / 128.0);
    }
    Ok(())
}

fn number(variable: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}: {text:?} is no number")),
        Err(_) => Ok(default),
    }
}

/// All sides, one after the other.
async fn measure(
    plane: &ControlPlane,
    load: &Load,
    settings: &Settings,
    round: usize,
) -> anyhow::Result<BTreeMap<Side, Round>> {
    let mut sides: BTreeMap<Side, Round> = SIDES.map(|side| (side, Round::default())).into();
    let mut used: BTreeMap<Side, (f64, usize)> = BTreeMap::new();
    for in_flight in IN_FLIGHT {
        let requests = if in_flight == 1 { settings.requests / 4 } else { settings.requests };
        for turn in 0..SIDES.len() {
            let side = SIDES[(turn + round) % SIDES.len()];
            let pid = side.process().map(|name| plane.process_ids()[name]);
            let cpu = pid.map(cpu_seconds).transpose()?;
            let began = Instant::now();
            let mut took = load.create(side.namespace(), in_flight, requests).await?;
            let seconds = began.elapsed().as_secs_f64();
            if let (Some(pid), Some(cpu)) = (pid, cpu) {
                let (total, reviews) = used.entry(side).or_default();
                *total += cpu_seconds(pid)? - cpu;
                *reviews += requests;
            }
            took.sort_by(f64::total_cmp);
            let figures = sides.get_mut(&side).context("a side")?;
            figures.p50.insert(in_flight, quantile(&took, 0.5));
            figures.p99.insert(in_flight, quantile(&took, 0.99));
            figures.throughput.insert(in_flight, count(requests) / seconds);
            say(&format!(
                "round {round}, {in_flight} in flight, {side:?}: p50 {:.2} ms, p99 {:.2} ms, {:.0}/s",
                quantile(&took, 0.5) * 1000.0,
                quantile(&took, 0.99) * 1000.0,
                count(requests) / seconds
            ));
        }
    }
    for (side, (cpu, reviews)) in used {
        sides.get_mut(&side).context("a side")?.cpu_per_review = cpu / count(reviews);
        say(&format!("round {round}, {side:?}: {:.0} µs of CPU per review", cpu / count(reviews) * 1e6));
    }
    Ok(sides)
}

/// How long after it was stored each replica refused what was revoked, in seconds.
async fn refused(
    world: &World,
    load: &Load,
    replicas: &[Replica; 2],
    settings: &Settings,
) -> anyhow::Result<Vec<f64>> {
    say(&format!("{} revocations", settings.revocations));
    let mut pods = Vec::new();
    for n in 0..settings.revocations {
        let pod = world.approve_spare(n).await?;
        for replica in replicas {
            until("a new approval counts", Duration::from_millis(5), async || replica.lets_in(&pod).await)
                .await?;
        }
        pods.push(pod);
    }
    let measured = async {
        let mut took = Vec::new();
        for (n, pod) in pods.iter().enumerate() {
            world.revoke_spare(n).await?;
            let stored = Instant::now();
            let until_refused = async |replica: &Replica| -> anyhow::Result<f64> {
                while replica.lets_in(pod).await? {
                    ensure!(stored.elapsed() < Duration::from_mins(1), "not refused within a minute");
                }
                Ok(stored.elapsed().as_secs_f64())
            };
            let [leading, other] = replicas;
            let (leading, other) = tokio::try_join!(until_refused(leading), until_refused(other))?;
            took.extend([leading, other]);
        }
        anyhow::Ok(took)
    };
    tokio::select! {
        took = measured => took,
        ended = load.create(GOVERNED, 16, usize::MAX) => anyhow::bail!("the load ended: {ended:?}"),
    }
}

fn print(rounds: &Rounds, refused: &[f64]) {
    let compare = |name: &str, unit: &str, side: Side, beside: Side, value: &dyn Fn(&Round) -> f64| {
        let of = |side: Side| median(rounds.iter().map(|round| value(&round[&side])));
        let ratio = median(rounds.iter().map(|round| value(&round[&side]) / value(&round[&beside])));
        figure(name, of(side), unit, of(beside), ratio);
    };
    for (side, beside, prefix) in [(Side::Ours, Side::Nothing, ""), (Side::Nothing, Side::Nobody, "nothing_")]
    {
        for n in IN_FLIGHT {
            let name = |what: &str| format!("{prefix}{what}_{n}");
            compare(&name("p50"), "ms", side, beside, &|round| round.p50[&n] * 1000.0);
            compare(&name("p99"), "ms", side, beside, &|round| round.p99[&n] * 1000.0);
            compare(&name("throughput"), "requests/s", side, beside, &|round| round.throughput[&n]);
        }
    }
    compare("cpu_per_review", "µs", Side::Ours, Side::Nothing, &|round| round.cpu_per_review * 1e6);
    let mut refused = refused.to_vec();
    refused.sort_by(f64::total_cmp);
    let p99 = quantile(&refused, 0.99);
    figure("revocation_refused_p99", p99, "s", 1.0, p99);
    figure("revocation_refused_p50", quantile(&refused, 0.5), "s", 1.0, quantile(&refused, 0.5));
}

fn figure(name: &str, value: f64, unit: &str, reference: f64, ratio: f64) {
    println!("figure\t{name}\t{value:.3}\t{unit}\t{reference:.3}\t{ratio:.2}");
}

/// Of sorted values.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (count(last) * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}

fn say(text: &str) {
    eprintln!("{} {text}", Timestamp::now().strftime("%H:%M:%S"));
}
