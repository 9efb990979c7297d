//! Statements that go to the database together. What a small statement costs is the way to the database and back: to
//! SQLite's thread and back, or over the network.

use crate::Error;
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Either, Encode, Executor, Sqlite, SqliteConnection, Type};

/// Statements, in the order in which they are run; the first that fails ends the batch.
///
/// The text of a batch is the key that the connection keeps it prepared under: its shapes should be few.
#[derive(Default)]
pub(crate) struct Batch {
    sql: String,
    arguments: SqliteArguments,
    /// Parameters of the statements before the last.
    before: usize,
    /// Of each statement, what it means that it changed no row.
    refusals: Vec<Option<Error>>,
}

impl Batch {
    /// One more statement. Its parameters are `$1` and so on, as if it stood alone.
    pub(crate) fn add(&mut self, sql: &'static str) -> &mut Self {
        self.before = self.arguments.len();
        if !self.sql.is_empty() {
            self.sql.push(';');
        }
        let mut parts = sql.split('$');
        self.sql.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = part.split_at(digits);
            let number: usize = number.parse().expect("a parameter has a number");
            self.sql.push_str(&format!("${}{rest}", self.before + number));
        }
        self.refusals.push(None);
        self
    }

    /// The next parameter of the last statement.
    pub(crate) fn bind<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        self.arguments.add(value).expect("texts and numbers can be sent");
        self
    }

    /// When the last statement changes no row, the batch fails with this.
    pub(crate) fn or(&mut self, refusal: Error) -> &mut Self {
        if let Some(last) = self.refusals.last_mut() {
            *last = Some(refusal);
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.refusals.is_empty()
    }

    /// Runs the statements, and tells the rows of each.
    pub(crate) async fn run(self, db: &mut SqliteConnection) -> Result<Vec<Vec<SqliteRow>>, Error> {
        let Self { sql, arguments, refusals, .. } = self;
        let mut answers = vec![Vec::new()];
        let mut refusals = refusals.into_iter();
        let mut coming = db.fetch_many(sqlx::query_with(AssertSqlSafe(sql), arguments));
        // The stream is read to its end also when something was refused: the connection is not free before.
        let mut refused = None;
        while let Some(item) = coming.try_next().await? {
            match item {
                Either::Right(row) => answers.last_mut().expect("never empty").push(row),
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
}
