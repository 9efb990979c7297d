//! Typed ids: a prefix that says of what, and a UUIDv7 in Crockford base32.
//!
//! The text form follows the TypeID specification 0.3 (`prefix_` + 26 characters, most significant bits
//! first). Ids sort by the time of their creation.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const SUFFIX_LEN: usize = 26;

/// Why a text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_ followed by 26 characters of base32")]
pub struct ParseIdError {
    prefix: &'static str,
}

fn encode(uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    (0..SUFFIX_LEN).rev().map(|place| char::from(ALPHABET[(bits >> (place * 5) & 31) as usize])).collect()
}

fn decode(text: &str) -> Option<Uuid> {
    // 26 characters hold 130 bits: the first may carry only three, or the value would not fit.
    if text.len() != SUFFIX_LEN || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes()
        .try_fold(0u128, |bits, byte| {
            let digit = ALPHABET.iter().position(|&letter| letter == byte)?;
            Some(bits << 5 | digit as u128)
        })
        .map(Uuid::from_u128)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "Cow<'_, str>")]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, ordered after all those made before it.
            #[allow(clippy::new_without_default, reason = "an id is never a default value")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The part after the prefix: what host names and cgroup names use.
            pub fn base32(&self) -> String {
                encode(self.0)
            }

            /// Reads the part after the prefix.
            pub fn from_base32(text: &str) -> Result<Self, ParseIdError> {
                decode(text).map(Self).ok_or(ParseIdError { prefix: $prefix })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}_{}", $prefix, encode(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let suffix = text.strip_prefix(concat!($prefix, "_"));
                suffix.and_then(decode).map(Self).ok_or(ParseIdError { prefix: $prefix })
            }
        }

        impl TryFrom<Cow<'_, str>> for $name {
            type Error = ParseIdError;

            fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::id::schema($prefix)
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

pub(crate) fn schema(prefix: &str) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .pattern(Some(format!("^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$")))
        .into()
}

id!(
    /// An account: a person or an organisation that owns agents.
    AccountId, "acc"
);
id!(
    /// One agent.
    AgentId, "agt"
);
id!(
    /// One boundary on its node, from before an agent has it.
    BoundaryId, "bnd"
);
id!(
    /// One audit event.
    EventId, "evt"
);
id!(
    /// One exec: a process started in an agent through the workspace API.
    ExecId, "exe"
);
id!(
    /// One image of one account.
    ImageId, "img"
);
id!(
    /// One invitation to an account.
    InvitationId, "inv"
);
id!(
    /// One API key; also the `kid` of a signing key.
    KeyId, "key"
);
id!(
    /// One node: a machine that runs agents.
    NodeId, "nod"
);
id!(
    /// One question of an agent that waits for a decision.
    QuestionId, "qst"
);
id!(
    /// One host that every agent of an account which asks may reach.
    RememberedId, "rem"
);
id!(
    /// One secret of one account.
    SecretId, "sec"
);
id!(
    /// One session of a person.
    SessionId, "ses"
);
id!(
    /// One user: a person.
    UserId, "usr"
);
id!(
    /// One volume: an agent's disk.
    VolumeId, "vol"
);
