//! One workload in a small simulated cluster: what the plan says is done to it, as the shell does it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::{
    intervention::{Effect, Way},
    ledger::{
        Ledger,
        tests::{at, digest, record},
    },
    policy::{Mode, Policy, tests::policy},
    release::{Outcome, RollbackOutcome},
    rollout::Rollout,
    workload::{Kind, with_images},
};

mod leftover;
mod scenarios;

const REPOSITORY: &str = "registry.example/shop/cart";

/// The world that a plan is made from, and that its action changes.
#[derive(Clone)]
struct Sim {
    id: WorkloadId,
    ledger: Ledger,
    policies: Vec<Policy>,
    git: Option<Manifest>,
    away: bool,
    live: Option<Live>,
    history: History,
    missing: BTreeSet<(&'static str, String)>,
    earlier: Vec<Manifest<Packed>>,
    paused: Option<&'static str>,
    unreadable_records: bool,
    asked: Asked,
    /// What goes wrong with the pods of the n-th image.
    faults: BTreeMap<u8, Fault>,
    clock: i64,
    versions: u64,
    /// Every write that changed an image, as the images after it.
    writes: Vec<Images>,
}

/// What goes wrong with pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Containers start and keep crashing.
    Crashes,
    /// The image cannot be pulled.
    Unpullable,
}

fn tag(n: u8) -> String {
    format!("{REPOSITORY}:1.{n}")
}

fn pin(n: u8) -> String {
    format!("{REPOSITORY}:1.{n}@{}", digest(n))
}

fn object(image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"replicas": 1, "progressDeadlineSeconds": 50, "template": {"spec": {"containers": [{"name": "app", "image": image}]}}}})
}

fn manifest(image: &str) -> Manifest {
    Manifest {
        object: Arc::new(object(image)),
        commit: "c0ffee".into(),
        committed_at: at(0),
        path: "cart.yaml".into(),
    }
}

/// The same, as the git log says it.
fn in_log(image: &str) -> Manifest<Packed> {
    let manifest = manifest(image);
    manifest.with(Packed::new(&manifest.object))
}

/// The set of fields that an apply owns.
fn fields_of(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let fields = object.iter().filter(|(key, _)| !["apiVersion", "kind"].contains(&key.as_str()));
            fields
                .map(|(key, value)| (format!("f:{key}"), fields_of(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Value::Array(entries) if entries.iter().all(|entry| entry.get("name").is_some()) => {
            let key = |entry: &Value| format!("k:{}", json!({"name": entry["name"]}));
            entries
                .iter()
                .map(|entry| (key(entry), fields_of(entry)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        _ => json!({}),
    }
}

impl Sim {
    fn new() -> Self {
        Self {
            id: WorkloadId {
                kind: Kind::find("apps/v1", "Deployment").unwrap(),
                namespace: "shop".into(),
                name: "cart".into(),
            },
            ledger: Ledger::default(),
            policies: vec![policy()],
            git: None,
            away: false,
            live: None,
            history: History::default(),
            missing: BTreeSet::new(),
            earlier: Vec::new(),
            paused: None,
            unreadable_records: false,
            asked: Asked::default(),
            faults: BTreeMap::new(),
            clock: 1000,
            versions: 0,
            writes: Vec::new(),
        }
    }

    fn approve(&mut self, n: u8) {
        self.ledger.insert(record(&format!("r{n}"), n, &format!("1.{n}")));
    }

    fn revoke(&mut self, n: u8) {
        let mut revoked = record(&format!("r{n}"), n, &format!("1.{n}"));
        revoked.revocation = Some("CVE-2026-0001".into());
        self.ledger.insert(revoked);
    }

    fn git_wants(&mut self, image: &str) {
        self.git = Some(manifest(image));
    }

    /// Git asks for so many replicas.
    fn scale(&mut self, replicas: i64) {
        let manifest = self.git.as_mut().unwrap();
        let mut object = (*manifest.object).clone();
        object["spec"]["replicas"] = json!(replicas);
        manifest.object = Arc::new(object);
    }

    /// Somebody else creates the object, or changes its image.
    fn somebody_sets(&mut self, image: &str) {
        let object = match &self.live {
            Some(live) => {
                let all = live_images(live, &self.id).into_keys().map(|id| (id, image.to_owned())).collect();
                let template = self.id.kind.template_of(&live.object).unwrap();
                self.id.kind.with_template(&live.object, with_images(template, &all))
            }
            None => object(image),
        };
        self.store(object, true);
    }

    fn store(&mut self, object: Value, others: bool) {
        self.versions += 1;
        let rollout = if object["spec"]["replicas"] == 0 { Rollout::Idle } else { Rollout::Complete };
        let uid =
            self.live.as_ref().map_or_else(|| format!("uid-{}", self.versions), |live| live.uid.clone());
        self.live = Some(Live {
            uid,
            resource_version: self.versions.to_string(),
            object: Arc::new(object),
            rollout,
            trouble: None,
            others_own_pod_spec: others && self.git.is_some(),
            own_update_entry: false,
            own_fields: self.live.as_ref().and_then(|live| live.own_fields.clone()),
            deleting: false,
            applied: None,
        });
        self.roll();
    }

    /// What becomes of the rollout: past its deadline while something is wrong with its pods.
    fn roll(&mut self) {
        let runs = self.runs();
        let fault = self.faults.iter().find(|(n, _)| runs.contains(&tag(**n))).map(|(_, fault)| *fault);
        let Some(live) = self.live.as_mut() else { return };
        if live.rollout == Rollout::Idle {
            return;
        }
        (live.rollout, live.trouble) = match fault {
            None => (Rollout::Complete, None),
            Some(Fault::Crashes) => (Rollout::Stuck, Some(Trouble::Crashing("app kept crashing".into()))),
            Some(Fault::Unpullable) => {
                (Rollout::Stuck, Some(Trouble::NotStarted("app cannot be pulled".into())))
            }
        };
    }

    /// Policy asks for failed rollouts to be taken back.
    fn take_failed_back(&mut self) {
        self.policies[0].on_failed_rollout = Some(crate::domain::policy::OnFailedRollout::LastGood);
    }

    fn plan(&self) -> Plan {
        self.look(plan)
    }

    /// Asks something of the world as it is.
    fn look<T>(&self, ask: impl FnOnce(&World<'_>) -> T) -> T {
        let policies: Vec<&Policy> = self.policies.iter().collect();
        let wanted = match (&self.git, self.away) {
            (Some(_), true) => Wanted::GitAway,
            (Some(manifest), false) => Wanted::Git(manifest),
            (None, _) => Wanted::Elsewhere,
        };
        ask(&World {
            id: &self.id,
            live: self.live.as_ref(),
            wanted,
            history: &self.history,
            asked: &self.asked,
            judge: Judge {
                policies: &policies,
                ledger: &self.ledger,
                evidence: crate::domain::evidence::EvidenceOf::nothing(),
                namespace: "shop",
                now: at(self.clock),
            },
            missing: &self.missing,
            earlier: &self.earlier,
            healthy_since: Some(at(self.clock - 60)),
            paused: self.paused,
            unreadable_records: self.unreadable_records,
        })
    }

    /// Does an action as the API server would: refused when the world moved on.
    fn act(&mut self, action: &Action) -> Result<(), &'static str> {
        let live = self.live.clone();
        let found = live
            .as_ref()
            .map(|live| Expect { uid: live.uid.clone(), resource_version: live.resource_version.clone() });
        if found != action.expect {
            return Err("stale");
        }
        let before = live.as_ref().map(|live| live_images(live, &self.id)).unwrap_or_default();
        match &action.change {
            Change::Apply { object, .. } => {
                self.store(object.clone(), false);
                self.live.as_mut().unwrap().own_fields = Some(Arc::new(fields_of(object)));
            }
            Change::Template(template) => {
                let live = live.ok_or("gone")?;
                self.store(self.id.kind.with_template(&live.object, template.clone()), false);
            }
            Change::Images(changes) => {
                let live = live.ok_or("gone")?;
                let mut object = (*live.object).clone();
                let base = self.id.kind.template_pointer();
                for change in changes {
                    let at = |pointer: &str| format!("{base}{pointer}");
                    assert_eq!(object.pointer(&at(&change.name_pointer)).unwrap(), &change.name);
                    let slot = object.pointer_mut(&at(&change.pointer)).unwrap();
                    assert_eq!(slot, &change.expect);
                    *slot = json!(change.set);
                }
                self.store(object, false);
                self.live.as_mut().unwrap().own_update_entry = true;
            }
            Change::DropEntry => self.live.as_mut().ok_or("gone")?.own_update_entry = false,
        }
        let after = self.images();
        if after != before {
            self.writes.push(after);
        }
        Ok(())
    }

    fn record(&mut self, plan: &Plan) {
        if let Some(history) = &plan.history {
            self.history = history.clone();
            if let Some(live) = &self.live {
                // The UID of what was created is known from the answer.
                if plan.action.as_ref().is_some_and(|action| action.expect.is_none()) {
                    self.history.uid = Some(live.uid.clone());
                }
            }
        }
    }

    /// Plans and acts until nothing is left to do; `crash` says after which action the record is lost. Answers with the
    /// last plan.
    fn settle_with(&mut self, crash: Option<usize>) -> Plan {
        let mut acted = 0;
        for _ in 0..8 {
            let plan = self.plan();
            if let Some(action) = &plan.action {
                self.check_sets_nothing_bad(action);
                self.act(action).unwrap();
                acted += 1;
                if crash == Some(acted) {
                    continue;
                }
            } else if plan.history.as_ref().is_none_or(|history| *history == self.history) {
                return plan;
            }
            self.record(&plan);
        }
        panic!("does not settle: {:#?}", self.plan());
    }

    fn settle(&mut self) -> Plan {
        self.settle_with(None)
    }

    /// Whatever an action sets is permitted now, or is what the workload's own records let in before; never revoked.
    fn check_sets_nothing_bad(&self, action: &Action) {
        let policies: Vec<&Policy> = self.policies.iter().collect();
        let judge = Judge {
            policies: &policies,
            ledger: &self.ledger,
            evidence: crate::domain::evidence::EvidenceOf::nothing(),
            namespace: "shop",
            now: at(self.clock),
        };
        let mut copy = self.clone();
        let before = self.images();
        copy.act(action).unwrap();
        for (id, image) in copy.images().iter().filter(|(id, image)| before.get(*id) != Some(image)) {
            let known = [self.history.present(), self.history.held()]
                .into_iter()
                .flatten()
                .any(|release| release.images.get(id).is_some_and(|own| own.image == *image));
            let enforced = judge.enforced(image);
            assert!(enforced.permitted() || known, "{image} was set: {:?}", enforced.against);
            let revoked =
                judge.revocation(image).is_some() && (enforced.governed || self.history.hold.is_some());
            assert!(!revoked, "{image} is revoked and was set");
        }
    }

    fn images(&self) -> Images {
        self.live.as_ref().map(|live| live_images(live, &self.id)).unwrap_or_default()
    }

    fn runs(&self) -> String {
        self.images().into_values().collect::<Vec<_>>().join(",")
    }
}

fn live_images(live: &Live, id: &WorkloadId) -> Images {
    images(id.kind.template_of(&live.object).unwrap())
}

/// 1.1 was good, 1.2 runs and is good; both approved; git names 1.2.
fn git_owned() -> Sim {
    let mut sim = Sim::new();
    sim.approve(1);
    sim.approve(2);
    sim.git_wants(&tag(1));
    sim.settle();
    sim.clock += 60;
    sim.git_wants(&tag(2));
    sim.settle();
    sim.clock += 60;
    assert_eq!(sim.runs(), pin(2));
    sim.writes.clear();
    sim
}

/// The same, where git does not own the workload.
fn unowned() -> Sim {
    let mut sim = Sim::new();
    sim.approve(1);
    sim.approve(2);
    sim.somebody_sets(&tag(1));
    sim.settle();
    sim.clock += 60;
    sim.somebody_sets(&tag(2));
    sim.settle();
    sim.clock += 60;
    assert_eq!(sim.runs(), tag(2), "nothing is written where git does not own it");
    sim.writes.clear();
    sim
}

#[test]
fn a_revoked_image_rolls_back_to_the_last_good_release_and_is_held_there() {
    for mut sim in [git_owned(), unowned()] {
        sim.revoke(2);
        let plan = sim.settle();
        assert_eq!((plan.state, sim.runs()), (State::Held, pin(1)));
        assert_eq!(sim.writes.len(), 1, "exactly one image-changing write");
        assert_eq!(sim.history.hold.as_ref().unwrap().rejected[0].reference, tag(2));
        assert!(plan.message.contains("held at cart:1.1@sha256:010101010101"), "{}", plan.message);
        assert!(plan.message.contains("CVE-2026-0001"), "{}", plan.message);
        for _ in 0..3 {
            sim.somebody_sets(&tag(2));
            assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
        }
        sim.approve(3);
        if sim.git.is_some() {
            sim.git_wants(&tag(3));
        } else {
            sim.somebody_sets(&tag(3));
        }
        let plan = sim.settle();
        assert_eq!(plan.state, State::Permitted);
        assert!(sim.runs().starts_with(&tag(3)));
        assert_eq!(sim.history.hold, None);
        assert!(!sim.live.unwrap().own_update_entry, "nothing of ours is left behind");
    }
}

#[test]
fn a_target_that_is_revoked_later_is_rolled_back_in_turn_and_without_any_it_keeps_running() {
    let mut sim = git_owned();
    sim.approve(3);
    sim.git_wants(&tag(3));
    sim.settle();
    sim.clock += 60;
    sim.settle();
    sim.revoke(3);
    sim.settle();
    assert_eq!(sim.runs(), pin(2));
    sim.revoke(2);
    sim.settle();
    assert_eq!(sim.runs(), pin(1));
    sim.writes.clear();
    sim.revoke(1);
    let plan = sim.settle();
    assert_eq!((plan.state, sim.runs()), (State::NoSafeRelease, pin(1)));
    assert!(!plan.fallback);
    assert_eq!(sim.writes, []);
    sim.approve(4);
    sim.git_wants(&tag(4));
    assert_eq!((sim.settle().state, sim.runs()), (State::Permitted, pin(4)));
}

#[test]
fn losing_an_approval_moves_nothing() {
    for mut sim in [git_owned(), unowned()] {
        let runs = sim.runs();
        let key = record("r2", 2, "1.2").key;
        sim.ledger.remove(&key);
        assert_eq!((sim.settle().state, sim.runs()), (State::NotPermitted, runs.clone()));
        let mut expired = record("r2", 2, "1.2");
        expired.expires_at = Some(at(0));
        sim.ledger.insert(expired);
        assert_eq!((sim.settle().state, sim.runs()), (State::NotPermitted, runs));
        assert_eq!(sim.writes, []);
    }
}

#[test]
fn an_unlisted_image_waits_with_the_whole_template_while_other_fields_go_on() {
    let mut sim = git_owned();
    let mut changed = object(&tag(9));
    changed["spec"]["replicas"] = json!(5);
    changed["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["--new"]);
    sim.git = Some(Manifest { object: Arc::new(changed), ..manifest("x") });
    let plan = sim.settle();
    assert_eq!((plan.state, sim.runs()), (State::NotPermitted, pin(2)));
    let live = sim.live.as_ref().unwrap();
    assert_eq!(live.object["spec"]["replicas"], 5);
    assert_eq!(live.object["spec"]["template"]["spec"]["containers"][0].get("args"), None);
    assert!(plan.missing[0].contains("kind: ApprovedImage"), "{:?}", plan.missing);
    assert!(plan.missing[0].contains("beside cart.yaml"), "{:?}", plan.missing);
    sim.ledger.insert(record("r9", 9, "1.9"));
    sim.settle();
    assert_eq!(sim.runs(), pin(9));
    assert_eq!(
        sim.live.unwrap().object["spec"]["template"]["spec"]["containers"][0]["args"],
        json!(["--new"])
    );
}

/// What git takes out must go from the cluster, too, and a commit that only takes something out is a commit.
#[test]
fn a_field_that_git_does_not_name_any_more_is_removed() {
    let mut sim = git_owned();
    let mut with_args = object(&tag(2));
    with_args["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["--debug"]);
    sim.git = Some(Manifest { object: Arc::new(with_args), ..manifest("x") });
    sim.settle();
    let args = "/spec/template/spec/containers/0/args";
    assert_eq!(sim.live.as_ref().unwrap().object.pointer(args), Some(&json!(["--debug"])));
    sim.git_wants(&tag(2));
    sim.settle();
    assert_eq!(sim.live.as_ref().unwrap().object.pointer(args), None);
}

#[test]
fn an_unlisted_image_that_somebody_sets_is_put_back() {
    for mut sim in [git_owned(), unowned()] {
        sim.somebody_sets(&tag(9));
        sim.settle();
        assert_eq!(sim.runs(), pin(2));
    }
}

#[test]
fn a_new_workload_with_an_unpermitted_image_is_not_created() {
    let mut sim = Sim::new();
    sim.git_wants(&tag(1));
    assert_eq!(sim.settle().state, State::NotCreated);
    assert_eq!(sim.live, None);
    sim.approve(1);
    sim.settle();
    assert_eq!(sim.runs(), pin(1));
}

#[test]
fn a_tag_never_moves_backwards() {
    let mut sim = Sim::new();
    sim.ledger.insert(record("a", 1, "stable"));
    sim.ledger.insert(record("b", 2, "stable"));
    sim.git_wants(&format!("{REPOSITORY}:stable"));
    sim.settle();
    assert!(sim.runs().ends_with(digest(2).as_str()));
    sim.ledger.remove(&record("b", 2, "stable").key);
    let plan = sim.settle();
    assert_eq!(plan.state, State::NotPermitted);
    assert!(sim.runs().ends_with(digest(2).as_str()), "the older record is not what was asked for");
    sim.ledger.insert(record("c", 3, "stable"));
    sim.settle();
    assert!(sim.runs().ends_with(digest(3).as_str()));
}

#[test]
fn a_revoked_floating_tag_rolls_back_and_goes_forward_to_a_newer_record() {
    let mut sim = Sim::new();
    sim.ledger.insert(record("a", 1, "stable"));
    sim.git_wants(&format!("{REPOSITORY}:stable"));
    sim.settle();
    sim.ledger.insert(record("b", 2, "stable"));
    sim.settle();
    let mut revoked = record("b", 2, "stable");
    revoked.revocation = Some("bad".into());
    sim.ledger.insert(revoked);
    assert_eq!(sim.settle().state, State::Held);
    assert!(sim.runs().ends_with(digest(1).as_str()));
    sim.ledger.insert(record("c", 3, "stable"));
    assert_eq!(sim.settle().state, State::Permitted);
    assert!(sim.runs().ends_with(digest(3).as_str()));
}

#[test]
fn a_hold_outlives_its_policy_and_ends_when_the_revocation_is_forgotten() {
    for mut sim in [git_owned(), unowned()] {
        sim.revoke(2);
        sim.settle();
        let policies = std::mem::take(&mut sim.policies);
        sim.somebody_sets(&tag(2));
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)), "policy deleted");
        sim.policies = policies;
        sim.policies[0].mode = Mode::Audit;
        sim.somebody_sets(&pin(2));
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)), "policy suspended");
        sim.policies[0].mode = Mode::Enforce;
        let mut forgotten = record("r2", 2, "1.2");
        forgotten.revocation = Some("CVE".into());
        forgotten.forgotten = true;
        sim.ledger.insert(forgotten);
        let mut again = record("again", 2, "1.2");
        again.approved_at = at(500);
        sim.ledger.insert(again);
        let plan = sim.settle();
        assert_eq!((plan.state, sim.history.hold.is_none()), (State::Permitted, true));
        let expected = if sim.git.is_some() { pin(2) } else { pin(1) };
        assert_eq!(sim.runs(), expected, "nothing is written where git does not own the workload");
    }
}

#[test]
fn audit_and_warn_only_judge() {
    for mode in [Mode::Audit, Mode::Warn] {
        for mut sim in [git_owned(), unowned()] {
            sim.policies[0].mode = mode;
            let runs = sim.runs();
            sim.revoke(2);
            if sim.git.is_none() {
                sim.settle();
                assert_eq!(sim.runs(), runs);
            }
            sim.somebody_sets(&tag(9));
            if sim.git.is_none() {
                sim.settle();
                assert_eq!(sim.runs(), tag(9));
            }
        }
    }
}

#[test]
fn on_revocation_none_stays_with_an_alarm() {
    let mut sim = git_owned();
    sim.policies[0].on_revocation = Some(crate::domain::policy::OnRevocation::None);
    sim.revoke(2);
    assert_eq!((sim.settle().state, sim.runs()), (State::NoSafeRelease, pin(2)));
    let mut cautious = policy();
    cautious.key.1 = "cautious".into();
    cautious.on_revocation = Some(crate::domain::policy::OnRevocation::LastGood);
    sim.policies.push(cautious);
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
}

#[test]
fn while_paused_nothing_moves_and_nothing_is_recorded_as_moved() {
    let mut sim = git_owned();
    sim.paused = Some("incident 7");
    sim.revoke(2);
    let plan = sim.settle();
    assert_eq!((sim.runs(), sim.history.hold.clone()), (pin(2), None));
    assert!(plan.message.starts_with("paused (incident 7)"), "{}", plan.message);
    assert_eq!(plan.state, State::Paused);
    sim.paused = None;
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
}

#[test]
fn an_unowned_rollback_lost_by_a_crash_is_recognised() {
    let mut sim = unowned();
    sim.revoke(2);
    let mut undisturbed = sim.clone();
    sim.settle_with(Some(1));
    undisturbed.settle();
    assert_eq!(sim.writes.len(), 1);
    assert_eq!(sim.history, undisturbed.history);
}

/// Else nobody would ever be told that a rollback is through, or that it did not come up.
#[test]
fn a_rollback_to_a_release_that_was_good_completes_or_fails() {
    for mut sim in [git_owned(), unowned()] {
        sim.revoke(2);
        let mut stuck = sim.clone();
        sim.settle();
        sim.clock += 60;
        sim.settle();
        let last = |sim: &Sim| sim.history.rollbacks.last().map(|last| last.outcome);
        assert_eq!(last(&sim), Some(RollbackOutcome::Completed));
        let plan = stuck.plan();
        stuck.act(&plan.action.clone().unwrap()).unwrap();
        stuck.record(&plan);
        stuck.faults.insert(1, Fault::Crashes);
        stuck.roll();
        stuck.clock += 60;
        assert_eq!(stuck.settle().state, State::Held);
        assert_eq!(last(&stuck), Some(RollbackOutcome::Failed));
        assert_eq!(stuck.history.present().unwrap().outcome, Outcome::Good, "it proved itself before");
    }
}

const UNGOVERNED: &str = "other.example/agent:1";

/// 1.1 was good, 1.2 runs, beside a container that no policy covers.
fn beside_an_ungoverned_one(owned: bool) -> Sim {
    let mut sim = Sim::new();
    sim.policies[0].images = vec![crate::domain::pattern::Pattern::new("registry.example/**").unwrap()];
    sim.approve(1);
    sim.approve(2);
    for n in [1, 2] {
        sim.both(owned, &tag(n), &format!("{UNGOVERNED}@{}", digest(9)));
        sim.settle();
        sim.clock += 60;
        sim.settle();
    }
    sim
}

impl Sim {
    fn both(&mut self, owned: bool, app: &str, agent: &str) {
        let mut object = object(app);
        object["spec"]["template"]["spec"]["containers"] =
            json!([{"name": "app", "image": app}, {"name": "agent", "image": agent}]);
        if owned {
            self.git = Some(Manifest { object: Arc::new(object), ..manifest("x") });
        } else {
            self.store(object, true);
        }
    }

    fn app(&self) -> String {
        self.images()[&"containers/app".parse().unwrap()].clone()
    }
}

/// What no policy matches is left alone, also when its digest is revoked: it neither rules a rollback out nor lets the
/// hold beside it fall.
#[test]
fn a_revoked_digest_in_a_container_that_no_policy_covers_changes_nothing_for_the_others() {
    for owned in [true, false] {
        let agent = format!("{UNGOVERNED}@{}", digest(9));
        let mut sim = beside_an_ungoverned_one(owned);
        sim.revoke(9);
        assert_eq!(sim.settle().state, State::Permitted);
        sim.revoke(2);
        assert_eq!((sim.settle().state, sim.app()), (State::Held, pin(1)), "owned: {owned}");
        sim.store(
            {
                let mut copy = sim.clone();
                copy.both(false, &tag(2), &agent);
                (*copy.live.unwrap().object).clone()
            },
            true,
        );
        assert_eq!((sim.settle().state, sim.app()), (State::Held, pin(1)), "owned: {owned}");
        sim.approve(3);
        sim.both(owned, &tag(3), &agent);
        assert_eq!(sim.settle().state, State::Permitted, "owned: {owned}");
    }
}

/// Its releases from before have no template: that must not leave it without anything to go back to.
#[test]
fn a_workload_that_git_takes_over_keeps_its_fallback_and_its_hold() {
    let mut sim = unowned();
    sim.git_wants(&tag(2));
    let mut held = sim.clone();
    sim.settle();
    sim.revoke(2);
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
    held.git = None;
    held.revoke(2);
    held.settle();
    held.git_wants(&tag(2));
    held.settle();
    held.somebody_sets(&tag(2));
    assert_eq!((held.settle().state, held.runs()), (State::Held, pin(1)));
}

/// A tag stands for the newest record, also for one that was revoked before the workload was first seen.
#[test]
fn a_workload_adopted_with_a_revoked_tag_is_rolled_back() {
    let mut sim = unowned();
    sim.revoke(3);
    sim.live = None;
    sim.settle();
    sim.somebody_sets(&tag(3));
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(2)));
    assert_eq!(sim.history.hold.unwrap().rejected[0].digest, Some(digest(3)));
}

#[test]
fn a_revoked_image_that_somebody_sets_while_the_source_is_away_does_not_stay() {
    let mut sim = git_owned();
    sim.revoke(3);
    sim.away = true;
    sim.somebody_sets(&pin(3));
    assert_eq!(sim.plan().state, State::NotPermitted);
    sim.settle();
    assert_eq!(sim.runs(), pin(2));
}

#[test]
fn where_policy_says_to_stay_a_person_who_goes_back_is_not_held() {
    let mut sim = unowned();
    sim.policies[0].on_revocation = Some(crate::domain::policy::OnRevocation::None);
    sim.revoke(2);
    sim.settle();
    sim.somebody_sets(&pin(1));
    assert_eq!((sim.settle().state, sim.history.hold), (State::Permitted, None));
}

/// "Held" would be a lie: the revoked image runs.
#[test]
fn a_revoked_image_in_a_container_that_the_held_release_does_not_have_is_an_alarm() {
    let mut sim = unowned();
    sim.revoke(2);
    sim.settle();
    let mut renamed = object(&tag(2));
    renamed["spec"]["template"]["spec"]["containers"][0]["name"] = json!("renamed");
    sim.store(renamed, true);
    let plan = sim.settle();
    assert_eq!((plan.state, sim.runs()), (State::NoSafeRelease, tag(2)));
    assert!(plan.message.contains("containers/renamed runs cart:1.2"), "{}", plan.message);
}

#[test]
fn a_release_whose_config_is_gone_is_no_target() {
    let mut sim = git_owned();
    let named = json!([{"secretRef": {"name": "token"}}]);
    let release = sim
        .history
        .releases
        .iter_mut()
        .find(|release| release.images().values().any(|i| *i == pin(1)))
        .unwrap();
    let mut template = release.template.as_ref().unwrap().open();
    template["spec"]["containers"][0]["envFrom"] = named;
    release.template = Some(Packed::new(&template));
    sim.missing = [("Secret", "token".to_owned())].into();
    sim.revoke(2);
    assert_eq!((sim.settle().state, sim.runs()), (State::NoSafeRelease, pin(2)));
    sim.missing.clear();
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
}

#[test]
fn a_failed_release_is_never_a_target_and_an_unproven_one_is_said_to_be() {
    let mut sim = git_owned();
    for release in &mut sim.history.releases {
        release.outcome = Outcome::Unproven;
    }
    sim.revoke(2);
    let mut failed = sim.clone();
    let plan = failed.plan();
    assert!(plan.message.contains("never proved itself"), "{}", plan.message);
    let first = failed
        .history
        .releases
        .iter()
        .position(|release| release.images().values().any(|i| *i == pin(1)))
        .unwrap();
    failed.history.releases[first].outcome = Outcome::Failed;
    assert_eq!(failed.settle().state, State::NoSafeRelease);
}

#[test]
fn a_workload_first_seen_is_adopted_with_what_gits_log_says_it_ran() {
    let mut sim = Sim::new();
    sim.approve(1);
    sim.approve(2);
    sim.somebody_sets(&pin(2));
    sim.git_wants(&tag(2));
    sim.earlier = vec![in_log(&tag(1))];
    sim.revoke(2);
    let plan = sim.plan();
    assert!(plan.record_first && plan.action.is_none(), "what it rolls back from is on record first");
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
}

/// Nobody resolves a tag once the policy is gone; it must not let in what was rejected by digest.
#[test]
fn without_a_policy_the_tag_of_what_was_rejected_is_still_rejected() {
    let mut sim = Sim::new();
    sim.approve(1);
    sim.approve(2);
    for n in [1, 2] {
        sim.somebody_sets(&pin(n));
        sim.settle();
    }
    sim.revoke(2);
    sim.settle();
    sim.policies.clear();
    for image in [pin(2), tag(2)] {
        sim.somebody_sets(&image);
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)), "{image}");
    }
    sim.somebody_sets(&tag(3));
    assert_eq!((sim.settle().state, sim.runs()), (State::Permitted, tag(3)));
}

/// Git may own a workload only after it was known, or create it.
#[test]
fn gits_log_enters_whenever_there_is_nothing_else_to_go_back_to() {
    let mut known = Sim::new();
    known.somebody_sets(&pin(2));
    let mut fresh = Sim::new();
    for sim in [&mut known, &mut fresh] {
        sim.approve(1);
        sim.approve(2);
        sim.settle();
        sim.git_wants(&tag(2));
        sim.earlier = vec![in_log(&tag(1))];
        sim.settle();
        sim.earlier = Vec::new();
        sim.revoke(2);
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
    }
}

#[test]
fn a_deleted_workload_under_a_hold_comes_back_as_held() {
    let mut sim = git_owned();
    sim.revoke(2);
    sim.settle();
    sim.live = None;
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
    let mut sim = unowned();
    sim.revoke(2);
    sim.settle();
    sim.live = None;
    sim.settle();
    sim.somebody_sets(&tag(2));
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
}

#[test]
fn while_its_source_is_away_only_a_revocation_moves_it() {
    let mut sim = git_owned();
    sim.away = true;
    sim.ledger.remove(&record("r2", 2, "1.2").key);
    sim.settle();
    assert_eq!((sim.runs(), sim.writes.len()), (pin(2), 0));
    sim.revoke(2);
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
}

#[test]
fn pins_that_only_add_a_digest_are_told_apart() {
    let mut sim = Sim::new();
    sim.approve(1);
    sim.somebody_sets(&tag(1));
    sim.git_wants(&tag(1));
    assert_eq!(sim.plan().action.unwrap().step, Step::Pin);
    sim.approve(2);
    sim.git_wants(&tag(2));
    assert_eq!(sim.plan().action.unwrap().step, Step::Forward);
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Approve(u8),
    Withdraw(u8),
    Revoke(u8),
    GitWants(u8, bool),
    SomebodySets(u8, bool),
    Mode(Mode),
    Delete,
    Away(bool),
    Pause(bool),
    Fault(u8, Option<Fault>),
    TakeFailedBack,
    Ask(Way, u8),
    Wait,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let n = 1u8..5;
    let event = prop_oneof![
        4 => n.clone().prop_map(Event::Approve),
        1 => n.clone().prop_map(Event::Withdraw),
        3 => n.clone().prop_map(Event::Revoke),
        4 => (n.clone(), any::<bool>()).prop_map(|(n, pinned)| Event::GitWants(n, pinned)),
        3 => (n.clone(), any::<bool>()).prop_map(|(n, pinned)| Event::SomebodySets(n, pinned)),
        2 => (n, prop_oneof![Just(None), Just(Some(Fault::Crashes)), Just(Some(Fault::Unpullable))])
            .prop_map(|(n, fault)| Event::Fault(n, fault)),
        1 => Just(Event::TakeFailedBack),
        1 => (prop_oneof![Just(Way::ReleaseHold), Just(Way::Retry)], 0u8..3)
            .prop_map(|(way, value)| Event::Ask(way, value)),
        1 => prop_oneof![Just(Mode::Enforce), Just(Mode::Audit)].prop_map(Event::Mode),
        1 => Just(Event::Delete),
        1 => any::<bool>().prop_map(Event::Away),
        1 => any::<bool>().prop_map(Event::Pause),
        3 => Just(Event::Wait),
    ];
    prop::collection::vec(event, 1..14)
}

impl Sim {
    fn happen(&mut self, event: &Event, owned: bool) {
        let name = |n: u8, pinned: bool| if pinned { pin(n) } else { tag(n) };
        match event {
            Event::Approve(n) => {
                // Revocations are final.
                let key = record(&format!("r{n}"), *n, "x").key;
                if self.ledger.get(&key).is_none_or(|record| record.revocation.is_none()) {
                    self.approve(*n);
                }
            }
            Event::Withdraw(n) => {
                let key = record(&format!("r{n}"), *n, "x").key;
                if self.ledger.get(&key).is_some_and(|record| record.revocation.is_none()) {
                    self.ledger.remove(&key);
                }
            }
            Event::Revoke(n) => self.revoke(*n),
            Event::GitWants(n, pinned) if owned => self.git_wants(&name(*n, *pinned)),
            Event::GitWants(n, pinned) | Event::SomebodySets(n, pinned) => {
                if self.live.is_some() || !owned {
                    self.somebody_sets(&name(*n, *pinned));
                }
            }
            Event::Mode(mode) => self.policies[0].mode = *mode,
            Event::Delete => self.live = None,
            Event::Away(away) => self.away = *away,
            Event::Pause(paused) => self.paused = paused.then_some("test"),
            Event::Fault(n, fault) => {
                match fault {
                    Some(fault) => self.faults.insert(*n, *fault),
                    None => self.faults.remove(n),
                };
                self.roll();
            }
            Event::TakeFailedBack => self.take_failed_back(),
            Event::Ask(Way::ReleaseHold, value) => self.asked.release_hold = Some(value.to_string()),
            Event::Ask(Way::Retry, value) => self.asked.retry = Some(value.to_string()),
            Event::Wait => self.clock += 60,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// It settles and stays settled; whatever it sets is permitted or was let in before (checked in `settle`); a hold is
    /// never on a revoked release while another one would do.
    #[test]
    fn it_settles_and_stays_settled(events in events(), owned in any::<bool>()) {
        let mut sim = Sim::new();
        for event in &events {
            sim.happen(event, owned);
            sim.settle();
            let plan = sim.plan();
            prop_assert_eq!(plan.action, None);
        }
    }

    /// A crash between an action and its record ends in the same state.
    #[test]
    fn a_crash_after_any_action_ends_in_the_same_state(events in events(), owned in any::<bool>(), at in 0usize..14, nth in 1usize..3) {
        let mut calm = Sim::new();
        let mut crashed = Sim::new();
        for (index, event) in events.iter().enumerate() {
            calm.happen(event, owned);
            calm.settle();
            crashed.happen(event, owned);
            crashed.settle_with((index == at).then_some(nth));
        }
        prop_assert_eq!(calm.images(), crashed.images());
        prop_assert_eq!(calm.history.hold.is_some(), crashed.history.hold.is_some());
        prop_assert_eq!(calm.writes, crashed.writes);
    }

    /// One revocation, one image-changing write at most, and never to a revoked image.
    #[test]
    fn a_revocation_causes_one_write_at_most(events in events(), owned in any::<bool>(), n in 1u8..5) {
        let mut sim = Sim::new();
        for event in &events {
            sim.happen(event, owned);
            sim.settle();
        }
        sim.writes.clear();
        sim.revoke(n);
        sim.settle();
        prop_assert!(sim.writes.len() <= 1, "{:?}", sim.writes);
    }

    /// An action that was decided for another version of the world is refused and changes nothing.
    #[test]
    fn a_stale_action_is_refused(events in events(), owned in any::<bool>(), n in 1u8..5) {
        let mut sim = Sim::new();
        for event in &events {
            sim.happen(event, owned);
            if let Some(action) = sim.plan().action {
                let mut moved = sim.clone();
                moved.somebody_sets(&tag(n));
                let before = moved.images();
                prop_assert!(moved.act(&action).is_err());
                prop_assert_eq!(moved.images(), before);
            }
            sim.settle();
        }
    }

    /// What failed is taken back once at most, and then everything stays as it is.
    #[test]
    fn a_failed_rollout_is_taken_back_once(events in events(), owned in any::<bool>()) {
        let mut sim = Sim::new();
        sim.take_failed_back();
        for event in &events {
            sim.happen(event, owned);
            sim.settle();
        }
        sim.writes.clear();
        for _ in 0..4 {
            sim.clock += 60;
            sim.settle();
        }
        prop_assert!(sim.writes.len() <= 1, "{:?}", sim.writes);
    }

    /// An image that cannot be pulled takes nothing back, whatever a policy says.
    #[test]
    fn what_never_started_is_never_taken_back(events in events(), owned in any::<bool>()) {
        let mut sim = Sim::new();
        sim.take_failed_back();
        for event in &events {
            if !matches!(event, Event::Fault(_, Some(Fault::Crashes))) {
                sim.happen(event, owned);
            }
            sim.settle();
        }
        sim.writes.clear();
        sim.clock += 600;
        sim.settle();
        prop_assert_eq!(sim.writes, Vec::<Images>::new());
    }

    /// A source that cannot be read moves nothing.
    #[test]
    fn an_outage_changes_nothing(events in events()) {
        let mut sim = Sim::new();
        for event in &events {
            sim.happen(event, true);
            sim.settle();
        }
        sim.away = true;
        let before = sim.images();
        sim.settle();
        prop_assert_eq!(sim.images(), before);
    }
}

#[test]
fn the_history_keeps_the_last_sets_and_never_drops_the_last_good_one() {
    let mut history = History::default();
    let release = |n: u8| {
        let images = [("containers/app".parse().unwrap(), pin(n))].into_iter().collect::<Images>();
        let images = images
            .into_iter()
            .map(|(id, image)| {
                (id, crate::domain::release::ReleaseImage { wanted: image.clone(), image, approved_at: None })
            })
            .collect::<BTreeMap<_, _>>();
        crate::domain::release::Release::new(images, None, at(i64::from(n)))
    };
    history.set_present(release(1), at(1));
    history.prove(Outcome::Good);
    for n in 2..40 {
        history.set_present(release(n), at(i64::from(n)));
    }
    assert!(history.releases.len() <= 10, "{}", history.releases.len());
    assert!(history.releases.iter().any(|kept| kept.id == release(1).id), "the last good one");
    for n in 35..40 {
        assert!(history.releases.iter().any(|kept| kept.id == release(n).id), "the last five sets");
    }
}

/// A policy that asks for nothing of what git does not name stays silent about it.
#[test]
fn what_no_policy_covers_is_ungoverned_and_has_no_history() {
    let mut sim = Sim::new();
    sim.somebody_sets("other.example/x:1");
    sim.policies[0].images = vec![crate::domain::pattern::Pattern::new("registry.example/**").unwrap()];
    let plan = sim.settle();
    assert_eq!((plan.state, plan.history), (State::Ungoverned, None));
}

/// The images of an object with an app, a sidecar, and others beside it.
fn with_side(app: &str, side: &str, more: &[(&str, &str)]) -> Value {
    let mut object = object(app);
    let containers = object["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
    containers.push(json!({"name": "side", "image": side}));
    containers.extend(more.iter().map(|(name, image)| json!({"name": name, "image": image})));
    object
}

fn expire(sim: &mut Sim, n: u8) {
    let mut expired = record(&format!("r{n}"), n, &format!("1.{n}"));
    expired.expires_at = Some(at(sim.clock));
    sim.ledger.insert(expired);
}

/// Somebody runs app 1.1, then 1.2, each good, beside a sidecar 1.5: all by tag.
fn unowned_with_side() -> Sim {
    let mut sim = Sim::new();
    for n in [1, 2, 5, 6] {
        sim.approve(n);
    }
    for n in [1, 2] {
        sim.store(with_side(&tag(n), &tag(5), &[]), true);
        sim.settle();
        sim.clock += 60;
        sim.settle();
    }
    sim.writes.clear();
    sim
}

/// If this fails, an approval that ends, or a container that a tenant adds, keeps a revoked image running.
#[test]
fn what_else_is_not_permitted_in_a_workload_does_not_stop_its_rollback() {
    let mut sim = unowned_with_side();
    expire(&mut sim, 5);
    sim.settle();
    assert_eq!(sim.runs(), format!("{},{}", tag(2), tag(5)), "an approval that ends moves nothing");
    sim.revoke(2);
    let plan = sim.settle();
    assert_eq!((plan.state, sim.runs()), (State::Held, format!("{},{}", pin(1), tag(5))), "{}", plan.message);

    let mut sim = unowned_with_side();
    sim.store(with_side(&tag(2), &tag(5), &[("debug", "registry.example/shop/debug:1")]), true);
    sim.settle();
    sim.revoke(2);
    let plan = sim.settle();
    let runs = format!("{},registry.example/shop/debug:1,{}", pin(1), tag(5));
    assert_eq!((plan.state, sim.runs()), (State::Held, runs), "{}", plan.message);
}

/// If this fails, a crash between the patch and its record ends the hold of a workload with a sidecar.
#[test]
fn a_rollback_that_was_not_recorded_is_known_again_beside_a_sidecar() {
    let mut sim = unowned_with_side();
    sim.revoke(2);
    let plan = sim.settle_with(Some(1));
    assert_eq!((plan.state, sim.writes.len()), (State::Held, 1), "{}", plan.message);
    assert!(sim.history.hold.is_some());
}

/// If this fails, what somebody else deploys beside a held image goes back when its approval ends, and the rollback never
/// comes to its end.
#[test]
fn a_hold_keeps_only_what_it_keeps_out_from_changing() {
    let mut sim = unowned_with_side();
    sim.revoke(2);
    sim.settle();
    sim.store(with_side(&pin(1), &tag(6), &[]), true);
    sim.settle();
    sim.clock += 60;
    expire(&mut sim, 6);
    sim.clock += 60;
    let plan = sim.settle();
    assert_eq!((plan.state, sim.runs()), (State::Held, format!("{},{}", pin(1), tag(6))), "{}", plan.message);
    let last = sim.history.rollbacks.last().unwrap();
    assert_eq!((last.outcome, Some(&last.to)), (RollbackOutcome::Completed, sim.history.present.as_ref()));
    sim.store(with_side(&tag(2), &tag(6), &[]), true);
    sim.settle();
    assert_eq!(sim.runs(), format!("{},{}", pin(1), tag(6)), "the hold stands");
}

/// If this fails, an ApprovedImage that cannot be read after an upgrade ends every hold on its digest.
#[test]
fn a_record_that_cannot_be_read_is_not_forgotten() {
    let mut sim = git_owned();
    sim.revoke(2);
    sim.settle();
    sim.ledger.remove(&record("r2", 2, "1.2").key);
    sim.unreadable_records = true;
    sim.policies.clear();
    sim.settle();
    assert_eq!(sim.runs(), pin(1));
    assert!(sim.history.hold.is_some());
}

/// If this fails, a history that a newer version wrote is taken for none: its hold is lost, and what it keeps out comes in.
#[test]
fn without_its_history_nothing_moves_and_a_revoked_image_is_an_alarm() {
    const WHY: &str = "unknown variant `Degraded`";
    for mut sim in [git_owned(), unowned()] {
        let mut says = |state: State, words: &[&str]| {
            let plan = sim.look(|world| without_history(world, WHY));
            assert_eq!((plan.state, &plan.action, &plan.history), (state, &None, &None));
            assert!(words.iter().all(|word| plan.message.contains(word)), "{}", plan.message);
            sim.revoke(2);
        };
        says(State::Unreadable, &[WHY, "nothing of it moves"]);
        says(State::NoSafeRelease, &[WHY, "CVE-2026-0001", "keeps running"]);
    }
}

/// If this fails, a field that the API server refuses keeps a revoked image running.
#[test]
fn a_rollback_says_what_to_do_where_the_manifest_is_refused() {
    let mut sim = git_owned();
    sim.revoke(2);
    let action = sim.plan().action.unwrap();
    let Some(Change::Template(template)) = &action.instead else { panic!("{action:?}") };
    assert_eq!(images(template).into_values().collect::<Vec<_>>(), [pin(1)]);
    sim.settle();
    let mut manifest = sim.git.clone().unwrap();
    let mut object = (*manifest.object).clone();
    object["spec"]["minReadySeconds"] = json!(3);
    manifest.object = Arc::new(object);
    sim.git = Some(manifest);
    let action = sim.plan().action.unwrap();
    assert_eq!((action.step, action.instead), (Step::Hold, None), "the images are right already");
}

/// If this fails, a workload that somebody deleted is never created again once its tag stands for an older image.
#[test]
fn a_tag_may_stand_for_an_older_image_where_nothing_runs() {
    let mut sim = Sim::new();
    let claim = |n: u8, second: i64| {
        let mut claim = record(&format!("s{n}"), n, "stable");
        claim.approved_at = at(second);
        claim
    };
    sim.ledger.insert(claim(1, 10));
    sim.ledger.insert(claim(2, 20));
    sim.git_wants(&format!("{REPOSITORY}:stable"));
    sim.settle();
    sim.ledger.remove(&claim(2, 20).key);
    assert_eq!(sim.settle().state, State::NotPermitted);
    sim.live = None;
    sim.settle();
    assert!(sim.runs().ends_with(digest(1).as_str()), "{}", sim.runs());
}

/// The same as `git_owned`, where 1.3 was tried, kept crashing and is held back.
fn held_after_a_failure() -> Sim {
    let mut sim = git_owned();
    sim.take_failed_back();
    sim.faults.insert(3, Fault::Crashes);
    sim.approve(3);
    sim.git_wants(&tag(3));
    sim.settle();
    sim.clock += 60;
    assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(2)));
    sim.writes.clear();
    sim
}

#[test]
fn a_retry_tries_what_failed_once_more() {
    let mut sim = held_after_a_failure();
    for round in 0..2 {
        sim.asked.retry = Some(round.to_string());
        assert_eq!((sim.settle().state, sim.runs()), (State::Permitted, pin(3)));
        sim.clock += 60;
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(2)));
        sim.clock += 600;
        assert_eq!((sim.settle().state, sim.writes.len()), (State::Held, 2 * (round + 1)));
    }
}

#[test]
fn a_hold_that_a_person_releases_after_a_failure_stays_released() {
    let mut sim = held_after_a_failure();
    sim.asked.release_hold = Some("it needs a minute".into());
    assert_eq!((sim.settle().state, sim.runs()), (State::Permitted, pin(3)));
    sim.clock += 600;
    assert_eq!((sim.settle().state, sim.runs(), sim.writes.len()), (State::Permitted, pin(3), 1));
    let taken = sim.history.interventions.last().unwrap();
    assert_eq!((taken.effect, taken.release.as_ref()), (Effect::Done, sim.history.present.as_ref()));
}

/// If this fails, a word in an annotation brings a revoked image back.
#[test]
fn nobody_releases_a_hold_on_what_is_revoked() {
    for mut sim in [git_owned(), unowned()] {
        sim.revoke(2);
        sim.settle();
        sim.asked = Asked { release_hold: Some("I want it".into()), retry: Some("now".into()) };
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
        sim.policies.clear();
        assert_eq!((sim.settle().state, sim.runs()), (State::Held, pin(1)));
        let effects: Vec<_> = sim.history.interventions.iter().map(|taken| taken.effect).collect();
        assert_eq!(effects, [Effect::StillRevoked, Effect::StillRevoked]);
    }
}

/// A StatefulSet has no deadline of its own; whatever it runs into before ten minutes may still pass.
#[test]
fn kinds_without_a_deadline_have_ten_minutes() {
    let mut sim = git_owned();
    sim.take_failed_back();
    sim.approve(3);
    sim.git_wants(&tag(3));
    sim.settle();
    sim.id.kind = Kind::find("apps/v1", "StatefulSet").unwrap();
    let live = sim.live.as_mut().unwrap();
    (live.rollout, live.trouble) = (Rollout::Progressing, Some(Trouble::Crashing("app".into())));
    let present = sim.history.present.clone();
    for release in sim.history.releases.iter_mut().filter(|release| Some(&release.id) == present.as_ref()) {
        release.outcome = Outcome::Unproven;
    }
    sim.clock += 599;
    let plan = sim.plan();
    assert_eq!((plan.state, plan.record_first), (State::Permitted, false));
    assert_eq!(plan.recheck, Some(at(sim.clock + 1)));
    sim.clock += 1;
    let plan = sim.plan();
    assert!(plan.record_first && plan.history.unwrap().hold.is_some());
}
