//! From JSON to requests, with errors of our own: each names the field and says what is wrong in our words, so
//! that no parser's text ever reaches a client. Unknown fields are refused everywhere, also in types that say
//! nothing about it.

use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde_json::{Map, Value};
use std::fmt::Display;

/// What is wrong with a value, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The path, innermost first.
    path: Vec<String>,
    /// Whether its end is a name that the client made up.
    unknown: bool,
    /// In one sentence.
    pub(crate) detail: String,
}

impl Fault {
    fn new(detail: impl Into<String>) -> Self {
        Self { path: Vec::new(), unknown: false, detail: detail.into() }
    }

    fn under(mut self, segment: impl Display) -> Self {
        self.path.push(segment.to_string());
        self
    }

    /// The same without the name of a field that there is not: it may be anything.
    pub(crate) fn without_unknown(mut self) -> Self {
        if std::mem::take(&mut self.unknown) {
            self.path.remove(0);
        }
        self
    }

    /// The field as the API names it: `resources.memory`, `main.argv[2]`.
    pub(crate) fn field(&self) -> Option<String> {
        let mut field = String::new();
        for segment in self.path.iter().rev() {
            // Keys come from the client: long ones are cut, and none carries control characters on.
            let clean: String = segment.chars().filter(|c| !c.is_control()).take(64).collect();
            if !field.is_empty() && !clean.starts_with('[') {
                field.push('.');
            }
            field.push_str(&clean);
        }
        (!field.is_empty()).then_some(field)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

fn kind(unexpected: &Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) => "a text",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        _ => "another kind of value",
    }
}

impl serde::de::Error for Fault {
    /// Reached only by the sentences of our own types (`Name`, ids, sizes), and by serde's for untagged ones.
    fn custom<T: Display>(message: T) -> Self {
        let message = message.to_string();
        let ours = !message.contains("untagged") && !message.contains("variant");
        let detail = if ours { message } else { "this has the wrong form".to_owned() };
        Self::new(detail)
    }

    fn invalid_type(unexpected: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::new(format!("{} does not belong here", kind(&unexpected)))
    }

    fn invalid_value(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::new("the value is out of bounds")
    }

    fn invalid_length(_: usize, _: &dyn Expected) -> Self {
        Self::new("this has the wrong number of elements")
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("expected one of {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let detail = match expected {
            [] => "there is no such field".to_owned(),
            known => format!("there is no such field; there are {}", known.join(", ")),
        };
        Self { unknown: true, ..Self::new(detail).under(field) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("this field is required").under(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new("this field is given twice").under(field)
    }
}

/// Reads a request from a JSON value.
pub(crate) fn decode<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Fault> {
    T::deserialize(Node(value))
}

struct Node<'a>(&'a Value);

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(it) => Unexpected::Bool(*it),
        Value::Number(it) if it.is_f64() => Unexpected::Float(it.as_f64().unwrap_or_default()),
        Value::Number(it) => Unexpected::Signed(it.as_i64().unwrap_or_default()),
        Value::String(it) => Unexpected::Str(it),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(it) => visitor.visit_bool(*it),
            Value::Number(it) => {
                if let Some(it) = it.as_u64() {
                    visitor.visit_u64(it)
                } else if let Some(it) = it.as_i64() {
                    visitor.visit_i64(it)
                } else {
                    visitor.visit_f64(it.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(it) => visitor.visit_borrowed_str(it),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Object(fields) => visitor.visit_map(Fields { fields: fields.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Object(fields) = self.0 else { return Err(Fault::invalid_type(unexpected(self.0), &"")) };
        refuse_unknown(fields, known)?;
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Word(name)),
            other => Err(Fault::invalid_type(unexpected(other), &"")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn refuse_unknown(fields: &Map<String, Value>, known: &'static [&'static str]) -> Result<(), Fault> {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Fault::unknown_field(key, known)),
        None => Ok(()),
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Value>,
    index: u64,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Node(item)).map(Some).map_err(|fault| fault.under(format_args!("[{index}]")))
    }
}

struct Fields<'de> {
    fields: serde_json::map::Iter<'de>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some((key, value));
        let deserializer = BorrowedStrDeserializer::new(key);
        seed.deserialize(deserializer).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, value) = self.value.take().ok_or_else(|| Fault::custom("a value without its key"))?;
        seed.deserialize(Node(value)).map_err(|fault| fault.under(key))
    }
}

/// A variant without data, which is all that requests have.
struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: StrDeserializer<'_, Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::custom("this has the wrong form"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("this has the wrong form"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("this has the wrong form"))
    }
}
