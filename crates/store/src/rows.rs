//! From columns to types, and back.

use crate::Error;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
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

/// Typed access to the columns of a row.
pub(crate) trait Columns {
    fn text(&self, column: &'static str) -> Result<String, Error>;
    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Error>;
    fn parsed_opt<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Error>;
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Error>;
    fn json_opt<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Error>;
    fn number(&self, column: &'static str) -> Result<u64, Error>;
    fn at(&self, column: &'static str) -> Result<OffsetDateTime, Error>;
    fn at_opt(&self, column: &'static str) -> Result<Option<OffsetDateTime>, Error>;
}

impl Columns for SqliteRow {
    fn text(&self, column: &'static str) -> Result<String, Error> {
        Ok(self.try_get(column)?)
    }

    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Error> {
        self.try_get::<&str, _>(column)?.parse().map_err(|_| Error::Corrupt { column })
    }

    fn parsed_opt<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(|text| text.parse().map_err(|_| Error::Corrupt { column })).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Error> {
        serde_json::from_str(self.try_get(column)?).map_err(|_| Error::Corrupt { column })
    }

    fn json_opt<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(serde_json::from_str).transpose().map_err(|_| Error::Corrupt { column })
    }

    fn number(&self, column: &'static str) -> Result<u64, Error> {
        u64::try_from(self.try_get::<i64, _>(column)?).map_err(|_| Error::Corrupt { column })
    }

    fn at(&self, column: &'static str) -> Result<OffsetDateTime, Error> {
        instant(self.try_get(column)?).ok_or(Error::Corrupt { column })
    }

    fn at_opt(&self, column: &'static str) -> Result<Option<OffsetDateTime>, Error> {
        let millis: Option<i64> = self.try_get(column)?;
        millis.map(|millis| instant(millis).ok_or(Error::Corrupt { column })).transpose()
    }
}

/// Plain data always becomes JSON: string keys, no failing `Serialize`.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data is JSON")
}
