//! Credentials that the gate puts into requests, so that the agent never has them.

use super::check::{Faults, MAX_OF_RULE, check_requests};
use super::pattern::{NoPattern, Pattern};
use super::table::{Host, Request, requests_covered};
use super::{Action, Policy};
use crate::name::Name;
use crate::secret::is_variable;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Credentials of one policy.
pub const MAX_INJECT: usize = 64;
/// Secrets of one policy: gates keep them, in all forms that they are looked for in.
const MAX_SECRETS: usize = 16;
/// The name of a header, a parameter or a field, and a prefix, in bytes.
const MAX_PLACE: usize = 128;
/// Headers that say how a request is read, or where it goes.
const FRAMING: [&str; 12] = [
    "connection",
    "content-length",
    "content-encoding",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "accept-encoding",
];

/// A credential that is put into requests by TLS, in place of what the agent wrote there. It lets nothing pass by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// Name of a secret of the account.
    pub secret: Name,
    /// A name, or `*.name` for all below it at any depth.
    pub host: String,
    /// 443 without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Only requests with these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only requests for these paths, written as in a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// It is the value of this header. One of `header`, `bearer`, `basic`, `query` and `body` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What stands before it in that header, as in `token `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// It is a bearer token (RFC 6750): `authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bearer: bool,
    /// It is the password of this user (RFC 7617): `authorization: Basic …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<String>,
    /// It is the value of this parameter of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// It is the value of this field of a body that is a form, or an object of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Programs that are started in the agent find the placeholder in this variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// Where in a request a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// In a header, behind a prefix.
    Header {
        /// In lower case or not, as it was written.
        name: &'a str,
        /// Perhaps empty.
        prefix: &'a str,
    },
    /// As the password of this user, in `authorization`.
    Basic {
        /// The user.
        user: &'a str,
    },
    /// In a parameter of the query.
    Query {
        /// Its name, not encoded.
        name: &'a str,
    },
    /// In a field of the body.
    Body {
        /// Its name.
        field: &'a str,
    },
}

impl Inject {
    /// Where it stands; nowhere, if this is not valid.
    pub fn place(&self) -> Option<Place<'_>> {
        let places = [
            self.header
                .as_deref()
                .map(|name| Place::Header { name, prefix: self.prefix.as_deref().unwrap_or("") }),
            self.bearer.then_some(Place::Header { name: "authorization", prefix: "Bearer " }),
            self.basic.as_deref().map(|user| Place::Basic { user }),
            self.query.as_deref().map(|name| Place::Query { name }),
            self.body.as_deref().map(|field| Place::Body { field }),
        ];
        let mut places = places.into_iter().flatten();
        places.next().filter(|_| places.next().is_none())
    }

    /// Whether it is put into this request.
    pub fn covers(&self, request: &Request<'_>) -> bool {
        requests_covered(Action::Allow, &self.methods, &self.paths, request)
    }

    /// Whether it is for this port.
    pub(super) fn is_at(&self, port: u16) -> bool {
        if self.ports.is_empty() { port == 443 } else { self.ports.contains(&port) }
    }

    /// Whether all that its host covers is covered by one of these patterns as well; nothing bounds it if there are none.
    pub fn is_within(&self, hosts: &[String]) -> bool {
        let Ok(own) = Pattern::parse(&self.host) else { return false };
        let covers = |bound: &String| match (Pattern::parse(bound), &own) {
            (Ok(bound), Pattern::Exact(name)) => bound.covers(Host::Name(name)),
            (Ok(Pattern::Below(bound)), Pattern::Below(base)) => {
                bound == *base || Pattern::Below(bound).covers(Host::Name(base))
            }
            _ => false,
        };
        hosts.is_empty() || hosts.iter().any(covers)
    }

    pub(super) fn bytes(&self) -> usize {
        let places = [&self.header, &self.prefix, &self.basic, &self.query, &self.body, &self.env];
        let texts = self.methods.iter().chain(&self.paths).chain(places.into_iter().flatten());
        self.host.len() + texts.map(String::len).sum::<usize>()
    }
}

impl Policy {
    /// Whether requests inside of TLS are looked at anywhere.
    pub fn terminates_anything(&self) -> bool {
        !self.egress.inject.is_empty() || self.egress.rules.iter().any(super::Rule::looks_into_tls)
    }

    /// The variables that hold placeholders: name and secret.
    pub fn placeholders(&self) -> BTreeMap<&str, &Name> {
        self.egress
            .inject
            .iter()
            .filter_map(|inject| Some((inject.env.as_deref()?, &inject.secret)))
            .collect()
    }
}

/// Whether a text says which hosts a secret may go to.
pub fn is_host_of_secret(text: &str) -> bool {
    matches!(Pattern::parse(text), Ok(Pattern::Exact(_) | Pattern::Below(_)))
}

pub(super) fn check_all(inject: &[Inject], faults: &mut Faults) {
    if inject.len() > MAX_INJECT {
        return faults.add(
            "egress.inject",
            format!("has more than {MAX_INJECT} entries"),
            "write fewer of them",
        );
    }
    let secrets: BTreeSet<&Name> = inject.iter().map(|inject| &inject.secret).collect();
    if secrets.len() > MAX_SECRETS {
        let message = format!("names more than {MAX_SECRETS} secrets");
        return faults.add("egress.inject", message, "name fewer of them");
    }
    let mut variables = BTreeMap::new();
    for (index, inject) in inject.iter().enumerate() {
        let field = format!("egress.inject[{index}]");
        check(&field, inject, faults);
        if let Some(env) = &inject.env
            && variables.insert(env, &inject.secret).is_some_and(|other| *other != inject.secret)
        {
            faults.add(
                format!("{field}.env"),
                "is the variable of another secret, too",
                "name another variable",
            );
        }
    }
}

fn check(field: &str, inject: &Inject, faults: &mut Faults) {
    match Pattern::parse(&inject.host) {
        Err(NoPattern(message, remedy)) => faults.add(format!("{field}.host"), message, remedy),
        Ok(Pattern::Network(..)) => {
            let remedy = "write the name that the server's certificate is for";
            faults.add(
                format!("{field}.host"),
                "is an address, and credentials go to hosts by their names",
                remedy,
            );
        }
        Ok(_) => {}
    }
    for (key, count) in
        [("ports", inject.ports.len()), ("methods", inject.methods.len()), ("paths", inject.paths.len())]
    {
        if count > MAX_OF_RULE {
            let message = format!("has more than {MAX_OF_RULE} entries");
            faults.add(format!("{field}.{key}"), message, "write several entries");
        }
    }
    if let Some(index) = inject.ports.iter().position(|port| *port == 0) {
        faults.add(format!("{field}.ports[{index}]"), "is 0, which is no port", "ports are 1 to 65535");
    }
    check_requests(field, &inject.methods, &inject.paths, faults);
    if inject.place().is_none() {
        let remedy = "write one of `header`, `bearer`, `basic`, `query` and `body`";
        faults.add(field, "does not say where the credential stands, or says it twice", remedy);
    }
    check_places(field, inject, faults);
}

fn check_places(field: &str, inject: &Inject, faults: &mut Faults) {
    let is_token = |name: &str| {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        (1..=MAX_PLACE).contains(&name.len()) && name.bytes().all(token)
    };
    let is_printable = |text: &str| {
        (1..=MAX_PLACE).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    if let Some(header) = &inject.header {
        if !is_token(header) {
            faults.add(format!("{field}.header"), "is no name of a header", "write it as in `x-api-key`");
        } else if FRAMING.contains(&header.to_ascii_lowercase().as_str()) {
            faults.add(format!("{field}.header"), "says how requests are read", "name another header");
        }
    }
    match (&inject.prefix, &inject.header) {
        (Some(_), None) => {
            faults.add(format!("{field}.prefix"), "means nothing without a header", "write `header`, too");
        }
        (Some(prefix), _) if !is_printable(prefix) => {
            faults.add(
                format!("{field}.prefix"),
                "has other than printable characters",
                "write it as in `token `",
            );
        }
        _ => {}
    }
    for (key, text) in [("basic", &inject.basic), ("query", &inject.query), ("body", &inject.body)] {
        if text.as_deref().is_some_and(|text| !is_printable(text)) {
            let message = format!("is empty, has other than printable characters, or more than {MAX_PLACE}");
            faults.add(format!("{field}.{key}"), message, "write a name");
        }
    }
    if inject.basic.as_deref().is_some_and(|user| user.contains(':')) {
        faults.add(
            format!("{field}.basic"),
            "has a colon, which ends the user's name",
            "write the user alone",
        );
    }
    if inject.env.as_deref().is_some_and(|env| !is_variable(env)) {
        faults.add(format!("{field}.env"), "is no name of a variable", "write it as in `API_KEY`");
    }
}
