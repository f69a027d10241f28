//! Whether a live object is as it was applied.
//!
//! The API server adds defaults and writes some values differently (`1000m` becomes `1`), so a live object never equals
//! what was applied. Compared are the values at the paths that were applied: with what was applied or, where the API
//! server writes it differently, with what stood there right after it was applied.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What was seen right after an apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    desired: [u8; 32],
    projection: [u8; 32],
}

impl Applied {
    /// Remembers that `desired` was applied and `answer` came back.
    pub fn new(desired: &Value, answer: &Value) -> Self {
        Self { desired: hash(desired), projection: hash(&project(desired, answer)) }
    }
}

/// Whether everything that `desired` says stands in `live`.
pub fn in_step(desired: &Value, live: &Value, applied: Option<&Applied>) -> bool {
    let projection = project(desired, live);
    projection == *desired
        || applied.is_some_and(|applied| {
            applied.desired == hash(desired) && applied.projection == hash(&projection)
        })
}

/// The values of `live` at the paths that `desired` names.
fn project(desired: &Value, live: &Value) -> Value {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired
            .iter()
            .map(|(key, value)| (key.clone(), live.get(key).map_or(Value::Null, |live| project(value, live))))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        (Value::Array(wanted), Value::Array(found)) => match merge_key(wanted) {
            Some(key) => wanted
                .iter()
                .map(|entry| {
                    let same = found.iter().find(|live| live.get(key) == entry.get(key));
                    same.map_or(Value::Null, |live| project(entry, live))
                })
                .collect(),
            None if wanted.len() == found.len() => {
                wanted.iter().zip(found).map(|(wanted, found)| project(wanted, found)).collect()
            }
            None => live.clone(),
        },
        (_, live) => live.clone(),
    }
}

/// The key that tells the entries of a list apart, of those that Kubernetes uses for its associative lists.
fn merge_key(entries: &[Value]) -> Option<&'static str> {
    ["name", "mountPath", "devicePath", "containerPort", "port", "topologyKey", "ip", "uid", "key", "type"]
        .into_iter()
        .find(|key| {
            let mut seen = Vec::new();
            !entries.is_empty()
                && entries.iter().all(|entry| {
                    let value = entry.get(key);
                    let new = value.is_some() && !seen.contains(&value);
                    seen.push(value);
                    new
                })
        })
}

fn hash(value: &Value) -> [u8; 32] {
    Sha256::digest(value.to_string()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_entries_of_others_are_no_drift_but_changes_are() {
        let desired =
            json!({"spec": {"replicas": 2, "list": [{"name": "a", "image": "x"}], "args": ["1", "2"]}});
        let live = json!({"spec": {"replicas": 2, "paused": false, "args": ["1", "2"],
            "list": [{"name": "other"}, {"name": "a", "image": "x", "policy": "Always"}]}, "status": {}});
        assert!(in_step(&desired, &live, None));
        for (pointer, value) in [
            ("/spec/replicas", json!(3)),
            ("/spec/list/1/image", json!("y")),
            ("/spec/list/1/name", json!("b")),
            ("/spec/args", json!(["1"])),
            ("/spec/args", json!(["1", "2", "3"])),
        ] {
            let mut changed = live.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert!(!in_step(&desired, &changed, None), "{pointer}");
        }
    }

    /// Else the operator would write the same object again and again.
    #[test]
    fn what_the_api_server_writes_differently_is_remembered() {
        let desired = json!({"cpu": "1000m"});
        let live = json!({"cpu": "1"});
        assert!(!in_step(&desired, &live, None));
        let applied = Applied::new(&desired, &live);
        assert!(in_step(&desired, &live, Some(&applied)));
        assert!(!in_step(&desired, &json!({"cpu": "2"}), Some(&applied)));
        assert!(!in_step(&json!({"cpu": "3000m"}), &live, Some(&applied)));
    }
}
