//! What is shown to a server.

use model::people::Prove;
use model::secret::SecretValue;
use reqwest::RequestBuilder;
use reqwest::header::{COOKIE, HeaderMap, HeaderValue, ORIGIN, SET_COOKIE};
use std::sync::Arc;

/// The cookie that tells a session.
const NAME: &str = "__Host-cofferdam=";

/// Who calls.
#[derive(Clone)]
pub enum Credential {
    /// Nobody in particular.
    Nobody,
    /// Whoever has this key.
    Key(String),
    /// A person.
    Session(PersonSession),
}

/// A session of a person.
#[derive(Clone)]
pub struct PersonSession {
    /// What tells it.
    pub token: SecretValue,
    /// The account to act in, by name or id; the person's own without one.
    pub account: Option<String>,
}

/// Asks a person for their password or a code, for a server; nothing where nobody is there.
pub type Prover = Arc<dyn Fn(&str) -> Option<Prove> + Send + Sync>;

impl Credential {
    /// The token that goes into other places than a header.
    pub(crate) fn bearer(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Nobody | Self::Session(_) => None,
        }
    }

    /// Adds it. `origin` is what pages of the server itself would say: it asks for that where a session changes something.
    pub(crate) fn show(&self, request: RequestBuilder, origin: &str) -> RequestBuilder {
        match self {
            Self::Nobody => request,
            Self::Key(key) => request.bearer_auth(key),
            Self::Session(PersonSession { token, account }) => {
                let request = request.header(ORIGIN, origin).header(COOKIE, cookie(token));
                match account {
                    Some(account) => request.header("cofferdam-account", account),
                    None => request,
                }
            }
        }
    }
}

fn cookie(token: &SecretValue) -> HeaderValue {
    // What is no header value is no token: without one the server says so.
    let text = zeroize::Zeroizing::new(format!("{NAME}{}", token.expose()));
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// The token in an answer to a login.
pub(crate) fn begun(headers: &HeaderMap) -> Option<SecretValue> {
    let values = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let token = values.filter_map(|value| value.strip_prefix(NAME)).next()?.split(';').next()?;
    (!token.is_empty()).then(|| SecretValue::new(token.to_owned()))
}
