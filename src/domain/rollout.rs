//! How far a workload's rollout is, read from its status.

use serde_json::Value;

use super::workload::{Check, Kind, Progress, Proof};

/// How far the rollout of the present template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// Everything runs the newest template and is available.
    Complete,
    /// It goes on.
    Progressing,
    /// The kind's own deadline was exceeded.
    Stuck,
    /// Pods are of another template, and a person has to say when they go: a pause, a partition, `OnDelete`.
    Waits,
    /// Nothing runs (no replicas, no node, no job so far): it proves nothing.
    Idle,
}

/// What an object's own status cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// Of a DaemonSet: on every Ready node where it belongs its pod is of the newest revision and Ready.
    pub ready_on_ready_nodes: bool,
    /// Of a CronJob: a Job of the present template succeeded.
    pub job_succeeded: bool,
}

/// How far the rollout of an object is.
pub fn rollout(kind: &Kind, object: &Value, beyond: Beyond) -> Rollout {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let observed = is_observed(object);
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let all = |counts: &[&str], expected| {
        counts.iter().all(|count| number(&format!("/status/{count}")) == expected)
    };
    match kind.progress {
        Progress::Deployment => {
            if !observed {
                Rollout::Progressing
            } else if replicas == 0 {
                Rollout::Idle
            } else if all(&["updatedReplicas", "replicas", "availableReplicas"], replicas) {
                Rollout::Complete
            } else if object.pointer("/spec/paused").is_some_and(|paused| *paused == true) {
                Rollout::Waits
            } else if deadline_exceeded(object) {
                Rollout::Stuck
            } else {
                Rollout::Progressing
            }
        }
        Progress::StatefulSet => {
            if !observed {
                Rollout::Progressing
            } else if replicas == 0 {
                Rollout::Idle
            } else if all(&["updatedReplicas", "replicas", "readyReplicas"], replicas)
                && number("/status/availableReplicas") >= replicas
            {
                Rollout::Complete
            } else if number("/status/readyReplicas") >= replicas
                && number("/status/updatedReplicas") >= may_be_updated(object, replicas)
            {
                Rollout::Waits
            } else {
                Rollout::Progressing
            }
        }
        Progress::DaemonSet => {
            let desired = number("/status/desiredNumberScheduled");
            if !observed {
                Rollout::Progressing
            } else if desired == 0 {
                Rollout::Idle
            } else if all(&["updatedNumberScheduled", "numberReady", "numberAvailable"], desired)
                || beyond.ready_on_ready_nodes
            {
                Rollout::Complete
            } else if updates(object) == Updates::OnDelete && number("/status/numberReady") >= desired {
                Rollout::Waits
            } else {
                Rollout::Progressing
            }
        }
        Progress::Configured(proof) => configured(proof, object),
        // A CronJob waits for its schedule: until a Job succeeded it proves nothing, and it never fails by waiting.
        Progress::CronJob => {
            if beyond.job_succeeded {
                Rollout::Complete
            } else {
                Rollout::Idle
            }
        }
    }
}

fn configured(proof: &Proof, object: &Value) -> Rollout {
    let all = |checks: &[Check]| !checks.is_empty() && checks.iter().all(|check| check.holds(object));
    if is_behind(object) {
        Rollout::Progressing
    } else if object["spec"]["replicas"] == 0 {
        Rollout::Idle
    } else if all(&proof.complete) {
        Rollout::Complete
    } else if all(&proof.failed) {
        Rollout::Stuck
    } else {
        Rollout::Progressing
    }
}

/// Whether a status is about the present spec.
pub fn is_observed(object: &Value) -> bool {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    number("/status/observedGeneration") >= number("/metadata/generation")
}

/// Whether a status says that it is about an earlier spec. Some controllers write the generation as a text, or none.
pub fn is_behind(object: &Value) -> bool {
    let observed = match &object["status"]["observedGeneration"] {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64(),
    };
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    observed.is_some_and(|observed: i64| observed < generation)
}

/// How a StatefulSet or DaemonSet replaces its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// By itself.
    ByItself,
    /// By itself, one after the other, and not before the one before is ready.
    Ordered,
    /// Whenever somebody deletes one.
    OnDelete,
}

/// How an object replaces its pods.
pub fn updates(object: &Value) -> Updates {
    let says = |pointer: &str, value: &str| object.pointer(pointer).is_some_and(|said| said == value);
    if says("/spec/updateStrategy/type", "OnDelete") {
        Updates::OnDelete
    } else if says("/spec/podManagementPolicy", "OrderedReady") {
        Updates::Ordered
    } else {
        Updates::ByItself
    }
}

/// The partition of a StatefulSet: pods with a lower ordinal keep their revision.
pub fn partition(object: &Value) -> i64 {
    let partition = object.pointer("/spec/updateStrategy/rollingUpdate/partition").and_then(Value::as_i64);
    partition.filter(|_| updates(object) != Updates::OnDelete).unwrap_or(0)
}

/// How many pods of a StatefulSet are updated without anybody's doing.
fn may_be_updated(object: &Value, replicas: i64) -> i64 {
    match updates(object) {
        Updates::OnDelete => 0,
        Updates::ByItself | Updates::Ordered if partition(object) > 0 => {
            (replicas - partition(object)).max(0)
        }
        // More than there are: it goes on by itself.
        Updates::ByItself | Updates::Ordered => i64::MAX,
    }
}

fn deadline_exceeded(deployment: &Value) -> bool {
    deployment.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten().any(
        |condition| {
            condition["type"] == "Progressing"
                && condition["status"] == "False"
                && condition["reason"] == "ProgressDeadlineExceeded"
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(kind: &str, object: &Value) -> Rollout {
        let group = if kind == "CronJob" { "batch/v1" } else { "apps/v1" };
        rollout(Kind::find(group, kind).unwrap(), object, Beyond::default())
    }

    /// A release counted as good too early would become a rollback target that does not work.
    #[test]
    fn complete_means_observed_updated_and_available() {
        let good = json!({"metadata": {"generation": 2}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2,
                "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 2, "numberAvailable": 2}});
        for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
            assert_eq!(of(kind, &good), Rollout::Complete, "{kind}");
            let mut late = good.clone();
            late["metadata"]["generation"] = json!(3);
            assert_eq!(of(kind, &late), Rollout::Progressing, "{kind}");
        }
        for field in ["updatedReplicas", "availableReplicas"] {
            let mut partial = good.clone();
            partial["status"][field] = json!(1);
            assert_eq!(of("Deployment", &partial), Rollout::Progressing, "{field}");
            assert_eq!(of("StatefulSet", &partial), Rollout::Progressing, "{field}");
        }
        let mut partial = good.clone();
        partial["status"]["numberReady"] = json!(1);
        assert_eq!(of("DaemonSet", &partial), Rollout::Progressing);
        let on_ready = Beyond { ready_on_ready_nodes: true, ..Beyond::default() };
        assert_eq!(
            rollout(Kind::find("apps/v1", "DaemonSet").unwrap(), &partial, on_ready),
            Rollout::Complete
        );
        let mut none = good.clone();
        none["spec"]["replicas"] = json!(0);
        assert_eq!(of("Deployment", &none), Rollout::Idle);
        assert_eq!(of("StatefulSet", &none), Rollout::Idle);
    }

    /// If this fails, a partition, a pause or `OnDelete` makes every release a failed one, which is no target any more.
    #[test]
    fn what_waits_for_a_person_neither_fails_nor_completes() {
        let behind = json!({"metadata": {"generation": 1}, "spec": {"replicas": 3},
            "status": {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 3, "readyReplicas": 3,
                "desiredNumberScheduled": 3, "updatedNumberScheduled": 1, "numberReady": 3, "numberAvailable": 3}});
        let with = |field: &str, value: Value| {
            let mut object = behind.clone();
            object["spec"][field] = value;
            object
        };
        assert_eq!(of("Deployment", &behind), Rollout::Progressing);
        assert_eq!(of("Deployment", &with("paused", json!(true))), Rollout::Waits);
        assert_eq!(of("StatefulSet", &behind), Rollout::Progressing);
        let partition = |n: i64| {
            with("updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": {"partition": n}}))
        };
        assert_eq!(of("StatefulSet", &partition(0)), Rollout::Progressing);
        assert_eq!(of("StatefulSet", &partition(1)), Rollout::Progressing, "one more goes by itself");
        assert_eq!(of("StatefulSet", &partition(2)), Rollout::Waits);
        let mut on_delete = with("updateStrategy", json!({"type": "OnDelete"}));
        assert_eq!(of("StatefulSet", &on_delete), Rollout::Waits);
        assert_eq!(of("DaemonSet", &on_delete), Rollout::Waits);
        on_delete["status"]["readyReplicas"] = json!(2);
        on_delete["status"]["numberReady"] = json!(2);
        assert_eq!(of("StatefulSet", &on_delete), Rollout::Progressing, "one is not well");
        assert_eq!(of("DaemonSet", &on_delete), Rollout::Progressing, "one is not well");
    }

    #[test]
    fn a_deployment_past_its_deadline_is_stuck_and_a_cron_job_waits_without_end() {
        let stuck = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1,
            "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}});
        assert_eq!(of("Deployment", &stuck), Rollout::Stuck);
        assert_eq!(of("CronJob", &json!({})), Rollout::Idle);
    }
}
