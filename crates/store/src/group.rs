//! One writer, and commits that are shared: what a durable commit costs is the disk, and changes that are made while others
//! wait for it go there together.
//!
//! Changes are made one after the other, each in a savepoint of one transaction. Whoever is done hands the transaction on,
//! and asks for its commit behind all who wait already: those are in it too. Nobody hears that a change is made before the
//! commit; when that fails, everybody in it hears so. A change that is not committed is rolled back to its savepoint, by
//! whoever comes next, before anything else.

use crate::Error;
use crate::change::{Changed, OnCommit};
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

/// Whether a change has to be on disk once it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Yes.
    Durable,
    /// A power cut may undo it as a whole, because whoever told it will tell it again.
    Repeatable,
}

impl Durability {
    // IMMEDIATE takes the write lock now: a transaction that reads first and then finds the lock taken by another process
    // could not be retried by SQLite's busy handler. FULL syncs at the commit, NORMAL with a later one.
    fn begin(self) -> &'static str {
        match self {
            Self::Durable => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
            Self::Repeatable => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
        }
    }
}

pub(crate) const SAVEPOINT: &str = "SAVEPOINT change";
pub(crate) const RELEASE: &str = "RELEASE change";
const ROLLBACK: &str = "ROLLBACK TO change; RELEASE change";

/// Makes changes one at a time.
#[derive(Clone)]
pub(crate) struct Writer {
    pool: SqlitePool,
    shared: Arc<Mutex<Shared>>,
    /// How long a change waits for its turn.
    patience: Duration,
    on_commit: OnCommit,
}

#[derive(Default)]
struct Shared {
    group: Option<Group>,
    /// Groups so far.
    number: u64,
}

/// Changes that are committed together.
struct Group {
    number: u64,
    tx: Transaction<'static, Sqlite>,
    durability: Durability,
    made: Vec<Made>,
    /// The savepoint may be there, of a change that was not made.
    torn: bool,
}

/// A change that waits for the commit.
struct Made {
    number: u64,
    changed: Vec<Changed>,
    told: oneshot::Sender<Result<(), Error>>,
}

/// A turn: whoever has it may use the connection.
pub(crate) struct Turn {
    shared: Option<OwnedMutexGuard<Shared>>,
    writer: Writer,
    group: u64,
}

impl Writer {
    /// The pool has one connection: SQLite has one writer at a time, and a queue here is fairer than its busy handler.
    pub(crate) fn new(pool: SqlitePool, patience: Duration, on_commit: OnCommit) -> Self {
        Self { pool, shared: Arc::default(), patience, on_commit }
    }

    /// The connection, for what is no change.
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Waits for a turn in a transaction.
    pub(crate) async fn turn(&self, durability: Durability) -> Result<Turn, Error> {
        let waiting = tokio::time::timeout(self.patience, self.shared.clone().lock_owned());
        let shared = waiting.await.map_err(|_| Error::Busy)?;
        let mut shared = self.mended(shared).await?;
        let too_weak = |group: &mut Group| {
            durability == Durability::Durable && group.durability == Durability::Repeatable
        };
        if let Some(group) = shared.group.take_if(too_weak) {
            // In a task of its own: who asked for this turn may give up.
            let writer = self.clone();
            let _ = tokio::spawn(async move { writer.commit(group).await }).await;
        }
        let group = match &shared.group {
            Some(group) => group.number,
            None => {
                let tx = self.pool.begin_with(durability.begin()).await?;
                shared.number += 1;
                let number = shared.number;
                shared.group = Some(Group { number, tx, durability, made: Vec::new(), torn: false });
                number
            }
        };
        Ok(Turn { shared: Some(shared), writer: self.clone(), group })
    }

    /// In a task of its own: who asked for this turn may give up, and half of it must not be done.
    async fn mended(&self, mut shared: OwnedMutexGuard<Shared>) -> Result<OwnedMutexGuard<Shared>, Error> {
        if shared.group.as_ref().is_none_or(|group| !group.torn) {
            return Ok(shared);
        }
        let writer = self.clone();
        let mending = tokio::spawn(async move {
            writer.mend(&mut shared).await;
            shared
        });
        mending.await.map_err(|_| Error::Database(sqlx::Error::WorkerCrashed))
    }

    /// Undoes what a change left that was not made.
    async fn mend(&self, shared: &mut Shared) {
        let Some(group) = shared.group.as_mut().filter(|group| group.torn) else { return };
        match sqlx::raw_sql(ROLLBACK).execute(&mut *group.tx).await {
            Ok(_) => group.torn = false,
            Err(error) => {
                // SQLite ended the transaction by itself, as on a full disk: all that was in it is undone.
                tracing::warn!(%error, "a transaction ended by itself");
                if let Some(group) = shared.group.take() {
                    group.tell(|| Err(Error::Undone));
                }
            }
        }
    }

    /// Commits this group, if nobody did.
    async fn close(&self, number: u64) {
        let mut shared = self.shared.clone().lock_owned().await;
        self.mend(&mut shared).await;
        if let Some(group) = shared.group.take_if(|group| group.number == number) {
            self.commit(group).await;
        }
    }

    async fn commit(&self, group: Group) {
        let Group { tx, made, .. } = group;
        if made.is_empty() {
            // Rolled back when the connection is used next, or now, if there is somebody who waits.
            if let Err(error) = tx.rollback().await {
                tracing::debug!(%error, "a transaction without changes ended by itself");
            }
            return;
        }
        match tx.commit().await {
            Ok(()) => {
                for Made { number, changed, told } in made {
                    changed.into_iter().for_each(|changed| (self.on_commit)(number, changed));
                    let _ = told.send(Ok(()));
                }
            }
            Err(error) => {
                // Without an answer of the database nobody knows.
                let undone = error.as_database_error().is_some();
                let mut first = Some(Error::from(error));
                for Made { told, .. } in made {
                    let other = || match undone {
                        true => Error::Undone,
                        false => Error::Database(sqlx::Error::WorkerCrashed),
                    };
                    let _ = told.send(Err(first.take().unwrap_or_else(other)));
                }
            }
        }
    }
}

impl Group {
    fn tell(self, what: impl Fn() -> Result<(), Error>) {
        for Made { told, .. } in self.made {
            let _ = told.send(what());
        }
    }
}

impl Turn {
    fn group(&mut self) -> Result<&mut Group, Error> {
        // It is there for as long as the turn lasts.
        self.shared.as_mut().and_then(|shared| shared.group.as_mut()).ok_or(Error::Undone)
    }

    /// The connection. What is done by it counts once [`Turn::made`] returns.
    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        let group = self.group()?;
        group.torn = true;
        Ok(&mut group.tx)
    }

    /// The savepoint is released: the change counts with the commit, for which this waits. It happens also when nobody waits
    /// any more.
    pub(crate) async fn made(mut self, number: u64, changed: Vec<Changed>) -> Result<(), Error> {
        let (told, committed) = oneshot::channel();
        let group = self.group()?;
        group.torn = false;
        group.made.push(Made { number, changed, told });
        drop(self);
        // Nobody knows what became of one of which nobody tells.
        committed.await.unwrap_or(Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}

impl Drop for Turn {
    /// Behind all who wait already, the group is committed; without changes in it, it is undone.
    fn drop(&mut self) {
        self.shared = None;
        let (writer, group) = (self.writer.clone(), self.group);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { writer.close(group).await });
        }
    }
}
