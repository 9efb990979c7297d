//! Marks of agents: what whoever has shown an agent before asks, to show the same again without reading all of it.
//!
//! A mark is read from the row each time, after it was asked for: what was committed by then is in it, whoever committed it. Marks
//! that are asked for at the same time are read together: most of what a small statement costs is the way to the database and back.

use crate::agents::{Agent, AgentFilter, agent, listed};
use crate::db::query;
use crate::rows::{Row, to_json};
use crate::{Error, PageOf, Store};
use model::{AccountId, AgentId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What of an agent tells whether it is still as it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which agent.
    pub agent: AgentId,
    /// Whose.
    pub account: AccountId,
    /// Raised with every change of what is shown of it.
    pub shown: u64,
}

/// Read by one statement; others are read by the next.
const TOGETHER: usize = 32;
/// Statements under way: where one takes long, those behind it do not wait for it.
const STATEMENTS: usize = 2;

type Answer = Result<Option<Mark>, Error>;

/// Those that are asked for and not read yet.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: Vec<(AgentId, oneshot::Sender<Answer>)>,
    /// Who reads them.
    readers: usize,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what waits, until nothing does. Its place is free again also when it is dropped half-way.
struct Reader {
    asked: Asked,
    done: bool,
}

impl Reader {
    fn next(&mut self) -> Option<Vec<(AgentId, oneshot::Sender<Answer>)>> {
        let mut queue = self.asked.lock();
        let count = queue.waiting.len().min(TOGETHER);
        if count == 0 {
            // Under the same lock: whoever asks from here on begins anew.
            queue.readers -= 1;
            self.done = true;
            return None;
        }
        Some(queue.waiting.drain(..count).collect())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.done {
            self.asked.lock().readers -= 1;
        }
    }
}

const ONE: &str = "SELECT id, account, shown FROM agents WHERE id = $1";
const MANY: &str = "SELECT id, account, shown FROM agents WHERE id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
    $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)";

fn mark(row: &Row) -> Result<Mark, Error> {
    Ok(Mark { agent: row.parsed("id")?, account: row.parsed("account")?, shown: row.number("shown")? })
}

impl Store {
    /// The mark of an agent, whoever owns it; `None` if there is no such agent.
    pub async fn mark(&self, id: AgentId) -> Result<Option<Mark>, Error> {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut queue = self.0.marks.lock();
            queue.waiting.push((id, answer));
            let begins = queue.readers < STATEMENTS;
            queue.readers += usize::from(begins);
            begins
        };
        if begins {
            // In a task of its own: who asked may give up, and others wait for it too.
            let mut reader = Reader { asked: self.0.marks.clone(), done: false };
            let store = self.clone();
            tokio::spawn(async move {
                // Those who ask in the same turn of the runtime come along.
                tokio::task::yield_now().await;
                while let Some(batch) = reader.next() {
                    store.read_marks(batch).await;
                }
            });
        }
        answered.await.unwrap_or(Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }

    async fn read_marks(&self, asked: Vec<(AgentId, oneshot::Sender<Answer>)>) {
        let mut ids: Vec<AgentId> = asked.iter().map(|(id, _)| *id).collect();
        ids.sort();
        ids.dedup();
        let found = self.marks_of(&ids).await;
        let mut failed = None;
        let found = found.unwrap_or_else(|error| {
            failed = Some(error);
            HashMap::new()
        });
        let failure = failed.is_some();
        for (id, answer) in asked {
            let answered = match failure {
                // The first hears why; the others hear that it can be tried again.
                true => Err(failed.take().unwrap_or(Error::Busy)),
                false => Ok(found.get(&id).copied()),
            };
            let _ = answer.send(answered);
        }
    }

    async fn marks_of(&self, ids: &[AgentId]) -> Result<HashMap<AgentId, Mark>, Error> {
        let statement = match ids {
            [one] => query(ONE).bind(one.to_string()),
            // Of one shape whatever their number: it is prepared once.
            many => (0..TOGETHER)
                .fold(query(MANY), |statement, at| statement.bind(many.get(at).map(ToString::to_string))),
        };
        let rows = statement.fetch_all(&self.0.reader).await?;
        rows.iter().map(|row| mark(row).map(|mark| (mark.agent, mark))).collect()
    }

    /// The marks of the account's agents, as [`Store::agents`] lists those.
    pub async fn marks(
        &self,
        account: AccountId,
        filter: &AgentFilter,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Mark>, Error> {
        let select = "SELECT id, account, shown FROM agents WHERE account = ";
        let rows = listed(select, account, filter, before, limit).fetch_all(&self.0.reader).await?;
        Ok(PageOf::of(rows.iter().map(mark).collect::<Result<_, _>>()?, limit))
    }

    /// These agents, whoever owns them, in no order.
    pub async fn agents_of(&self, ids: &[AgentId]) -> Result<Vec<Agent>, Error> {
        let rows = query("SELECT * FROM agents WHERE id IN (SELECT value FROM json_each($1))")
            .bind(to_json(&ids))
            .fetch_all(&self.0.reader)
            .await?;
        rows.iter().map(agent).collect()
    }
}
