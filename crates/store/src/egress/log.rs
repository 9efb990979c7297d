//! The log of connections: appended to by nodes, read by people, and cut by age and by number.

use super::Agents;
use crate::change::{Change, Changed};
use crate::db::{Builder, query};
use crate::rows::{Row, to_json};
use crate::{Error, PageOf, Store};
use model::audit::EventKind;
use model::egress::{Connection, LogEntry, Lost, Outcome, Record};
use model::{AccountId, AgentId};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use time::Duration;

/// Records of one agent that are kept.
const MOST: u64 = 20_000;
/// Rows that are removed at once: everybody else who writes waits for that.
const STEP: u64 = 1000;
/// Events on refused connections of one agent within [`super::QUIET`].
const MOST_DENIED: u16 = 20;
/// Events on secrets that were put into requests of one agent within [`super::QUIET`].
const MOST_USED: u16 = 20;

/// Of the account that has the agent now: it makes no room for itself among what another has from before.
const CUT_REFUSED: &str = "DELETE FROM egress_log WHERE id IN
    (SELECT id FROM egress_log WHERE agent = $1 AND outcome <> 'passed'
        AND account = (SELECT account FROM agents WHERE id = $1) ORDER BY id LIMIT $2)";
const CUT_OWN: &str = "DELETE FROM egress_log WHERE id IN
    (SELECT id FROM egress_log WHERE agent = $1 AND account = (SELECT account FROM agents WHERE id = $1) ORDER BY id LIMIT $2)";
const CUT: &str =
    "DELETE FROM egress_log WHERE id IN (SELECT id FROM egress_log WHERE agent = $1 ORDER BY id LIMIT $2)";

/// Which records are asked for.
#[derive(Debug, Clone, Copy)]
pub struct EgressFilter {
    /// Whose.
    pub account: AccountId,
    /// Only those of this agent.
    pub agent: Option<AgentId>,
    /// Only those that ended like this.
    pub outcome: Option<Outcome>,
}

/// A row to add.
#[derive(Serialize)]
struct NewRecord<'r> {
    agent: AgentId,
    account: AccountId,
    outcome: Outcome,
    record: &'r Connection,
}

fn entry(row: &Row) -> Result<LogEntry, Error> {
    Ok(LogEntry { id: row.number("id")?, agent: row.parsed("agent")?, connection: row.json("record")? })
}

impl EgressFilter {
    /// All that are meant, in no order. (The concatenation keeps SQLite from an index that is worse than the agent's.)
    fn select(&self) -> Builder {
        let mut query = Builder::new("SELECT id, agent, record FROM egress_log WHERE ");
        match self.agent {
            Some(agent) => query.push("agent = ").push_bind(agent.to_string()).push(" AND account || '' = "),
            None => query.push("account = "),
        };
        query.push_bind(self.account.to_string());
        if let Some(outcome) = self.outcome {
            query.push(if self.agent.is_some() { " AND outcome || '' = " } else { " AND outcome = " });
            query.push_bind(outcome.to_string());
        }
        query
    }
}

impl Change {
    /// Appends records, and cuts what an agent has too many of.
    pub(super) async fn add_records(&mut self, records: &[Record], agents: &Agents) -> Result<(), Error> {
        let known = |record: &'_ Record| agents.get(&record.agent)?.owner(record.account);
        let rows: Vec<NewRecord<'_>> = records
            .iter()
            .filter_map(|record| {
                let (agent, record, account) = (record.agent, &record.connection, known(record)?);
                Some(NewRecord { agent, account, outcome: record.outcome, record })
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let now = self.now;
        // One statement, whatever their number: each would be another text to prepare.
        self.deferred
            .add(
                "INSERT INTO egress_log (agent, account, stored_at, outcome, record)
                 SELECT value ->> 'agent', value ->> 'account', $2, value ->> 'outcome', value -> 'record'
                 FROM json_each($1)",
            )
            .bind(to_json(&rows))
            .bind(now);
        let agents: BTreeSet<AgentId> = rows.iter().map(|row| row.agent).collect();
        let accounts: BTreeSet<AccountId> = rows.iter().map(|row| row.account).collect();
        accounts.into_iter().for_each(|account| self.touch(Changed::EgressLog(account)));
        self.cut(&agents).await?;
        self.note_used(&rows).await?;
        self.note_denied(&rows).await
    }

    /// Removes the oldest of those agents that have too many.
    async fn cut(&mut self, agents: &BTreeSet<AgentId>) -> Result<(), Error> {
        let over = query(
            "SELECT agent, records - $2 AS over FROM egress_counts
             WHERE agent IN (SELECT value FROM json_each($1)) AND records > $2",
        )
        .bind(to_json(agents))
        .bind(MOST as i64)
        .fetch_all(self.db().await?)
        .await?;
        for row in &over {
            let mut left = row.number("over")?;
            // Refusals first, which an agent makes at will: they do not take the place of what passed.
            for delete in [CUT_REFUSED, CUT_OWN, CUT] {
                let cut = query(delete)
                    .bind(row.text("agent")?)
                    .bind(left as i64)
                    .execute(self.db().await?)
                    .await?;
                left -= cut.rows_affected().min(left);
            }
        }
        Ok(())
    }

    /// Tells the ledger which secrets were put into requests to which hosts, each once in a while.
    async fn note_used(&mut self, rows: &[NewRecord<'_>]) -> Result<(), Error> {
        let mut used: BTreeMap<(AgentId, AccountId), BTreeSet<(&str, &str)>> = BTreeMap::new();
        for NewRecord { agent, account, record, .. } in
            rows.iter().filter(|row| !row.record.credentials.is_empty())
        {
            let names = record.credentials.iter();
            let pairs = used.entry((*agent, *account)).or_default();
            pairs.extend(names.map(|name| (name.as_str(), record.host.as_str())));
        }
        for ((agent, account), pairs) in used {
            let told = self.told(EventKind::SecretUsed, agent, account, MOST_USED).await?;
            let same = |(name, host): &(&str, &str)| {
                told.details.iter().any(|told| told["secret"] == *name && told["host"] == *host)
            };
            for (name, host) in pairs.into_iter().filter(|pair| !same(pair)).take(told.left) {
                let detail = json!({"secret": name, "host": host});
                self.event(Some(account), EventKind::SecretUsed, agent, detail);
            }
        }
        self.flush().await
    }

    /// Tells the ledger what was refused, of each host and port once in a while.
    async fn note_denied(&mut self, rows: &[NewRecord<'_>]) -> Result<(), Error> {
        type Denied<'r> = BTreeMap<(&'r str, Option<u16>), (&'r str, u64)>;
        let mut of_agents: BTreeMap<(AgentId, AccountId), Denied<'_>> = BTreeMap::new();
        for NewRecord { agent, account, record, .. } in
            rows.iter().filter(|row| row.outcome == Outcome::Denied)
        {
            let denied = of_agents.entry((*agent, *account)).or_default();
            let (_, count) = denied.entry((&record.host, record.port)).or_insert((&record.by, 0));
            *count += u64::from(record.count);
        }
        for ((agent, account), denied) in of_agents {
            let mut told = self.told(EventKind::EgressDenied, agent, account, MOST_DENIED).await?;
            for ((host, port), (by, count)) in denied {
                if told.is_news(host, port) {
                    let detail = json!({"host": host, "port": port, "by": by, "count": count});
                    self.event(Some(account), EventKind::EgressDenied, agent, detail);
                    self.flush().await?;
                }
            }
        }
        Ok(())
    }

    /// Tells the ledger that the log has a gap.
    pub(super) async fn note_lost(&mut self, lost: &[Lost], agents: &Agents) -> Result<(), Error> {
        let mut counts: BTreeMap<(AgentId, AccountId), u64> = BTreeMap::new();
        for Lost { agent, account, count } in lost {
            let Some(owner) = agents.get(agent).and_then(|known| known.owner(*account)) else { continue };
            let sum = counts.entry((*agent, owner)).or_default();
            *sum = sum.saturating_add(*count);
        }
        for ((agent, account), count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            if self.told(EventKind::EgressLogLost, agent, account, 1).await?.left > 0 {
                self.event(Some(account), EventKind::EgressLogLost, agent, json!({"count": count}));
                self.flush().await?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// The log, newest first.
    pub async fn egress_log(
        &self,
        filter: &EgressFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<PageOf<LogEntry>, Error> {
        let mut query = filter.select();
        if let Some(before) = before {
            query.push(" AND id < ").push_bind(i64::try_from(before).unwrap_or(i64::MAX));
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query.build().fetch_all(&self.0.reader).await?;
        Ok(PageOf::of(rows.iter().map(entry).collect::<Result<_, _>>()?, limit))
    }

    /// What came into the log after this record, oldest first.
    pub async fn egress_log_after(
        &self,
        filter: &EgressFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<LogEntry>, Error> {
        let mut query = filter.select();
        query.push(" AND id > ").push_bind(i64::try_from(after).unwrap_or(i64::MAX));
        query.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
        let rows = query.build().fetch_all(&self.0.reader).await?;
        rows.iter().map(entry).collect()
    }

    /// Removes records that have been kept for as long as this, a few at a time, and tells how many there were.
    pub async fn cut_egress_log(&self, keep: Duration) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            let mut change = self.repeatable_change(crate::Actor::System).await?;
            let before = change.now - i64::try_from(keep.whole_milliseconds()).unwrap_or(i64::MAX);
            let step = query(
                "DELETE FROM egress_log
                 WHERE id IN (SELECT id FROM egress_log WHERE stored_at <= $1 ORDER BY stored_at LIMIT $2)",
            )
            .bind(before)
            .bind(STEP as i64)
            .execute(change.db().await?)
            .await?
            .rows_affected();
            change.commit_bookkeeping().await?;
            removed += step;
            if step < STEP {
                return Ok(removed);
            }
        }
    }
}
