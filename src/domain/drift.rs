//! Whether a live object is as it was applied.
//!
//! The API server adds defaults and writes some values differently (`1000m` becomes `1`), so a live object never equals
//! what was applied. Compared are the values at the paths that were applied: with what was applied or, where the API
//! server writes it differently, with what stood there right after it was applied. And what we own in the managed fields
//! must still be said: what git does not name any more is removed by an apply, and only by one.

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

/// Whether everything that `desired` says stands in `live`, and nothing else that we put there: `owned` are the fields of
/// our own apply, as the managed fields of `live` say them.
pub fn in_step(desired: &Value, live: &Value, applied: Option<&Applied>, owned: Option<&Value>) -> bool {
    let agrees = agrees(desired, live);
    if agrees && owned.is_none_or(|owned| says_all(desired, live, owned)) {
        return true;
    }
    // If just this was applied, then whatever else the managed fields say, another apply would not change it.
    applied
        .filter(|applied| applied.desired == hash(desired))
        .is_some_and(|applied| agrees || applied.projection == hash(&project(desired, live)))
}

/// Whether the values of `live` at the paths that `desired` names are those of `desired`, entries of lists in the same order:
/// init containers run in theirs, and a variable sees those before it.
fn agrees(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired
            .iter()
            .all(|(key, value)| live.get(key).map_or(value.is_null(), |live| agrees(value, live))),
        (Value::Array(wanted), Value::Array(found)) => match merge_key(wanted) {
            Some(key) => {
                let mut rest = found.iter();
                wanted.iter().all(|entry| {
                    let same = rest.find(|live| live.get(key) == entry.get(key));
                    same.is_some_and(|live| agrees(entry, live))
                })
            }
            None => {
                wanted.len() == found.len()
                    && wanted.iter().zip(found).all(|(wanted, found)| agrees(wanted, found))
            }
        },
        (desired, live) => desired == live,
    }
}

/// Whether `desired` names every field of a set of fields (`fieldsV1`) of `live`.
fn says_all(desired: &Value, live: &Value, fields: &Value) -> bool {
    let Some(fields) = fields.as_object() else { return true };
    if fields.is_empty() {
        // One value as a whole: an entry beyond those that are said was ours.
        return !matches!((desired, live), (Value::Array(said), Value::Array(found)) if said.len() != found.len());
    }
    fields.iter().all(|(field, nested)| match field.split_once(':') {
        Some(("f", name)) => desired.get(name).is_some_and(|value| says_all(value, &live[name], nested)),
        Some(("k", keys)) => {
            let Ok(Value::Object(keys)) = serde_json::from_str(keys) else { return true };
            // A key that is left out has its default value.
            let is = |entry: &&Value| {
                keys.iter().all(|(key, value)| entry.get(key).is_none_or(|said| said == value))
            };
            let find = |list: &Value| list.as_array().and_then(|list| list.iter().find(is).cloned());
            let found = find(live).unwrap_or_default();
            find(desired).is_some_and(|entry| says_all(&entry, &found, nested))
        }
        Some(("v", value)) => {
            let Ok(value) = serde_json::from_str::<Value>(value) else { return true };
            desired.as_array().is_some_and(|entries| entries.contains(&value))
        }
        Some(_) | None => true,
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), Just(json!(1)), Just(json!("x")), Just(json!({"name": "a"}))];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("name|port|b", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The quick look at most objects must not see less drift than the thorough one.
        #[test]
        fn what_agrees_has_the_same_projection(desired in value(), other in value()) {
            prop_assert!(agrees(&desired, &desired));
            prop_assert!(!agrees(&desired, &other) || project(&desired, &other) == desired);
        }
    }

    #[test]
    fn defaults_and_entries_of_others_are_no_drift_but_changes_are() {
        let desired =
            json!({"spec": {"replicas": 2, "list": [{"name": "a", "image": "x"}], "args": ["1", "2"]}});
        let live = json!({"spec": {"replicas": 2, "paused": false, "args": ["1", "2"],
            "list": [{"name": "other"}, {"name": "a", "image": "x", "policy": "Always"}]}, "status": {}});
        assert!(in_step(&desired, &live, None, None));
        for (pointer, value) in [
            ("/spec/replicas", json!(3)),
            ("/spec/list/1/image", json!("y")),
            ("/spec/list/1/name", json!("b")),
            ("/spec/args", json!(["1"])),
            ("/spec/args", json!(["1", "2", "3"])),
        ] {
            let mut changed = live.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert!(!in_step(&desired, &changed, None, None), "{pointer}");
        }
    }

    /// Else a commit that only changes the order of init containers would never be applied.
    #[test]
    fn another_order_is_drift_until_it_was_applied() {
        let list = |names: [&str; 2]| json!({"initContainers": names.map(|name| json!({"name": name}))});
        let (wanted, live) = (list(["migrate", "seed"]), list(["seed", "migrate"]));
        assert!(in_step(&wanted, &wanted, None, None));
        assert!(!in_step(&wanted, &live, None, None));
        let applied = Applied::new(&wanted, &live);
        assert!(in_step(&wanted, &live, Some(&applied), None), "whatever the API server made of it");
    }

    /// Else the operator would write the same object again and again.
    #[test]
    fn what_the_api_server_writes_differently_is_remembered() {
        let desired = json!({"cpu": "1000m"});
        let live = json!({"cpu": "1"});
        assert!(!in_step(&desired, &live, None, None));
        let applied = Applied::new(&desired, &live);
        assert!(in_step(&desired, &live, Some(&applied), None));
        assert!(!in_step(&desired, &json!({"cpu": "2"}), Some(&applied), None));
        assert!(!in_step(&json!({"cpu": "3000m"}), &live, Some(&applied), None));
    }

    /// Else a subject that git takes out of a `RoleBinding` would keep its rights.
    #[test]
    fn what_git_does_not_name_any_more_is_drift_where_we_put_it_there() {
        let live = json!({"metadata": {"labels": {"a": "1", "theirs": "x"}, "finalizers": ["f"]},
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "subjects": [{"name": "ana"}, {"name": "eve"}]});
        let owned = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"f\"": {}}},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}, "f:subjects": {}});
        let whole = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["f"]}, "ports": [{"containerPort": 80}],
            "subjects": [{"name": "ana"}, {"name": "eve"}]});
        assert!(in_step(&whole, &live, None, Some(&owned)));
        let drop = |pointer: &str, key: &str| {
            let mut less = whole.clone();
            less.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
            less
        };
        for (pointer, key) in
            [("/metadata/labels", "a"), ("/metadata", "labels"), ("/metadata", "finalizers"), ("", "ports")]
        {
            let less = drop(pointer, key);
            assert!(!in_step(&less, &live, None, Some(&owned)), "{pointer}/{key}");
            let before = Applied::new(&whole, &live);
            assert!(!in_step(&less, &live, Some(&before), Some(&owned)), "{pointer}/{key}");
            let after = Applied::new(&less, &live);
            assert!(in_step(&less, &live, Some(&after), Some(&owned)), "written once, whatever comes back");
        }
        let mut fewer = whole.clone();
        fewer["subjects"] = json!([{"name": "ana"}]);
        assert!(!in_step(&fewer, &live, None, Some(&owned)), "an atomic list is one value");
    }
}
