//! Secrets: what is told of them, and their values, which are shown to nobody who has not asked for just them.

use crate::id::SecretId;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// The longest value, in bytes.
pub const MAX_VALUE: usize = 16 << 10;
/// What every placeholder begins with: random characters follow. It is worth nothing, and no request passes that holds one elsewhere
/// than where the gate puts the credential that it stands for.
pub const PLACEHOLDER_PREFIX: &str = "cofferdam-placeholder-";
/// The characters of a placeholder that follow: lower case of base32 (RFC 4648), 160 bits.
pub const PLACEHOLDER_RANDOM: usize = 32;
/// Hosts of one secret.
pub const MAX_HOSTS: usize = 64;
/// Secrets that one agent is given itself.
pub const MAX_USES: usize = 16;
/// Where an agent finds those that it is given as files.
pub const DIRECTORY: &str = "/run/secrets";

/// A secret value. It is overwritten when it is dropped, and `Debug` does not show it; it is serialized as it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password, min_length = 1, max_length = 16384)]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// Takes it over.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is wrong with it, if anything is: what is wrong, and what to do.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        match self.0.len() {
            0 => Some(("is empty", "send the secret")),
            1..=MAX_VALUE if self.0.contains('\0') => {
                Some(("has a zero byte", "send text; encode what is not, such as in base64"))
            }
            1..=MAX_VALUE => None,
            _ => Some(("has more than 16384 bytes", "send a shorter one")),
        }
    }

    /// What is shown of it: `••••` and the last 4 characters, where it has at least 16 and they are printable.
    pub fn hint(&self) -> String {
        let shown = self.0.char_indices().rev().nth(3).map(|(at, _)| &self.0[at..]);
        let shown =
            shown.filter(|last| self.0.len() >= 16 && last.bytes().all(|byte| byte.is_ascii_graphic()));
        format!("••••{}", shown.unwrap_or(""))
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue")
    }
}

/// `POST /v1/secrets`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSecret {
    /// Unique in the account.
    pub name: Name,
    /// Up to 16384 bytes of text without a zero byte. It never comes back.
    pub value: SecretValue,
    /// The hosts that it may be put into requests to, written as in a policy; every host that a policy names, without any. Of a
    /// secret with hosts no agent is given the value itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = hosts)]
    pub hosts: Vec<String>,
}

/// `POST /v1/secrets/ID/rotate`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// As in [`CreateSecret`].
    pub value: SecretValue,
}

/// `PUT /v1/secrets/ID/hosts`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetHosts {
    /// As in [`CreateSecret`].
    #[schema(schema_with = hosts)]
    pub hosts: Vec<String>,
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Secret {
    /// Its id.
    pub id: SecretId,
    /// Its name.
    pub name: Name,
    /// `••••` and the last 4 characters of a value that has at least 16.
    pub hint: String,
    /// The hosts that it may be put into requests to; every host that a policy names, without any.
    pub hosts: Vec<String>,
    /// From 1 on; raised with each new value.
    pub version: u64,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it got its value.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub rotated_at: OffsetDateTime,
}

/// A secret that an agent is given itself, from its start on: as a variable or as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    /// Its name.
    pub secret: Name,
    /// As this variable in the environment of each process. One of `env` and `file` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// As the file of this name in `/run/secrets`, which is in memory and which the agent's user alone may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

fn hosts() -> utoipa::openapi::schema::Array {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
    let host = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(r"^(\*\.)?([a-z0-9]{1,63}(-[a-z0-9]+)*\.)+[a-z]{2,63}$"));
    ArrayBuilder::new().items(host).build()
}

// Derived, it could not say that one of the two is needed.
impl utoipa::PartialSchema for SecretUse {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Ref, Type};
        let as_one = |field: &str, pattern: &str, description: &str| {
            let named = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
            ObjectBuilder::new()
                .property("secret", Ref::from_schema_name("Name"))
                .property(field, named.description(Some(description)))
                .required("secret")
                .required(field)
                .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        OneOfBuilder::new()
            .item(as_one(
                "env",
                "^[A-Za-z_][A-Za-z0-9_]{0,127}$",
                "As this variable in the environment of each process.",
            ))
            .item(as_one(
                "file",
                "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$",
                "As the file of this name in `/run/secrets`.",
            ))
            .description(Some(
                "A secret that an agent is given itself, from its start on: as a variable or as a file.",
            ))
            .into()
    }
}

impl utoipa::ToSchema for SecretUse {}

impl SecretUse {
    /// What is wrong with it, if anything is: of which field, what is wrong, and what to do.
    pub fn fault(&self) -> Option<(&'static str, &'static str, &'static str)> {
        match (&self.env, &self.file) {
            (Some(_), Some(_)) => Some(("file", "is there beside `env`", "write two entries")),
            (None, None) => Some(("env", "is missing, and so is `file`", "write one of them")),
            (Some(name), None) if !is_variable(name) => {
                Some(("env", "is no name of a variable", "write it as in `API_KEY`"))
            }
            (None, Some(name)) if !is_file(name) => {
                let remedy = "write a name of a-z, A-Z, 0-9, `.`, `_` and `-`, without a dot in front";
                Some(("file", "is no name of a file", remedy))
            }
            _ => None,
        }
    }
}

/// Whether it can name a variable of an environment (POSIX: letters, digits and `_`, no digit in front).
pub fn is_variable(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&name.len()) && name.bytes().all(usual) && !name.as_bytes()[0].is_ascii_digit()
}

fn is_file(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(usual) && !name.starts_with('.')
}
