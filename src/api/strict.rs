//! Reads our own kinds from git and the command line, where a field that is unknown is a mistake.
//!
//! The API server drops unknown fields silently for clients that do not ask otherwise, so a misspelt `revocation`
//! would be an approval. Nothing is said twice here: the object is held against the schema that the cluster has.

use std::{collections::BTreeMap, fmt, sync::LazyLock};

use kube::{
    CustomResourceExt, Resource,
    core::cel::{CompiledSchema, Validator, compile_schema},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::walk;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where, as in `spec.match.images[0]`; empty for the object as a whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Everything that is wrong with an object; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// By path.
    pub problems: Vec<Problem>,
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl Invalid {
    fn one(path: &str, message: impl Into<String>) -> Self {
        Self { problems: vec![Problem { path: path.to_owned(), message: message.into() }] }
    }
}

/// Reads an object of ours, and accepts nothing that would be ignored.
///
/// # Errors
/// With every field that is unknown, missing, of the wrong type, out of bounds, or refused by a rule.
pub fn read_strict<K>(value: &Value) -> Result<K, Invalid>
where
    K: Resource<DynamicType = ()> + CustomResourceExt + DeserializeOwned,
{
    let kind = K::kind(&());
    if value.get("kind").and_then(Value::as_str) != Some(&kind) {
        return Err(Invalid::one("kind", format!("must be {kind}")));
    }
    check_strict(value)?;
    serde_json::from_value(value.clone()).map_err(|error| Invalid::one("", error.to_string()))
}

/// Holds an object of any of our kinds against its schema and its rules, as [`read_strict`] does.
///
/// # Errors
/// With everything that is wrong with it; also when its kind or version is none of ours.
pub fn check_strict(value: &Value) -> Result<(), Invalid> {
    check(value, None)
}

/// As [`check_strict`], and also whether the object may follow `old`: the rules about what cannot be changed.
///
/// # Errors
/// With everything that is wrong with the new object.
pub fn check_update(value: &Value, old: &Value) -> Result<(), Invalid> {
    check(value, Some(old))
}

fn check(value: &Value, old: Option<&Value>) -> Result<(), Invalid> {
    let Schema { json: schema, rules } = schema_of(value)?;
    let mut problems = walk::problems(schema, value);
    if problems.is_empty() {
        // Rules are only meaningful on what has the right shape, as in the API server.
        let refused = Validator::new().validate_compiled(rules, value, old).err();
        problems.extend(refused.into_iter().flat_map(|errors| {
            errors
                .into_vec()
                .into_iter()
                .map(|error| Problem { path: error.field_path, message: error.message })
        }));
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    problems.dedup();
    Err(Invalid { problems })
}

/// What an object of one kind must be.
struct Schema {
    json: Value,
    /// The same, with its rules compiled.
    rules: CompiledSchema,
}

/// The schemas by kind, with one for the metadata.
static SCHEMAS: LazyLock<BTreeMap<String, Schema>> = LazyLock::new(|| {
    super::crds()
        .into_iter()
        .filter_map(|crd| {
            let version = crd.spec.versions.into_iter().next()?;
            let mut schema = serde_json::to_value(version.schema?.open_api_v3_schema?).ok()?;
            let properties = schema.get_mut("properties")?.as_object_mut()?;
            properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
            properties.insert("kind".to_owned(), json!({"type": "string"}));
            properties.insert("metadata".to_owned(), metadata_schema());
            Some((crd.spec.names.kind, Schema { rules: compile_schema(&schema), json: schema }))
        })
        .collect()
});

/// The schema of a kind's status.
pub(super) fn status_schema(kind: &str) -> Option<&'static Value> {
    SCHEMAS.get(kind)?.json.pointer("/properties/status")
}

fn schema_of(value: &Value) -> Result<&'static Schema, Invalid> {
    let text = |field| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let version = format!("{}/{}", super::GROUP, super::VERSION);
    if text("apiVersion") != version {
        return Err(Invalid::one("apiVersion", format!("must be {version}")));
    }
    SCHEMAS.get(text("kind")).ok_or_else(|| {
        let kinds: Vec<&str> = SCHEMAS.keys().map(String::as_str).collect();
        Invalid::one("kind", format!("must be one of {}", kinds.join(", ")))
    })
}

/// What the API server knows in `metadata`; a CRD cannot say it.
fn metadata_schema() -> Value {
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let (text, number, anything) = (json!({"type": "string"}), json!({"type": "integer"}), json!({}));
    json!({"type": "object", "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
        "namespace": {"type": "string", "maxLength": 63, "pattern": super::schema::DNS_LABEL},
        "generateName": text, "labels": texts, "annotations": texts,
        "finalizers": {"type": "array", "items": text},
        "ownerReferences": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        // Written by the server: there when an object was exported from a cluster.
        "uid": text, "resourceVersion": text, "generation": number, "creationTimestamp": anything,
        "deletionTimestamp": anything, "deletionGracePeriodSeconds": number, "selfLink": text,
        "managedFields": {"type": "array", "items": anything},
    }})
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::api::{GitSource, ImagePolicy};

    fn policy(spec: &Value) -> Value {
        json!({
            "apiVersion": "countersign.dev/v1alpha1",
            "kind": "ImagePolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": spec,
        })
    }

    fn told(value: &Value) -> String {
        read_strict::<ImagePolicy>(value).unwrap_err().to_string()
    }

    #[test]
    fn every_mistake_is_told_with_its_path() {
        let value = policy(&json!({"mode": "On", "match": {"images": ["a/**", 7]}, "suspended": true}));
        assert_eq!(
            told(&value),
            "spec.match.images[1]: must be a string, not a number; \
             spec.mode: must be one of Enforce, Warn, Audit, not \"On\"; \
             spec.suspended: unknown field; known here: \
             admission, approval, attestations, base, match, maxImageAge, mode, pullSecrets, requireDigest, rollback, scan, signatures, sources, suspend"
        );
    }

    #[test]
    fn an_object_of_another_kind_or_version_is_refused() {
        let value = policy(&json!({"mode": "Audit"}));
        assert!(read_strict::<ImagePolicy>(&value).is_ok());
        assert_eq!(read_strict::<GitSource>(&value).unwrap_err().to_string(), "kind: must be GitSource");
        for (field, other, expected) in [
            ("kind", "Policy", "kind: must be one of ApprovedImage, GitSource, ImagePolicy, ReleaseHistory"),
            ("apiVersion", "countersign.dev/v1", "apiVersion: must be countersign.dev/v1alpha1"),
        ] {
            let mut value = value.clone();
            value[field] = json!(other);
            assert_eq!(check_strict(&value).unwrap_err().to_string(), expected);
        }
        for value in [json!(null), json!([]), json!("ImagePolicy"), json!({})] {
            assert!(check_strict(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn mistakes_outside_of_the_spec_are_told_too() {
        let mut value = policy(&json!({"mode": "Audit"}));
        value["metadata"]["label"] = json!({"a": "b"});
        assert!(told(&value).starts_with("metadata.label: unknown field"));
        value["metadata"] = json!({"name": "p", "labels": {"a": 1}});
        assert_eq!(told(&value), "metadata.labels.a: must be a string, not a number");
        value["metadata"] = json!({"name": "p"});
        value["data"] = json!({});
        assert!(told(&value).starts_with("data: unknown field"));
    }

    #[test]
    fn the_number_of_told_mistakes_is_bounded() {
        let many: Map<String, Value> = (0..1000).map(|index| (format!("field{index}"), json!(1))).collect();
        let problems = check_strict(&policy(&Value::Object(many))).unwrap_err().problems;
        assert_eq!(problems.len(), walk::TOLD);
    }
}
