//! Deciding.

use super::Policy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// It begins with a ClientHello.
    Tls,
    /// It begins with an HTTP/1 request.
    Http,
    /// Anything.
    Tcp,
}

/// Where somebody wants to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// By name: normal, as of [`super::name`].
    Name(&'a str),
    /// By a literal address.
    Address(IpAddr),
}

/// An HTTP request in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
}

/// What is to be decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Where to.
    pub host: Host<'a>,
    /// Which port.
    pub port: u16,
    /// What it speaks, once that is known: without it the question is whether any protocol could pass.
    pub protocol: Option<Protocol>,
    /// Which request, once that is known: without it the question is whether any request could pass.
    pub request: Option<Request<'a>>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow {
        /// The rule that decided: `rule 3`, `bundle github`, `preset https`.
        by: String,
    },
    /// It does not.
    Deny {
        /// As above; `preset none`, `unknown`.
        by: String,
    },
    /// Somebody is to decide.
    Hold,
}

/// A policy in the form in which it decides.
#[derive(Debug, Default)]
pub struct Table {}

impl Table {
    /// Of a policy, or of none, which lets nothing pass. `tools` has the hosts of the bundles that are read from this machine's tools;
    /// what is not valid in it is left out.
    pub fn new(policy: Option<&Policy>, tools: &BTreeMap<String, Vec<String>>) -> Self {
        let _ = (policy, tools);
        Self {}
    }

    /// Whether anything at this name could pass or be held: only then does it have an address.
    pub fn resolves(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Whether a connection passes.
    pub fn decide(&self, target: &Target<'_>) -> Verdict {
        let _ = target;
        Verdict::Deny { by: "preset none".to_owned() }
    }
}
