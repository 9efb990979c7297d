//! Answers that were given before, for requests that come again under the same `Idempotency-Key`.
//!
//! The answer is stored in the transaction of the change, so that a change is never made twice, whatever dies
//! in between.

use crate::Error;
use crate::change::Change;
use crate::rows::{Columns, to_json};
use model::AccountId;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long an answer is kept, in milliseconds.
pub(crate) const KEPT: i64 = 24 * 3600 * 1000;

/// A key, and the request that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose.
    pub account: AccountId,
    /// The client's text.
    pub key: String,
    /// A digest of the operation and its request.
    pub request: String,
}

impl Change {
    /// The answer that this key got before, if it did.
    pub(crate) async fn replay<T: DeserializeOwned>(
        &mut self,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<T>, Error> {
        let Some(Idempotency { account, key, request }) = idempotency else { return Ok(None) };
        let oldest = self.now - KEPT;
        let row = sqlx::query(
            "SELECT request, answer FROM idempotency_keys WHERE account = $1 AND key = $2 AND created_at > $3",
        )
        .bind(account.to_string())
        .bind(key)
        .bind(oldest)
        .fetch_optional(self.db())
        .await?;
        match row {
            None => Ok(None),
            Some(row) if row.text("request")? != *request => Err(Error::IdempotencyMismatch),
            Some(row) => row.json("answer").map(Some),
        }
    }

    /// Keeps the answer for the next time.
    pub(crate) async fn remember<T: Serialize>(
        &mut self,
        idempotency: Option<&Idempotency>,
        answer: &T,
    ) -> Result<(), Error> {
        let Some(Idempotency { account, key, request }) = idempotency else { return Ok(()) };
        let now = self.now;
        sqlx::query(
            "INSERT INTO idempotency_keys (account, key, request, answer, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (account, key) DO UPDATE
             SET request = excluded.request, answer = excluded.answer, created_at = excluded.created_at",
        )
        .bind(account.to_string())
        .bind(key)
        .bind(request)
        .bind(to_json(answer))
        .bind(now)
        .execute(self.db())
        .await?;
        Ok(())
    }
}
