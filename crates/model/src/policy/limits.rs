//! How much an agent may move.

use super::check::Faults;
use crate::ByteSize;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much an agent may move in any 24 hours; the hour that is 24 hours ago counts as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// In both directions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<ByteSize>,
    /// Out of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_per_day: Option<ByteSize>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// In both directions together.
    BytesPerDay,
    /// Out of the agent.
    SentPerDay,
}

/// `limit bytes_per_day`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BytesPerDay => "limit bytes_per_day",
            Self::SentPerDay => "limit sent_per_day",
        })
    }
}

impl Limits {
    /// The one that is passed by what was moved: the bytes out of the agent and into it.
    pub fn passed(&self, sent: u64, received: u64) -> Option<Limit> {
        let passed = |limit: Option<ByteSize>, moved: u64| limit.is_some_and(|limit| moved > limit.0);
        if passed(self.sent_per_day, sent) {
            return Some(Limit::SentPerDay);
        }
        passed(self.bytes_per_day, sent.saturating_add(received)).then_some(Limit::BytesPerDay)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Checks them.
pub(super) fn check(limits: &Limits, faults: &mut Faults) {
    for (key, limit) in [("bytes_per_day", limits.bytes_per_day), ("sent_per_day", limits.sent_per_day)] {
        if limit == Some(ByteSize(0)) {
            let remedy = "leave it out, or write `preset = \"none\"` without rules if nothing is to leave";
            faults.add(format!("egress.limits.{key}"), "is 0, which no connection fits into", remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::{Limit, Limits};
    use crate::ByteSize;

    #[test]
    fn a_limit_is_passed_by_the_first_byte_beyond_it() {
        let check =
            |bytes: Option<u64>, out: Option<u64>, sent: u64, received: u64, expected: Option<Limit>| {
                let limits = Limits { bytes_per_day: bytes.map(ByteSize), sent_per_day: out.map(ByteSize) };
                assert_eq!(limits.passed(sent, received), expected, "{limits:?} {sent} {received}");
            };
        check(None, None, u64::MAX, u64::MAX, None);
        check(Some(10), None, 4, 6, None);
        check(Some(10), None, 4, 7, Some(Limit::BytesPerDay));
        check(Some(10), None, u64::MAX, 1, Some(Limit::BytesPerDay));
        check(None, Some(10), 10, u64::MAX, None);
        check(None, Some(10), 11, 0, Some(Limit::SentPerDay));
        check(Some(10), Some(10), 11, 0, Some(Limit::SentPerDay));
        assert_eq!(Limit::SentPerDay.to_string(), "limit sent_per_day");
    }

    #[test]
    fn limits_are_read_written_and_checked() {
        let read = |lines: &str| {
            Policy::parse(&format!(
                "version = 1\n[egress]\n[egress.limits]\n{lines}\n[[egress.rule]]\naction = \"allow\"\nhost = \"x.example\""
            ))
        };
        let policy = read("bytes_per_day = \"10GiB\"\nsent_per_day = 500").unwrap();
        let limits = policy.egress.limits;
        assert_eq!(
            (limits.bytes_per_day, limits.sent_per_day),
            (Some(ByteSize(10 << 30)), Some(ByteSize(500)))
        );
        policy.validate(false).unwrap();
        assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy);
        let none = read("").unwrap();
        assert!(none.egress.limits.is_none() && !none.to_toml().contains("limits"));
        for key in ["bytes_per_day", "sent_per_day"] {
            let fault = read(&format!("{key} = 0")).unwrap().validate(false).unwrap_err();
            assert_eq!(fault.field, format!("egress.limits.{key}"));
        }
        for bad in ["bytes_per_day = \"-1\"", "bytes_per_day = \"much\"", "bytes_per_hour = \"1GiB\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
