//! The database: the one place that knows SQL.
//!
//! Every change is one transaction that also appends its audit event, closes and opens the state period, and
//! raises the revision of the node it concerns; `change.rs` refuses to commit anything else. This crate decides
//! nothing about who may do what, and never sees a secret: keys and tokens arrive hashed, values encrypted.

mod accounts;
mod agents;
mod backup;
mod batch;
mod bearers;
mod change;
mod cleanup;
mod creation;
mod db;
mod deadlines;
mod egress;
mod error;
mod events;
mod factors;
mod group;
mod hear;
mod idempotency;
mod images;
mod installation;
mod invitations;
mod keys;
mod ledger;
mod marks;
mod members;
mod nodes;
mod observe;
mod periods;
mod policies;
mod quotas;
mod rows;
mod secrets;
mod sessions;
mod source;
#[cfg(test)]
mod tests;
mod tokens;
mod transfers;
mod usage;
mod users;
mod uses;

pub use accounts::NewAccount;
pub use agents::{Agent, AgentFilter, FIRST_EPOCH, Order};
pub use backup::{Archive, BackupError, Ending, Header, Restored};
pub use change::{Actor, Changed, OnCommit};
pub use creation::{Asked, Candidate, Found, NewAgent};
pub use db::{Server, UrlFault};
pub use deadlines::{Cause, Due};
pub use egress::{EgressFilter, Watched};
pub use error::Error;
pub use factors::Factor;
pub use idempotency::Idempotency;
pub use installation::Installation;
pub use invitations::{Invited, NewInvitation};
pub use keys::{Bearer, Fresh, NewKey};
pub use ledger::Chaining;
pub use marks::Mark;
pub use nodes::{DesiredRows, Enrolment};
pub use rows::PageOf;
pub use secrets::{
    BoundSecret, DataKey, Delivery, Encrypted, NewSecret, NewValue, Placeholders, StoredValue,
    named as secrets_named,
};
pub use sessions::{NewSession, Sitting};
pub use source::asked_from;
pub use transfers::{Moved, Transfer};
pub use users::{Credentials, Resets};

use bearers::Bearers;
use db::{BUSY, PATIENCE, Pool, query};
use group::Writer;
use hear::Origin;
use model::clock::Clock;
use model::quota::Quota;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::AbortHandle;

/// An open database.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Writer,
    reader: Pool,
    clock: Arc<dyn Clock>,
    bearers: Arc<Bearers>,
    uses: uses::Uses,
    marks: marks::Asked,
    /// Of accounts that are made from now on.
    new_quota: OnceLock<Quota>,
    /// Hears of what other processes change.
    ear: Option<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ear.take().inspect(AbortHandle::abort);
    }
}

/// Keys that were deleted are forgotten before anybody is told so.
fn forgetting(bearers: &Arc<Bearers>, on_commit: OnCommit) -> OnCommit {
    let known = bearers.clone();
    Arc::new(move |number, changed| {
        if matches!(changed, Changed::Keys | Changed::Anything) {
            known.forget_all();
        }
        on_commit(number, changed);
    })
}

impl Store {
    /// Opens the database, makes it if it is not there, and brings its schema up to date. After every commit
    /// `on_commit` is told what changed.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, on_commit: OnCommit) -> Result<Self, Error> {
        Self::open_waiting(path, clock, on_commit, BUSY).await
    }

    async fn open_waiting(
        path: &Path,
        clock: Arc<dyn Clock>,
        on_commit: OnCommit,
        busy: Duration,
    ) -> Result<Self, Error> {
        let (writer, reader) = db::open_file(path, busy).await?;
        let bearers = Arc::<Bearers>::default();
        let on_commit = forgetting(&bearers, on_commit);
        let writer = Writer::new(writer, 2 * busy, on_commit, None);
        Ok(Self::of(writer, reader, clock, bearers, None))
    }

    /// Connects to a database on a server, which other processes may use too, and brings its schema up to date. `on_commit` is told
    /// what each of them changes.
    pub async fn connect(server: &Server, clock: Arc<dyn Clock>, on_commit: OnCommit) -> Result<Self, Error> {
        Self::connect_waiting(server, clock, on_commit, PATIENCE).await
    }

    /// The same, for what is done while nobody serves: who serves is asked for by this.
    pub async fn connect_aside(server: &Server, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::connect(&server.named("cofferdam-backup"), clock, Arc::new(|_, _| {})).await
    }

    async fn connect_waiting(
        server: &Server,
        clock: Arc<dyn Clock>,
        on_commit: OnCommit,
        patience: Duration,
    ) -> Result<Self, Error> {
        let (writer, reader) = db::connect(server, patience).await?;
        let bearers = Arc::<Bearers>::default();
        let on_commit = forgetting(&bearers, on_commit);
        let origin = Origin::new();
        let ear = match &reader {
            Pool::Postgres(pool) => {
                let listener = hear::listen(pool).await?;
                let hearing = hear::hear(listener, pool.clone(), origin.clone(), on_commit.clone());
                Some(tokio::spawn(hearing).abort_handle())
            }
            Pool::Sqlite(_) => None,
        };
        let writer = Writer::new(writer, 2 * patience, on_commit, Some(origin));
        Ok(Self::of(writer, reader, clock, bearers, ear))
    }

    fn of(
        writer: Writer,
        reader: Pool,
        clock: Arc<dyn Clock>,
        bearers: Arc<Bearers>,
        ear: Option<AbortHandle>,
    ) -> Self {
        let (uses, marks, new_quota) = (uses::Uses::default(), marks::Asked::default(), OnceLock::new());
        Self(Arc::new(Inner { writer, reader, clock, bearers, uses, marks, new_quota, ear }))
    }

    /// Closes all connections, so that the write-ahead log is folded into the database.
    pub async fn close(&self) {
        self.0.reader.close().await;
        self.0.writer.pool().close().await;
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), Error> {
        query("SELECT singleton FROM installation").fetch_optional(&self.0.reader).await?;
        Ok(())
    }

    /// The time that rows are written with.
    pub fn now(&self) -> time::OffsetDateTime {
        self.0.clock.now()
    }
}
