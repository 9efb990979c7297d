//! Bodies of requests that a credential is a field of: forms, and objects of JSON. All but the field stays as it was written.

use super::forms;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`, and what ends in `+json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// A field cannot be put into a body: it is not what its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not what its content type says")]
pub struct Malformed;

/// A body in which a field was replaced.
#[derive(Debug)]
pub struct Replaced {
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
    /// What the agent wrote in the place, each time.
    pub was: Vec<String>,
    /// The body without it.
    pub rest: Vec<u8>,
}

impl Replaced {
    /// An empty one with room for all that may come, so that nothing of it is left elsewhere in memory.
    fn new(room: usize) -> Self {
        Self { body: Zeroizing::new(Vec::with_capacity(room)), was: Vec::new(), rest: Vec::new() }
    }
}

impl Format {
    /// What a content type says.
    pub fn of(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/x-www-form-urlencoded" => Some(Self::Form),
            "application/json" => Some(Self::Json),
            other if other.ends_with("+json") => Some(Self::Json),
            _ => None,
        }
    }

    /// A body with this field.
    pub fn replace(self, body: &[u8], field: &str, value: &str) -> Result<Replaced, Malformed> {
        match self {
            Self::Json => json(body, field, value),
            Self::Form => Ok(pairs(body, field, value)),
        }
    }
}

/// Replaces one parameter of a form, or of a query, which is written in the same way. It stands where it stood first, or last.
pub fn pairs(text: &[u8], name: &str, value: &str) -> Replaced {
    let mut replaced = Replaced::new(text.len() + 3 * (name.len() + value.len()) + 2);
    let mut done = false;
    let add = |to: &mut Vec<u8>, part: &[u8]| {
        if !to.is_empty() {
            to.push(b'&');
        }
        to.extend_from_slice(part);
    };
    let own = || Zeroizing::new(format!("{}={}", encoded(name), *Zeroizing::new(encoded(value))));
    for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|byte| *byte == b'=');
        let (key, was) = pair.split_at(at.unwrap_or(pair.len()));
        if decoded(key) != name.as_bytes() {
            add(&mut replaced.body, pair);
            add(&mut replaced.rest, pair);
            continue;
        }
        let was = decoded(was.get(1..).unwrap_or_default());
        replaced.was.push(String::from_utf8_lossy(&was).into_owned());
        if !std::mem::replace(&mut done, true) {
            add(&mut replaced.body, own().as_bytes());
        }
    }
    if !done {
        add(&mut replaced.body, own().as_bytes());
    }
    replaced
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let blanks = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte });
    forms::percent_decoded(&blanks.collect::<Vec<_>>())
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// An object's members, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

fn json(body: &[u8], field: &str, value: &str) -> Result<Replaced, Malformed> {
    struct All;
    impl<'de> Visitor<'de> for All {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(Members(members))
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let members = reader.deserialize_map(All).and_then(|members| reader.end().map(|()| members));
    let Members(members) = members.map_err(|_| Malformed)?;
    let quoted = |text: &str| serde_json::to_string(text).map_err(|_| Malformed);
    let mut replaced = Replaced::new(body.len() + 6 * (field.len() + value.len()) + 8);
    replaced.body.push(b'{');
    replaced.rest.push(b'{');
    let own = Zeroizing::new(quoted(value)?);
    let mut done = false;
    let add = |to: &mut Vec<u8>, key: &str, value: &str| -> Result<(), Malformed> {
        if to.len() > 1 {
            to.push(b',');
        }
        to.extend_from_slice(quoted(key)?.as_bytes());
        to.push(b':');
        to.extend_from_slice(value.as_bytes());
        Ok(())
    };
    for (key, raw) in members {
        if key != field {
            add(&mut replaced.body, &key, raw.get())?;
            add(&mut replaced.rest, &key, raw.get())?;
            continue;
        }
        let was = serde_json::from_str::<String>(raw.get());
        replaced.was.push(was.unwrap_or_else(|_| raw.get().to_owned()));
        if !std::mem::replace(&mut done, true) {
            add(&mut replaced.body, field, &own)?;
        }
    }
    if !done {
        add(&mut replaced.body, field, &own)?;
    }
    replaced.body.push(b'}');
    replaced.rest.push(b'}');
    Ok(replaced)
}

#[cfg(test)]
mod tests {
    use super::{Format, Malformed};

    fn check(format: Format, body: &str, expected: Result<(&str, &[&str], &str), Malformed>) {
        let replaced = format.replace(body.as_bytes(), "api key", "v/1\"");
        let replaced = replaced.map(|replaced| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(&replaced.body), replaced.was.clone(), text(&replaced.rest))
        });
        let expected = expected.map(|(body, was, rest)| {
            (body.to_owned(), was.iter().map(|was| (*was).to_owned()).collect(), rest.to_owned())
        });
        assert_eq!(replaced, expected, "{body}");
    }

    #[test]
    fn a_field_of_a_form_is_replaced_once() {
        let form = |body, expected| check(Format::Form, body, Ok(expected));
        form("", ("api%20key=v%2F1%22", &[], ""));
        form("a=b&c", ("a=b&c&api%20key=v%2F1%22", &[], "a=b&c"));
        form(
            "api+key=x%20y&a=%26&api%20key=z&%61pi+key",
            ("api%20key=v%2F1%22&a=%26", &["x y", "z", ""], "a=%26"),
        );
        form("api+key[]=x&&b", ("api+key[]=x&b&api%20key=v%2F1%22", &[], "api+key[]=x&b"));
    }

    #[test]
    fn a_field_of_an_object_is_replaced_once_and_all_else_stays() {
        let json = |body, expected| check(Format::Json, body, Ok(expected));
        json("{}", (r#"{"api key":"v/1\""}"#, &[], "{}"));
        json(
            r#" {"n": 1.0e400, "api\u0020key":"x","in":{"api key": 1 },"api key":[2]} "#,
            (
                r#"{"n":1.0e400,"api key":"v/1\"","in":{"api key": 1 }}"#,
                &["x", "[2]"],
                r#"{"n":1.0e400,"in":{"api key": 1 }}"#,
            ),
        );
        let deep = "[".repeat(5000);
        for body in ["", "[]", "{", "{}x", "{\"a\":}", "nonsense", "\"api key\"", &format!("{{\"a\":{deep}")]
        {
            check(Format::Json, body, Err(Malformed));
        }
    }

    #[test]
    fn formats_are_known_by_the_content_type() {
        for (kind, expected) in [
            ("application/json", Some(Format::Json)),
            ("Application/JSON; charset=utf-8", Some(Format::Json)),
            ("application/vnd.api+json", Some(Format::Json)),
            ("application/x-www-form-urlencoded;charset=x", Some(Format::Form)),
            ("multipart/form-data; boundary=x", None),
            ("text/plain", None),
            ("", None),
        ] {
            assert_eq!(Format::of(kind), expected, "{kind}");
        }
    }
}
