//! Stories in `tests/scenarios/*.yaml`: what happens to one workload, and what is expected of it. A bug that was found begins
//! as a new story there.

use std::{fs, path::Path};

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    story: String,
    steps: Vec<Step>,
}

/// One thing that happens, or is expected.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// The n-th image is approved, as tag `1.n`.
    approve: Option<u8>,
    /// `[n, m]`: the n-th image is approved as tag `1.m`, too.
    alias: Option<(u8, u8)>,
    /// Its approval goes.
    withdraw: Option<u8>,
    /// It is revoked.
    revoke: Option<u8>,
    /// Its revocation is let go.
    forget: Option<u8>,
    /// Git asks for the tag `1.n`.
    git: Option<u8>,
    /// Somebody else sets the tag `1.n` on the live object (or creates it).
    somebody: Option<u8>,
    /// What becomes of the policy.
    policy: Option<PolicyIs>,
    /// Whether the source can be read.
    away: Option<bool>,
    /// The live object is deleted.
    delete: Option<bool>,
    /// Git asks for so many replicas.
    scale: Option<i64>,
    /// Policy takes failed rollouts back.
    take_failed_back: Option<bool>,
    /// The containers of the n-th image start and keep crashing from now on.
    crashes: Option<u8>,
    /// The n-th image cannot be pulled from now on.
    unpullable: Option<u8>,
    /// The n-th image is well from now on.
    recovers: Option<u8>,
    /// Git changes something else in the pod template.
    edit: Option<String>,
    /// Seconds go by.
    wait: Option<i64>,
    expect: Option<Expected>,
}

#[derive(Deserialize)]
enum PolicyIs {
    Enforce,
    Audit,
    Deleted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    state: String,
    /// The image that is set: `1.n`, and `@n` where it is pinned to the n-th digest.
    runs: String,
    /// How many writes changed an image since the last expectation.
    writes: usize,
    #[serde(default)]
    says: Vec<String>,
    /// How the last rollback went.
    rollback: Option<String>,
}

fn play(story: &Story) {
    let mut sim = Sim::new();
    for (number, step) in story.steps.iter().enumerate() {
        let at = format!("{}: step {}", story.story, number + 1);
        happen(&mut sim, step);
        let plan = sim.settle();
        let Some(expected) = &step.expect else { continue };
        assert_eq!(format!("{:?}", plan.state), expected.state, "{at}: {}", plan.message);
        assert_eq!(short(&sim.runs()), expected.runs, "{at}: {}", plan.message);
        assert_eq!(sim.writes.len(), expected.writes, "{at}: {:?}", sim.writes);
        for words in &expected.says {
            assert!(plan.message.contains(words), "{at}: {words:?} is not in {:?}", plan.message);
        }
        if let Some(outcome) = &expected.rollback {
            let last = sim.history.rollbacks.last().map(|rollback| format!("{:?}", rollback.outcome));
            assert_eq!(last.as_ref(), Some(outcome), "{at}");
        }
        sim.writes.clear();
    }
}

fn happen(sim: &mut Sim, step: &Step) {
    let Step {
        approve,
        alias,
        withdraw,
        revoke,
        forget,
        git,
        somebody,
        policy,
        away,
        delete,
        scale,
        take_failed_back,
        crashes,
        unpullable,
        recovers,
        edit,
        wait,
        expect: _,
    } = step;
    for (n, fault) in [(crashes, Fault::Crashes), (unpullable, Fault::Unpullable)] {
        sim.faults.extend(n.map(|n| (n, fault)));
    }
    if let Some(n) = recovers {
        sim.faults.remove(n);
    }
    sim.roll();
    if let Some(n) = approve {
        sim.approve(*n);
    }
    if let Some((n, m)) = alias {
        sim.ledger.insert(record(&format!("alias{m}"), *n, &format!("1.{m}")));
    }
    if let Some(n) = withdraw {
        sim.ledger.remove(&record(&format!("r{n}"), *n, "x").key);
    }
    if let Some(n) = revoke {
        sim.revoke(*n);
    }
    if let Some(n) = forget {
        let mut forgotten = record(&format!("r{n}"), *n, &format!("1.{n}"));
        forgotten.revocation = Some("CVE-2026-0001".into());
        forgotten.forgotten = true;
        sim.ledger.insert(forgotten);
    }
    if let Some(n) = git {
        sim.git_wants(&tag(*n));
    }
    if let Some(n) = somebody {
        sim.somebody_sets(&tag(*n));
    }
    match policy {
        Some(PolicyIs::Enforce) => sim.policies = vec![crate::domain::policy::tests::policy()],
        Some(PolicyIs::Audit) => sim.policies[0].mode = Mode::Audit,
        Some(PolicyIs::Deleted) => sim.policies.clear(),
        None => {}
    }
    if take_failed_back.is_some() {
        sim.take_failed_back();
    }
    if let Some(away) = away {
        sim.away = *away;
    }
    if delete.is_some() {
        sim.live = None;
    }
    if let Some(replicas) = scale {
        sim.scale(*replicas);
    }
    if let Some(value) = edit {
        let manifest = sim.git.as_mut().unwrap();
        let mut object = (*manifest.object).clone();
        object["spec"]["template"]["spec"]["containers"][0]["args"] = json!([value]);
        manifest.object = Arc::new(object);
    }
    sim.clock += wait.unwrap_or(0);
}

/// `registry.example/shop/cart:1.2@sha256:0202…` as `1.2@2`.
fn short(image: &str) -> String {
    let Some(rest) = image.strip_prefix(&format!("{REPOSITORY}:")) else { return image.to_owned() };
    match rest.split_once("@sha256:") {
        Some((tag, digest)) => format!("{tag}@{}", u8::from_str_radix(&digest[..2], 16).unwrap()),
        None => rest.to_owned(),
    }
}

#[test]
fn every_story_ends_as_it_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 6);
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let story: Story =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(story.steps.iter().any(|step| step.expect.is_some()), "{} expects nothing", path.display());
        play(&story);
    }
}
