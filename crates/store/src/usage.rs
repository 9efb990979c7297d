//! What accounts used. Each UTC day that is over is counted from the state periods, once, into rows that the database does not let
//! anybody change; what is asked for is read from those, and from periods only for the days behind the mark.
//!
//! What a wrong clock writes later into a day that was counted is left out: a day that is told once stays what it was. A clock that is
//! less than [`GRACE`] behind does no harm.

use crate::change::Actor;
use crate::db::{Builder, query};
use crate::rows::{Row, millis, to_json};
use crate::{Error, Store};
use model::AccountId;
use model::agent::AgentState;
use model::usage::{Amounts, DAY, Size, Spent, by_day, day_of};
use model::usage_api::{Day, UsageBy};
use serde::Serialize;
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};

/// How long a day has been over when it is counted: clocks of several control processes differ.
pub const GRACE: Duration = Duration::minutes(10);

/// What one thing used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageSum {
    /// Sums.
    pub amounts: Amounts,
    /// Whether some of it is of days that were not counted yet.
    pub open: bool,
}

/// A row of `usage_days`. Numbers are texts: PostgreSQL's JSON knows no other way to them here.
#[derive(Serialize)]
struct Counted<'r> {
    account: &'r str,
    agent: &'r str,
    level: &'r str,
    node: &'r str,
    cpus: String,
    memory: String,
    disk: String,
    running: String,
    paused: String,
    kept: String,
}

/// What is summed up within a day.
type Of = (String, String, String, String, [i64; 3]);

/// A period as it counts.
struct Counts {
    state: AgentState,
    from: i64,
    /// Absent while it goes on.
    until: Option<i64>,
    size: Size,
}

fn size(row: &Row) -> Result<Size, Error> {
    Ok(Size { cpus: row.try_get("cpus")?, memory: row.try_get("memory")?, disk: row.try_get("disk")? })
}

fn counts(row: &Row) -> Result<Counts, Error> {
    Ok(Counts {
        state: row.parsed("state")?,
        from: row.try_get("opened_at")?,
        until: row.try_get("closed_at")?,
        size: size(row)?,
    })
}

const PERIOD: &str =
    "SELECT account, agent, level, node, state, opened_at, closed_at, cpus, memory, disk FROM state_periods";

/// Periods that touch `since..before`, of one account or of all.
fn periods(account: Option<AccountId>, since: i64, before: i64) -> crate::db::Query {
    let mut select = Builder::new(PERIOD);
    for (nth, ended) in [true, false].into_iter().enumerate() {
        if nth > 0 {
            select.push(" UNION ALL ").push(PERIOD);
        }
        select.push(" WHERE state <> 'destroyed' AND opened_at < ").push_bind(before);
        if ended {
            select.push(" AND closed_at > ").push_bind(since);
        } else {
            select.push(" AND closed_at IS NULL");
        }
        if let Some(account) = account {
            select.push(" AND account = ").push_bind(account.to_string());
        }
    }
    select.build()
}

const MARK: &str = "SELECT coalesce((SELECT day FROM usage_mark), (SELECT min(opened_at) FROM state_periods) / 86400000) AS day";

impl Store {
    /// When the next day can be counted; nothing as long as there is nothing to count.
    pub async fn usage_due(&self) -> Result<Option<OffsetDateTime>, Error> {
        let day: Option<i64> = query(MARK).fetch_one(&self.0.reader).await?.try_get("day")?;
        Ok(day.and_then(|day| crate::rows::instant((day + 1) * DAY)).map(|over| over + GRACE))
    }

    /// Counts the next day that is over, and tells which; nothing if none is.
    pub async fn count_usage(&self) -> Result<Option<Day>, Error> {
        if self.usage_due().await?.is_none_or(|due| due > self.now()) {
            return Ok(None);
        }
        let mut change = self.change(Actor::System).await?;
        let day: Option<i64> = query(MARK).fetch_one(change.db().await?).await?.try_get("day")?;
        // Another process was quicker.
        let Some(day) = day.filter(|day| (day + 1) * DAY + millis_of(GRACE) <= change.now) else {
            return Ok(None);
        };
        let (since, before) = (day * DAY, (day + 1) * DAY);
        let rows = periods(None, since, before).fetch_all(change.db().await?).await?;
        let mut sums: BTreeMap<Of, Spent> = BTreeMap::new();
        for row in &rows {
            let Counts { state, from, until, size } = counts(row)?;
            let key = (
                row.text("account")?,
                row.text("agent")?,
                row.text("level")?,
                row.text("node")?,
                [size.cpus, size.memory, size.disk],
            );
            for (_, spent) in by_day(state, from, until.unwrap_or(before), since, before) {
                *sums.entry(key.clone()).or_default() += spent;
            }
        }
        let counted: Vec<Counted<'_>> = sums
            .iter()
            .map(|((account, agent, level, node, [cpus, memory, disk]), spent)| Counted {
                account,
                agent,
                level,
                node,
                cpus: cpus.to_string(),
                memory: memory.to_string(),
                disk: disk.to_string(),
                running: spent.running.to_string(),
                paused: spent.paused.to_string(),
                kept: spent.kept.to_string(),
            })
            .collect();
        change
            .deferred
            .add(
                "INSERT INTO usage_mark (one, day) VALUES (1, $1 + 1) ON CONFLICT (one) DO UPDATE SET day = excluded.day
                 WHERE usage_mark.day = $1",
            )
            .bind(day)
            .or(Error::Overtaken)
            .add(
                "INSERT INTO usage_days (account, day, agent, level, node, cpus, memory, disk, running, paused, kept)
                 SELECT value ->> 'account', $2, value ->> 'agent', value ->> 'level', value ->> 'node',
                    CAST(value ->> 'cpus' AS BIGINT), CAST(value ->> 'memory' AS BIGINT), CAST(value ->> 'disk' AS BIGINT),
                    CAST(value ->> 'running' AS BIGINT), CAST(value ->> 'paused' AS BIGINT), CAST(value ->> 'kept' AS BIGINT)
                 FROM json_each($1)",
            )
            .bind(to_json(&counted))
            .bind(day);
        change.commit_bookkeeping().await?;
        Ok(Some(Day(day)))
    }

    /// What an account used from a day on, before another, by what it is to be told by. What is open counts up to now.
    pub async fn usage(
        &self,
        account: AccountId,
        from: Day,
        to: Day,
        by: UsageBy,
    ) -> Result<BTreeMap<String, UsageSum>, Error> {
        // First the mark: what is before it does not change any more, and is not read from periods, whoever moves it meanwhile.
        let mark = query("SELECT day FROM usage_mark").fetch_optional(&self.0.reader).await?;
        let mark = mark.map(|row| row.try_get::<i64, _>("day")).transpose()?.unwrap_or(0);
        let mut sums: BTreeMap<String, UsageSum> = BTreeMap::new();
        let column = match by {
            UsageBy::Day => "day",
            UsageBy::Agent => "agent",
            UsageBy::Level => "level",
            UsageBy::Node => "node",
        };
        if from.0 < mark {
            let mut select = Builder::new("SELECT ");
            select.push(column).push(
                ", cpus, memory, disk, CAST(sum(running) AS BIGINT) AS running, CAST(sum(paused) AS BIGINT) AS paused,
                 CAST(sum(kept) AS BIGINT) AS kept FROM usage_days WHERE account = ",
            );
            select.push_bind(account.to_string()).push(" AND day >= ").push_bind(from.0);
            select.push(" AND day < ").push_bind(to.0.min(mark)).push(" GROUP BY ").push(column);
            select.push(", cpus, memory, disk");
            for row in select.build().fetch_all(&self.0.reader).await? {
                let spent = Spent {
                    running: row.try_get("running")?,
                    paused: row.try_get("paused")?,
                    kept: row.try_get("kept")?,
                };
                let key = match by {
                    UsageBy::Day => Day(row.try_get("day")?).to_string(),
                    _ => row.text(column)?,
                };
                sums.entry(key).or_default().amounts += Amounts::of(size(&row)?, spent);
            }
        }
        let (since, before) = (from.0.max(mark) * DAY, to.0 * DAY);
        if since >= before {
            return Ok(sums);
        }
        let now = millis(self.now());
        for row in periods(Some(account), since, before).fetch_all(&self.0.reader).await? {
            let Counts { state, from, until, size } = counts(&row)?;
            for (day, spent) in by_day(state, from, until.unwrap_or(now), since, before) {
                let key = match by {
                    UsageBy::Day => Day(day).to_string(),
                    _ => row.text(column)?,
                };
                let sum = sums.entry(key).or_default();
                sum.amounts += Amounts::of(size, spent);
                sum.open = true;
            }
        }
        Ok(sums)
    }

    /// Names of an account's agents whose ids are between these two, both of them included.
    pub async fn agent_names(
        &self,
        account: AccountId,
        first: &str,
        last: &str,
    ) -> Result<BTreeMap<String, String>, Error> {
        let rows = query("SELECT id, name FROM agents WHERE account = $1 AND id >= $2 AND id <= $3")
            .bind(account.to_string())
            .bind(first)
            .bind(last)
            .fetch_all(&self.0.reader)
            .await?;
        rows.iter().map(|row| Ok((row.text("id")?, row.text("name")?))).collect()
    }

    /// The day that it is.
    pub fn today(&self) -> Day {
        Day(day_of(millis(self.now())))
    }
}

fn millis_of(span: Duration) -> i64 {
    span.whole_milliseconds() as i64
}
