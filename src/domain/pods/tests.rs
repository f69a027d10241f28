use serde_json::json;

use super::*;

const IMAGE: &str = "registry.example/cart:1.0";

fn images() -> Images {
    [
        ("containers/app".parse().unwrap(), IMAGE.to_owned()),
        ("initContainers/setup".parse().unwrap(), IMAGE.to_owned()),
    ]
    .into_iter()
    .collect()
}

fn pod(status: &Value) -> Value {
    json!({
        "metadata": {"name": "cart-x", "uid": "p"},
        "spec": {"containers": [{"name": "app", "image": IMAGE}, {"name": "proxy", "image": "mesh.example/proxy:1"}],
            "initContainers": [{"name": "setup", "image": IMAGE}]},
        "status": status,
    })
}

fn with_container(name: &str, status: &Value) -> Value {
    let mut status = status.clone();
    status["name"] = json!(name);
    pod(&json!({"containerStatuses": [status]}))
}

fn of(pods: &[Value]) -> Option<Trouble> {
    trouble(&json!({}), &pods.iter().collect::<Vec<_>>(), &images())
}

fn backs_off() -> Value {
    json!({"restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "secret"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "password=hunter2"}}})
}

#[test]
fn containers_that_started_and_kept_crashing_are_told_without_their_last_words() {
    let Some(Trouble::Crashing(why)) = of(&[with_container("app", &backs_off())]) else { panic!() };
    assert_eq!(
        why,
        "containers/app of pod cart-x started and kept crashing (1 restarts, last with exit code 1)"
    );
    let between = json!({"restartCount": 3, "ready": false, "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}});
    assert!(matches!(of(&[with_container("app", &between)]), Some(Trouble::Crashing(_))));
    for (field, value) in [
        ("restartCount", json!(2)),
        ("ready", json!(true)),
        ("lastState", json!({"terminated": {"exitCode": 0}})),
    ] {
        let mut calm = between.clone();
        calm[field] = value;
        assert_eq!(of(&[with_container("app", &calm)]), None, "{field}");
    }
    let mut setup = backs_off();
    setup["name"] = json!("setup");
    let waits = json!({"name": "app", "state": {"waiting": {"reason": "PodInitializing"}}});
    let init = pod(&json!({"initContainerStatuses": [setup], "containerStatuses": [waits]}));
    assert!(matches!(of(&[init]), Some(Trouble::Crashing(why)) if why.contains("initContainers/setup")));
}

/// If this fails, a registry that is away for a while takes releases back that are fine.
#[test]
fn what_keeps_containers_from_starting_is_never_the_releases_fault() {
    for reason in
        ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "Whatever"]
    {
        let waits =
            with_container("app", &json!({"state": {"waiting": {"reason": reason, "message": "long"}}}));
        let crashes = with_container("app", &backs_off());
        for pods in [vec![waits.clone()], vec![crashes, waits]] {
            let Some(Trouble::NotStarted(why)) = of(&pods) else { panic!("{reason}") };
            assert_eq!(why, format!("a container of pod cart-x does not start ({reason})"));
        }
    }
    for reason in NEVER_RAN {
        let mut never = backs_off();
        never["lastState"]["terminated"]["reason"] = json!(reason);
        assert!(matches!(of(&[with_container("app", &never)]), Some(Trouble::NotStarted(_))), "{reason}");
    }
    let unscheduled = pod(&json!({"conditions": [{"type": "PodScheduled", "status": "False"}]}));
    assert!(matches!(of(&[with_container("app", &backs_off()), unscheduled]), Some(Trouble::NotStarted(_))));
    let quota = json!({"status": {"conditions": [{"type": "ReplicaFailure", "status": "True"}]}});
    let crashes = with_container("app", &backs_off());
    assert!(matches!(trouble(&quota, &[&crashes], &images()), Some(Trouble::NotStarted(_))));
}

#[test]
fn what_somebody_else_put_into_a_pod_or_what_is_ending_proves_nothing() {
    assert_eq!(of(&[with_container("proxy", &backs_off())]), None, "injected");
    let mut other = with_container("app", &backs_off());
    other["spec"]["containers"][0]["image"] = json!("registry.example/cart:2.0");
    assert_eq!(of(&[other]), None, "another image");
    let mut ending = with_container("app", &backs_off());
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(of(&[ending]), None, "ending");
    assert_eq!(
        of(&[with_container("app", &json!({"ready": false, "state": {"running": {}}}))]),
        None,
        "never ready"
    );
}

#[test]
fn selectors_are_written_as_lists_take_them() {
    let object = json!({"spec": {"selector": {"matchLabels": {"app": "cart"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}]}}});
    assert_eq!(selector(&object), "app=cart,tier in (a,b),!x");
    assert_eq!(selector(&json!({})), "");
}
