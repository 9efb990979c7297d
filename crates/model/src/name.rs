//! Names that people give: `[a-z][a-z0-9-]{0,39}`.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The longest name, in bytes.
pub const MAX_LEN: usize = 40;

/// A checked name. Safe to print, and to use as a host name and as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(into = "String", try_from = "Cow<'_, str>")]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,39}$", example = "worker-1")]
pub struct Name(String);

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name starts with a letter a-z, goes on with a-z, 0-9 or '-', and has 1 to 40 characters")]
pub struct ParseNameError;

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = text.len() <= MAX_LEN
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseNameError) }
    }
}

impl TryFrom<Cow<'_, str>> for Name {
    type Error = ParseNameError;

    fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
