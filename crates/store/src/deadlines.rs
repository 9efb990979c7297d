//! What falls due: agents past their time to live, and agents that nobody has used for too long.

use crate::db::query;
use crate::rows::instant;
use crate::{Error, Store};
use model::AgentId;
use time::OffsetDateTime;

/// Why an agent's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its time to live has passed.
    Ttl,
    /// Its workspace API was not used for as long as its idle timeout.
    Idle,
}

/// An agent, and when its time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub agent: AgentId,
    /// When.
    pub at: OffsetDateTime,
    /// Why.
    pub cause: Cause,
    /// When its node last spoke: before that, control does not know of any use.
    pub node_seen: Option<OffsetDateTime>,
}

impl Store {
    /// The agents with a deadline, the nearest first.
    pub async fn deadlines(&self, limit: u32) -> Result<Vec<Due>, Error> {
        let rows = query(
            "SELECT due.id, due.at, due.cause, n.last_seen FROM (
                SELECT id, node, expires_at AS at, 'ttl' AS cause FROM agents
                WHERE expires_at IS NOT NULL AND desired <> 'destroyed'
                UNION ALL
                SELECT id, node, idle_ms + CASE WHEN last_activity > state_since THEN last_activity
                    ELSE state_since END AS at, 'idle' AS cause FROM agents
                WHERE idle_ms IS NOT NULL AND state = 'running' AND desired = 'running' AND restored = 0
             ) AS due JOIN nodes n ON n.id = due.node ORDER BY due.at, due.id LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Due {
                    agent: row.parsed("id")?,
                    at: instant(row.try_get("at")?).ok_or(Error::Corrupt { column: "at" })?,
                    cause: if row.text("cause")? == "ttl" { Cause::Ttl } else { Cause::Idle },
                    node_seen: row.at_opt("last_seen")?,
                })
            })
            .collect()
    }
}
