//! Who looks after questions, and what nodes are told of that.

use super::questions::{asked, port};
use crate::batch::Batch;
use crate::change::{Actor, Change};
use crate::rows::{Columns, millis};
use crate::{Error, Store};
use model::egress::{Answer, Attention};
use model::{AccountId, AgentId, NodeId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};

/// How long somebody is taken to be there who asked.
const WATCHED: Duration = Duration::seconds(90);
/// It is noted anew when less than this is left.
const RENEWED: Duration = Duration::seconds(45);

/// Whose questions somebody looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Those of all agents of an account, also of those that are made meanwhile.
    Account(AccountId),
    /// Those of one.
    Agent(AgentId),
}

/// Whether what is noted has to be noted anew. More than there can be is of a clock that was set back since.
fn is_due(until: Option<i64>, now: i64) -> bool {
    let left = until.unwrap_or(0).saturating_sub(now);
    !(millis_of(RENEWED)..=millis_of(WATCHED)).contains(&left)
}

fn millis_of(span: Duration) -> i64 {
    span.whole_seconds() * 1000
}

const OF_ACCOUNT: &str = "SELECT watched_until AS until FROM accounts WHERE id = $1";
const OF_AGENT: &str =
    "SELECT nullif(max(coalesce(a.watched_until, 0), coalesce(c.watched_until, 0)), 0) AS until
     FROM agents a JOIN accounts c ON c.id = a.account WHERE a.id = $1 AND a.desired <> 'destroyed'";

/// Where nobody looks, and nobody said anything, it ends at three indexes.
pub(crate) const ATTENTION: &str =
    "SELECT id AS agent, watched_until AS watched, NULL AS host, NULL AS port, NULL AS asked, NULL AS allow
    FROM agents WHERE node = $1 AND watched_until > $2 AND state <> 'destroyed' AND desired <> 'destroyed'
    UNION ALL
    SELECT a.id, c.watched_until, NULL, NULL, NULL, NULL
    FROM accounts c CROSS JOIN agents a ON a.account = c.id AND a.node = $1
    WHERE c.watched_until > $2 AND a.state <> 'destroyed' AND a.desired <> 'destroyed'
    UNION ALL
    SELECT agent, NULL, host, port, asked, answer = 'once' FROM egress_questions
    WHERE node = $1 AND answer IS NOT NULL AND answer IN ('once', 'deny') AND until > $2";

impl Watched {
    fn query(self) -> (&'static str, String) {
        match self {
            Self::Account(id) => (OF_ACCOUNT, id.to_string()),
            Self::Agent(id) => (OF_AGENT, id.to_string()),
        }
    }
}

impl Change {
    /// Notes until when somebody is there, and lets the nodes hear of it.
    async fn watch(&mut self, watched: Watched) -> Result<(), Error> {
        let until = self.now + millis_of(WATCHED);
        let (update, nodes) = match watched {
            Watched::Account(_) => (
                "UPDATE accounts SET watched_until = $2 WHERE id = $1",
                "SELECT DISTINCT node FROM agents WHERE account = $1 AND state <> 'destroyed'",
            ),
            Watched::Agent(_) => (
                "UPDATE agents SET watched_until = $2 WHERE id = $1",
                "SELECT node FROM agents WHERE id = $1",
            ),
        };
        let (_, id) = watched.query();
        self.deferred.add(update).bind(id.clone()).bind(until);
        let rows = sqlx::query(nodes).bind(id).fetch_all(self.db().await?).await?;
        for row in &rows {
            self.raise(row.parsed("node")?);
            self.flush().await?;
        }
        Ok(())
    }
}

impl Store {
    /// Notes that somebody looks after questions, and tells after how long to do so again if they still do.
    pub async fn watch(&self, watched: Watched) -> Result<std::time::Duration, Error> {
        let (query, id) = watched.query();
        let noted = sqlx::query(query).bind(id.clone()).fetch_optional(&self.0.reader).await?;
        // An agent that is to be no more is looked after by nobody.
        let Some(row) = noted else { return Ok(RENEWED.unsigned_abs()) };
        let until = row.try_get("until")?;
        let now = millis(self.now());
        if !is_due(until, now) {
            let left = until.unwrap_or(now) - now - millis_of(RENEWED);
            return Ok(std::time::Duration::from_millis(left.unsigned_abs() + 1));
        }
        let mut change = self.repeatable_change(Actor::System).await?;
        // Somebody else may have come first.
        let noted = sqlx::query(query).bind(id).fetch_optional(change.db().await?).await?;
        let until = noted.map(|row| row.try_get("until")).transpose()?.flatten();
        if is_due(until, change.now) {
            change.watch(watched).await?;
            change.commit_bookkeeping().await?;
        }
        Ok((WATCHED - RENEWED).unsigned_abs())
    }
}

/// Asks whom on a node somebody looks after, and what they said.
pub(crate) fn ask_attention(batch: &mut Batch, node: NodeId, now: OffsetDateTime) {
    batch.add(ATTENTION).bind(node.to_string()).bind(millis(now));
}

/// The answer.
pub(crate) fn attention(rows: &[SqliteRow]) -> Result<Vec<Attention>, Error> {
    let mut found: BTreeMap<AgentId, (Option<OffsetDateTime>, Vec<Answer>)> = BTreeMap::new();
    for row in rows {
        let (watched, answers) = found.entry(row.parsed("agent")?).or_default();
        *watched = (*watched).max(row.at_opt("watched")?);
        if let Some(host) = row.try_get("host")? {
            let (port, asked) = (port(row)?, asked(row)?);
            answers.push(Answer { host, port, asked, allow: row.try_get("allow")? });
        }
    }
    let attention = |(agent, (watched_until, answers))| Attention { agent, watched_until, answers };
    Ok(found.into_iter().map(attention).collect())
}
