//! How a registry wants to be asked: HTTP basic authentication (RFC 7617), or a bearer token that a realm gives for it (the
//! distribution project's token specification). The realm's address is judged like any other.

use super::way::{Ways, no_way};
use super::{Failed, FailedKind};
use crate::reference::Host;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest answer of a realm.
const MAX_TOKEN: usize = 1 << 20;

/// What somebody may show to a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that gives others (OAuth 2 refresh token), as credential helpers keep it.
    Identity(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::Identity(_) => "Identity(…)",
        })
    }
}

pub(super) struct Login {
    credentials: Option<Credentials>,
    /// What the token is for, where the registry does not say.
    scope: String,
    header: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Login {
    pub(super) fn new(credentials: Option<Credentials>, repository: &str) -> Self {
        Self { credentials, scope: format!("repository:{repository}:pull"), header: None }
    }

    /// For `Authorization`, once it is known what the registry wants.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    /// Does what the challenges ask for.
    pub(super) async fn answer(
        &mut self,
        challenges: &[String],
        ways: &mut Ways,
        registry: &Host,
    ) -> Result<(), Failed> {
        let parsed: Vec<Challenge> = challenges.iter().filter_map(|text| Challenge::parse(text)).collect();
        let header = if let Some(bearer) = parsed.iter().find(|one| one.scheme == "bearer") {
            format!("Bearer {}", self.token(bearer, ways).await?)
        } else if parsed.iter().any(|one| one.scheme == "basic") {
            let Some(Credentials::Password { username, password }) = &self.credentials else {
                let why =
                    format!("{registry} wants a name and a password; `docker login {registry}` keeps them");
                return Err(Failed::new(FailedKind::Denied, why));
            };
            basic(username, password)
        } else {
            let why = format!("{registry} wants a kind of login that is not known here");
            return Err(Failed::new(FailedKind::Denied, why));
        };
        let mut value = HeaderValue::from_str(&header)
            .map_err(|_| Failed::new(FailedKind::Broken, "the token realm gives a token that is none"))?;
        value.set_sensitive(true);
        self.header = Some(value);
        Ok(())
    }

    async fn token(&self, challenge: &Challenge, ways: &mut Ways) -> Result<String, Failed> {
        let broken = |why: &str| Failed::new(FailedKind::Broken, why);
        let realm = challenge.get("realm").and_then(|realm| Url::parse(realm).ok());
        let mut realm = realm.ok_or_else(|| broken("the registry names no realm that gives tokens"))?;
        let scope = challenge.get("scope").unwrap_or(&self.scope).to_owned();
        let service = challenge.get("service").map(str::to_owned);
        let client = ways.to(&realm).await?;
        let request = match &self.credentials {
            Some(Credentials::Identity(token)) => {
                let mut form = url_encoded();
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
                form.append_pair("client_id", "cofferdam").append_pair("scope", &scope);
                if let Some(service) = &service {
                    form.append_pair("service", service);
                }
                let kind = "application/x-www-form-urlencoded";
                client
                    .post(realm.clone())
                    .header("content-type", kind)
                    .body(form.query().unwrap_or_default().to_owned())
            }
            other => {
                {
                    let mut query = realm.query_pairs_mut();
                    if let Some(service) = &service {
                        query.append_pair("service", service);
                    }
                    query.append_pair("scope", &scope);
                }
                let request = client.get(realm.clone());
                match other {
                    Some(Credentials::Password { username, password }) => {
                        request.header("authorization", basic(username, password))
                    }
                    _ => request,
                }
            }
        };
        let mut answer = request.send().await.map_err(|error| no_way(&realm, &error))?;
        let status = answer.status();
        let host = realm.host_str().unwrap_or_default().to_owned();
        match status.as_u16() {
            200 => {}
            400 | 401 | 403 => {
                let why = format!("{host} gives no token for these credentials ({status})");
                return Err(Failed::new(FailedKind::Denied, why));
            }
            300..=399 => {
                // Followed, it would take the password along.
                return Err(Failed::new(
                    FailedKind::Refused,
                    format!("the token realm {host} redirects elsewhere"),
                ));
            }
            _ => {
                return Err(Failed::new(
                    FailedKind::Passing,
                    format!("{host} cannot give a token now ({status})"),
                ));
            }
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| no_way(&realm, &error))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_TOKEN {
                return Err(broken("the token realm sends more than a token"));
            }
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| broken("the token realm sends no token"))?;
        answer.token.or(answer.access_token).ok_or_else(|| broken("the token realm sends no token"))
    }
}

/// A URL whose query is a form.
fn url_encoded() -> Form {
    Form(Url::parse("form:").ok())
}

struct Form(Option<Url>);

impl Form {
    fn append_pair(&mut self, name: &str, value: &str) -> &mut Self {
        if let Some(url) = &mut self.0 {
            url.query_pairs_mut().append_pair(name, value);
        }
        self
    }

    fn query(&self) -> Option<&str> {
        self.0.as_ref()?.query()
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// One challenge of `WWW-Authenticate` (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((name, after)) = rest.trim_start_matches([' ', ',']).split_once('=') {
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let mut value = String::new();
                    let mut end = None;
                    let mut escaped = false;
                    for (at, c) in quoted.char_indices() {
                        match c {
                            _ if escaped => escaped = false,
                            '\\' => {
                                escaped = true;
                                continue;
                            }
                            '"' => {
                                end = Some(at + 1);
                                break;
                            }
                            _ => {}
                        }
                        value.push(c);
                    }
                    (value, quoted.get(end?..)?)
                }
                None => {
                    let end = after.find(',').unwrap_or(after.len());
                    (after[..end].trim().to_owned(), &after[end..])
                }
            };
            parameters.push((name.trim().to_ascii_lowercase(), value));
            rest = left;
        }
        Some(Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Challenge;

    #[test]
    fn challenges_are_read_as_rfc_9110_writes_them() {
        let check = |text: &str, scheme: &str, expected: &[(&str, &str)]| {
            let challenge = Challenge::parse(text).unwrap();
            let found: Vec<(&str, &str)> =
                challenge.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!((challenge.scheme.as_str(), &found[..]), (scheme, expected), "{text}");
        };
        check("Basic", "basic", &[]);
        check("Basic realm=\"x\"", "basic", &[("realm", "x")]);
        check(
            "Bearer realm=\"https://a.test/t?x=1,2\",service=\"s\", Scope=\"repository:a/b:pull,push\"",
            "bearer",
            &[("realm", "https://a.test/t?x=1,2"), ("service", "s"), ("scope", "repository:a/b:pull,push")],
        );
        check(
            "Bearer realm=plain, error=\"a \\\"b\\\" c\"",
            "bearer",
            &[("realm", "plain"), ("error", "a \"b\" c")],
        );
        assert_eq!(Challenge::parse("Bearer realm=\"never ends"), None);
    }
}
