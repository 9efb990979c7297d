//! What leaves agents: what nodes tell of it, and what is told to them.

mod answers;
mod log;
mod questions;
mod remembered;
mod watching;

pub use log::EgressFilter;
pub(crate) use remembered::hosts;
#[cfg(test)]
pub(crate) use watching::ATTENTION;
pub use watching::Watched;
pub(crate) use watching::{ask_attention, attention};

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::to_json;
use crate::{Error, Store};
use model::audit::EventKind;
use model::egress::EgressReport;
use model::{AccountId, AgentId, NodeId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What an audit event of this kind told of, of one agent, is not told again for so long, in milliseconds.
const QUIET: i64 = 600_000;

/// An agent that a node may speak of.
struct Spoken {
    account: AccountId,
    /// Accounts that it was given away by.
    past: BTreeSet<AccountId>,
    /// Whether it could ask: it is to live, and has a policy.
    asks: bool,
}

impl Spoken {
    /// Whose a report on it is whose node says that it is of this account's gate; nobody's if it never was that account's. A node that
    /// does not say so cannot know of transfers, and of one that was given away nobody can tell then.
    fn owner(&self, said: Option<AccountId>) -> Option<AccountId> {
        match said {
            Some(said) => (said == self.account || self.past.contains(&said)).then_some(said),
            None => self.past.is_empty().then_some(self.account),
        }
    }
}

type Agents = BTreeMap<AgentId, Spoken>;

/// What events of one kind lately told of an agent.
struct Told {
    details: Vec<Value>,
    /// How many more may follow now.
    left: usize,
}

impl Told {
    /// Whether none of them says this of that host and port. It is counted as told from now on.
    fn is_news(&mut self, host: &str, port: Option<u16>) -> bool {
        let place = json!({"host": host, "port": port});
        let same = |told: &Value| told["host"] == place["host"] && told["port"] == place["port"];
        let news = self.left > 0 && !self.details.iter().any(same);
        if news {
            self.left -= 1;
            self.details.push(place);
        }
        news
    }
}

impl Change {
    /// Those of these agents that are on the node.
    async fn spoken_of(&mut self, node: NodeId, agents: &BTreeSet<AgentId>) -> Result<Agents, Error> {
        if agents.is_empty() {
            return Ok(Agents::new());
        }
        let rows = query(
            "SELECT id, account, transfers, desired <> 'destroyed' AND coalesce(policy ->> '$.egress.preset', '') = 'allowlist'
                AND coalesce(policy ->> '$.egress.unknown', '') = 'hold' AS asks
             FROM agents WHERE id IN (SELECT value FROM json_each($1)) AND node = $2",
        )
        .bind(to_json(agents))
        .bind(node.to_string())
        .fetch_all(self.db().await?)
        .await?;
        let mut known = Agents::new();
        let mut moved = BTreeSet::new();
        for row in &rows {
            let (id, account) = (row.parsed("id")?, row.parsed("account")?);
            if row.number("transfers")? > 0 {
                moved.insert(id);
            }
            known.insert(id, Spoken { account, past: BTreeSet::new(), asks: row.flag("asks")? });
        }
        for (agent, account) in self.given_away_by(&moved).await? {
            if let Some(known) = known.get_mut(&agent) {
                known.past.insert(account);
            }
        }
        Ok(known)
    }

    /// What events of this kind told the account of the agent lately, of which there may be `most`. The ledger is kept for ever, so it is not
    /// an agent that fills it; and it is asked itself, so that a restart changes nothing. No more than `most` rows are read, the last
    /// (an index ends with the row's number).
    async fn told(
        &mut self,
        kind: EventKind,
        agent: AgentId,
        account: AccountId,
        most: u16,
    ) -> Result<Told, Error> {
        let rows = query(
            "SELECT at, detail FROM events WHERE subject = $1 AND kind = $2 AND account = $4
             ORDER BY rowid DESC LIMIT $3",
        )
        .bind(agent.to_string())
        .bind(kind.as_str())
        .bind(i64::from(most))
        .bind(account.to_string())
        .fetch_all(self.db().await?)
        .await?;
        let mut details = Vec::new();
        for row in &rows {
            // One of the future is of a clock that was set back since.
            if (self.now - QUIET + 1..=self.now).contains(&row.try_get("at")?) {
                details.push(row.json("detail")?);
            }
        }
        Ok(Told { left: usize::from(most).saturating_sub(details.len()), details })
    }
}

impl Store {
    /// Takes in what a node tells of its agents. What it tells of others is left out.
    pub async fn record_egress(&self, node: NodeId, report: &EgressReport) -> Result<(), Error> {
        // The last records before a power cut may be lost with it; that somebody was asked is not.
        let mut change = match report.questions {
            None => self.repeatable_change(Actor::Node(node)).await?,
            Some(_) => self.change(Actor::Node(node)).await?,
        };
        let records = report.records.iter().map(|record| record.agent);
        let lost = report.lost.iter().map(|lost| lost.agent);
        let waiting = report.questions.iter().flatten().map(|waiting| waiting.agent);
        let agents = change.spoken_of(node, &records.chain(lost).chain(waiting).collect()).await?;
        change.add_records(&report.records, &agents).await?;
        change.note_lost(&report.lost, &agents).await?;
        if let Some(waiting) = &report.questions {
            change.set_questions(node, waiting, &agents).await?;
        }
        change.commit_bookkeeping().await
    }
}
