//! One writer, and commits that are shared: what a durable commit costs is the disk, and changes that are made while others
//! wait for it go there together.
//!
//! Changes are made one after the other, each in a savepoint of one transaction. Whoever is done hands the transaction on,
//! and asks for its commit behind all who wait already: those are in it too. Nobody hears that a change is made before the
//! commit; when that fails, everybody in it hears so. A change that is not committed is rolled back to its savepoint, by
//! whoever comes next, before anything else.

use crate::Error;
use crate::change::{Changed, OnCommit};
use crate::db::{Connection, Pool, Transaction};
use crate::hear::{Origin, tell, told};
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

pub(crate) const SAVEPOINT: &str = "SAVEPOINT change";
pub(crate) const RELEASE: &str = "RELEASE change";
const ROLLBACK: &str = "ROLLBACK TO change; RELEASE change";

/// Bits for the changes of one group, in the numbers of changes; the rest counts groups.
const CHANGES: u32 = 20;

/// Makes changes one at a time.
#[derive(Clone)]
pub(crate) struct Writer {
    pool: Pool,
    shared: Arc<Mutex<Shared>>,
    /// How long a change waits for its turn.
    patience: Duration,
    on_commit: OnCommit,
    /// Who tells other processes of it, if there may be any.
    origin: Option<Origin>,
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
    /// Of its next change.
    next: u64,
    tx: Transaction,
    durability: Durability,
    made: Vec<Made>,
    /// The savepoint may be there, of a change that was not made.
    torn: bool,
}

/// A change that waits for the commit.
pub(crate) struct Made {
    pub(crate) number: u64,
    pub(crate) changed: Vec<Changed>,
    told: oneshot::Sender<Result<(), Error>>,
}

/// A turn: whoever has it may use the connection.
pub(crate) struct Turn {
    shared: Option<OwnedMutexGuard<Shared>>,
    writer: Writer,
    group: u64,
}

impl Writer {
    /// The pool has one connection: a database has one writer at a time, and a queue here is fairer than its own.
    pub(crate) fn new(pool: Pool, patience: Duration, on_commit: OnCommit, origin: Option<Origin>) -> Self {
        Self { pool, shared: Arc::default(), patience, on_commit, origin }
    }

    /// The connection, for what is no change.
    pub(crate) fn pool(&self) -> &Pool {
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
                let tx = self.pool.begin(durability).await?;
                shared.number += 1;
                let number = shared.number;
                let next = tx.number().unwrap_or(number) << CHANGES;
                shared.group = Some(Group { number, next, tx, durability, made: Vec::new(), torn: false });
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
        match group.tx.connection().script(ROLLBACK).await {
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
        if group.made.is_empty() {
            // Rolled back when the connection is used next, or now, if there is somebody who waits.
            if let Err(error) = group.tx.rollback().await {
                tracing::debug!(%error, "a transaction without changes ended by itself");
            }
            return;
        }
        let Group { mut tx, made, .. } = group;
        if let Some(origin) = &self.origin {
            let told = told(origin, &made);
            if let Err(error) = tell(tx.connection(), &told).await {
                return failed(made, error, || Error::Undone);
            }
        }
        match tx.commit().await {
            Ok(()) => {
                for Made { number, changed, told } in made {
                    changed.into_iter().for_each(|changed| (self.on_commit)(number, changed));
                    let _ = told.send(Ok(()));
                }
            }
            Err(error) if error.as_database_error().is_some() => failed(made, error.into(), || Error::Undone),
            // Without an answer of the database nobody knows.
            Err(error) => {
                tracing::error!(%error, "the database did not answer to a commit");
                failed(made, Error::Unanswered, || Error::Unanswered);
            }
        }
    }
}

/// Tells the first why, and all others what that means.
fn failed(made: Vec<Made>, why: Error, others: fn() -> Error) {
    let mut first = Some(why);
    for Made { told, .. } in made {
        let _ = told.send(Err(first.take().unwrap_or_else(others)));
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
    /// A number that grows from change to change.
    pub(crate) fn number(&mut self) -> Result<u64, Error> {
        let group = self.group()?;
        group.next += 1;
        Ok(group.next)
    }

    fn group(&mut self) -> Result<&mut Group, Error> {
        // It is there for as long as the turn lasts.
        self.shared.as_mut().and_then(|shared| shared.group.as_mut()).ok_or(Error::Undone)
    }

    /// The connection. What is done by it counts once [`Turn::made`] returns.
    pub(crate) fn connection(&mut self) -> Result<Connection<'_>, Error> {
        let group = self.group()?;
        group.torn = true;
        Ok(group.tx.connection())
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
