//! Reads our own kinds from git and the command line, where a field that is unknown is a mistake.
//!
//! The API server drops unknown fields silently for clients that do not ask otherwise, so a misspelt `revocation`
//! would be an approval. Nothing is said twice here: the object is held against the schema that the cluster has.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{LazyLock, Mutex, PoisonError},
};

use kube::{
    CustomResourceExt, Resource,
    core::cel::{CompiledSchema, Validator, compile_schema},
};
use regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

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
    let mut walk = Walk { problems: Vec::new() };
    walk.value(schema, value, "");
    if walk.problems.is_empty() {
        // Rules are only meaningful on what has the right shape, as in the API server.
        let refused = Validator::new().validate_compiled(rules, value, old).err();
        walk.problems.extend(refused.into_iter().flat_map(|errors| {
            errors
                .into_vec()
                .into_iter()
                .map(|error| Problem { path: error.field_path, message: error.message })
        }));
    }
    if walk.problems.is_empty() {
        return Ok(());
    }
    walk.problems.sort();
    walk.problems.dedup();
    Err(Invalid { problems: walk.problems })
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

/// How many problems are told; a manifest with more is not read by anybody.
const TOLD: usize = 50;

struct Walk {
    problems: Vec<Problem>,
}

impl Walk {
    fn say(&mut self, path: &str, message: impl Into<String>) {
        if self.problems.len() < TOLD {
            self.problems.push(Problem { path: path.to_owned(), message: message.into() });
        }
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(expected) = schema.get("type").and_then(Value::as_str) else { return };
        let fits = match expected {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            _ => true,
        };
        if !fits {
            return self
                .say(path, format!("must be {} {expected}, not {}", article(expected), name_of(value)));
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            return self.say(path, format!("must be one of {}, not {}", names.join(", "), shortened(value)));
        }
        match value {
            Value::Object(object) => self.object(schema, object, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.string(schema, text, path),
            Value::Number(number) => self.number(schema, number, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn object(&mut self, schema: &Value, object: &Map<String, Value>, path: &str) {
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if let Some(name) = required.as_str()
                && !object.contains_key(name)
            {
                self.say(&join(path, name), "is required");
            }
        }
        if let Some(most) = bound(schema, "maxProperties")
            && object.len() > most
        {
            self.say(path, format!("must have at most {most} entries, not {}", object.len()));
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        let keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
        for (name, value) in object {
            match properties.and_then(|properties| properties.get(name)).or(others) {
                Some(known) => self.value(known, value, &join(path, name)),
                None if keeps_unknown => {}
                None => {
                    let known: Vec<&str> =
                        properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                    self.say(&join(path, name), format!("unknown field; known here: {}", known.join(", ")));
                }
            }
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        if let Some(least) = bound(schema, "minItems")
            && items.len() < least
        {
            self.say(path, format!("must have at least {least} items, not {}", items.len()));
        }
        if let Some(most) = bound(schema, "maxItems")
            && items.len() > most
        {
            return self.say(path, format!("must have at most {most} items, not {}", items.len()));
        }
        let keys: Option<Vec<&str>> = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Some(Vec::new()),
            Some("map") => schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .map(|keys| keys.iter().filter_map(Value::as_str).collect()),
            _ => None,
        };
        let identity = |item: &Value| match keys.as_deref() {
            None | Some([]) => item.clone(),
            Some(keys) => keys.iter().map(|key| item.get(*key).cloned().unwrap_or_default()).collect(),
        };
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if keys.is_some() && items[..index].iter().any(|earlier| identity(earlier) == identity(item)) {
                self.say(&path, format!("duplicate: {}", shortened(item)));
            }
            if let Some(of_items) = schema.get("items") {
                self.value(of_items, item, &path);
            }
        }
    }

    fn string(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count();
        if let Some(least) = bound(schema, "minLength")
            && length < least
        {
            return self.say(path, format!("must have at least {least} characters, not {length}"));
        }
        if let Some(most) = bound(schema, "maxLength")
            && length > most
        {
            return self.say(path, format!("must have at most {most} characters, not {length}"));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !matches(pattern, text)
        {
            self.say(path, format!("{} does not match {pattern}", shortened(&json!(text))));
        }
        if schema.get("format").and_then(Value::as_str) == Some("date-time")
            && text.parse::<jiff::Timestamp>().is_err()
        {
            self.say(
                path,
                format!("{} is not a date and time such as 2026-11-20T09:00:00Z", shortened(&json!(text))),
            );
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number, path: &str) {
        let Some(number) = number.as_f64() else { return };
        if let Some(least) = schema.get("minimum").and_then(Value::as_f64)
            && number < least
        {
            self.say(path, format!("must be at least {least}, not {number}"));
        }
        if let Some(most) = schema.get("maximum").and_then(Value::as_f64)
            && number > most
        {
            self.say(path, format!("must be at most {most}, not {number}"));
        }
    }
}

/// Whether a text matches a pattern of a schema. Each is compiled once: there are few, and many objects.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: LazyLock<Mutex<BTreeMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = compiled.get(pattern) {
        return regex.is_match(text);
    }
    // A pattern that cannot be compiled must not let anything pass.
    let Ok(regex) = Regex::new(pattern) else { return false };
    let is_match = regex.is_match(text);
    compiled.insert(pattern.to_owned(), regex);
    is_match
}

fn bound(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value as it can stand in a message.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
