//! One namespace: what is asked, what runs, and what becomes of it.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::{
    image::short,
    ledger::{
        Ledger,
        tests::{at, digest, record},
    },
    packed::Packed,
    plan::Live,
    policy::{OnRevocation, Sources, tests::policy},
    release::{Cause, Hold, Rejected, Release, ReleaseImage},
    rollout::Rollout,
    workload::{Kind, List, WorkloadId},
};

const CART: &str = "registry.example/shop/cart";

/// A namespace `shop` under a policy that asks for approval and digests, at 100 s.
pub(super) struct Scene {
    pub policies: Vec<Policy>,
    pub ledger: Ledger,
    pub running: Running,
    pub history: Option<History>,
}

impl Scene {
    /// Images 1 to 4 of the cart are approved with the tags 1.1 to 1.4.
    pub fn new() -> Self {
        let ledger = (1..=4).map(|n| record(&format!("r{n}"), n, &format!("1.{n}"))).collect();
        Self { policies: vec![policy()], ledger, running: Running::default(), history: None }
    }

    fn change(&mut self, n: u8, change: impl FnOnce(&mut crate::domain::ledger::Record)) {
        let mut changed = record(&format!("r{n}"), n, &format!("1.{n}"));
        change(&mut changed);
        self.ledger.insert(changed);
    }

    pub fn revoke(&mut self, n: u8) {
        self.change(n, |record| record.revocation = Some("CVE-2026-0001".into()));
    }

    pub fn expire(&mut self, n: u8) {
        self.change(n, |record| record.expires_at = Some(at(50)));
    }

    fn ask<T>(
        &self,
        kind: &str,
        object: &Value,
        before: Option<&Value>,
        answer: impl FnOnce(&Asked<'_>, &Known<'_>) -> T,
    ) -> T {
        let policies: Vec<&Policy> = self.policies.iter().collect();
        let judge = Judge {
            policies: &policies,
            ledger: &self.ledger,
            evidence: crate::domain::evidence::EvidenceOf::nothing(),
            namespace: "shop",
            now: at(100),
        };
        let known = Known { judge, running: &self.running, unreadable_records: false };
        let subject = Subject::find(group_of(kind), kind).unwrap();
        answer(&Asked { subject, object, before, history: self.history.as_ref() }, &known)
    }

    fn denial(&self, kind: &str, object: &Value, before: Option<&Value>) -> Option<Denial> {
        self.ask(kind, object, before, |asked, known| review(asked, known).denial)
    }

    /// Why a new Pod is denied, as codes; empty: it is let in.
    pub fn pod(&self, images: &[(&str, &str)]) -> Vec<Code> {
        codes(self.denial("Pod", &object("Pod", images), None))
    }

    /// A Pod after it was rewritten.
    fn rewritten(&self, pod: &Value) -> Value {
        self.ask("Pod", pod, None, |asked, known| apply(pod, &rewrites(asked, known)))
    }

    /// What the answers of the policies are.
    fn answers(&self, images: &[(&str, &str)]) -> Vec<(String, Answer)> {
        self.ask("Pod", &object("Pod", images), None, |asked, known| {
            review(asked, known)
                .answers
                .into_iter()
                .map(|(policy, answer)| (policy.key.1.clone(), answer))
                .collect()
        })
    }

    /// A Deployment whose present release is this, as the operator recorded it, and its live object.
    pub fn deployment(&mut self, name: &str, images: &[(&str, &str)], replicas: u32) {
        let history = history(&[images]);
        self.see(name, &history, Some(&live(images, replicas)), false);
    }

    pub fn see(&mut self, name: &str, history: &History, live: Option<&Live>, stays: bool) {
        self.running.see_workload(&workload(name), Some(history), live, stays);
    }

    pub fn see_pod(&mut self, name: &str, images: &[(&str, &str)]) {
        self.running.see_pod("shop", name, Some(&object("Pod", images)));
    }
}

/// Images by their containers.
type Named<'a> = &'a [(&'a str, &'a str)];

fn group_of(kind: &str) -> &'static str {
    match kind {
        "Job" | "CronJob" => "batch",
        "Pod" | "PodTemplate" | "ReplicationController" => "",
        _ => "apps",
    }
}

pub(super) fn workload(name: &str) -> WorkloadId {
    let kind = Kind::find("apps/v1", "Deployment").unwrap();
    WorkloadId { kind, namespace: "shop".into(), name: name.into() }
}

/// A Deployment's history: the releases in order, the last is present.
pub(super) fn history(releases: &[&[(&str, &str)]]) -> History {
    let mut history = History { uid: Some("u1".into()), ..History::default() };
    for (index, images) in releases.iter().enumerate() {
        let images = images.iter().map(|(place, image)| {
            let own = ReleaseImage {
                image: (*image).into(),
                wanted: without_digest(image),
                approved_at: Some(at(5)),
            };
            (place.parse().unwrap(), own)
        });
        let now = at(i64::try_from(index).unwrap());
        history.set_present(Release::new(images.collect(), None, now), now);
    }
    history
}

fn without_digest(image: &str) -> String {
    image.split('@').next().unwrap().to_owned()
}

pub(super) fn live(images: &[(&str, &str)], replicas: u32) -> Live {
    let mut object = object("Deployment", images);
    object["spec"]["replicas"] = replicas.into();
    Live {
        uid: "u1".into(),
        resource_version: "1".into(),
        object: object.into(),
        rollout: Rollout::Complete,
        trouble: None,
        others_own_pod_spec: false,
        own_update_entry: false,
        own_fields: None,
        deleting: false,
        applied: None,
    }
}

/// An object with these images, at places such as `containers/app`.
pub(super) fn object(kind: &str, images: &[(&str, &str)]) -> Value {
    let mut spec = json!({});
    for (place, image) in images {
        let (list, name) = place.split_once('/').unwrap();
        let entry = if list == "volumes" {
            json!({"name": name, "image": {"reference": image}})
        } else {
            json!({"name": name, "image": image})
        };
        match spec[list].as_array_mut() {
            Some(entries) => entries.push(entry),
            None => spec[list] = json!([entry]),
        }
    }
    let path = Subject::find(group_of(kind), kind).unwrap().template();
    let mut object = path.iter().rev().fold(json!({"spec": spec}), |inner, part| json!({ *part: inner }));
    object["metadata"] = json!({"name": "x", "namespace": "shop", "uid": "u1"});
    object
}

fn apply(object: &Value, rewrites: &[Rewrite]) -> Value {
    let mut changed = object.clone();
    for rewrite in rewrites {
        let slot = changed.pointer_mut(&rewrite.pointer).unwrap();
        assert_eq!(*slot, rewrite.from.as_str());
        *slot = rewrite.to.as_str().into();
    }
    changed
}

fn codes(denial: Option<Denial>) -> Vec<Code> {
    denial.into_iter().flat_map(|denial| denial.refused).map(|refused| refused.code).collect()
}

/// The n-th image of the cart, pinned.
pub(super) fn pinned(n: u8) -> String {
    format!("{CART}:1.{n}@{}", digest(n))
}

fn tag(n: u8) -> String {
    format!("{CART}:1.{n}")
}

const KINDS: [&str; 9] = [
    "Pod",
    "ReplicaSet",
    "ReplicationController",
    "Job",
    "PodTemplate",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "CronJob",
];

/// A place that is not looked at is a way past every policy.
#[test]
fn of_a_new_object_of_any_kind_the_images_in_every_list_are_judged() {
    let scene = Scene::new();
    for kind in KINDS {
        for list in List::ALL {
            let place = format!("{}/x", list.field());
            for (image, expected) in [
                (pinned(1), None),
                (pinned(9), Some(Code::Unlisted)),
                (format!("other.example/cart@{}", digest(1)), Some(Code::Unlisted)),
                ("not an image".to_owned(), Some(Code::InvalidReference)),
            ] {
                let new = object(kind, &[("containers/good", &pinned(2)), (&place, &image)]);
                let denial = scene.denial(kind, &new, None);
                assert_eq!(
                    codes(denial.clone()),
                    expected.into_iter().collect::<Vec<_>>(),
                    "{kind} {place} {image}"
                );
                if let Some(denial) = denial {
                    assert!(
                        denial.refused[0].place.ends_with(&format!("spec.{}[x]", list.field())),
                        "{denial:?}"
                    );
                }
            }
        }
    }
}

/// If this fails, labels cannot be set on what runs unapproved, or an unapproved image comes in with an update.
#[test]
fn of_an_update_only_what_is_new_or_differs_at_its_place_is_judged() {
    let scene = Scene::new();
    for kind in KINDS {
        let images = [("containers/a", pinned(8)), ("initContainers/b", pinned(9))];
        let old: Vec<(&str, &str)> = images.iter().map(|(place, image)| (*place, image.as_str())).collect();
        let before = object(kind, &old);
        let denied = |new: &[(&str, &str)]| scene.denial(kind, &object(kind, new), Some(&before)).is_some();
        let mut labelled = before.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert!(scene.denial(kind, &labelled, Some(&before)).is_none(), "{kind}");
        assert!(!denied(&[old[1], old[0], ("containers/c", &pinned(1))]), "{kind}");
        assert!(denied(&[("containers/a", old[1].1), old[1]]), "{kind}: another place's image");
        assert!(denied(&[old[0], old[1], ("ephemeralContainers/c", old[0].1)]), "{kind}: one more");
        assert!(denied(&[("initContainers/a", old[0].1)]), "{kind}: another list");
    }
}

/// The kubelet resolves a tag anew: what runs would not be what was approved.
#[test]
fn an_approved_tag_is_let_in_in_templates_and_in_pods_once_it_is_rewritten() {
    let mut scene = Scene::new();
    let images: &[(&str, &str)] = &[("containers/app", &tag(1)), ("volumes/model", &tag(2))];
    for kind in KINDS.into_iter().skip(1) {
        assert!(scene.denial(kind, &object(kind, images), None).is_none(), "{kind}");
        let object = object(kind, images);
        assert!(scene.ask(kind, &object, None, rewrites).is_empty(), "{kind}: nothing but Pods is pinned");
    }
    let pod = object("Pod", images);
    let denial = scene.denial("Pod", &pod, None).unwrap();
    assert!(denial.message.contains(&format!("write {}", pinned(1))), "{}", denial.message);
    assert_eq!(codes(Some(denial)), [Code::DigestRequired, Code::DigestRequired]);
    let rewritten = scene.rewritten(&pod);
    assert_eq!(rewritten, object("Pod", &[("containers/app", &pinned(1)), ("volumes/model", &pinned(2))]));
    assert_eq!(scene.denial("Pod", &rewritten, None), None);
    let unlisted = object("Pod", &[("containers/app", &tag(9))]);
    assert_eq!(scene.rewritten(&unlisted), unlisted);
    assert_eq!(scene.pod(&[("containers/app", &tag(9))]), [Code::Unlisted, Code::DigestRequired][..1]);
    scene.policies[0].pin_pods = Some(false);
    assert_eq!(scene.rewritten(&pod), pod, "where all that say something say no");
    assert!(scene.denial("Pod", &pod, None).is_some());
    scene.policies[0].require_digest = false;
    assert_eq!(scene.denial("Pod", &pod, None), None);
}

/// `kubectl debug` adds a container to a Pod that is there.
#[test]
fn what_an_update_adds_to_a_pod_is_rewritten_and_the_rest_is_left() {
    let scene = Scene::new();
    let before = object("Pod", &[("containers/app", &tag(1))]);
    let after = object("Pod", &[("containers/app", &tag(1)), ("ephemeralContainers/debug", &tag(2))]);
    let all = scene.ask("Pod", &after, Some(&before), rewrites);
    assert_eq!(all.len(), 1);
    assert_eq!(
        patch(&all),
        json!([
            {"op": "test", "path": "/spec/ephemeralContainers/0/image", "value": tag(2)},
            {"op": "replace", "path": "/spec/ephemeralContainers/0/image", "value": pinned(2)},
        ])
    );
}

#[test]
fn each_policy_answers_by_itself() {
    let mut scene = Scene::new();
    let named = |name: &str, mode: Mode| {
        let mut policy = policy();
        (policy.key.1, policy.mode) = (name.into(), mode);
        policy.sources =
            Some(Sources { allow: Vec::new(), deny: vec!["registry.example/shop/*".parse_pattern()] });
        policy
    };
    scene.policies = vec![policy(), named("warns", Mode::Warn), named("audits", Mode::Audit)];
    let mut elsewhere = named("elsewhere", Mode::Enforce);
    elsewhere.images = vec!["other.example/**".parse_pattern()];
    scene.policies.push(elsewhere);
    let answers = |answers: &[(&str, Answer)]| {
        answers.iter().map(|(name, answer)| ((*name).to_owned(), *answer)).collect::<Vec<_>>()
    };
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1))];
    assert_eq!(
        scene.answers(app),
        answers(&[
            ("production", Answer::Permitted),
            ("warns", Answer::NotPermitted),
            ("audits", Answer::NotPermitted)
        ])
    );
    let verdict = |scene: &Scene| {
        scene.ask("Pod", &object("Pod", app), None, |asked, known| {
            let verdict = review(asked, known);
            (verdict.denial, verdict.warnings)
        })
    };
    let (denial, warnings) = verdict(&scene);
    assert_eq!(denial, None);
    assert!(
        matches!(&warnings[..], [only] if only.contains("policy root/warns does not permit spec.containers[app] (SourceNotAllowed): ")),
        "{warnings:?}"
    );
    scene.policies[1].mode = Mode::Enforce;
    let (denial, warnings) = verdict(&scene);
    assert_eq!((denial.unwrap().refused[0].policy.1.as_str(), warnings.len()), ("warns", 0));
    // What runs is what each of them would let in, too.
    scene.deployment("cart", app, 1);
    assert_eq!(
        scene.answers(app),
        answers(&[("production", Answer::Permitted), ("warns", Answer::Runs), ("audits", Answer::Runs)])
    );
}

/// If this fails, a service goes down because an approval ended, was withdrawn, or a policy was tightened.
#[test]
fn nothing_short_of_a_revocation_stops_what_runs() {
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1)), ("initContainers/init", &pinned(2))];
    for what in ["expired", "withdrawn", "denied"] {
        let mut scene = Scene::new();
        match what {
            "expired" => [1, 2].into_iter().for_each(|n| scene.expire(n)),
            "withdrawn" => scene.ledger = Ledger::default(),
            _ => {
                let deny = vec!["registry.example/shop/*".parse_pattern()];
                scene.policies[0].sources = Some(Sources { allow: Vec::new(), deny });
            }
        }
        assert_eq!(scene.pod(app).len(), 2, "{what}: it does not run");
        scene.deployment("cart", app, 1);
        for kind in ["Pod", "ReplicaSet", "Job", "PodTemplate", "ReplicationController"] {
            assert_eq!(scene.denial(kind, &object(kind, app), None), None, "{what} {kind}");
        }
        assert!(
            scene.denial("Deployment", &object("Deployment", app), None).is_some(),
            "{what}: a new workload"
        );
        assert!(
            !scene.pod(&[("containers/app", &pinned(1)), ("containers/x", &pinned(9))]).is_empty(),
            "{what}"
        );
        let repository = format!("other.example/cart@{}", digest(1));
        assert!(!scene.pod(&[("containers/app", &repository)]).is_empty(), "{what}: another repository");
        scene.running.see_workload(&workload("cart"), None, None, false);
        assert_eq!(scene.pod(app).len(), 2, "{what}: it is gone");
    }
}

/// A sidecar that another webhook injects stands in no release; it is approved by itself.
#[test]
fn what_is_permitted_by_itself_need_not_be_of_the_release() {
    let mut scene = Scene::new();
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1))];
    scene.deployment("cart", app, 1);
    scene.expire(1);
    let injected: &[(&str, &str)] = &[app[0], ("containers/proxy", &pinned(4))];
    assert_eq!(scene.pod(injected), []);
    scene.expire(4);
    assert_eq!(scene.pod(injected), [Code::Expired, Code::Expired]);
}

#[test]
fn images_of_two_releases_do_not_make_one() {
    let mut scene = Scene::new();
    scene.deployment("one", &[("containers/a", &pinned(1))], 1);
    scene.deployment("other", &[("containers/b", &pinned(2))], 1);
    scene.ledger = Ledger::default();
    assert_eq!(scene.pod(&[("containers/a", &pinned(1))]), []);
    assert_eq!(scene.pod(&[("containers/b", &pinned(2))]), []);
    assert_eq!(scene.pod(&[("containers/a", &pinned(1)), ("containers/b", &pinned(2))]).len(), 2);
}

/// Middle of a rollout: the release before has pods that may have to be replaced, and then none.
#[test]
fn an_earlier_release_runs_as_long_as_it_has_pods() {
    let mut scene = Scene::new();
    let (old, new): (Named<'_>, Named<'_>) =
        (&[("containers/app", &pinned(1)), ("containers/b", &pinned(3))], &[("containers/app", &pinned(2))]);
    scene.see("cart", &history(&[old, new]), Some(&live(new, 2)), false);
    scene.ledger = Ledger::default();
    assert_eq!(scene.pod(old).len(), 2);
    scene.see_pod("half", &[old[0]]);
    assert_eq!(scene.pod(old).len(), 2, "a pod with some of its images is not of it");
    scene.see_pod("old", &[old[0], old[1], ("containers/injected", &pinned(4))]);
    assert_eq!(scene.pod(old), []);
    let mut over = object("Pod", old);
    over["status"]["phase"] = "Succeeded".into();
    scene.running.see_pod("shop", "old", Some(&over));
    assert_eq!(scene.pod(old).len(), 2, "it has ended");
    scene.see_pod("old", old);
    assert_eq!(scene.pod(old), []);
    scene.running.see_pod("bank", "old", None);
    assert_eq!(scene.pod(old), [], "another namespace");
    scene.running.see_pod("shop", "old", None);
    assert_eq!(scene.pod(old).len(), 2);
    assert_eq!(scene.pod(new), [], "the present one needs none: its last pod may just have been deleted");
}

#[test]
fn the_present_release_counts_only_of_a_workload_that_is_to_have_pods() {
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1))];
    let pods = |change: &dyn Fn(&mut Live)| {
        let mut scene = Scene::new();
        scene.expire(1);
        let mut live = live(app, 1);
        change(&mut live);
        scene.see("cart", &history(&[app]), Some(&live), false);
        scene.pod(app)
    };
    assert_eq!(pods(&|_| {}), []);
    assert_eq!(pods(&|live| live.deleting = true), [Code::Expired]);
    assert_eq!(pods(&|live| live.uid = "another".into()), [Code::Expired], "re-created");
    assert_eq!(pods(&|live| live.object = super::tests::live(app, 0).object), [Code::Expired]);
    let mut scene = Scene::new();
    scene.expire(1);
    scene.see("cart", &history(&[app]), None, false);
    assert_eq!(scene.pod(app), [Code::Expired]);
}

/// If this fails, a revocation takes a service down by itself, or a revoked image starts anew.
#[test]
fn a_revoked_image_goes_on_only_while_it_runs_and_its_workload_was_not_moved() {
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1))];
    let good: &[(&str, &str)] = &[("containers/app", &pinned(2))];
    let mut scene = Scene::new();
    scene.revoke(1);
    scene.see("cart", &history(&[app]), Some(&live(app, 1)), false);
    assert_eq!(scene.pod(app), [Code::Revoked], "no pod with it runs");
    scene.see_pod("cart-1", app);
    assert_eq!(scene.pod(app), []);
    let (warnings, alarms, goes_on) = scene.ask("Pod", &object("Pod", app), None, |asked, known| {
        let verdict = review(asked, known);
        (verdict.warnings, verdict.alarms, verdict.goes_on)
    });
    assert!(alarms.len() == 1 && alarms[0].contains("CVE-2026-0001") && warnings == alarms, "{alarms:?}");
    assert_eq!(goes_on, Some(GoesOn::NotRolledBackYet));
    let with_expired: &[(&str, &str)] = &[app[0], ("containers/x", &pinned(9))];
    assert_eq!(scene.pod(with_expired), [Code::Revoked, Code::Unlisted], "not of that release");
    scene.see("cart", &history(&[app]), Some(&live(good, 1)), false);
    assert_eq!(scene.pod(app), [Code::Revoked], "rolled back, and not yet recorded");
    scene.see("cart", &history(&[app, good]), Some(&live(good, 1)), false);
    assert_eq!(scene.pod(app), [Code::Revoked], "rolled back");
    assert_eq!(scene.pod(good), []);
    assert!(scene.denial("ReplicaSet", &object("ReplicaSet", app), None).is_some());
    assert!(scene.denial("Deployment", &object("Deployment", app), None).is_some());
}

/// A drain of the node of a single pod: none is left when its successor is created.
#[test]
fn where_a_workload_stays_although_revoked_its_last_pod_may_come_back() {
    let app: &[(&str, &str)] = &[("containers/app", &pinned(1))];
    let mut scene = Scene::new();
    scene.revoke(1);
    scene.see("cart", &history(&[app]), Some(&live(app, 1)), true);
    assert_eq!(scene.pod(app), []);
    scene.see("cart", &history(&[app]), Some(&live(app, 0)), true);
    assert_eq!(scene.pod(app), [Code::Revoked], "scaled to nothing");
    scene.see("cart", &history(&[app]), Some(&live(&[("containers/app", &pinned(2))], 1)), true);
    assert_eq!(scene.pod(app), [Code::Revoked], "its template says something else");
}

/// Where git does not own a workload its template names tags: pods are pinned on the way in, whatever became of the approval.
#[test]
fn a_tag_of_what_runs_is_pinned_to_what_runs() {
    let by_tag: &[(&str, &str)] = &[("containers/app", &tag(1))];
    let pod = object("Pod", by_tag);
    let mut scene = Scene::new();
    scene.see("cart", &history(&[&[("containers/app", &pinned(1))]]), Some(&live(by_tag, 1)), false);
    let pinned_to = |scene: &Scene| {
        let after = scene.rewritten(&pod);
        let let_in = scene.denial("Pod", &after, None).is_none();
        (short(after["spec"]["containers"][0]["image"].as_str().unwrap()), let_in)
    };
    let runs = (short(&pinned(1)), true);
    assert_eq!(pinned_to(&scene), runs);
    scene.expire(1);
    assert_eq!(pinned_to(&scene), runs, "expired");
    assert_eq!(
        codes(scene.denial("ReplicaSet", &object("ReplicaSet", by_tag), None)),
        [],
        "its template keeps the tag"
    );
    scene.change(1, |record| (record.digest, record.approved_at) = (digest(7), at(1)));
    assert_eq!(
        pinned_to(&scene),
        runs,
        "the approval was withdrawn, and the tag now stands for an older image"
    );
    scene.change(1, |record| (record.digest, record.approved_at) = (digest(7), at(60)));
    assert_eq!(pinned_to(&scene), (format!("cart:1.1@{}", digest(7).short()), true), "the tag moved on");
    scene.ledger = Ledger::default();
    scene.revoke(1);
    assert_eq!(pinned_to(&scene), (short(&pinned(1)), false), "revoked");
    scene.see_pod("cart-1", &[("containers/app", &pinned(1))]);
    assert_eq!(pinned_to(&scene), runs, "revoked, and runs");
}

/// If this fails, our own webhook refuses what the operator puts back.
#[test]
fn a_workload_may_be_set_to_what_it_runs_or_is_held_at() {
    let (own, other): (Named<'_>, Named<'_>) =
        (&[("containers/app", &pinned(1))], &[("containers/app", &pinned(2))]);
    let mut scene = Scene::new();
    scene.expire(1);
    let (to, from) = (object("Deployment", own), object("Deployment", other));
    assert!(scene.denial("Deployment", &to, Some(&from)).is_some());
    scene.history = Some(history(&[other, own]));
    assert_eq!(scene.denial("Deployment", &to, Some(&from)), None);
    assert!(scene.denial("Deployment", &to, None).is_some(), "a new one has no present release");
    let mut another = from.clone();
    another["metadata"]["uid"] = "another".into();
    let mut other_to = to.clone();
    other_to["metadata"]["uid"] = "another".into();
    assert!(scene.denial("Deployment", &other_to, Some(&another)).is_some(), "re-created");
    let more = object("Deployment", &[own[0], ("containers/x", &pinned(9))]);
    let denial = scene.denial("Deployment", &more, Some(&from)).unwrap();
    assert_eq!(codes(Some(denial.clone())), [Code::Unlisted], "only what is in the way is named");
    assert!(!denial.message.contains("[app]"), "{}", denial.message);
    scene.history = Some(held());
    assert_eq!(scene.denial("Deployment", &to, None), None, "held: it is created with what is held");
    scene.revoke(1);
    assert_eq!(codes(scene.denial("Deployment", &to, Some(&from))), [Code::Revoked]);
}

/// The history of a workload that is held at image 1, since image 2 was revoked.
fn held() -> History {
    let mut history = history(&[&[("containers/app", &pinned(2))], &[("containers/app", &pinned(1))]]);
    let rejected = Rejected {
        container: "containers/app".parse().unwrap(),
        reference: tag(2),
        digest: Some(digest(2)),
        cause: Cause::Revoked,
    };
    let target = history.present.clone().unwrap();
    history.hold = Some(Hold {
        since: at(9),
        rejected: vec![rejected],
        failed: None,
        target,
        why: "cart:1.2 is revoked: CVE".into(),
    });
    history
}

/// If this fails, a self-healing engine and the operator fight, or somebody's wish for something else is overwritten.
#[test]
fn while_a_hold_stands_what_it_keeps_out_becomes_what_is_held() {
    let mut scene = Scene::new();
    scene.revoke(2);
    scene.history = Some(held());
    let at_app =
        |image: &str| object("Deployment", &[("containers/app", image), ("containers/other", &pinned(3))]);
    let before = at_app(&pinned(1));
    let becomes = |scene: &Scene, image: &str| {
        let after = at_app(image);
        let all = scene.ask("Deployment", &after, Some(&before), rewrites);
        assert!(all.iter().all(|rewrite| rewrite.warning.as_ref().unwrap().contains("kept out")), "{all:?}");
        apply(&after, &all)["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    assert_eq!(becomes(&scene, &tag(2)), pinned(1));
    assert_eq!(becomes(&scene, &pinned(2)), pinned(1));
    assert_eq!(becomes(&scene, &format!("elsewhere.example/x@{}", digest(2))), pinned(1), "the same digest");
    assert_eq!(becomes(&scene, &tag(3)), tag(3), "something else");
    assert_eq!(becomes(&scene, &tag(9)), tag(9), "not permitted, and not what was rejected");
    let moved = object("Deployment", &[("containers/app", &pinned(1)), ("containers/other", &pinned(2))]);
    assert_eq!(scene.ask("Deployment", &moved, Some(&before), rewrites), [], "another container");
    let rejected = at_app(&tag(2));
    assert_eq!(scene.ask("Deployment", &rejected, Some(&rejected), rewrites), [], "it was there before");
    assert_eq!(scene.ask("Deployment", &rejected, None, rewrites), [], "a new object");
    assert_eq!(scene.ask("StatefulSet", &object("Pod", &[]), Some(&before), rewrites), [], "no template");
    let mut clean = Scene::new();
    clean.history = scene.history.clone();
    assert_eq!(becomes(&clean, &tag(2)), tag(2), "the revocation was let go");
    scene.revoke(1);
    assert_eq!(becomes(&scene, &tag(2)), tag(2), "what is held is revoked itself");
}

/// After a failed rollout nothing is revoked: what is kept out is so because of the hold only.
#[test]
fn after_a_failed_rollout_what_failed_is_kept_out_of_what_git_does_not_own() {
    let mut scene = Scene::new();
    let mut failed = held();
    failed.hold.as_mut().unwrap().rejected[0].cause = Cause::FailedRollout;
    scene.history = Some(failed.clone());
    let (before, after) = (
        object("Deployment", &[("containers/app", &pinned(1))]),
        object("Deployment", &[("containers/app", &tag(2))]),
    );
    assert_eq!(scene.ask("Deployment", &after, Some(&before), rewrites).len(), 1);
    for release in &mut failed.releases {
        release.template = Some(Packed::new(&json!({})));
    }
    scene.history = Some(failed);
    assert_eq!(
        scene.ask("Deployment", &after, Some(&before), rewrites),
        [],
        "git owns it: its template decides"
    );
}

/// Where it stays out of governance a revocation counts for nobody.
#[test]
fn what_no_policy_covers_is_let_in() {
    let mut scene = Scene::new();
    scene.revoke(1);
    scene.policies[0].images = vec!["other.example/**".parse_pattern()];
    assert_eq!(scene.pod(&[("containers/app", &pinned(1))]), []);
    assert_eq!(scene.answers(&[("containers/app", &pinned(1))]), []);
    scene.policies[0].on_revocation = Some(OnRevocation::None);
    scene.policies.clear();
    assert_eq!(scene.pod(&[("containers/app", "not an image")]), []);
}

#[test]
fn a_denial_says_what_where_and_how_to_approve_it() {
    let mut scene = Scene::new();
    scene.revoke(2);
    let images: &[(&str, &str)] =
        &[("containers/app", &format!("{CART}:9@{}", digest(9))), ("initContainers/init", &pinned(2))];
    let denial = scene.denial("CronJob", &object("CronJob", images), None).unwrap();
    let expected = format!(
        "spec.jobTemplate.spec.template.spec.containers[app]: {CART}:9@{nine} is not permitted
  by policy root/production: no ApprovedImage in force lists {CART}:9@{nine} (Unlisted)
  to approve it, commit {{apiVersion: countersign.dev/v1alpha1, kind: ApprovedImage, metadata: {{name: cart-9, namespace: root}}, spec: {{image: {CART}, tag: \"9\", digest: \"{nine}\"}}}}
spec.jobTemplate.spec.template.spec.initContainers[init]: {two} is not permitted
  by policy root/production: {two} is revoked: CVE-2026-0001 (Revoked)",
        nine = digest(9),
        two = pinned(2),
    );
    assert_eq!(denial.message, expected);
}

/// An approval where the policy does not count it helps nobody.
#[test]
fn the_approval_that_is_proposed_counts_for_the_policy() {
    let mut scene = Scene::new();
    let proposed = |scene: &Scene| {
        let denial = scene.denial("Pod", &object("Pod", &[("containers/app", &tag(9))]), None).unwrap();
        let (_, rest) = denial.message.split_once("namespace: ").unwrap();
        rest.split_once('}').unwrap().0.to_owned()
    };
    assert_eq!(proposed(&scene), "root");
    let approval = scene.policies[0].approval.as_mut().unwrap();
    approval.from_root = false;
    assert_eq!(proposed(&scene), "shop");
    scene.policies[0].scope = crate::domain::ledger::Scope::Namespace("shop".into());
    assert_eq!(proposed(&scene), "shop");
}

/// A huge or hostile object must get an answer that clients show, and that steers no terminal.
#[test]
fn texts_are_bounded_and_printable() {
    let mut scene = Scene::new();
    let mut warns = policy();
    warns.mode = Mode::Warn;
    scene.policies.push(warns);
    let images: Vec<(String, String)> = (0..500)
        .map(|n| (format!("containers/\u{1b}[31m{n}\n\u{202e}"), format!("{}\u{7}\r\n{n}", "é".repeat(400))))
        .collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(place, image)| (place.as_str(), image.as_str())).collect();
    let (denial, warnings) = scene.ask("Pod", &object("Pod", &images), None, |asked, known| {
        let verdict = review(asked, known);
        (verdict.denial.unwrap(), verdict.warnings)
    });
    assert!(denial.message.len() <= 2048 && denial.refused.len() == 16, "{}", denial.message.len());
    assert!(!warnings.is_empty() && warnings.iter().all(|text| text.len() <= 256));
    assert!(warnings.iter().map(String::len).sum::<usize>() <= 4096);
    let told = denial.refused.iter().flat_map(|refused| [&refused.place, &refused.image]);
    for text in warnings.iter().chain(told).chain([&denial.message.replace('\n', "")]) {
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
}

trait ParsePattern {
    fn parse_pattern(&self) -> crate::domain::pattern::Pattern;
}

impl ParsePattern for str {
    fn parse_pattern(&self) -> crate::domain::pattern::Pattern {
        crate::domain::pattern::Pattern::new(self).unwrap()
    }
}

/// An image reference of any kind: approved, unlisted, revoked, expired, by tag or digest, elsewhere, or none at all.
fn any_image() -> impl Strategy<Value = String> {
    prop_oneof![
        (1u8..9).prop_map(pinned),
        (1u8..9).prop_map(tag),
        (1u8..9).prop_map(|n| format!("other.example/x@{}", digest(n))),
        Just("not an image".to_owned()),
    ]
}

fn any_place() -> impl Strategy<Value = String> {
    (prop::sample::select(&List::ALL[..]), 0u8..3).prop_map(|(list, n)| format!("{}/c{n}", list.field()))
}

fn any_images() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(any_place(), any_image(), 1..5)
}

fn borrowed(images: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    images.iter().map(|(place, image)| (place.as_str(), image.as_str())).collect()
}

proptest! {
    /// The bypass that matters: an image that no approval stands behind, and nobody said no.
    #[test]
    fn whenever_an_image_is_not_permitted_and_nothing_runs_the_verdict_is_a_denial(
        images in any_images(), kind in prop::sample::select(&KINDS[..]), revoked in 1u8..5, expired in 1u8..5,
    ) {
        let mut scene = Scene::new();
        scene.expire(expired);
        scene.revoke(revoked);
        let new = object(kind, &borrowed(&images));
        let policies: Vec<&Policy> = scene.policies.iter().collect();
        let judge = Judge { policies: &policies, ledger: &scene.ledger, evidence: crate::domain::evidence::EvidenceOf::nothing(), namespace: "shop", now: at(100) };
        let bad = images.values().any(|image| {
            !judge.enforced(image).permitted() || (kind == "Pod" && !image.contains('@'))
        });
        prop_assert_eq!(scene.denial(kind, &new, None).is_some(), bad);
        // And after what a mutating webhook does, nothing is let in that was not approved.
        if kind == "Pod" {
            let after = scene.rewritten(&new);
            let bad = images.values().any(|image| !judge.enforced(image).permitted());
            prop_assert_eq!(scene.denial(kind, &after, None).is_some(), bad);
        }
    }

    /// If this fails, a tenant writes itself past the policies.
    #[test]
    fn nothing_that_an_object_says_of_itself_changes_the_verdict(
        images in any_images(), runs in 1u8..5, revoked in 1u8..5, text in "[a-z0-9./-]{1,20}",
    ) {
        let mut scene = Scene::new();
        let app = pinned(runs);
        scene.deployment("cart", &[("containers/c0", &app)], 1);
        scene.see_pod("cart-1", &[("containers/c0", &app)]);
        scene.revoke(revoked);
        let new = object("Pod", &borrowed(&images));
        let mut forged = new.clone();
        forged["metadata"]["labels"] = json!({ &text: "x", "pod-template-hash": text });
        forged["metadata"]["annotations"] = json!({ &text: "x", "countersign.dev/paused": text });
        forged["metadata"]["ownerReferences"] = json!([{"kind": "Deployment", "name": "cart", "uid": "u1", "controller": true}]);
        forged["metadata"]["managedFields"] = json!([{"manager": "countersign", "operation": "Apply"}]);
        forged["metadata"]["uid"] = json!(text);
        forged["status"] = json!({"phase": "Running"});
        prop_assert_eq!(scene.denial("Pod", &forged, None), scene.denial("Pod", &new, None));
    }
}
