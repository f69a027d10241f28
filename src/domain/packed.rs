//! JSON kept as text.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A JSON value that is kept and seldom looked at: as text it takes a small part of the memory that its tree would take.
///
/// # Guarantees
/// Equal values are equal texts: the fields of an object are sorted.
#[derive(Clone, PartialEq, Eq)]
pub struct Packed(Arc<str>);

impl Packed {
    /// Keeps a value.
    pub fn new(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    /// The value.
    pub fn open(&self) -> Value {
        // It was written from a value.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::new(&value))
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// If this fails, what is rolled back to is not what ran.
        #[test]
        fn what_is_opened_is_what_was_kept(value in value()) {
            prop_assert_eq!(Packed::new(&value).open(), value);
        }
    }

    #[test]
    fn the_order_of_fields_makes_no_difference() {
        let other: Value = serde_json::from_str(r#"{"b": [1], "a": null}"#).unwrap();
        assert_eq!(Packed::new(&json!({"a": null, "b": [1]})), Packed::new(&other));
    }
}
