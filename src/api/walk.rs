//! Holds a value against a structural schema, more strictly than the API server: an unknown field is a problem.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use regex::Regex;
use serde_json::{Map, Value, json};

use super::strict::Problem;

/// How many problems are told; a manifest with more is not read by anybody.
pub(super) const TOLD: usize = 50;

/// Everything about a value that the schema does not allow, its rules aside.
pub(super) fn problems(schema: &Value, value: &Value) -> Vec<Problem> {
    let mut walk = Walk { problems: Vec::new() };
    walk.value(schema, value, "");
    walk.problems
}

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
