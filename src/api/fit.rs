//! Makes a status fit the bounds of its schema, and a patch of it that touches only what this version knows.

use kube::{Resource, core::object::HasStatus};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::strict::status_schema;

/// Cuts every list and every text of a status to what the API server takes.
///
/// A status that is refused because one message is too long would be written again and again, and say nothing.
///
/// # Guarantees
/// Texts with a prescribed form, such as digests and commits, are left as they are: half of one would be a lie.
///
/// # Caveats
/// Lists keep their first items: what must not be lost has to come first.
pub fn fit_status<K>(status: K::Status) -> K::Status
where
    K: Resource<DynamicType = ()> + HasStatus,
    K::Status: Serialize + DeserializeOwned,
{
    let mut value = serde_json::to_value(&status).unwrap_or_default();
    if let Some(schema) = status_schema(&K::kind(&())) {
        fit(schema, &mut value);
    }
    serde_json::from_value(value).unwrap_or(status)
}

/// A status as a merge patch, made to fit: what this version knows is set, or removed where it is absent; what only another
/// version knows is not named, and stays.
///
/// # Caveats
/// A merge patch replaces lists whole: what another version keeps inside of an item goes.
pub fn status_patch<K>(status: &K::Status) -> Value
where
    K: Resource<DynamicType = ()> + HasStatus,
    K::Status: Serialize,
{
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(schema) = status_schema(&K::kind(&())) {
        fit(schema, &mut value);
        remove_absent(schema, &mut value);
    }
    value
}

/// Null removes a field.
fn remove_absent(schema: &Value, value: &mut Value) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let (Some(properties), Value::Object(object)) = (properties, value) else { return };
    for (name, property) in properties {
        match object.get_mut(name) {
            Some(known) => remove_absent(property, known),
            None => {
                object.insert(name.clone(), Value::Null);
            }
        }
    }
}

fn fit(schema: &Value, value: &mut Value) {
    let bound =
        |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
    match value {
        Value::String(text) => {
            if let Some(most) = bound("maxLength")
                && schema.get("pattern").is_none()
                && text.chars().count() > most
            {
                *text = text.chars().take(most.saturating_sub(1)).chain(['…']).collect();
            }
        }
        Value::Array(items) => {
            items.truncate(bound("maxItems").unwrap_or(usize::MAX));
            if let Some(of_items) = schema.get("items") {
                for item in items {
                    fit(of_items, item);
                }
            }
        }
        Value::Object(object) => {
            for (name, value) in object {
                if let Some(property) = schema.get("properties").and_then(|properties| properties.get(name)) {
                    fit(property, value);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{
        GitSource, GitSourceStatus,
        git_source::{HeldBack, SourceProblem},
    };

    fn problem(message: String) -> SourceProblem {
        SourceProblem { path: "a.yaml".to_owned(), line: Some(3), document: None, object: None, message }
    }

    #[test]
    fn what_is_too_long_is_cut_and_nothing_else() {
        let held = HeldBack {
            commit: "ab".repeat(20),
            reason: "Rewritten".to_owned(),
            message: "x".repeat(5000),
            withdrawals: 1,
            prunes: 0,
        };
        let status = GitSourceStatus {
            problems: (0..60).map(|_| problem("ä".repeat(3000))).collect(),
            problem_count: Some(60),
            held_back: Some(held.clone()),
            ..GitSourceStatus::default()
        };
        let fitted = fit_status::<GitSource>(status);
        assert_eq!(fitted.problems.len(), 50);
        assert_eq!(fitted.problems[49].message.chars().count(), 2048);
        assert!(fitted.problems[49].message.ends_with("ä…"));
        assert_eq!(fitted.problem_count, Some(60));
        let held_back = fitted.held_back.unwrap();
        assert_eq!((held_back.commit, held_back.message.chars().count()), (held.commit, 4096));
    }

    /// If this fails, an older version that leads for a while removes what a newer one recorded, or leaves what is over.
    #[test]
    fn a_patch_removes_what_is_absent_and_names_nothing_it_does_not_know() {
        let held = HeldBack {
            commit: "ab".repeat(20),
            reason: "Rewritten".to_owned(),
            message: String::new(),
            withdrawals: 1,
            prunes: 0,
        };
        let mut stored = json!({
            "heldBack": held, "problems": [{"path": "a.yaml", "message": "bad", "newer": 1}], "objects": 7, "newer": {"a": 1},
        });
        stored["heldBack"]["newer"] = json!("kept with what it is about");
        let status = GitSourceStatus { held_back: Some(held), ..GitSourceStatus::default() };
        let mut after = stored.clone();
        json_patch::merge(&mut after, &status_patch::<GitSource>(&status));
        assert_eq!(after, json!({"heldBack": stored["heldBack"], "newer": {"a": 1}}));
        json_patch::merge(&mut after, &status_patch::<GitSource>(&GitSourceStatus::default()));
        assert_eq!(after, json!({"newer": {"a": 1}}));
    }

    #[test]
    fn a_status_that_fits_stays_as_it_is() {
        let status =
            GitSourceStatus { problems: vec![problem("short".to_owned())], ..GitSourceStatus::default() };
        assert_eq!(fit_status::<GitSource>(status.clone()), status);
    }
}
