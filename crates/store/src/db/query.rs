//! A statement with its parameters, for either database.

use super::{Connection, Pool, Target, answered};
use crate::Error;
use crate::rows::Row;
use futures_util::TryFutureExt;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe, SqlSafeStr, SqlStr};

/// A parameter. A null has a type too: PostgreSQL asks for it.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    Number(Option<i64>),
    Real(Option<f64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! from {
    ($($from:ty: $value:ident => $argument:expr;)*) => {
        $(impl From<$from> for Argument {
            fn from($value: $from) -> Self {
                $argument
            }
        })*
    };
}

from! {
    i64: value => Self::Number(Some(value));
    Option<i64>: value => Self::Number(value);
    f64: value => Self::Real(Some(value));
    String: value => Self::Text(Some(value));
    &String: value => Self::Text(Some(value.clone()));
    &str: value => Self::Text(Some(value.to_owned()));
    Option<String>: value => Self::Text(value);
    Option<&str>: value => Self::Text(value.map(str::to_owned));
    Vec<u8>: value => Self::Bytes(Some(value));
}

const SENT: &str = "texts, numbers and bytes can be sent";

pub(crate) fn for_sqlite(arguments: Vec<Argument>) -> SqliteArguments {
    let mut sent = SqliteArguments::default();
    sent.reserve(arguments.len(), 0);
    for argument in arguments {
        match argument {
            Argument::Number(value) => sent.add(value),
            Argument::Real(value) => sent.add(value),
            Argument::Text(value) => sent.add(value),
            Argument::Bytes(value) => sent.add(value),
        }
        .expect(SENT);
    }
    sent
}

pub(crate) fn for_postgres(arguments: impl IntoIterator<Item = Argument>) -> PgArguments {
    let mut sent = PgArguments::default();
    for argument in arguments {
        match argument {
            Argument::Number(value) => sent.add(value),
            Argument::Real(value) => sent.add(value),
            Argument::Text(value) => sent.add(value),
            Argument::Bytes(value) => sent.add(value),
        }
        .expect(SENT);
    }
    sent
}

/// A statement.
pub(crate) struct Query {
    sql: SqlStr,
    arguments: Vec<Argument>,
}

/// What a statement did that tells no rows.
pub(crate) struct Done(u64);

impl Done {
    pub(crate) fn rows_affected(&self) -> u64 {
        self.0
    }
}

/// A statement whose parameters are `$1` and so on. Its text is the key that a connection keeps it prepared under.
pub(crate) fn query(sql: impl SqlSafeStr) -> Query {
    Query { sql: sql.into_sql_str(), arguments: Vec::new() }
}

/// Runs a statement on whatever it is to be run on; `$each` makes of sqlx's statement what is wanted of it.
macro_rules! run {
    ($query:expr, $target:expr, |$sent:ident, $db:ident, $row:ident| $each:expr) => {{
        let Query { sql, arguments } = $query;
        match $target.into() {
            Target::Pool(Pool::Sqlite($db)) => {
                let ($sent, $row) = (sqlx::query_with(sql, for_sqlite(arguments)), Row::Sqlite);
                $each.await
            }
            Target::Connection(Connection::Sqlite($db)) => {
                let ($sent, $row) = (sqlx::query_with(sql, for_sqlite(arguments)), Row::Sqlite);
                $each.await
            }
            Target::Pool(Pool::Postgres($db)) => {
                let ($sent, $row) = (sqlx::query_with(sql, for_postgres(arguments)), Row::Postgres);
                answered($each).await
            }
            Target::Connection(Connection::Postgres($db)) => {
                let ($sent, $row) = (sqlx::query_with(sql, for_postgres(arguments)), Row::Postgres);
                answered($each).await
            }
        }
    }};
}

impl Query {
    /// The next parameter.
    pub(crate) fn bind(mut self, value: impl Into<Argument>) -> Self {
        self.arguments.push(value.into());
        self
    }

    pub(crate) async fn fetch_all<'c>(self, target: impl Into<Target<'c>>) -> Result<Vec<Row>, Error> {
        Ok(run!(self, target, |sent, db, row| sent.map(row).fetch_all(db))?)
    }

    pub(crate) async fn fetch_optional<'c>(
        self,
        target: impl Into<Target<'c>>,
    ) -> Result<Option<Row>, Error> {
        Ok(run!(self, target, |sent, db, row| sent.map(row).fetch_optional(db))?)
    }

    pub(crate) async fn fetch_one<'c>(self, target: impl Into<Target<'c>>) -> Result<Row, Error> {
        Ok(run!(self, target, |sent, db, row| sent.map(row).fetch_one(db))?)
    }

    pub(crate) async fn execute<'c>(self, target: impl Into<Target<'c>>) -> Result<Done, Error> {
        let affected =
            run!(self, target, |sent, db, _row| sent.execute(db).map_ok(|done| done.rows_affected()));
        Ok(Done(affected?))
    }
}

/// A statement that is put together from parts. There should be few forms of it.
pub(crate) struct Builder {
    sql: String,
    arguments: Vec<Argument>,
}

impl Builder {
    pub(crate) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), arguments: Vec::new() }
    }

    pub(crate) fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(crate) fn push_bind(&mut self, value: impl Into<Argument>) -> &mut Self {
        self.arguments.push(value.into());
        self.sql.push('$');
        self.sql.push_str(&self.arguments.len().to_string());
        self
    }

    pub(crate) fn build(self) -> Query {
        Query { sql: AssertSqlSafe(self.sql).into_sql_str(), arguments: self.arguments }
    }
}
