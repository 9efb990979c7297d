//! PostgreSQL, on a server that several control processes may use.

use crate::group::Durability;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Executor, Postgres, Row};

/// Whoever writes has this lock until its transaction ends: changes of all processes are made one after the other, as SQLite's are.
/// The number is taken behind it, so that it grows from commit to commit.
const DURABLE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7700); SELECT nextval('changes')";
const REPEATABLE: &str = "BEGIN; SET LOCAL synchronous_commit = off; SELECT pg_advisory_xact_lock(7700);
    SELECT nextval('changes')";

/// A transaction that has the lock.
pub(crate) struct Transaction {
    connection: PoolConnection<Postgres>,
    pub(super) number: u64,
    ended: bool,
}

impl Transaction {
    pub(super) async fn begin(pool: &PgPool, durability: Durability) -> Result<Self, sqlx::Error> {
        let mut tx = Self { connection: pool.acquire().await?, number: 0, ended: false };
        let sql = match durability {
            Durability::Durable => DURABLE,
            Durability::Repeatable => REPEATABLE,
        };
        let rows = tx.connection.fetch_all(sqlx::raw_sql(sql)).await?;
        let number: i64 = rows.last().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        tx.number = number.unsigned_abs();
        Ok(tx)
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(super) async fn end(mut self, how: &'static str) -> Result<(), sqlx::Error> {
        self.connection.execute(sqlx::raw_sql(how)).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Transaction {
    /// Nobody goes on with a connection of which nobody knows what it is in the middle of; the server undoes what it began.
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}
