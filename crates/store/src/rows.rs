//! From columns to types, and back.

use crate::Error;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, Postgres, Row as _, Sqlite, Type, TypeInfo, ValueRef};
use std::str::FromStr;
use time::OffsetDateTime;

/// One page of rows, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct PageOf<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Whether older ones follow.
    pub more: bool,
}

impl<T> PageOf<T> {
    /// Of `limit + 1` rows that were asked for.
    pub(crate) fn of(mut items: Vec<T>, limit: u32) -> Self {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        Self { items, more }
    }
}

pub(crate) fn millis(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1_000_000) as i64
}

pub(crate) fn instant(millis: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
}

/// A row of either database.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// What a column can be read as.
pub(crate) trait Column<'r>:
    Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

impl<'r, T> Column<'r> for T where T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{}

/// Typed access to the columns.
impl Row {
    pub(crate) fn try_get<'r, T, I>(&'r self, column: I) -> Result<T, Error>
    where
        T: Column<'r>,
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    #[cfg(test)]
    #[track_caller]
    pub(crate) fn get<'r, T, I>(&'r self, column: I) -> T
    where
        T: Column<'r>,
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        self.try_get(column).unwrap()
    }

    /// Of a column that is 0 or 1, or of what a comparison says: SQLite knows no other truth than the number.
    pub(crate) fn flag(&self, column: &'static str) -> Result<bool, Error> {
        if let Self::Postgres(row) = self {
            match row.try_get_raw(column)?.type_info().name() {
                "BOOL" => return Ok(row.try_get(column)?),
                "INT4" => return Ok(row.try_get::<i32, _>(column)? != 0),
                _ => {}
            }
        }
        Ok(self.try_get::<i64, _>(column)? != 0)
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String, Error> {
        self.try_get(column)
    }

    pub(crate) fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Error> {
        self.try_get::<&str, _>(column)?.parse().map_err(|_| Error::Corrupt { column })
    }

    pub(crate) fn parsed_opt<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(|text| text.parse().map_err(|_| Error::Corrupt { column })).transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Error> {
        serde_json::from_str(self.try_get(column)?).map_err(|_| Error::Corrupt { column })
    }

    pub(crate) fn json_opt<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(serde_json::from_str).transpose().map_err(|_| Error::Corrupt { column })
    }

    pub(crate) fn number(&self, column: &'static str) -> Result<u64, Error> {
        u64::try_from(self.try_get::<i64, _>(column)?).map_err(|_| Error::Corrupt { column })
    }

    pub(crate) fn at(&self, column: &'static str) -> Result<OffsetDateTime, Error> {
        instant(self.try_get(column)?).ok_or(Error::Corrupt { column })
    }

    pub(crate) fn at_opt(&self, column: &'static str) -> Result<Option<OffsetDateTime>, Error> {
        let millis: Option<i64> = self.try_get(column)?;
        millis.map(|millis| instant(millis).ok_or(Error::Corrupt { column })).transpose()
    }
}

/// Plain data always becomes JSON: string keys, no failing `Serialize`.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data is JSON")
}
