//! SQLite, in a file of this machine.

use super::Pool;
use crate::Error;
use crate::group::Durability;
use sqlx::Connection;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::path::Path;
use std::time::Duration;

/// How long a writer waits for another process before it says that the database is locked.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

// IMMEDIATE takes the write lock now: a transaction that reads first and then finds the lock taken by another process could
// not be retried by SQLite's busy handler. FULL syncs at the commit, NORMAL with a later one.
pub(super) fn begin(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
        Durability::Repeatable => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
    }
}

pub(super) fn overwrite(on: bool) -> &'static str {
    if on { "PRAGMA secure_delete = ON" } else { "PRAGMA secure_delete = FAST" }
}

pub(crate) fn migrations() -> Migrator {
    super::migrator([
        ("initial", include_str!("../../migrations/sqlite/0001_initial.sql")),
        ("changes", include_str!("../../migrations/sqlite/0002_changes.sql")),
        ("free_slots", include_str!("../../migrations/sqlite/0003_free_slots.sql")),
        ("levels", include_str!("../../migrations/sqlite/0004_levels.sql")),
        ("observation", include_str!("../../migrations/sqlite/0005_observation.sql")),
        ("policy", include_str!("../../migrations/sqlite/0006_policy.sql")),
        ("egress", include_str!("../../migrations/sqlite/0007_egress.sql")),
        ("secrets", include_str!("../../migrations/sqlite/0008_secrets.sql")),
        ("people", include_str!("../../migrations/sqlite/0009_people.sql")),
        ("quotas", include_str!("../../migrations/sqlite/0010_quotas.sql")),
        ("ledger", include_str!("../../migrations/sqlite/0011_ledger.sql")),
        ("transfers", include_str!("../../migrations/sqlite/0012_transfers.sql")),
        ("packages", include_str!("../../migrations/sqlite/0013_packages.sql")),
        ("shown", include_str!("../../migrations/sqlite/0014_shown.sql")),
        ("creation", include_str!("../../migrations/sqlite/0015_creation.sql")),
        ("restored", include_str!("../../migrations/sqlite/0016_restored.sql")),
        ("periods", include_str!("../../migrations/sqlite/0017_periods.sql")),
        ("usage", include_str!("../../migrations/sqlite/0018_usage.sql")),
    ])
}

/// Opens the file, makes it if it is not there, and brings its schema up to date: the connection that writes, and those that read.
pub(crate) async fn open(path: &Path, busy: Duration) -> Result<(Pool, Pool), Error> {
    let place = || path.display().to_string();
    let opening = |source| Error::opening(place(), source);
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
    // A disk that is full, among others, makes SQLite end a transaction by itself. The connection then never gets out of it
    // in sqlx's books, and would refuse every change from there on.
    let writer = forever()
        .max_connections(1)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .connect_with(options.clone())
        .await
        .map_err(opening)?;
    migrations().run(&writer).await.map_err(|source| Error::migrating(place(), source))?;
    let reader = forever()
        .max_connections(READERS)
        .connect_with(options.pragma("query_only", "on"))
        .await
        .map_err(opening)?;
    Ok((Pool::Sqlite(writer), Pool::Sqlite(reader)))
}
