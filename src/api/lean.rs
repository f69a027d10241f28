//! Objects without their managed fields: about half of what an API server sends, and nothing that is asked for.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Reads an object, or `null`, without its managed fields. For `deserialize_with`.
///
/// # Errors
/// It is neither.
pub fn lean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    deserializer.deserialize_any(Fields::OfObject)
}

/// Whose fields are read.
#[derive(Clone, Copy)]
enum Fields {
    OfObject,
    OfMetadata,
}

impl<'de> Visitor<'de> for Fields {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            match (self, name.as_str()) {
                (Self::OfObject, "metadata") => {
                    let metadata = access.next_value_seed(Self::OfMetadata)?;
                    fields.insert(name, metadata);
                }
                (Self::OfMetadata, "managedFields") => {
                    access.next_value::<IgnoredAny>()?;
                }
                (Self::OfObject | Self::OfMetadata, _) => {
                    let value = access.next_value()?;
                    fields.insert(name, value);
                }
            }
        }
        Ok(Value::Object(fields))
    }
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, serde_json::Error> {
        lean(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn only_the_managed_fields_of_the_object_itself_are_left_out() {
        let inner = json!({"metadata": {"managedFields": [1]}, "managedFields": [2]});
        let mut object = json!({"kind": "Pod", "metadata": {"name": "a", "managedFields": [{"f:spec": {}}]}, "spec": inner});
        let read_back = read(&object.to_string()).unwrap();
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(read_back, object);
        assert_eq!(read("null").unwrap(), Value::Null);
        assert_eq!(read(r#"{"metadata": null}"#).unwrap(), json!({"metadata": null}));
        for other in ["7", r#""text""#, "[]", r#"{"metadata": 7}"#] {
            assert!(read(other).is_err(), "{other}");
        }
    }
}
