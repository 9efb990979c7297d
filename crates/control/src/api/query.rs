//! Query strings: known names only, each at most once unless it is made to repeat.

use crate::app::App;
use crate::problems::Fault;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use model::api::Page;
use model::{Code, Problem};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use store::PageOf;

pub(super) const MAX_LIMIT: u32 = 200;
const DEFAULT_LIMIT: u32 = 50;

/// The parameters of a request.
pub(crate) struct Query(Vec<(String, String)>);

impl FromRequestParts<Arc<App>> for Query {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(parse(query).ok_or_else(|| Problem::new(Code::Validation, "the query string is not UTF-8"))?))
    }
}

fn parse(query: &str) -> Option<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        })
        .collect()
}

/// `application/x-www-form-urlencoded`, as the URL standard has it; a lone `%` stands for itself.
fn unescape(text: &str) -> Option<String> {
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = tail;
                }
                _ => bytes.push(b'%'),
            },
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Where a list goes on.
pub(crate) struct Paging<T = String> {
    /// The id that the last page ended with.
    pub(crate) before: Option<T>,
    pub(crate) limit: u32,
}

impl Query {
    /// Refuses parameters that are not in `known`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Fault> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                let detail = match known {
                    [] => "this path takes no parameters".to_owned(),
                    known => format!("there is no such parameter; there are {}", known.join(", ")),
                };
                Err(Problem::invalid(name, detail).into())
            }
        }
    }

    /// All values of a parameter that may repeat.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Problem::invalid(name, "this parameter is given twice").into()),
            (value, None) => Ok(value),
        }
    }

    /// The same, parsed by a type whose errors are sentences of ours.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Fault> {
        let wrong = |error: T::Err| Fault::from(Problem::invalid(name, error.to_string()));
        self.text(name)?.map(|text| text.parse().map_err(wrong)).transpose()
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        let wrong = || Problem::invalid(name, format!("expected a whole number from {min} to {max}"));
        Ok(Some(number.ok_or_else(wrong)?))
    }

    /// `cursor` and `limit`, of a list of things with ids.
    pub(crate) fn paging(&self) -> Result<Paging, Fault> {
        self.paging_by(|id| Some(id).filter(|id| id.len() == 30 && id.is_ascii()))
    }

    /// The same of any list: what the last page ended with is read by `read`.
    pub(crate) fn paging_by<T>(&self, read: impl Fn(String) -> Option<T>) -> Result<Paging<T>, Fault> {
        let limit = self.number("limit", 1, MAX_LIMIT.into())?;
        let before = self.text("cursor")?.map(|cursor| {
            let wrong = || Problem::invalid("cursor", "expected the `next` of an earlier page");
            read(cursor.to_owned()).ok_or_else(wrong)
        });
        Ok(Paging {
            before: before.transpose()?,
            limit: limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(DEFAULT_LIMIT),
        })
    }
}

/// A page as it is sent. `id` tells what the next one starts after.
pub(crate) fn page<T, U>(rows: PageOf<T>, id: impl Fn(&T) -> String, wire: impl Fn(T) -> U) -> Page<U> {
    let last = rows.items.last().filter(|_| rows.more);
    let next = last.map(id);
    Page { items: rows.items.into_iter().map(wire).collect(), next }
}
