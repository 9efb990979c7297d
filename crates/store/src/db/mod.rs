//! The two databases behind one waist: a connection, a statement, a row. SQL stands once, in the words that both know; what only one
//! of them has is in this folder, and nothing outside of it asks which one it talks to.

mod postgres;
mod query;
mod sqlite;
mod whole;

#[cfg(test)]
pub(crate) use postgres::migrations as postgres_migrations;
pub(crate) use postgres::{PATIENCE, answered, open as connect};
pub use postgres::{Server, UrlFault};
pub(crate) use query::{Argument, Builder, Query, for_postgres, for_sqlite, query};
#[cfg(test)]
pub(crate) use sqlite::migrations as sqlite_migrations;
pub(crate) use sqlite::{BUSY, open as open_file};

pub(crate) use whole::{Kind, Snapshot, allow_deletion, columns, count_on, others, schema};

use crate::Error;
use crate::group::Durability;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{Postgres, SqlSafeStr, Sqlite};

/// Numbered from 1 as they stand: those of the two databases have the same names.
fn migrator<const COUNT: usize>(all: [(&'static str, &'static str); COUNT]) -> Migrator {
    let numbered = (1..).zip(all).map(|(version, (name, sql))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(numbered.collect())
}

fn names(all: Migrator) -> Vec<String> {
    all.iter().map(|one| one.description.to_string()).collect()
}

fn sqlite_names() -> Vec<String> {
    names(sqlite::migrations())
}

fn postgres_names() -> Vec<String> {
    names(postgres::migrations())
}

/// Connections that are used in turn.
#[derive(Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// One connection, lent.
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// What a statement is run on.
pub(crate) enum Target<'c> {
    Pool(&'c Pool),
    Connection(Connection<'c>),
}

impl<'c> From<&'c Pool> for Target<'c> {
    fn from(pool: &'c Pool) -> Self {
        Self::Pool(pool)
    }
}

impl<'c> From<Connection<'c>> for Target<'c> {
    fn from(connection: Connection<'c>) -> Self {
        Self::Connection(connection)
    }
}

/// One connection of a pool, until it is dropped.
pub(crate) enum Held {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Held {
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection) => Connection::Sqlite(connection),
            Self::Postgres(connection) => Connection::Postgres(connection),
        }
    }
}

impl Pool {
    pub(crate) async fn acquire(&self) -> Result<Held, Error> {
        Ok(match self {
            Self::Sqlite(pool) => Held::Sqlite(pool.acquire().await?),
            Self::Postgres(pool) => Held::Postgres(pool.acquire().await?),
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// Begins to write, once nobody else does.
    pub(crate) async fn begin(&self, durability: Durability) -> Result<Transaction, Error> {
        Ok(match self {
            Self::Sqlite(pool) => Transaction::Sqlite(pool.begin_with(sqlite::begin(durability)).await?),
            Self::Postgres(pool) => {
                Transaction::Postgres(postgres::Transaction::begin(pool, durability).await?)
            }
        })
    }
}

impl Connection<'_> {
    /// Runs statements that have no parameters and of which no rows are told.
    pub(crate) async fn script(self, sql: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop),
            Self::Postgres(connection) => answered(sqlx::raw_sql(sql).execute(connection)).await.map(drop),
        }
    }

    /// Whether what is deleted or replaced from here on is overwritten wherever it is. PostgreSQL keeps old rows until it cleans
    /// up by itself, and overwrites nothing.
    pub(crate) async fn overwrite(self, on: bool) -> Result<(), Error> {
        match self {
            Self::Sqlite(_) => self.script(sqlite::overwrite(on)).await.map_err(Error::from),
            Self::Postgres(_) => Ok(()),
        }
    }
}

/// A transaction that nobody else writes beside. Dropped, it is undone.
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(postgres::Transaction),
}

impl Transaction {
    /// Where it stands among all that were begun on this database, where several processes write to it.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(tx) => Some(tx.number),
        }
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(tx) => Connection::Sqlite(tx),
            Self::Postgres(tx) => Connection::Postgres(tx.connection()),
        }
    }

    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.end("COMMIT").await,
        }
    }

    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.rollback().await,
            Self::Postgres(tx) => tx.end("ROLLBACK").await,
        }
    }
}
