//! Objects as far as images are looked for in them: without managed fields, and of containers and volumes only what names an
//! image. That is the smaller part of what API servers send, and reading is most of what an answer costs.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The lists whose entries name images.
const LISTS: [&str; 4] = ["containers", "initContainers", "ephemeralContainers", "volumes"];
/// What is read of an entry of theirs.
const OF_ENTRIES: [&str; 2] = ["name", "image"];

/// Reads an object, or `null`, as far as images are looked for in it. For `deserialize_with`.
///
/// # Errors
/// It is neither.
pub fn lean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    match Part::Object.deserialize(deserializer)? {
        value @ (Value::Object(_) | Value::Null) => Ok(value),
        other => Err(D::Error::custom(format!("expected an object or null, found {other}"))),
    }
}

/// What is being read.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
    List,
    Entry,
    Other,
}

impl Part {
    /// What a field of it is; `None`: nobody reads it.
    fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::Object if name == "metadata" => Some(Self::Metadata),
            Self::Metadata if name == "managedFields" => None,
            Self::Entry if !OF_ENTRIES.contains(&name) => None,
            Self::Object | Self::Other if LISTS.contains(&name) => Some(Self::List),
            Self::Object | Self::Metadata | Self::List | Self::Entry | Self::Other => Some(Self::Other),
        }
    }

    /// What an item of it is.
    fn item(self) -> Self {
        if matches!(self, Self::List) { Self::Entry } else { Self::Other }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.item())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if let Some(field) = self.field(&name) {
                let value = access.next_value_seed(field)?;
                fields.insert(name, value);
            } else {
                access.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(fields))
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
        for other in ["7", r#""text""#, "[]"] {
            assert!(read(other).is_err(), "{other}");
        }
    }

    /// If this fails, an image is overlooked.
    #[test]
    fn of_containers_and_volumes_what_names_an_image_is_read_wherever_they_stand_and_however_odd_they_are() {
        let written = json!({"spec": {
            "replicas": -1, "factor": 0.5, "paused": true, "nothing": null,
            "containers": [{"name": "app", "image": "a:1", "env": [{"name": "A", "value": "b"}]}, 5, null, [{"image": "b"}]],
            "template": {"spec": {"initContainers": [{"image": {"odd": [1]}, "args": ["x"]}], "ephemeralContainers": {"image": "c"},
                "volumes": [{"name": "model", "image": {"reference": "m:1", "pullPolicy": "Always"}}, {"name": "s", "secret": {}}]}},
        }});
        let expected = json!({"spec": {
            "replicas": -1, "factor": 0.5, "paused": true, "nothing": null,
            "containers": [{"name": "app", "image": "a:1"}, 5, null, [{"image": "b"}]],
            "template": {"spec": {"initContainers": [{"image": {"odd": [1]}}], "ephemeralContainers": {"image": "c"},
                "volumes": [{"name": "model", "image": {"reference": "m:1", "pullPolicy": "Always"}}, {"name": "s"}]}},
        }});
        assert_eq!(read(&written.to_string()).unwrap(), expected);
    }
}
