//! The database: the one place that knows SQL.
//!
//! Every change is one transaction that also appends its audit event, closes and opens the state period, and
//! raises the revision of the node it concerns; `change.rs` refuses to commit anything else. This crate decides
//! nothing about who may do what, and never sees a secret: keys and tokens arrive hashed, values encrypted.

mod accounts;
mod agents;
mod batch;
mod bearers;
mod change;
mod cleanup;
mod creation;
mod deadlines;
mod egress;
mod error;
mod events;
mod factors;
mod group;
mod idempotency;
mod images;
mod installation;
mod invitations;
mod keys;
mod members;
mod nodes;
mod observe;
mod policies;
mod quotas;
mod rows;
mod secrets;
mod sessions;
#[cfg(test)]
mod tests;
mod tokens;
mod users;
mod uses;

pub use accounts::NewAccount;
pub use agents::{Agent, AgentFilter, FIRST_EPOCH, Order};
pub use change::{Actor, Changed, OnCommit};
pub use creation::{Asked, Candidate, Found, NewAgent};
pub use deadlines::{Cause, Due};
pub use egress::{EgressFilter, Watched};
pub use error::Error;
pub use factors::Factor;
pub use idempotency::Idempotency;
pub use installation::Installation;
pub use invitations::{Invited, NewInvitation};
pub use keys::{Bearer, Fresh, NewKey};
pub use nodes::{DesiredRows, Enrolment};
pub use rows::PageOf;
pub use secrets::{
    BoundSecret, DataKey, Delivery, Encrypted, NewSecret, NewValue, Placeholders, StoredValue,
    named as secrets_named,
};
pub use sessions::{NewSession, Sitting};
pub use users::{Credentials, Resets};

use bearers::Bearers;
use group::Writer;
use model::clock::Clock;
use model::quota::Quota;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, SqlSafeStr};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a writer waits for another process before it says that the database is locked.
const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// An open database.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Writer,
    reader: SqlitePool,
    clock: Arc<dyn Clock>,
    bearers: Arc<Bearers>,
    uses: uses::Uses,
    /// Of accounts that are made from now on.
    new_quota: OnceLock<Quota>,
    /// Counts changes, in the order in which they were made.
    changes: AtomicU64,
}

fn migrations() -> Migrator {
    let all = [
        ("initial", include_str!("../migrations/sqlite/0001_initial.sql")),
        ("changes", include_str!("../migrations/sqlite/0002_changes.sql")),
        ("free_slots", include_str!("../migrations/sqlite/0003_free_slots.sql")),
        ("levels", include_str!("../migrations/sqlite/0004_levels.sql")),
        ("observation", include_str!("../migrations/sqlite/0005_observation.sql")),
        ("policy", include_str!("../migrations/sqlite/0006_policy.sql")),
        ("egress", include_str!("../migrations/sqlite/0007_egress.sql")),
        ("secrets", include_str!("../migrations/sqlite/0008_secrets.sql")),
        ("people", include_str!("../migrations/sqlite/0009_people.sql")),
        ("quotas", include_str!("../migrations/sqlite/0010_quotas.sql")),
    ];
    let numbered = (1..).zip(all).map(|(version, (name, sql))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(numbered.collect())
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
        let opening = |source| Error::opening(path, source);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is deleted is overwritten in pages that are written anyway: there ciphertexts pass through, see `secrets`.
            .pragma("secure_delete", "fast")
            .busy_timeout(busy);
        // Who waits for its turn waits for longer than who has it: that one hears of the lock itself.
        let forever = || {
            SqlitePoolOptions::new()
                .idle_timeout(None)
                .max_lifetime(None)
                .acquire_timeout(2 * busy)
                // A connection to a file does not go away while nobody looks; asking it costs as much as a statement.
                .test_before_acquire(false)
        };
        // A disk that is full, among others, makes SQLite end a transaction by itself. The connection then never
        // gets out of it in sqlx's books, and would refuse every change from there on.
        let writer = forever()
            .max_connections(1)
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options.clone())
            .await
            .map_err(opening)?;
        migrations().run(&writer).await.map_err(|source| Error::migrating(path, source))?;
        let reader = forever()
            .max_connections(READERS)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(opening)?;
        let bearers = Arc::<Bearers>::default();
        let known = bearers.clone();
        let on_commit: OnCommit = Arc::new(move |number, changed| {
            if matches!(changed, Changed::Keys) {
                known.forget_all();
            }
            on_commit(number, changed);
        });
        let writer = Writer::new(writer, 2 * busy, on_commit);
        let (uses, new_quota, changes) = (uses::Uses::default(), OnceLock::new(), AtomicU64::new(1));
        Ok(Self(Arc::new(Inner { writer, reader, clock, bearers, uses, new_quota, changes })))
    }

    /// Closes all connections, so that the write-ahead log is folded into the database.
    pub async fn close(&self) {
        self.0.reader.close().await;
        self.0.writer.pool().close().await;
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("SELECT singleton FROM installation").fetch_optional(&self.0.reader).await?;
        Ok(())
    }

    /// The time that rows are written with.
    pub fn now(&self) -> time::OffsetDateTime {
        self.0.clock.now()
    }
}
