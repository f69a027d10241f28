//! JSON that cannot be read in two ways.
//!
//! Whoever checks an image and whoever runs it read the same bytes with different programs. So a key that stands twice is refused,
//! and so is one that Go, which minds neither case nor two letters of Unicode, takes for another.

use std::{collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Unreadable;

const DEPTH: usize = 32;
const NODES: usize = 200_000;
/// Of one text that is kept.
const TEXT_BYTES: usize = 64 << 10;

/// Reads one JSON value, bounded in depth and in the number of its parts. The size is bounded by who fetched the bytes.
pub fn read(bytes: &[u8]) -> Result<Value, Unreadable> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut left = NODES;
    let read = Seed { depth: DEPTH, left: &mut left }.deserialize(&mut json);
    let read = read.and_then(|value| json.end().map(|()| value));
    read.map_err(|error| Unreadable::new(format!("it is no clear JSON: {error}")))
}

/// Like `Value`'s own reader, with bounds and without duplicate keys.
struct Seed<'n> {
    depth: usize,
    left: &'n mut usize,
}

impl Seed<'_> {
    fn inner(&mut self) -> Seed<'_> {
        Seed { depth: self.depth - 1, left: self.left }
    }

    fn enter<E: Error>(&self) -> Result<(), E> {
        if self.depth == 0 { Err(E::custom("nested too deep")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.checked_sub(1) else {
            return Err(D::Error::custom("too many keys and values"));
        };
        *self.left = left;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let key: String = key.chars().take(100).collect();
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            let value = access.next_value_seed(self.inner())?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// An object whose fields have a meaning.
pub(super) struct Object<'v> {
    fields: &'v Map<String, Value>,
    /// For messages.
    what: &'static str,
}

impl<'v> Object<'v> {
    /// An object that has no field which another reader would take for one of `known`.
    pub fn new(value: &'v Value, what: &'static str, known: &[&str]) -> Result<Self, Unreadable> {
        let Value::Object(fields) = value else {
            return Err(Unreadable::new(format!("{what} is no object")));
        };
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let folded = fold(key);
            if let Some(known) = known.iter().find(|known| fold(known) == folded) {
                return Err(Unreadable::new(format!(
                    "{what} has a field {key:?}, which some readers take for {known:?}"
                )));
            }
        }
        Ok(Self { fields, what })
    }

    /// The value of a field; `null` is none, as for Go.
    pub fn get(&self, name: &str) -> Option<&'v Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    pub fn text(&self, name: &str) -> Result<Option<&'v str>, Unreadable> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > TEXT_BYTES => {
                Err(self.wrong(name, "longer than 64 KiB"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "no text")),
        }
    }

    pub fn required_text(&self, name: &str) -> Result<&'v str, Unreadable> {
        self.text(name)?.filter(|text| !text.is_empty()).ok_or_else(|| self.wrong(name, "missing"))
    }

    pub fn items(&self, name: &str) -> Result<Option<&'v [Value]>, Unreadable> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.wrong(name, "no list")),
        }
    }

    pub fn required_items(&self, name: &str) -> Result<&'v [Value], Unreadable> {
        self.items(name)?.ok_or_else(|| self.wrong(name, "missing"))
    }

    /// A map from text to text; empty where it is missing.
    pub fn texts(&self, name: &str) -> Result<BTreeMap<String, String>, Unreadable> {
        let fields = match self.get(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(self.wrong(name, "no object")),
        };
        let text = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            _ => Err(self.wrong(name, "not made of texts")),
        };
        fields.iter().map(text).collect()
    }

    /// Says what is wrong with a field.
    pub fn wrong(&self, name: &str, how: &str) -> Unreadable {
        Unreadable::new(format!("{name:?} of {} is {how}", self.what))
    }
}

/// As Go's `encoding/json` compares names of fields.
fn fold(name: &str) -> String {
    let fold = |char: char| match char {
        'ſ' => 's',
        '\u{212a}' => 'k',
        char => char.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// If this fails, what is checked is not what runs.
    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"\u0062":2}}"#,
            r#"[{"a":1},{"a":1,"b":2,"a":3}]"#,
            "{} {}",
            "{}x",
            "",
            "{",
            "\u{feff}{}",
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(b"{\"a\":\"\xff\"}").is_err());
        let known = ["manifests", "layers", "mediaType", "skip"];
        for key in ["Manifests", "LAYERS", "mediatype", "manifeſts", "layerſ", "s\u{212a}ip"] {
            let value = serde_json::json!({ key: [] });
            let refused = Object::new(&value, "it", &known).err().unwrap().to_string();
            assert!(refused.contains("some readers"), "{refused}");
        }
        let plain = serde_json::json!({"layers": [], "layers2": [], "other": 1});
        assert!(Object::new(&plain, "it", &known).is_ok());
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(DEPTH).as_bytes()).is_ok());
        assert!(read(nested(DEPTH + 1).as_bytes()).is_err());
        assert!(read(nested(100_000).as_bytes()).is_err());
        let many = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        assert!(read(many(NODES - 1).as_bytes()).is_ok());
        assert!(read(many(NODES).as_bytes()).unwrap_err().to_string().contains("too many"));
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
