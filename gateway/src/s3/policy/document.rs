//! Reading JSON strictly: every name once per object, and never deeper than a policy goes.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::Malformed;

/// Policy, list of statements, statement, condition, operator, list of values.
const DEPTH_MAX: usize = 6;

/// A value of a document. Objects forget the order of their names, which means nothing in a policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// As text, which is what policies compare.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

/// Reads a document, all of it.
pub(super) fn read(text: &str) -> Result<Json, Malformed> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Value { depth: 0 }.deserialize(&mut deserializer).and_then(|json| {
        deserializer.end()?;
        Ok(json)
    });
    read.map_err(|error| Malformed::new(format!("Policies must be valid JSON: {error}.")))
}

impl Json {
    /// The fields of an object.
    pub(super) fn object(self, what: &str) -> Result<BTreeMap<String, Json>, Malformed> {
        match self {
            Json::Object(fields) => Ok(fields),
            _ => Err(Malformed::new(format!("{what:.60} must be a JSON object."))),
        }
    }

    /// A text.
    pub(super) fn text(self, what: &str) -> Result<String, Malformed> {
        match self {
            Json::Text(text) => Ok(text),
            _ => Err(Malformed::new(format!("{what:.60} must be a string."))),
        }
    }

    /// One text or a list of at least one.
    pub(super) fn texts(self, what: &str) -> Result<Vec<String>, Malformed> {
        self.list(what)?.into_iter().map(|one| one.text(what)).collect()
    }

    /// One scalar or a list of at least one. Numbers and booleans are the same as their texts.
    pub(super) fn scalars(self, what: &str) -> Result<Vec<String>, Malformed> {
        let scalar = |json| match json {
            Json::Bool(value) => Ok(value.to_string()),
            Json::Number(text) => Ok(text),
            other => other.text(what),
        };
        self.list(what)?.into_iter().map(scalar).collect()
    }

    fn list(self, what: &str) -> Result<Vec<Json>, Malformed> {
        match self {
            Json::List(list) if list.is_empty() => {
                Err(Malformed::new(format!("{what:.60} must not be empty.")))
            }
            Json::List(list) => Ok(list),
            one => Ok(vec![one]),
        }
    }
}

/// Reads one value that stands inside of so many others.
struct Value {
    depth: usize,
}

impl Value {
    fn inner<E: Error>(&self) -> Result<Value, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom("the values are nested too deeply for a policy"));
        }
        Ok(Value { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_string()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self.inner()?)? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = access.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:.60} stands twice in one object")));
            }
            let value = access.next_value_seed(self.inner()?)?;
            fields.insert(name, value);
        }
        Ok(Json::Object(fields))
    }
}
