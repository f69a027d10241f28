//! The one writer of Kubernetes YAML.

use serde::Serialize;
use serde_json::Value;

use super::{Limits, documents};

/// Why a value can't be written as YAML that kubectl reads back.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The value is no JSON.
    #[error("the value can't be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The value holds something that YAML 1.1 can't, such as a key of more than 1024 characters.
    #[error("the value can't be written as YAML that kubectl reads back: {0}")]
    NotReadBack(String),
}

/// Writes a manifest, a CRD or a patch.
///
/// # Guarantees
/// The text reads back as the same value, in Go too: it is read with [`documents`] before it is returned, and what
/// block style can't say is written as JSON, which is YAML.
pub fn to_yaml(value: &impl Serialize) -> Result<String, WriteError> {
    let value = serde_json::to_value(value).map_err(WriteError::Json)?;
    let expected = normal(value.clone());
    let block = serde_saphyr::to_string(&value).ok().filter(|text| reads_as(text, &expected));
    if let Some(text) = block {
        return Ok(text);
    }
    let text = escaped(&value)?;
    if reads_as(&text, &expected) {
        Ok(text)
    } else {
        Err(WriteError::NotReadBack("a key or a number".to_owned()))
    }
}

fn reads_as(text: &str, value: &Value) -> bool {
    let limits = Limits { file_bytes: usize::MAX, nodes: usize::MAX, ..Limits::default() };
    let (documents, errors) = documents("output", text.as_bytes(), &limits);
    match (documents.as_slice(), errors.as_slice()) {
        ([document], []) => document.value == *value,
        ([], []) => value.is_null(),
        _ => false,
    }
}

/// Whole floats are integers once Go has read them.
fn normal(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or(Value::Number(number), super::resolve::float_value)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key, normal(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// JSON with every character escaped that Go's YAML reader refuses or takes for a line break.
fn escaped(value: &Value) -> Result<String, WriteError> {
    let json = serde_json::to_string_pretty(value).map_err(WriteError::Json)?;
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') {
            let hex = format!("{:04x}", u32::from(c));
            text.push_str("\\u");
            text.push_str(&hex);
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    Ok(text)
}
