//! One change, which cannot be committed without its audit event.

use crate::agents::Agent;
use crate::batch::Batch;
use crate::group::{Durability, RELEASE, SAVEPOINT, Turn};
use crate::rows::millis;
use crate::{Error, Store};
use model::quota::Quota;
use model::{AccountId, AgentId, EventId, KeyId, NodeId, UserId};
use serde_json::Value;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Who changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds an API key.
    Key(KeyId),
    /// A person, in a session or by a token that they were handed.
    User(UserId),
    /// A node.
    Node(NodeId),
    /// Control itself, or its operator at the machine.
    System,
}

impl Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::User(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
            Self::System => f.write_str("system"),
        }
    }
}

/// What a commit changed, for those who wait for it.
#[derive(Debug, Clone)]
pub enum Changed {
    /// An agent, as it is now.
    Agent(Arc<Agent>),
    /// What a node should make true.
    Node(NodeId),
    /// What waits for a decision of an account's people.
    Questions(AccountId),
    /// An account's log of connections.
    EgressLog(AccountId),
    /// Keys were deleted, or allow something else.
    Keys,
}

/// Called after a commit, for each thing that it changed. The number grows from commit to commit: one that is told late
/// is known by it.
pub type OnCommit = Arc<dyn Fn(u64, Changed) + Send + Sync>;

/// A change under way. Dropped without a commit, it leaves nothing behind.
pub(crate) struct Change {
    turn: Turn,
    /// Milliseconds since 1970.
    pub(crate) now: i64,
    pub(crate) actor: Actor,
    audited: bool,
    /// Of accounts that it makes.
    pub(crate) new_quota: Quota,
    /// Taken while no other change can be under way.
    number: u64,
    changed: Vec<Changed>,
    /// Statements that nothing was read after yet.
    pub(crate) deferred: Batch,
}

impl Store {
    /// Begins a change that is on disk once it is committed.
    pub(crate) async fn change(&self, actor: Actor) -> Result<Change, Error> {
        self.begin(actor, Durability::Durable).await
    }

    /// Begins a change that a power cut may undo as a whole, because whoever told it will tell it again.
    pub(crate) async fn repeatable_change(&self, actor: Actor) -> Result<Change, Error> {
        self.begin(actor, Durability::Repeatable).await
    }

    async fn begin(&self, actor: Actor, durability: Durability) -> Result<Change, Error> {
        let turn = self.0.writer.turn(durability).await?;
        let mut deferred = Batch::default();
        deferred.add(SAVEPOINT);
        Ok(Change {
            turn,
            number: self.0.changes.fetch_add(1, Ordering::Relaxed),
            now: millis(self.now()),
            actor,
            audited: false,
            new_quota: self.0.new_quota.get().copied().unwrap_or_default(),
            changed: Vec::new(),
            deferred,
        })
    }
}

impl Change {
    /// The connection, for a statement that cannot wait. Those that could are run first.
    pub(crate) async fn db(&mut self) -> Result<&mut SqliteConnection, Error> {
        self.flush().await?;
        self.turn.connection()
    }

    /// Runs these statements now, behind those that were deferred, and tells the rows of each.
    pub(crate) async fn run(&mut self, batch: Batch) -> Result<Vec<Vec<SqliteRow>>, Error> {
        batch.run(self.db().await?).await
    }

    /// Runs what was deferred. Called before everything else that reaches the database.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        match std::mem::take(&mut self.deferred) {
            none if none.is_empty() => Ok(()),
            deferred => deferred.run(self.turn.connection()?).await.map(drop),
        }
    }

    /// Appends the audit event. An account of `None` means the installation.
    pub(crate) fn event(
        &mut self,
        account: Option<AccountId>,
        kind: &str,
        subject: impl Display,
        detail: Value,
    ) {
        self.deferred
            .add("INSERT INTO events (id, account, at, kind, actor, subject, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(EventId::new().to_string())
            .bind(account.map(|account| account.to_string()))
            .bind(self.now)
            .bind(kind.to_owned())
            .bind(self.actor.to_string())
            .bind(subject.to_string())
            .bind(detail.to_string());
        self.audited = true;
    }

    /// Raises the revision of a node's desired state.
    pub(crate) fn raise(&mut self, node: NodeId) {
        self.deferred.add("UPDATE nodes SET rev = rev + 1 WHERE id = $1").bind(node.to_string());
        self.touch(Changed::Node(node));
    }

    /// The same for one agent of it.
    pub(crate) fn raise_for(&mut self, node: NodeId, agent: AgentId) {
        self.raise(node);
        self.deferred
            .add("UPDATE agents SET node_rev = (SELECT rev FROM nodes WHERE id = $1) WHERE id = $2")
            .bind(node.to_string())
            .bind(agent.to_string());
    }

    /// Remembers whom to tell after the commit.
    pub(crate) fn touch(&mut self, changed: Changed) {
        self.changed.push(changed);
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        if !self.audited {
            return Err(Error::Unaudited);
        }
        self.commit_bookkeeping().await
    }

    /// Nothing is changed, and what was read is told: that may be of changes before, which are made only with the commit.
    pub(crate) async fn settle(self) -> Result<(), Error> {
        self.commit_bookkeeping().await
    }

    /// Commits what changes nothing that anybody asked for: when something was last seen or used, that an
    /// answer was given before, and the removal of what has expired.
    pub(crate) async fn commit_bookkeeping(mut self) -> Result<(), Error> {
        // In a task of its own: a client that hangs up now drops our caller, and a savepoint of which nobody knows whether it is
        // there would take all others with it.
        let committing = tokio::spawn(async move {
            // Its own trip: what was refused is not released.
            self.flush().await?;
            self.deferred.add(RELEASE);
            self.flush().await?;
            let Self { turn, number, changed, .. } = self;
            turn.made(number, changed).await
        });
        committing.await.unwrap_or(Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}
