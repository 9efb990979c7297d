//! Statements that go to the database together. What a small statement costs is the way to the database and back: to
//! SQLite's thread and back, or over the network.

use crate::Error;
use crate::db::{Argument, Connection, answered, for_postgres, for_sqlite};
use crate::rows::Row;
use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Either, Executor, SqlSafeStr};
use std::fmt::Write;

/// Statements, in the order in which they are run; the first that fails ends the batch.
///
/// The text of a batch is the key that SQLite keeps it prepared under: its shapes should be few.
#[derive(Default)]
pub(crate) struct Batch {
    statements: Vec<Statement>,
    arguments: Vec<Argument>,
}

struct Statement {
    sql: &'static str,
    /// Parameters of the statements before it.
    before: usize,
    /// What it means that it changed no row.
    refusal: Option<Error>,
}

impl Statement {
    /// Appends it, behind others, whose parameters come first.
    fn write(&self, text: &mut String) {
        if !text.is_empty() {
            text.push(';');
        }
        let mut parts = self.sql.split('$');
        text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = part.split_at(digits);
            let number: usize = number.parse().expect("a parameter has a number");
            write!(text, "${}{rest}", self.before + number).expect("a string takes all");
        }
    }
}

impl Batch {
    /// One more statement. Its parameters are `$1` and so on, as if it stood alone.
    pub(crate) fn add(&mut self, sql: &'static str) -> &mut Self {
        self.statements.push(Statement { sql, before: self.arguments.len(), refusal: None });
        self
    }

    /// The next parameter of the last statement.
    pub(crate) fn bind(&mut self, value: impl Into<Argument>) -> &mut Self {
        self.arguments.push(value.into());
        self
    }

    /// When the last statement changes no row, the batch fails with this.
    pub(crate) fn or(&mut self, refusal: Error) -> &mut Self {
        if let Some(last) = self.statements.last_mut() {
            last.refusal = Some(refusal);
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Runs the statements, and tells the rows of each.
    pub(crate) async fn run(self, db: Connection<'_>) -> Result<Vec<Vec<Row>>, Error> {
        match db {
            Connection::Sqlite(db) => self.run_at_once(db).await,
            Connection::Postgres(db) => self.run_in_turn(db).await,
        }
    }

    async fn run_at_once(self, db: &mut SqliteConnection) -> Result<Vec<Vec<Row>>, Error> {
        let Self { statements, arguments } = self;
        let sql = match &*statements {
            [only] => only.sql.into_sql_str(),
            many => {
                let mut sql =
                    String::with_capacity(many.iter().map(|statement| statement.sql.len() + 16).sum());
                many.iter().for_each(|statement| statement.write(&mut sql));
                AssertSqlSafe(sql).into_sql_str()
            }
        };
        let mut answers = vec![Vec::new()];
        let mut refusals = statements.into_iter().map(|statement| statement.refusal);
        let mut coming = db.fetch_many(sqlx::query_with(sql, for_sqlite(arguments)));
        // The stream is read to its end also when something was refused: the connection is not free before.
        let mut refused = None;
        while let Some(item) = coming.try_next().await? {
            match item {
                Either::Right(row) => answers.last_mut().expect("never empty").push(Row::Sqlite(row)),
                Either::Left(done) => {
                    let refusal = refusals.next().flatten().filter(|_| done.rows_affected() == 0);
                    refused = refused.or(refusal);
                    answers.push(Vec::new());
                }
            }
        }
        answers.pop();
        refused.map_or(Ok(answers), Err)
    }

    /// PostgreSQL takes one statement at a time that has parameters.
    async fn run_in_turn(self, db: &mut PgConnection) -> Result<Vec<Vec<Row>>, Error> {
        let Self { statements, arguments } = self;
        let mut arguments = arguments.into_iter();
        let mut answers = Vec::with_capacity(statements.len());
        let mut statements = statements.into_iter().peekable();
        while let Some(Statement { sql, before, refusal }) = statements.next() {
            let own = match statements.peek() {
                Some(next) => next.before - before,
                None => arguments.len(),
            };
            let own = for_postgres(arguments.by_ref().take(own));
            let (rows, affected) = answered(run_one(db, sql, own)).await?;
            if let Some(refusal) = refusal.filter(|_| affected == 0) {
                return Err(refusal);
            }
            answers.push(rows);
        }
        Ok(answers)
    }
}

async fn run_one(
    db: &mut PgConnection,
    sql: &'static str,
    arguments: PgArguments,
) -> Result<(Vec<Row>, u64), sqlx::Error> {
    let (mut rows, mut affected) = (Vec::new(), 0);
    let mut coming = db.fetch_many(sqlx::query_with(sql, arguments));
    while let Some(item) = coming.try_next().await? {
        match item {
            Either::Right(row) => rows.push(Row::Postgres(row)),
            Either::Left(done) => affected += done.rows_affected(),
        }
    }
    Ok((rows, affected))
}
