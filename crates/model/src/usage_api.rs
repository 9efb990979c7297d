//! Wire types of usage.

use crate::usage::{self, Amounts};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;

/// A UTC day, as `2026-11-24`; days since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

/// A text that is no date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a date such as 2026-11-24, between 1970 and 9999")]
pub struct NoDay;

impl Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = usage::civil(self.0);
        f.pad(&format!("{year:04}-{month:02}-{day:02}"))
    }
}

impl FromStr for Day {
    type Err = NoDay;

    fn from_str(text: &str) -> Result<Self, NoDay> {
        let shaped = text.len() == 10
            && text.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        let number =
            |range: std::ops::Range<usize>| text.get(range).and_then(|part| part.parse::<i64>().ok());
        let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else {
            return Err(NoDay);
        };
        let found = Self(usage::days_from(year, month, day));
        let real = shaped && (1..=12).contains(&month) && usage::civil(found.0) == (year, month, day);
        if real && found.0 >= 0 { Ok(found) } else { Err(NoDay) }
    }
}

impl Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What usage is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageBy {
    /// By day.
    #[default]
    Day,
    /// By agent, also those that are destroyed.
    Agent,
    /// By level.
    Level,
    /// By node.
    Node,
}

impl UsageBy {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Day, "day"), (Self::Agent, "agent"), (Self::Level, "level"), (Self::Node, "node")];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(by, _)| *by == self).map_or("day", |(_, text)| text)
    }
}

impl FromStr for UsageBy {
    type Err = NoUsageBy;

    fn from_str(text: &str) -> Result<Self, NoUsageBy> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(by, _)| by).ok_or(NoUsageBy)
    }
}

/// A text that names nothing that usage is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of day, agent, level, node")]
pub struct NoUsageBy;

/// What was used, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Used {
    /// Agents ran for so long, together.
    pub running_seconds: u64,
    /// They were paused for so long.
    pub paused_seconds: u64,
    /// Their volumes were kept for so long, whatever else they were.
    pub kept_seconds: u64,
    /// Cores that they had asked for, by the seconds that they ran.
    pub cpu_core_seconds: u64,
    /// GiB of memory that they had asked for, by the seconds that they ran or were paused.
    pub memory_gib_seconds: u64,
    /// GiB of disk that they had asked for, by the seconds that their volumes were kept.
    pub disk_gib_seconds: u64,
}

impl From<&Amounts> for Used {
    fn from(sums: &Amounts) -> Self {
        let told = |amount: i128, unit: i128| u64::try_from(amount / unit).unwrap_or(u64::MAX);
        Self {
            running_seconds: told(sums.running, 1000),
            paused_seconds: told(sums.paused, 1000),
            kept_seconds: told(sums.kept, 1000),
            cpu_core_seconds: told(sums.cpu_running, 1000 * 1000),
            memory_gib_seconds: told(sums.memory_running + sums.memory_paused, 1024 * 1000),
            disk_gib_seconds: told(sums.disk, 1024 * 1000),
        }
    }
}

/// One line of usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UsageItem {
    /// The day, or the id of the agent or node, or the level.
    pub key: String,
    /// The name of an agent that is the account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was used.
    #[serde(flatten)]
    pub used: Used,
    /// Whether some of it is of days that are not closed yet: it may still grow.
    pub open: bool,
}

/// `GET /v1/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UsagePage {
    /// The first day.
    #[schema(value_type = String, format = Date)]
    pub from: Day,
    /// The first day that is not in it any more.
    #[schema(value_type = String, format = Date)]
    pub to: Day,
    /// What it is told by.
    pub by: UsageBy,
    /// One for each, in the order of their keys.
    pub items: Vec<UsageItem>,
    /// All together, also what is on other pages.
    pub total: Used,
    /// The cursor of the next page.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for text in ["1970-01-01", "2024-02-29", "2026-11-24", "9999-12-31"] {
            assert_eq!(text.parse::<Day>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "1969-12-31",
            "2026-11-24T00",
            "2026/11/24",
            "+026-11-24",
        ] {
            assert_eq!(wrong.parse::<Day>(), Err(NoDay), "{wrong}");
        }
    }
}
