//! Sizes in bytes (`"512MiB"`, `"2GiB"`, or a plain number) and spans of time (`"90s"`, `"30m"`, `"2h"`, `"7d"`).
//!
//! Both are written back in the largest unit that divides them, so that text and value go round.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// A span of time in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// Not a size.
    #[error("expected a size such as 512MiB or 2GiB (units: B, KiB, MiB, GiB, TiB; K, M, G, T are the same)")]
    Size,
    /// Not a span.
    #[error("expected a time such as 90s, 30m, 2h or 7d")]
    Span,
}

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SPAN_UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Splits `"1.5GiB"` into its number and its unit; digits, then at most one point and more digits.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (text.len() <= 32).then_some(())?;
    Some((number.parse().ok()?, unit.trim()))
}

fn scaled(number: f64, unit: u64) -> Option<u64> {
    let value = number * unit as f64;
    (value.is_finite() && value >= 0.0 && value < (1u64 << 53) as f64 && value.fract() == 0.0)
        .then_some(value as u64)
}

impl std::str::FromStr for ByteSize {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(text).ok_or(ParseQuantityError::Size)?;
        let unit = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            _ => return Err(ParseQuantityError::Size),
        };
        scaled(number, unit).map(Self).ok_or(ParseQuantityError::Size)
    }
}

impl std::str::FromStr for Span {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(text).ok_or(ParseQuantityError::Span)?;
        let unit = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(ParseQuantityError::Span),
        };
        scaled(number, unit).map(Self).ok_or(ParseQuantityError::Span)
    }
}

fn write_in(f: &mut std::fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> std::fmt::Result {
    let (name, unit) = units
        .iter()
        .find(|(_, unit)| value != 0 && value.is_multiple_of(*unit))
        .unwrap_or(&units[units.len() - 1]);
    write!(f, "{}{name}", value / unit)
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_in(f, self.0, &SIZE_UNITS)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_in(f, self.0, &SPAN_UNITS)
    }
}

impl Span {
    /// The span as the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// Both forms that people write in JSON and TOML: a text with a unit, or a plain number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written<'a> {
    Number(u64),
    #[serde(borrow)]
    Text(std::borrow::Cow<'a, str>),
}

macro_rules! serde_text {
    ($name:ident, $description:literal, $example:literal) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
                OneOfBuilder::new()
                    .item(ObjectBuilder::new().schema_type(Type::String).examples([$example]))
                    .item(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)))
                    .description(Some($description))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match Written::deserialize(deserializer)? {
                    Written::Number(number) => Ok(Self(number)),
                    Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
                }
            }
        }
    };
}

serde_text!(ByteSize, "A number of bytes, with a unit or without one.", "512MiB");
serde_text!(Span, "A span of time in whole seconds, with a unit or without one.", "30m");
