//! SHA-256 (FIPS 180-4), with a first byte that tells what is hashed, so that no hash of one thing is one of another.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fmt::{Display, Write};
use std::str::FromStr;

const GENESIS: u8 = 0;
const EVENT: u8 = 1;
const LINK: u8 = 2;

/// A SHA-256, in lowercase hex wherever it is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(into = "String", try_from = "String")]
#[schema(value_type = String)]
pub struct Hash([u8; 32]);

/// What is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lowercase hexadecimal digits")]
pub struct NotAHash;

impl Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0.iter().try_for_each(|byte| {
            f.write_char(char::from(DIGITS[usize::from(byte >> 4)]))?;
            f.write_char(char::from(DIGITS[usize::from(byte & 15)]))
        })
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, NotAHash> {
        text.parse()
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        if text.len() != 64 {
            return Err(NotAHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (high, low) = (digit(pair[0]).ok_or(NotAHash)?, digit(pair[1]).ok_or(NotAHash)?);
            *byte = high << 4 | low;
        }
        Ok(Self(hash))
    }
}

/// Collects what is hashed. Each part comes behind its length, so that no two lists of parts are the same bytes.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn event() -> Self {
        Self::of(EVENT)
    }

    fn of(what: u8) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[what]);
        Self(context)
    }

    /// A text of any length below 4 GiB.
    pub(crate) fn text(&mut self, text: &str) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.0.update(&length.to_be_bytes());
        self.0.update(text.as_bytes());
    }

    /// A text that may be absent, which is another thing than an empty one.
    pub(crate) fn maybe(&mut self, text: Option<&str>) {
        self.0.update(&[u8::from(text.is_some())]);
        self.text(text.unwrap_or_default());
    }

    pub(crate) fn number(&mut self, number: i64) {
        self.0.update(&number.to_be_bytes());
    }

    pub(crate) fn finish(self) -> Hash {
        let digest = self.0.finish();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Hash(hash)
    }
}

/// What stands before the first event of a chain.
pub fn genesis(installation: &str, chain: &str) -> Hash {
    let mut hasher = Hasher::of(GENESIS);
    hasher.text("cofferdam ledger v1");
    hasher.text(installation);
    hasher.text(chain);
    hasher.finish()
}

/// The hash of an entry: of the one before, and of its event.
pub fn link(previous: &Hash, event: &Hash) -> Hash {
    let mut hasher = Hasher::of(LINK);
    hasher.0.update(&previous.0);
    hasher.0.update(&event.0);
    hasher.finish()
}
