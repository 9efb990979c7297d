//! What concerns a database as a whole: all of it as it is at one moment, what it is made of, and what has to be out of the way while
//! another takes its place.

use super::postgres::SERVING;
use super::{Connection, Held, Pool, postgres_names, query, sqlite_names};
use crate::Error;
use crate::rows::Row;
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, SqlSafeStr};

/// What a column holds. A null is of a kind too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Number,
    Real,
    Text,
    Bytes,
}

/// The names of all migrations, in their order: who has the same has the same schema.
pub(crate) fn schema() -> Vec<String> {
    let names = sqlite_names();
    debug_assert_eq!(names, postgres_names());
    names
}

/// All that there is, as it is at one moment, whatever is written meanwhile.
pub(crate) struct Snapshot(Held);

impl Snapshot {
    pub(crate) async fn begin(reader: &Pool) -> Result<Self, Error> {
        let mut held = reader.acquire().await?;
        match held.connection() {
            // A deferred transaction sees what was committed when it first read, for as long as it lasts (WAL).
            Connection::Sqlite(db) => {
                sqlx::raw_sql("BEGIN; SELECT count(*) FROM installation").execute(db).await.map(drop)?;
            }
            // A large table takes longer than any statement that somebody waits for.
            Connection::Postgres(db) => {
                let begin =
                    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0";
                sqlx::raw_sql(begin).execute(db).await.map(drop)?;
            }
        }
        Ok(Self(held))
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        self.0.connection()
    }

    /// Each row in turn, so that memory holds few of them.
    pub(crate) async fn each<E: From<Error>>(
        &mut self,
        sql: String,
        mut each: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = AssertSqlSafe(sql).into_sql_str();
        match self.connection() {
            Connection::Sqlite(db) => {
                let mut rows = sqlx::query(sql).fetch(db);
                while let Some(row) = rows.try_next().await.map_err(Error::from)? {
                    each(Row::Sqlite(row))?;
                }
            }
            Connection::Postgres(db) => {
                let mut rows = sqlx::query(sql).fetch(db);
                while let Some(row) = super::answered(rows.try_next()).await.map_err(Error::from)? {
                    each(Row::Postgres(row))?;
                }
            }
        }
        Ok(())
    }

    /// It is over; nothing was written.
    pub(crate) async fn end(mut self) -> Result<(), Error> {
        Ok(self.0.connection().script("ROLLBACK").await?)
    }
}

/// The columns of a table, in order. Not what PostgreSQL has in place of SQLite's own `rowid`.
pub(crate) async fn columns(db: Connection<'_>, table: &str) -> Result<Vec<(String, Kind)>, Error> {
    let sql = match &db {
        Connection::Sqlite(_) => "SELECT name, type FROM pragma_table_info($1) ORDER BY cid",
        Connection::Postgres(_) => {
            "SELECT column_name::text AS name, data_type::text AS type FROM information_schema.columns
             WHERE table_schema = 'public' AND table_name = $1 AND column_name <> 'rowid' ORDER BY ordinal_position"
        }
    };
    let rows = query(sql).bind(table).fetch_all(db).await?;
    let column = |row: &Row| {
        let kind = match row.try_get::<&str, _>("type")? {
            "INTEGER" | "bigint" => Kind::Number,
            "REAL" | "double precision" => Kind::Real,
            "TEXT" | "text" => Kind::Text,
            "BLOB" | "bytea" => Kind::Bytes,
            _ => return Err(Error::Corrupt { column: "type" }),
        };
        Ok((row.text("name")?, kind))
    };
    rows.iter().map(column).collect()
}

/// Processes that serve on this database now, where the database can tell.
pub(crate) async fn others(db: Connection<'_>) -> Result<u64, Error> {
    if matches!(db, Connection::Sqlite(_)) {
        return Ok(0);
    }
    let sql = "SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
    query(sql).bind(SERVING).fetch_one(db).await?.number("count")
}

/// What keeps rows from being deleted that are kept for ever, out of the way. Back with what [`allow_deletion`] tells.
pub(crate) struct Guards(Vec<String>);

/// Takes the triggers of deletions out of the way, in the transaction of this connection.
pub(crate) async fn allow_deletion(mut db: Connection<'_>) -> Result<Guards, Error> {
    match &mut db {
        Connection::Sqlite(db) => {
            let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND sql LIKE '% DELETE ON %' ORDER BY name";
            let rows = query(sql).fetch_all(Connection::Sqlite(db)).await?;
            let mut guards = Vec::new();
            for row in rows {
                run(Connection::Sqlite(db), format!("DROP TRIGGER \"{}\"", row.text("name")?)).await?;
                guards.push(row.text("sql")?);
            }
            Ok(Guards(guards))
        }
        Connection::Postgres(db) => {
            // 8 is the bit of deletions: pg_trigger(catalogue), src/include/catalog/pg_trigger.h.
            let sql = "SELECT DISTINCT t.relname::text AS name FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid
                 WHERE NOT g.tgisinternal AND g.tgtype & 8 <> 0 AND t.relnamespace = 'public'::regnamespace";
            let rows = query(sql).fetch_all(Connection::Postgres(db)).await?;
            let mut guards = Vec::new();
            for row in rows {
                let table = row.text("name")?;
                run(Connection::Postgres(db), format!("ALTER TABLE \"{table}\" DISABLE TRIGGER USER"))
                    .await?;
                guards.push(format!("ALTER TABLE \"{table}\" ENABLE TRIGGER USER"));
            }
            Ok(Guards(guards))
        }
    }
}

impl Guards {
    /// Puts them back.
    pub(crate) async fn back(self, mut db: Connection<'_>) -> Result<(), Error> {
        for sql in self.0 {
            run(reborrowed(&mut db), sql).await?;
        }
        Ok(())
    }
}

/// Has what counts by itself go on behind the rows that are there. SQLite does by itself.
pub(crate) async fn count_on(mut db: Connection<'_>) -> Result<(), Error> {
    if matches!(db, Connection::Sqlite(_)) {
        return Ok(());
    }
    let sql = "SELECT table_name::text AS name, column_name::text AS counted FROM information_schema.columns
         WHERE table_schema = 'public' AND is_identity = 'YES'";
    for row in query(sql).fetch_all(reborrowed(&mut db)).await? {
        let (table, column) = (row.text("name")?, row.text("counted")?);
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), coalesce(max(\"{column}\"), 0) + 1, false) FROM \"{table}\""
        );
        query(AssertSqlSafe(sql)).fetch_one(reborrowed(&mut db)).await?;
    }
    Ok(())
}

fn reborrowed<'c>(db: &'c mut Connection<'_>) -> Connection<'c> {
    match db {
        Connection::Sqlite(db) => Connection::Sqlite(db),
        Connection::Postgres(db) => Connection::Postgres(db),
    }
}

async fn run(db: Connection<'_>, sql: String) -> Result<(), Error> {
    query(AssertSqlSafe(sql)).execute(db).await.map(drop)
}
