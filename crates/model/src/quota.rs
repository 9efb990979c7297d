//! What all agents of one account may have together, whatever they do: an agent counts from its creation until it is destroyed.

use crate::quantity::ByteSize;
use crate::resources::Resources;
use serde::{Deserialize, Serialize};

/// The limits of an account; what is left out is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// How many agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<u64>,
    /// Their processor time, in cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Their memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Their volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
}

/// What an account's agents have together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// How many there are.
    pub agents: u64,
    /// Their processor time, in cores.
    pub cpus: f64,
    /// Their memory.
    pub memory: ByteSize,
    /// Their volumes.
    pub disk: ByteSize,
}

/// `GET /v1/quota`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AccountQuota {
    /// What the account may have.
    pub limits: Quota,
    /// What it has.
    pub used: Usage,
}

/// A limit that one more agent would pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the account's agents may have {limit} of {what} together: they have {used}, and this one asks for {asked}"
)]
pub struct Exceeded {
    /// What of the request it is about.
    pub field: &'static str,
    what: &'static str,
    limit: String,
    used: String,
    asked: String,
}

/// Thousandths of a core, by which they are counted.
pub fn thousandths(cpus: f64) -> u64 {
    (cpus * 1000.0).round() as u64
}

impl Quota {
    /// Whether it says anything.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The first key whose value is no limit.
    pub fn fault(&self) -> Option<&'static str> {
        self.cpus.is_some_and(|cpus| !(0.0..=1e9).contains(&cpus)).then_some("cpus")
    }

    /// The first limit that is passed by one more agent with these resources.
    pub fn refuses(&self, used: &Usage, more: &Resources) -> Option<Exceeded> {
        let checks = [
            ("agents", "agents", self.agents, used.agents, 1),
            (
                "resources.cpus",
                "cpus",
                self.cpus.map(thousandths),
                thousandths(used.cpus),
                thousandths(more.cpus),
            ),
            ("resources.memory", "memory", self.memory.map(|size| size.0), used.memory.0, more.memory.0),
            ("resources.disk", "disk", self.disk.map(|size| size.0), used.disk.0, more.disk.0),
        ];
        let passed = checks.into_iter().find(|(.., limit, used, more)| {
            limit.is_some_and(|limit| used.checked_add(*more).is_none_or(|sum| sum > limit))
        });
        let (field, what, limit, used, asked) = passed?;
        let say = |amount: u64| match what {
            "agents" => amount.to_string(),
            "cpus" => (amount as f64 / 1000.0).to_string(),
            _ => ByteSize(amount).to_string(),
        };
        Some(Exceeded { field, what, limit: say(limit?), used: say(used), asked: say(asked) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_limit_that_is_passed_is_told() {
        let one = Resources {
            cpus: 0.5,
            memory: ByteSize(1 << 30),
            disk: ByteSize(1 << 30),
            ..Resources::default()
        };
        let used = Usage { agents: 3, cpus: 1.5, memory: ByteSize(3 << 30), disk: ByteSize(3 << 30) };
        let check = |quota: Quota, expected: Option<&str>| {
            assert_eq!(quota.refuses(&used, &one).map(|exceeded| exceeded.field), expected, "{quota:?}");
        };
        let none = Quota::default();
        check(none, None);
        check(Quota { agents: Some(4), ..none }, None);
        check(Quota { agents: Some(3), ..none }, Some("agents"));
        check(Quota { agents: Some(0), cpus: Some(0.0), ..none }, Some("agents"));
        check(Quota { cpus: Some(2.0), ..none }, None);
        check(Quota { cpus: Some(1.999), ..none }, Some("resources.cpus"));
        check(Quota { memory: Some(ByteSize(4 << 30)), ..none }, None);
        check(Quota { memory: Some(ByteSize((4 << 30) - 1)), ..none }, Some("resources.memory"));
        check(Quota { disk: Some(ByteSize(1)), ..none }, Some("resources.disk"));
        let full = Usage { disk: ByteSize(u64::MAX), ..used };
        let most = Quota { disk: Some(ByteSize(u64::MAX)), ..none };
        assert!(most.refuses(&full, &one).is_some(), "a sum that does not fit is too much");
    }

    #[test]
    fn a_refusal_says_how_much_there_is() {
        let used = Usage { agents: 1, memory: ByteSize(1 << 30), ..Usage::default() };
        let quota = Quota { memory: Some(ByteSize(1536 << 20)), ..Quota::default() };
        assert_eq!(
            quota.refuses(&used, &Resources::default()).unwrap().to_string(),
            "the account's agents may have 1536MiB of memory together: they have 1GiB, and this one asks for 1GiB"
        );
    }
}
