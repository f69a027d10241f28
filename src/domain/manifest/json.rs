//! A file that starts with `{`: kubectl reads JSON first, and YAML only where that fails.

use std::fmt;

use serde::{
    Deserialize,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Deserializer, Map, Value};

use super::{Limits, Problem, resolve, split::Chunk};

/// Reads JSON; none when the text is no JSON even to a lenient reader, so that kubectl turns to YAML.
pub(super) fn read(chunk: &Chunk, limits: &Limits) -> Result<Option<Value>, Problem> {
    if IgnoredAny::deserialize(&mut Deserializer::from_str(&chunk.text)).is_err() {
        // kubectl forgets to turn to YAML in shorter files.
        if chunk.text.len() < 8 {
            return Err(Problem::new(
                chunk.line,
                "neither JSON nor a manifest; expected an object; write one",
            ));
        }
        return Ok(None);
    }
    let mut json = Deserializer::from_str(&chunk.text);
    let mut left = limits.nodes;
    let seed = Seed { depth: limits.depth, left: &mut left };
    seed.deserialize(&mut json).and_then(|value| json.end().map(|()| Some(value))).map_err(|error| {
        let line = chunk.line + error.line().saturating_sub(1);
        // serde_json appends the place, which we name in our own way.
        let what = error.to_string();
        let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
        Problem::new(line, format!("{what}; expected one JSON object; correct it"))
    })
}

/// Reads JSON that is no manifest as strictly: one value, bounded in depth and in the number of its keys and values, without duplicate
/// keys.
///
/// # Errors
/// With what is wrong, in words that hold nothing of the text but keys.
pub fn read_json(text: &str, depth: usize, nodes: usize) -> Result<Value, String> {
    let mut json = Deserializer::from_str(text);
    let mut left = nodes;
    let value = Seed { depth: depth.min(MAX_DEPTH), left: &mut left }.deserialize(&mut json);
    value.and_then(|value| json.end().map(|()| value)).map_err(|error| error.to_string())
}

/// Deeper values could not be walked through without care for the stack.
const MAX_DEPTH: usize = 100;

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

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
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
        Ok(resolve::float_value(value))
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
                return Err(A::Error::custom(format!("the key `{key}` stands twice")));
            }
            let value = access.next_value_seed(self.inner())?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
