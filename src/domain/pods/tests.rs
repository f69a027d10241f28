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
    trouble(&[], &pods.iter().collect::<Vec<_>>(), &images(), Timestamp::UNIX_EPOCH)
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
    let of = trouble(&[&json!({}), &quota], &[&crashes], &images(), Timestamp::UNIX_EPOCH);
    assert!(matches!(of, Some(Trouble::NotStarted(_))));
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

/// If this fails an `OpenKruise` pod that was updated in place sends a release back for the restarts of those before.
#[test]
fn what_ended_before_the_release_was_wanted_proves_nothing_about_it() {
    let status = json!({"restartCount": 3, "ready": false, "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 143, "startedAt": "2026-01-01T00:00:00Z"}}});
    let pod = with_container("app", &status);
    let since = |moment: &str| trouble(&[], &[&pod], &images(), moment.parse().unwrap());
    assert_eq!(since("2026-01-01T00:00:01Z"), None);
    assert!(matches!(since("2026-01-01T00:00:00Z"), Some(Trouble::Crashing(_))));
}

fn newest(suffix: bool) -> NewestPods {
    let value = vec!["status".to_owned(), "revision".to_owned()];
    let refused = vec![crate::domain::workload::Check::Condition {
        type_: "FailedScale".to_owned(),
        status: "True".to_owned(),
    }];
    NewestPods { label: "hash".to_owned(), value, suffix, refused }
}

/// If this fails pods of other releases, or of everything in the namespace, count as the newest ones.
#[test]
fn the_newest_pods_of_a_configured_kind_are_those_with_the_label_that_its_present_status_names() {
    let says = |revision: &Value, observed: &Value| json!({"metadata": {"generation": 2}, "status": {"revision": revision, "observedGeneration": observed}});
    let whole = |revision: &Value, observed: &Value| newest(false).selector(&says(revision, observed));
    let suffix = |revision: &str| newest(true).selector(&says(&json!(revision), &json!(2)));
    assert_eq!(whole(&json!("cart-5d4f"), &json!(2)).unwrap(), "hash=cart-5d4f");
    assert_eq!(suffix("cart-5d4f").unwrap(), "hash=5d4f");
    assert_eq!(suffix("5d4f").unwrap(), "hash=5d4f");
    assert_eq!(whole(&json!(17), &Value::Null).unwrap(), "hash=17", "it does not say of which generation");
    for (revision, observed) in [
        (json!("cart-5d4f"), json!(1)),
        (json!("cart-5d4f"), json!("1")),
        (Value::Null, json!(2)),
        (json!(""), json!(2)),
        (json!("a,b"), json!(2)),
        (json!("a)"), json!(2)),
        (json!("a="), json!(2)),
        (json!("a-"), json!(2)),
        (json!("a".repeat(64)), json!(2)),
    ] {
        assert_eq!(whole(&revision, &observed), None, "{revision} of {observed}");
    }
    let failed =
        |status: &str| json!({"status": {"conditions": [{"type": "FailedScale", "status": status}]}});
    assert!(matches!(newest(false).refused(&failed("True")), Some(Trouble::NotStarted(_))));
    assert_eq!(newest(false).refused(&failed("False")), None);
    let never = NewestPods { refused: Vec::new(), ..newest(false) };
    assert_eq!(never.refused(&failed("True")), None);
}

/// If this fails whoever makes a pod chooses what the operator looks up.
#[test]
fn what_controls_a_pod_is_followed_within_what_makes_pods_and_the_kinds_own_group() {
    let owner = |api_version: &str, kind: &str, controller: bool| {
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"},
            {"apiVersion": api_version, "kind": kind, "name": "a", "uid": "2", "controller": controller}]}})
    };
    let row = Kind {
        group: "serving.knative.dev",
        version: "v1",
        kind: "Service",
        plural: "services",
        template: &["spec", "template"],
        progress: Progress::Deployment,
    };
    for (api_version, kind, follows) in [
        ("apps/v1", "ReplicaSet", true),
        ("apps/v1", "Deployment", true),
        ("apps/v1", "StatefulSet", false),
        ("serving.knative.dev/v1", "Revision", true),
        ("serving.knative.dev.example.com/v1", "Revision", false),
        ("v1", "Secret", false),
    ] {
        let (found, uid) = controller_of(&owner(api_version, kind, true), "shop").unwrap();
        assert_eq!((found.namespace.as_str(), found.name.as_str(), uid.as_str()), ("shop", "a", "2"));
        assert_eq!(may_stand_between(&row, &found), follows, "{api_version} {kind}");
    }
    assert_eq!(controller_of(&owner("apps/v1", "ReplicaSet", false), "shop"), None);
    assert_eq!(controller_of(&json!({}), "shop"), None);
}
