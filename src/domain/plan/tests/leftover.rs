//! Pods that a rollback leaves behind.

use super::*;
use crate::domain::plan::{Leftover, Pods, leftover};

const UID: &str = "uid-1";

/// A StatefulSet that was rolled back from the revoked 1.2 to 1.1, or from the failed 1.3 to 1.2, and replaces its pods so.
fn rolled_back(failed: bool, spec: &Value) -> Sim {
    let mut sim = if failed {
        held_after_a_failure()
    } else {
        let mut sim = git_owned();
        sim.revoke(2);
        sim.settle();
        sim
    };
    sim.id.kind = Kind::find("apps/v1", "StatefulSet").unwrap();
    let live = sim.live.as_mut().unwrap();
    let mut object = (*live.object).clone();
    json_merge(&mut object["spec"], spec);
    (live.object, live.rollout, live.uid) = (Arc::new(object), Rollout::Waits, UID.into());
    sim
}

fn json_merge(into: &mut Value, over: &Value) {
    for (key, value) in over.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn on_delete(replicas: usize) -> Value {
    json!({"replicas": replicas, "updateStrategy": {"type": "OnDelete"}})
}

fn ordered(replicas: usize) -> Value {
    json!({"replicas": replicas, "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"}})
}

/// A pod of the n-th image.
fn pod(ordinal: usize, revision: &str, n: u8, ready: bool) -> Value {
    json!({
        "metadata": {"name": format!("cart-{ordinal}"), "uid": format!("pod-{ordinal}-{revision}"),
            "labels": {"controller-revision-hash": revision}, "ownerReferences": [{"uid": UID, "controller": true}]},
        "spec": {"containers": [{"name": "app", "image": pin(n)}]},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

fn next(sim: &Sim, pods: &[Value]) -> Leftover {
    let lost_nodes = BTreeSet::from(["lost".to_owned()]);
    sim.look(|world| leftover(world, &Pods { all: pods, newest: "new", lost_nodes: &lost_nodes }))
}

#[track_caller]
fn evicted(next: Leftover) -> (String, String) {
    let Leftover::Evict(pod) = next else { panic!("{next:?}") };
    (pod.name, pod.why)
}

#[test]
fn under_on_delete_revoked_pods_go_one_after_the_other_from_the_highest() {
    let sim = rolled_back(false, &on_delete(3));
    let mut pods = vec![pod(0, "old", 2, true), pod(1, "old", 2, true), pod(2, "old", 2, true)];
    let (name, why) = evicted(next(&sim, &pods));
    assert_eq!(name, "cart-2");
    assert!(
        why.contains("containers/app runs cart:1.2@sha256:020202020202, which is revoked: CVE-2026-0001"),
        "{why}"
    );
    let mut ending = pods.clone();
    ending[2]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(next(&sim, &ending), Leftover::Wait("pod cart-2 is ending".into()));
    assert_eq!(next(&sim, &pods[..2]), Leftover::Wait("2 of 3 pods are there".into()));
    pods[2] = pod(2, "new", 1, false);
    let waits = "pod cart-2 of the release that it goes back to is not ready";
    assert_eq!(next(&sim, &pods), Leftover::Wait(waits.into()));
    pods[2]["spec"]["nodeName"] = json!("lost");
    assert_eq!(evicted(next(&sim, &pods)).0, "cart-1", "a lost node is not waited for");
    pods[2] = pod(2, "new", 1, true);
    assert_eq!(evicted(next(&sim, &pods)).0, "cart-1");
}

/// A pod that serves nobody is no loss, and an ordered StatefulSet replaces none before it is gone.
#[test]
fn an_ordered_stateful_set_loses_only_what_is_broken() {
    for failed in [false, true] {
        let sim = rolled_back(failed, &ordered(3));
        let n = if failed { 3 } else { 2 };
        let pods = [pod(0, "old", n, true), pod(1, "old", n, false)];
        assert_eq!(evicted(next(&sim, &pods)).0, "cart-1");
        assert_eq!(next(&sim, &[pod(0, "old", n, true), pod(1, "new", 1, true)]), Leftover::None);
    }
}

#[test]
fn what_is_well_is_of_somebody_else_or_is_not_rolled_back_stays() {
    let sim = rolled_back(true, &on_delete(1));
    assert_eq!(next(&sim, &[pod(0, "old", 2, false)]), Leftover::None, "of another release, not revoked");
    assert_eq!(next(&sim, &[pod(0, "old", 3, true)]), Leftover::None, "the failed one came up after all");
    assert_eq!(evicted(next(&sim, &[pod(0, "old", 3, false)])).1, "it is what the failed rollout left");
    let mut sim = rolled_back(false, &on_delete(1));
    let mut other = pod(0, "old", 2, true);
    other["metadata"]["ownerReferences"] = json!([{"uid": "other", "controller": true}]);
    assert_eq!(next(&sim, &[other]), Leftover::None);
    let revoked = [pod(0, "old", 2, true)];
    sim.paused = Some("test");
    assert_eq!(next(&sim, &revoked), Leftover::None, "paused");
    sim.paused = None;
    let by_itself = rolled_back(false, &json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(next(&by_itself, &[pod(0, "old", 2, false)]), Leftover::None, "it replaces them itself");
    let mut unseen = sim.clone();
    let live = unseen.live.as_mut().unwrap();
    let mut object = (*live.object).clone();
    object["metadata"]["generation"] = json!(2);
    live.object = Arc::new(object);
    assert_eq!(next(&unseen, &revoked), Leftover::None, "its status is about the template before");
    sim.history.hold = None;
    assert_eq!(next(&sim, &revoked), Leftover::None, "nothing is held");
}

/// A tag says nothing of what runs; the kubelet does.
#[test]
fn a_pod_that_names_a_tag_is_known_by_what_its_kubelet_says() {
    let sim = rolled_back(false, &on_delete(1));
    let mut by_tag = pod(0, "old", 2, true);
    by_tag["spec"]["containers"][0]["image"] = json!(tag(2));
    assert_eq!(next(&sim, &[by_tag.clone()]), Leftover::None);
    by_tag["status"]["containerStatuses"] =
        json!([{"name": "app", "imageID": format!("{REPOSITORY}@{}", digest(2))}]);
    assert!(evicted(next(&sim, &[by_tag])).1.contains("is revoked"));
}

proptest! {
    /// Whatever pods there are: only what is revoked or broken goes, no pod that serves goes while another one is away, and
    /// in the end none is left.
    #[test]
    fn pods_go_one_at_a_time_until_none_is_left(found in prop::collection::vec((1u8..4, any::<bool>(), any::<bool>()), 1..6), by_hand in any::<bool>()) {
        let spec = if by_hand { on_delete(found.len()) } else { ordered(found.len()) };
        let sim = rolled_back(false, &spec);
        let mut pods: Vec<Value> = found
            .iter()
            .enumerate()
            .map(|(ordinal, (n, newest, ready))| if *newest { pod(ordinal, "new", 1, true) } else { pod(ordinal, "old", *n, *ready) })
            .collect();
        for _ in 0..found.len() {
            let Leftover::Evict(doomed) = next(&sim, &pods) else { break };
            let at = pods.iter().position(|pod| pod["metadata"]["name"] == doomed.name.as_str()).unwrap();
            let image = pods[at]["spec"]["containers"][0]["image"].clone();
            prop_assert_eq!(image, json!(pin(2)), "only what is revoked");
            let served = pods[at]["status"]["conditions"][0]["status"] == "True";
            prop_assert!(by_hand || !served, "an ordered one replaces what serves by itself");
            pods[at] = pod(at, "new", 1, false);
            if let Leftover::Evict(other) = next(&sim, &pods) {
                let other = pods.iter().find(|pod| pod["metadata"]["name"] == other.name.as_str()).unwrap();
                prop_assert_eq!(&other["status"]["conditions"][0]["status"], "False", "one that serves waits");
            }
            pods[at] = pod(at, "new", 1, true);
        }
        prop_assert_eq!(next(&sim, &pods), Leftover::None);
    }
}
