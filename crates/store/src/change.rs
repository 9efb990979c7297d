//! One change, which cannot be committed without its audit event.

use crate::agents::Agent;
use crate::batch::Batch;
use crate::db::Connection;
use crate::group::{Durability, RELEASE, SAVEPOINT, Turn};
use crate::rows::{Row, millis};
use crate::source::source;
use crate::{Error, Store};
use model::audit::EventKind;
use model::people::Role;
use model::quota::Quota;
use model::{AccountId, AgentId, EventId, KeyId, NodeId, SessionId, UserId};
use serde_json::Value;
use std::fmt::Display;
use std::sync::Arc;

/// Who changes something. What was decided on the standing of a caller is made only if they still have it: a request may have been
/// under way for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds an API key, and was taken for this role.
    Key {
        /// The key.
        key: KeyId,
        /// What it acted as.
        role: Role,
    },
    /// A person in a session.
    Session {
        /// The session.
        session: SessionId,
        /// Whose.
        person: UserId,
        /// What they were taken for, and where; nothing for what they do to themselves.
        standing: Option<(AccountId, Role)>,
    },
    /// A person, by a password or a token that they were handed.
    User(UserId),
    /// A node.
    Node(NodeId),
    /// Control itself, or its operator at the machine.
    System,
}

impl Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key { key, .. } => key.fmt(f),
            Self::Session { person: id, .. } | Self::User(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
            Self::System => f.write_str("system"),
        }
    }
}

impl Actor {
    /// The key that it acts by.
    pub(crate) fn key(&self) -> Option<KeyId> {
        match self {
            Self::Key { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// Asks what they are now; tells whether there was anything to ask.
    fn ask(&self, batch: &mut Batch, now: i64) -> bool {
        match self {
            // A key that is the account's own stays what it is.
            Self::Key { key, .. } => batch
                .add(
                    "SELECT coalesce(m.role, k.role) AS role, k.account
                     FROM api_keys k LEFT JOIN memberships m ON m.account = k.account AND m.person = k.person
                     WHERE k.id = $1 AND (k.expires_at IS NULL OR k.expires_at > $2)
                        AND (k.person IS NULL OR m.role IS NOT NULL)",
                )
                .bind(key.to_string())
                .bind(now),
            Self::Session { session, standing, .. } => batch
                .add(
                    "SELECT m.role, m.account FROM sessions s LEFT JOIN memberships m ON m.account = $2 AND m.person = s.person
                     WHERE s.id = $1 AND s.expires_at > $3",
                )
                .bind(session.to_string())
                .bind(standing.map(|(account, _)| account.to_string()))
                .bind(now),
            Self::User(_) | Self::Node(_) | Self::System => return false,
        };
        true
    }

    /// Refuses them if they are not any more what they were taken for, by what [`Actor::ask`] was answered. Tells the account that they
    /// act in, if they act in one.
    fn still(&self, answer: &[Row]) -> Result<Option<AccountId>, Error> {
        let taken_for = match self {
            Self::Key { role, .. } => Some(*role),
            Self::Session { standing, .. } => standing.map(|(_, role)| role),
            Self::User(_) | Self::Node(_) | Self::System => return Ok(None),
        };
        let row = answer.first().ok_or(Error::CredentialEnded)?;
        let Some(taken_for) = taken_for else { return Ok(None) };
        match row.parsed_opt::<Role>("role")? {
            Some(role) if role >= taken_for => row.parsed_opt("account"),
            Some(_) => Err(Error::RoleLowered),
            None => Err(Error::MembershipEnded),
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
    /// Events, which are in no chain yet.
    Events,
    /// The chain of an account, or of the installation, is longer.
    Ledger(Option<AccountId>),
    /// Keys were deleted, or allow something else.
    Keys,
    /// An agent, by another process.
    AgentElsewhere {
        /// Which.
        agent: AgentId,
        /// Whether its time may be up one day.
        deadline: bool,
    },
    /// Nobody knows what: other processes were not heard for a while.
    Anything,
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
    /// The account that the actor acts in, once that was asked: an agent that is another's by now they do not find.
    pub(crate) acts_in: Option<AccountId>,
    audited: bool,
    /// Of accounts that it makes.
    pub(crate) new_quota: Quota,
    /// Taken while no other change can be under way.
    number: u64,
    changed: Vec<Changed>,
    /// Statements that nothing was read after yet.
    pub(crate) deferred: Batch,
    /// Whether the second of these asks what became of the actor.
    doubted: bool,
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
        let mut turn = self.0.writer.turn(durability).await?;
        let mut deferred = Batch::default();
        deferred.add(SAVEPOINT);
        // Behind it, so that it is asked in this turn: nobody changes it before this is made.
        let now = millis(self.now());
        let doubted = actor.ask(&mut deferred, now);
        Ok(Change {
            number: turn.number()?,
            turn,
            now,
            actor,
            acts_in: None,
            audited: false,
            new_quota: self.0.new_quota.get().copied().unwrap_or_default(),
            changed: Vec::new(),
            deferred,
            doubted,
        })
    }
}

impl Change {
    /// The connection, for a statement that cannot wait. Those that could are run first.
    pub(crate) async fn db(&mut self) -> Result<Connection<'_>, Error> {
        self.flush().await?;
        self.turn.connection()
    }

    /// Runs these statements now, behind those that were deferred, and tells the rows of each.
    pub(crate) async fn run(&mut self, batch: Batch) -> Result<Vec<Vec<Row>>, Error> {
        batch.run(self.db().await?).await
    }

    /// Runs what was deferred. Called before everything else that reaches the database; the first time it also refuses an actor who is
    /// not any more what they were taken for.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        let deferred = std::mem::take(&mut self.deferred);
        if deferred.is_empty() {
            return Ok(());
        }
        let answers = deferred.run(self.turn.connection()?).await?;
        if std::mem::take(&mut self.doubted) {
            self.acts_in = self.actor.still(answers.get(1).map_or(&[], Vec::as_slice))?;
        }
        Ok(())
    }

    /// Appends the audit event. An account of `None` means the installation.
    pub(crate) fn event(
        &mut self,
        account: Option<AccountId>,
        kind: EventKind,
        subject: impl Display,
        detail: Value,
    ) {
        let (address, request) = source();
        self.deferred
            .add(
                "INSERT INTO events (id, account, at, kind, actor, subject, detail, source, request)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(EventId::new().to_string())
            .bind(account.map(|account| account.to_string()))
            .bind(self.now)
            .bind(kind.as_str())
            .bind(self.actor.to_string())
            .bind(subject.to_string())
            .bind(detail.to_string())
            .bind(address)
            .bind(request);
        if !self.audited {
            self.touch(Changed::Events);
        }
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
