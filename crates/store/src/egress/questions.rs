//! What waits for a person: as nodes tell it, each time in whole.

use super::{Agents, Spoken};
use crate::change::{Change, Changed};
use crate::db::query;
use crate::rows::{Row, millis, to_json};
use crate::{Error, Store};
use model::audit::EventKind;
use model::egress::{OpenQuestion, Question, Waiting};
use model::{AccountId, AgentId, NodeId, QuestionId};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// Events on new questions of one agent within [`super::QUIET`].
const MOST_ASKED: u16 = 60;

/// What tells one question of a node from the next: whose, where to, and since when, in nanoseconds.
type Key = (AgentId, String, u16, i64);

pub(super) fn nanos(at: OffsetDateTime) -> Option<i64> {
    i64::try_from(at.unix_timestamp_nanos()).ok()
}

/// When it was asked, to the last digit.
pub(super) fn asked(row: &Row) -> Result<OffsetDateTime, Error> {
    let nanos: i64 = row.try_get("asked")?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos))
        .map_err(|_| Error::Corrupt { column: "asked" })
}

pub(super) fn port(row: &Row) -> Result<u16, Error> {
    u16::try_from(row.number("port")?).map_err(|_| Error::Corrupt { column: "port" })
}

/// Of a row of [`SELECT`].
pub(super) fn open_question(row: &Row) -> Result<OpenQuestion, Error> {
    Ok(OpenQuestion {
        id: row.parsed("id")?,
        agent: row.parsed("agent")?,
        name: row.parsed("name")?,
        host: row.text("host")?,
        port: port(row)?,
        asked: asked(row)?,
        until: row.at("until")?,
    })
}

impl Change {
    /// Makes the questions of a node those that it tells of. Answers end with their questions.
    pub(super) async fn set_questions(
        &mut self,
        node: NodeId,
        waiting: &[Waiting],
        agents: &Agents,
    ) -> Result<(), Error> {
        let mut told: BTreeMap<Key, &Question> = BTreeMap::new();
        for Waiting { agent, account, questions } in waiting {
            // What a gate of an account asks that the agent was given away by is nobody's to answer.
            let asks = |known: &Spoken| known.asks && known.owner(*account) == Some(known.account);
            if agents.get(agent).is_some_and(asks) {
                let keyed = questions.iter().filter_map(|question| {
                    Some(((*agent, question.host.clone(), question.port, nanos(question.asked)?), question))
                });
                told.extend(keyed);
            }
        }
        let known = query(
            "SELECT id, agent, account, host, port, asked, answer FROM egress_questions WHERE node = $1",
        )
        .bind(node.to_string())
        .fetch_all(self.db().await?)
        .await?;
        let mut concerned = BTreeSet::new();
        let (mut answered, mut gone) = (false, Vec::new());
        for row in &known {
            let key = (row.parsed("agent")?, row.text("host")?, port(row)?, row.try_get("asked")?);
            if told.remove(&key).is_some() {
                continue;
            }
            let answer: Option<&str> = row.try_get("answer")?;
            answered |= answer.is_some();
            concerned.insert(row.parsed("account")?);
            gone.push(row.text("id")?);
        }
        self.deferred
            .add("DELETE FROM egress_questions WHERE id IN (SELECT value FROM json_each($1))")
            .bind(to_json(&gone));
        if answered {
            self.raise(node);
        }
        for agent in told.keys().map(|(agent, ..)| *agent).collect::<BTreeSet<_>>() {
            let Some(account) = agents.get(&agent).map(|agent| agent.account) else { continue };
            let questions = told.iter().filter(|((of, ..), _)| *of == agent);
            let questions: Vec<&Question> = questions.map(|(_, question)| *question).collect();
            self.ask(node, account, agent, &questions).await?;
            concerned.insert(account);
        }
        concerned.into_iter().for_each(|account| self.touch(Changed::Questions(account)));
        Ok(())
    }

    async fn ask(
        &mut self,
        node: NodeId,
        account: AccountId,
        agent: AgentId,
        questions: &[&Question],
    ) -> Result<(), Error> {
        let mut events = self.told(EventKind::EgressAsked, agent, account, MOST_ASKED).await?;
        for Question { host, port, asked, until } in questions {
            self.deferred
                .add(
                    "INSERT INTO egress_questions (id, agent, account, node, host, port, asked, until)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(QuestionId::new().to_string())
                .bind(agent.to_string())
                .bind(account.to_string())
                .bind(node.to_string())
                .bind(host.clone())
                .bind(i64::from(*port))
                .bind(nanos(*asked))
                .bind(millis(*until));
            if events.is_news(host, Some(*port)) {
                self.event(Some(account), EventKind::EgressAsked, agent, json!({"host": host, "port": port}));
            }
            // Each for itself, for a batch of any length would be another text to prepare.
            self.flush().await?;
        }
        Ok(())
    }

    /// What was asked for an agent that is to be no more.
    pub(crate) fn forget_questions(&mut self, account: AccountId, agent: AgentId) {
        self.deferred.add("DELETE FROM egress_questions WHERE agent = $1").bind(agent.to_string());
        self.touch(Changed::Questions(account));
    }
}

impl Store {
    /// What waits for a decision, of an account or of one agent of it, oldest first.
    pub async fn questions(
        &self,
        account: AccountId,
        agent: Option<AgentId>,
    ) -> Result<Vec<OpenQuestion>, Error> {
        let rows = query(
            "SELECT q.id, q.agent, a.name, q.host, q.port, q.asked, q.until
             FROM egress_questions q JOIN agents a ON a.id = q.agent
             WHERE q.account = $1 AND ($2 IS NULL OR q.agent = $2) AND q.answer IS NULL AND q.until > $3
             ORDER BY q.asked, q.id",
        )
        .bind(account.to_string())
        .bind(agent.map(|agent| agent.to_string()))
        .bind(millis(self.now()))
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(open_question).collect()
    }
}
