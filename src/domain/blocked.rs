//! What keeps a rollback from taking its full effect: seen beforehand, respected, and said.

use serde_json::Value;

use super::{
    pods::selects,
    rollout::{Updates, partition, updates},
    workload::Progress,
};

/// What keeps pods of a workload from being replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What it is.
    pub by: Blocker,
    /// For people.
    pub message: String,
}

/// What can keep pods from being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// A Deployment is paused.
    Paused,
    /// A StatefulSet has a partition.
    Partitioned,
    /// A `PodDisruptionBudget` allows no eviction.
    DisruptionBudget,
}

impl Blocker {
    /// The reason in conditions.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Paused => "Paused",
            Self::Partitioned => "Partitioned",
            Self::DisruptionBudget => "DisruptionBudget",
        }
    }
}

/// What the spec of a workload says.
pub fn by_spec(progress: Progress, object: &Value) -> Option<Blocked> {
    match progress {
        Progress::Deployment => (object.pointer("/spec/paused")? == true).then(|| Blocked {
            by: Blocker::Paused,
            message: "spec.paused is true: a rollback changes its pod template, but no pod before somebody resumes it"
                .to_owned(),
        }),
        Progress::StatefulSet => {
            let partition = partition(object);
            (partition > 0).then(|| Blocked {
                by: Blocker::Partitioned,
                message: format!(
                    "its updateStrategy has the partition {partition}: in a rollback, pods with a lower ordinal keep what they run"
                ),
            })
        }
        Progress::DaemonSet | Progress::CronJob | Progress::Configured(_) => None,
    }
}

/// What `PodDisruptionBudget`s say of a workload whose pods somebody has to evict.
pub fn by_budget(object: &Value, budgets: &[Value]) -> Option<Blocked> {
    let labels = object.pointer("/spec/template/metadata/labels")?;
    let full = budgets.iter().find(|budget| {
        let allowed = budget.pointer("/status/disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0);
        allowed == 0 && budget.pointer("/spec/selector").is_some_and(|selector| selects(selector, labels))
    })?;
    let name = full.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    (updates(object) == Updates::OnDelete).then(|| Blocked {
        by: Blocker::DisruptionBudget,
        message: format!(
            "the PodDisruptionBudget {name} allows no disruption now: pods that a rollback leaves behind (OnDelete) stay until it does"
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pause_a_partition_and_a_full_budget_are_seen() {
        let by = |progress, spec: Value| by_spec(progress, &json!({"spec": spec})).map(|blocked| blocked.by);
        assert_eq!(by(Progress::Deployment, json!({"paused": true})), Some(Blocker::Paused));
        assert_eq!(by(Progress::Deployment, json!({"paused": false})), None);
        let partition =
            |n: i64| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
        assert_eq!(by(Progress::StatefulSet, partition(1)), Some(Blocker::Partitioned));
        assert_eq!(by(Progress::StatefulSet, partition(0)), None);
        let object = |strategy: &str| json!({"spec": {"updateStrategy": {"type": strategy}, "template": {"metadata": {"labels": {"app": "cart"}}}}});
        let budget = |app: &str, allowed: i64| json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"app": app}}}, "status": {"disruptionsAllowed": allowed}});
        let said = |strategy: &str, budget: Value| by_budget(&object(strategy), &[budget]).is_some();
        assert!(said("OnDelete", budget("cart", 0)));
        assert!(!said("OnDelete", budget("cart", 1)));
        assert!(!said("OnDelete", budget("other", 0)));
        assert!(!said("RollingUpdate", budget("cart", 0)), "rolling updates do not ask budgets");
    }
}
