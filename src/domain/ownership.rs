//! Field ownership in `metadata.managedFields` (server-side apply).
//!
//! A forced apply takes the fields it names; what another manager put beside them (a container, an environment variable)
//! survives, and an entry that nobody owns can never be removed by an apply. So before a git-owned workload is applied,
//! what others own in its pod spec is moved into our own entry: the apply then drops what git does not name.

use serde_json::{Map, Value, json};

/// The field manager of everything that is applied from git.
pub const MANAGER: &str = "countersign";

/// Whether somebody else owns something in the pod spec of a template.
pub fn others_own_pod_spec(managed_fields: &[Value], template: &[&str]) -> bool {
    let path = pod_spec(template);
    managed_fields.iter().any(|entry| !is_ours(entry) && counts(entry) && at(entry, &path).is_some())
}

/// Whether an update (not an apply) of ours left an entry.
pub fn own_update_entry(managed_fields: &[Value]) -> bool {
    managed_fields.iter().any(is_our_update)
}

/// The fields of our own apply (`fieldsV1`), in the version in which we apply.
pub fn own_fields<'a>(managed_fields: &'a [Value], api_version: &str) -> Option<&'a Value> {
    let ours = |entry: &&Value| is_ours(entry) && counts(entry) && entry["apiVersion"] == api_version;
    managed_fields.iter().find(ours)?.get("fieldsV1")
}

/// The managed fields with everything that others own in the pod spec moved into our apply entry.
pub fn take_over(managed_fields: &[Value], template: &[&str], api_version: &str) -> Vec<Value> {
    let path = pod_spec(template);
    let mut taken = Value::Null;
    let mut entries: Vec<Value> = Vec::new();
    for entry in managed_fields {
        let mut entry = entry.clone();
        if !is_ours(&entry) && counts(&entry) {
            if let Some(fields) = take(&mut entry, &path) {
                merge(&mut taken, fields);
            }
            if entry.pointer("/fieldsV1").and_then(Value::as_object).is_none_or(Map::is_empty) {
                continue;
            }
        }
        entries.push(entry);
    }
    let nested = path.iter().rev().fold(taken, |inner, key| json!({ key.as_str(): inner }));
    match entries.iter_mut().find(|entry| is_ours(entry)) {
        Some(ours) => merge(&mut ours["fieldsV1"], nested),
        None => entries.push(json!({
            "manager": MANAGER, "operation": "Apply", "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": nested,
        })),
    }
    entries
}

/// The managed fields without the entries that updates of ours left.
pub fn without_own_updates(managed_fields: &[Value]) -> Vec<Value> {
    managed_fields.iter().filter(|entry| !is_our_update(entry)).cloned().collect()
}

fn pod_spec(template: &[&str]) -> Vec<String> {
    template.iter().chain(&["spec"]).map(|part| format!("f:{part}")).collect()
}

fn is_ours(entry: &Value) -> bool {
    entry["manager"] == MANAGER && entry["operation"] == "Apply"
}

fn is_our_update(entry: &Value) -> bool {
    entry["manager"] == MANAGER && entry["operation"] == "Update" && counts(entry)
}

/// Entries of subresources (status, scale) own nothing in a template that an apply could take.
fn counts(entry: &Value) -> bool {
    entry.get("subresource").and_then(Value::as_str).unwrap_or("").is_empty()
}

fn at<'a>(entry: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(entry.get("fieldsV1")?, |value, key| value.get(key))
}

/// Cuts the fields at `path` out, and the parents that this leaves empty.
fn take(entry: &mut Value, path: &[String]) -> Option<Value> {
    fn cut(fields: &mut Value, path: &[String]) -> Option<Value> {
        let (key, rest) = path.split_first()?;
        let fields = fields.as_object_mut()?;
        if rest.is_empty() {
            return fields.remove(key);
        }
        let inner = fields.get_mut(key)?;
        let taken = cut(inner, rest);
        if inner.as_object().is_some_and(|inner| inner.keys().all(|key| key == ".")) {
            fields.remove(key);
        }
        taken
    }
    cut(entry.get_mut("fieldsV1")?, path)
}

/// The union of two sets of fields.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into @ Value::Null, from) => *into = from,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &[&str] = &["spec", "template"];

    #[expect(clippy::needless_pass_by_value, reason = "reads better with json! in the calls")]
    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn what_others_own_in_the_pod_spec_becomes_ours_and_the_rest_stays_theirs() {
        let theirs = entry(
            "kubectl-edit",
            "Update",
            json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"ghost\"}": {".": {}}}}}}}),
        );
        let only_template =
            entry("kubectl-set", "Update", json!({"f:spec": {"f:template": {"f:spec": {"f:x": {}}}}}));
        let mut status = entry(
            "kube-controller-manager",
            "Update",
            json!({"f:spec": {"f:template": {"f:spec": {"f:y": {}}}}}),
        );
        status["subresource"] = json!("status");
        let ours = entry(
            MANAGER,
            "Apply",
            json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {}}}}}}}),
        );
        let before = [theirs, only_template, status.clone(), ours];
        assert!(others_own_pod_spec(&before, TEMPLATE));
        let after = take_over(&before, TEMPLATE, "apps/v1");
        assert_eq!(
            after,
            [
                entry("kubectl-edit", "Update", json!({"f:spec": {"f:replicas": {}}})),
                status,
                entry(
                    MANAGER,
                    "Apply",
                    json!({"f:spec": {"f:template": {"f:spec": {"f:x": {}, "f:containers": {
                "k:{\"name\":\"app\"}": {".": {}}, "k:{\"name\":\"ghost\"}": {".": {}}}}}}})
                ),
            ]
        );
        assert!(!others_own_pod_spec(&after, TEMPLATE));
    }

    #[test]
    fn without_an_entry_of_ours_one_is_made() {
        let before = [entry("helm", "Apply", json!({"f:spec": {"f:template": {"f:spec": {"f:x": {}}}}}))];
        let after = take_over(&before, TEMPLATE, "apps/v1");
        assert_eq!(
            after,
            [entry(MANAGER, "Apply", json!({"f:spec": {"f:template": {"f:spec": {"f:x": {}}}}}))]
        );
    }

    #[test]
    fn entries_of_our_patches_are_dropped() {
        let patched = entry(MANAGER, "Update", json!({"f:spec": {}}));
        let applied = entry(MANAGER, "Apply", json!({"f:spec": {}}));
        assert!(own_update_entry(std::slice::from_ref(&patched)));
        assert!(!own_update_entry(std::slice::from_ref(&applied)));
        assert_eq!(without_own_updates(&[patched, applied.clone()]), [applied]);
    }
}
