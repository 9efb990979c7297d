//! People and accounts: who belongs where, what they may be, and the requests that change it. What a role allows, control decides.

use crate::id::{AccountId, InvitationId, KeyId, SessionId, UserId};
use crate::name::Name;
use crate::secret::SecretValue;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use time::OffsetDateTime;

/// The fewest characters of a password.
pub const MIN_PASSWORD: usize = 8;
/// The most bytes of a password.
pub const MAX_PASSWORD: usize = 1024;
/// The longest address: RFC 5321, 4.5.3.1.3, without its angle brackets.
const MAX_EMAIL: usize = 254;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$each])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The text on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or(UnknownWord {
                    known: &[$($text),*],
                })
            }
        }
    };
}

/// A word that is none of those that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}", known.join(", "))]
pub struct UnknownWord {
    known: &'static [&'static str],
}

words! {
    /// What somebody is in an account. Each may do what those before it may.
    Role {
        /// Uses it: makes agents, and has keys of their own.
        Member = "member",
        /// Also looks after its secrets and its people.
        Admin = "admin",
        /// Also decides who else is an owner, and over the account itself.
        Owner = "owner",
    }
}

words! {
    /// Whose an account is.
    AccountKind {
        /// Of one person.
        Personal = "personal",
        /// Of those who were invited.
        Organisation = "organisation",
    }
}

words! {
    /// What a key is for, of what its role allows. Every key may read.
    KeyScope {
        /// Nothing more.
        Read = "read",
        /// Make, use and remove agents and images.
        Agents = "agents",
        /// Set, rotate and delete secrets.
        Secrets = "secrets",
        /// Everything.
        Admin = "admin",
    }
}

/// An address, in lower case. Whether mail arrives there, only mail tells: what cannot be an address is refused, and little else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(into = "String", try_from = "Cow<'_, str>")]
#[schema(value_type = String, format = Email)]
pub struct Email(String);

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an e-mail address such as ada@example.com")]
pub struct NoEmail;

impl Email {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    pub fn local(&self) -> &str {
        self.0.split_once('@').map_or("", |(local, _)| local)
    }
}

impl std::str::FromStr for Email {
    type Err = NoEmail;

    fn from_str(text: &str) -> Result<Self, NoEmail> {
        // RFC 5321 without quoted local parts and without addresses in brackets, of which nobody has any.
        let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
        let (local, domain) = text.split_once('@').ok_or(NoEmail)?;
        let dotted = |text: &str| !text.starts_with('.') && !text.ends_with('.') && !text.contains("..");
        let local_is = (1..=64).contains(&local.len()) && local.bytes().all(atom) && dotted(local);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let domain_is = domain.contains('.') && domain.split('.').all(label);
        let fits = text.len() <= MAX_EMAIL && local_is && domain_is;
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err(NoEmail) }
    }
}

impl TryFrom<Cow<'_, str>> for Email {
    type Error = NoEmail;

    fn try_from(text: Cow<'_, str>) -> Result<Self, NoEmail> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl std::fmt::Display for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// An account, as somebody in it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub kind: AccountKind,
    /// What the caller is in it.
    pub role: Role,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
}

/// `POST /v1/accounts`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// Unique in the installation.
    pub name: Name,
    /// Its first owner; the caller without one. Only an operator names another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Email>,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// Their address.
    pub email: Email,
    /// Whether they have chosen a password.
    pub has_password: bool,
    /// Whether they log in with a second factor.
    pub second_factor: bool,
    /// When they were made known.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
}

/// `POST /v1/users`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Their address.
    pub email: Email,
}

/// A token that sets a password, once. It is shown in this answer alone.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reset {
    /// Whose password.
    pub user: User,
    /// For `POST /v1/password-reset`.
    pub token: SecretValue,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

/// `POST /v1/password-reset`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedeemReset {
    /// The token.
    pub token: SecretValue,
    /// The new password: 8 characters or more.
    pub password: SecretValue,
}

/// `PUT /v1/password`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The one that is to go.
    pub current: SecretValue,
    /// The new one: 8 characters or more.
    pub password: SecretValue,
}

/// Somebody in an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// Their address.
    pub email: Email,
    /// What they are.
    pub role: Role,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: OffsetDateTime,
}

/// `PUT /v1/members/ID`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// What they are to be.
    pub role: Role,
}

/// `POST /v1/invitations`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitation {
    /// Whom.
    pub email: Email,
    /// What they are to be; `member` without one.
    #[serde(default = "member")]
    pub role: Role,
}

fn member() -> Role {
    Role::Member
}

/// An invitation that nobody has taken yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// Whom.
    pub email: Email,
    /// What they are to be.
    pub role: Role,
    /// The token: only in the answer to its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretValue>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Until when it can be taken.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

/// `POST /v1/invitations/accept`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitation {
    /// The token.
    pub token: SecretValue,
    /// For somebody who is not known here yet: the password that they choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretValue>,
}

/// `POST /v1/session`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Who.
    pub email: Email,
    /// Their password.
    pub password: SecretValue,
    /// The code of their second factor, if they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<SecretValue>,
}

/// `POST /v1/session/proof`: one of the two.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Prove {
    /// The password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretValue>,
    /// A code of the second factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<SecretValue>,
}

/// A session of a person in a browser. What tells it is a cookie, which no answer shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it was last used, to the minute.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: OffsetDateTime,
    /// When its person last showed a password or a code.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub proved_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

/// `GET /v1/session`, and the answer to a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoggedIn {
    /// Who.
    pub user: User,
    /// Their session.
    pub session: Session,
    /// Where they belong: their own account first.
    pub accounts: Vec<Account>,
}

/// A second factor that waits for its first code. It is shown in this answer alone.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewFactor {
    /// The seed in base32, for typing.
    pub secret: SecretValue,
    /// The same as `otpauth://`, for a picture.
    pub uri: SecretValue,
}

/// `PUT /v1/second-factor`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmFactor {
    /// The code that it shows now.
    pub code: SecretValue,
}

/// `POST /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// What it is for.
    pub name: Name,
    /// What it may do; everything that its maker may without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<KeyScope>>,
    /// When it ends; never without one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
}

/// An API key. The secret is shown once, in the answer to its creation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// What it is for.
    pub name: Name,
    /// The key itself: only in the answer to its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The most that it acts as. One that a person made also does no more than its person may.
    pub role: Role,
    /// What of that it is for.
    pub scopes: Vec<KeyScope>,
    /// Who made it; nobody for those that are the account's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<OffsetDateTime>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// `GET /v1/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhoAmI {
    /// The account that is acted in.
    pub account: AccountId,
    /// Its name.
    pub account_name: Name,
    /// What the caller is in it.
    pub role: Role,
    /// The key, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// What the key is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<KeyScope>,
    /// The person, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_lower_case_and_plausible() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(text.parse::<Email>().ok().as_ref().map(Email::as_str), expected, "{text:?}");
        };
        check("Ada@Example.COM", Some("ada@example.com"));
        check("a.b+c@x-y.example.org", Some("a.b+c@x-y.example.org"));
        let long = format!("{}@example.com", "a".repeat(65));
        for wrong in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "ada@@example.com",
            "a da@example.com",
            ".a@example.com",
            "a..b@example.com",
            "ada@-x.com",
            "ada@x..com",
            "ada@exam\u{2028}ple.com",
            "\u{e4}da@example.com",
            "ada@example.com\n",
            "\"a\"@example.com",
            &long,
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn roles_are_ordered() {
        assert!(Role::Owner > Role::Admin && Role::Admin > Role::Member);
        assert_eq!("admin".parse(), Ok(Role::Admin));
        assert_eq!("root".parse::<Role>().unwrap_err().to_string(), "expected one of member, admin, owner");
    }
}
