//! What an agent may do: the policy file, as people write it, and [`Table`], the form in which it decides.
//!
//! Pure: nothing here opens a connection or reads a clock.

mod bundles;
mod check;
mod edit;
mod explain;
mod inject;
mod limits;
mod name;
mod path;
mod pattern;
mod scope;
mod table;
#[cfg(test)]
mod tests;

pub use bundles::{COMMON, TOOLS, contents as bundle_contents, names as bundle_names};
pub use check::{MAX_BUNDLES, MAX_BYTES, MAX_FILE, MAX_OF_RULE, MAX_PATH, MAX_RULES};
pub use explain::{Explanation, Reason, explain};
pub use inject::{Inject, MAX_INJECT, Place, is_host_of_secret};
pub use limits::{Limit, Limits};
pub use name::name;
pub use table::{By, Host, Protocol, Request, Table, Target, Verdict};

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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<String>,
    /// What happens to a host that nothing names, with preset `allowlist`.
    pub unknown: Unknown,
    /// How much the agent may move.
    #[serde(skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Rules of this policy. One that denies beats all that allow, and each beats the preset.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Credentials that the gate puts into requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<Inject>,
}

/// What holds where no rule does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Nothing but what rules allow.
    #[default]
    None,
    /// The hosts of the bundles.
    Allowlist,
    /// Every public host, by its name, by TLS at port 443.
    Https,
    /// Every public host at every port; unrestricted agents only.
    Open,
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Allowlist => "allowlist",
            Self::Https => "https",
            Self::Open => "open",
        })
    }
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
    /// Of a rule that allows, without any: 443 by TLS and 80 by HTTP. At 443 nothing but TLS and at 80 nothing but HTTP passes, unless
    /// `protocol` says otherwise; at others anything does. A rule that denies is for every port without any, and for all that
    /// is spoken there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Only this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only HTTP requests with these methods, in the clear or inside of TLS, which is then ended and begun anew by the gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only HTTP requests for these paths: `*` is one segment, `**` at the end is the rest, if there is any.
    /// A path that servers read differently, such as `/a/../b`, is never allowed by one and always denied.
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
    /// Where: `egress.rule[2].host`, which is what a verdict calls rule 3; or a line of a file.
    pub field: String,
    /// What is wrong, as in "FIELD is …".
    pub message: String,
    /// What to do.
    pub remedy: String,
}
