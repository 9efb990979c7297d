//! State periods: how long each agent was what. Each move closes one and opens the next at the same instant, in the transaction of
//! the move; the database refuses a gap, an overlap, and any other change of what is written.

use crate::agents::Agent;
use crate::change::Change;
use crate::db::query;
use crate::rows::Row;
use crate::{Error, PageOf, Store};
use model::AgentId;
use model::api::Period;
use model::quota::thousandths;
use serde_json::Value;

/// Why an agent moved, in a few words of ours: what of it was somebody's own text stays out.
pub(crate) fn cause(kind: &str, detail: &Value) -> String {
    let text = |key: &str| detail[key].as_str();
    let mut words = match (text("verb"), text("observed")) {
        (Some(verb), _) => verb.to_owned(),
        (None, Some(observed)) => format!("seen {observed}"),
        (None, None) => kind.to_owned(),
    };
    // What lives has not ended for any reason.
    let ended = !matches!(text("observed"), Some("running" | "paused"));
    let why = text("cause").or_else(|| detail["reason"]["kind"].as_str().filter(|_| ended));
    if let Some(why) = why {
        words.push_str(": ");
        words.push_str(why);
    }
    words
}

impl Change {
    /// The instant of a move of an agent that last moved at `since`. Clocks may step back; the ledger does not.
    pub(crate) fn instant_after(&self, since: i64) -> i64 {
        self.now.max(since)
    }

    /// Opens the period that an agent is in from here on.
    pub(crate) fn open_period(&mut self, agent: &Agent, at: i64, cause: &str) {
        let resources = &agent.spec.resources;
        let actor = self.actor.to_string();
        self.deferred
            .add(
                "INSERT INTO state_periods (agent, ordinal, account, node, state, opened_at, level, cpus, memory, disk, actor, cause)
                 SELECT $1, coalesce(max(ordinal), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
                 FROM state_periods WHERE agent = $1",
            )
            .bind(agent.spec.id.to_string())
            .bind(agent.spec.account.to_string())
            .bind(agent.node.to_string())
            .bind(agent.state.as_str())
            .bind(at)
            .bind(agent.spec.level.as_str())
            .bind(thousandths(resources.cpus) as i64)
            .bind(resources.memory.0 as i64)
            .bind(resources.disk.0 as i64)
            .bind(actor)
            .bind(cause);
    }

    /// Closes the period that an agent was in until now.
    pub(crate) fn close_period(&mut self, agent: AgentId, at: i64) {
        self.deferred
            .add("UPDATE state_periods SET closed_at = $1 WHERE agent = $2 AND closed_at IS NULL")
            .bind(at)
            .bind(agent.to_string());
    }
}

fn period(row: &Row) -> Result<Period, Error> {
    Ok(Period {
        ordinal: row.number("ordinal")?,
        state: row.parsed("state")?,
        from: row.at("opened_at")?,
        until: row.at_opt("closed_at")?,
        node: row.parsed("node")?,
        actor: row.try_get("actor")?,
        cause: row.try_get("cause")?,
    })
}

impl Store {
    /// What an agent was, newest first, as long as it was this account's. `before` is the ordinal that the last page ended with.
    pub async fn timeline(
        &self,
        account: model::AccountId,
        agent: AgentId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<PageOf<Period>, Error> {
        let rows = query(
            "SELECT ordinal, state, opened_at, closed_at, node, actor, cause FROM state_periods
             WHERE agent = $1 AND account = $2 AND ordinal < $3 ORDER BY ordinal DESC LIMIT $4",
        )
        .bind(agent.to_string())
        .bind(account.to_string())
        .bind(before.and_then(|ordinal| i64::try_from(ordinal).ok()).unwrap_or(i64::MAX))
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(period).collect::<Result<_, _>>()?, limit))
    }
}
