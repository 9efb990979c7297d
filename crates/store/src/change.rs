//! One change: a transaction that cannot be committed without its audit event.

use crate::rows::millis;
use crate::{Error, Store};
use model::{AccountId, AgentId, EventId, KeyId, NodeId};
use serde_json::Value;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use std::fmt::Display;
use std::sync::Arc;

/// Who changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds an API key.
    Key(KeyId),
    /// A node.
    Node(NodeId),
    /// Control itself, or its operator at the machine.
    System,
}

impl Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
            Self::System => f.write_str("system"),
        }
    }
}

/// What a commit changed, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Changed {
    /// An agent, as its account sees it.
    Agent(AgentId),
    /// What a node should make true.
    Node(NodeId),
}

/// Called after a commit, for each thing that it changed.
pub type OnCommit = Arc<dyn Fn(Changed) + Send + Sync>;

/// A transaction under way. Dropped without a commit, it leaves nothing behind.
pub(crate) struct Change {
    tx: Transaction<'static, Sqlite>,
    /// Milliseconds since 1970.
    pub(crate) now: i64,
    pub(crate) actor: Actor,
    audited: bool,
    changed: Vec<Changed>,
    on_commit: OnCommit,
}

// IMMEDIATE takes the write lock now: a transaction that reads first and then finds the lock taken by another process could
// not be retried by SQLite's busy handler. FULL syncs at the commit, NORMAL with a later one.
const BEGIN_DURABLE: &str = "PRAGMA synchronous = FULL; BEGIN IMMEDIATE";
const BEGIN_REPEATABLE: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";

impl Store {
    /// Begins a change that is on disk once it is committed.
    pub(crate) async fn change(&self, actor: Actor) -> Result<Change, Error> {
        self.begin(actor, BEGIN_DURABLE).await
    }

    /// Begins a change that a power cut may undo as a whole, because whoever told it will tell it again.
    pub(crate) async fn repeatable_change(&self, actor: Actor) -> Result<Change, Error> {
        self.begin(actor, BEGIN_REPEATABLE).await
    }

    async fn begin(&self, actor: Actor, statement: &'static str) -> Result<Change, Error> {
        let tx = self.0.writer.begin_with(statement).await?;
        Ok(Change {
            tx,
            now: millis(self.now()),
            actor,
            audited: false,
            changed: Vec::new(),
            on_commit: self.0.on_commit.clone(),
        })
    }
}

impl Change {
    pub(crate) fn db(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// Appends the audit event. An account of `None` means the installation.
    pub(crate) async fn event(
        &mut self,
        account: Option<AccountId>,
        kind: &str,
        subject: impl Display,
        detail: Value,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO events (id, account, at, kind, actor, subject, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(EventId::new().to_string())
        .bind(account.map(|account| account.to_string()))
        .bind(self.now)
        .bind(kind)
        .bind(self.actor.to_string())
        .bind(subject.to_string())
        .bind(detail.to_string())
        .execute(self.db())
        .await?;
        self.audited = true;
        Ok(())
    }

    /// Raises the revision of a node's desired state.
    pub(crate) async fn raise(&mut self, node: NodeId) -> Result<(), Error> {
        sqlx::query("UPDATE nodes SET rev = rev + 1 WHERE id = $1")
            .bind(node.to_string())
            .execute(self.db())
            .await?;
        self.touch(Changed::Node(node));
        Ok(())
    }

    /// The same for one agent of it.
    pub(crate) async fn raise_for(&mut self, node: NodeId, agent: AgentId) -> Result<(), Error> {
        self.raise(node).await?;
        sqlx::query("UPDATE agents SET node_rev = (SELECT rev FROM nodes WHERE id = $1) WHERE id = $2")
            .bind(node.to_string())
            .bind(agent.to_string())
            .execute(self.db())
            .await?;
        Ok(())
    }

    /// Remembers whom to tell after the commit.
    pub(crate) fn touch(&mut self, changed: Changed) {
        if !self.changed.contains(&changed) {
            self.changed.push(changed);
        }
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        if !self.audited {
            return Err(Error::Unaudited);
        }
        self.commit_bookkeeping().await
    }

    /// Commits what changes nothing that anybody asked for: when something was last seen or used, that an
    /// answer was given before, and the removal of what has expired.
    pub(crate) async fn commit_bookkeeping(self) -> Result<(), Error> {
        let Self { tx, changed, on_commit, .. } = self;
        // In a task of its own: a client that hangs up now drops our caller, and whoever waits for this change
        // must hear of it all the same.
        let committing = tokio::spawn(async move {
            tx.commit().await?;
            changed.into_iter().for_each(|changed| on_commit(changed));
            Ok(())
        });
        committing.await.unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}
