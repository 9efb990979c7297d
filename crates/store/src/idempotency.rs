//! Answers that were given before, for requests that come again under the same `Idempotency-Key`.
//!
//! The answer is stored in the transaction of the change, so that a change is never made twice, whatever dies
//! in between.

use crate::Error;
use crate::batch::Batch;
use crate::change::Change;
use crate::rows::{Row, to_json};
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

/// What [`Change::ask_replay`] found.
pub(crate) fn replayed<T: DeserializeOwned>(
    rows: &[Row],
    idempotency: Option<&Idempotency>,
) -> Result<Option<T>, Error> {
    let (Some(row), Some(Idempotency { request, .. })) = (rows.first(), idempotency) else { return Ok(None) };
    if row.text("request")? != *request {
        return Err(Error::IdempotencyMismatch);
    }
    row.json("answer").map(Some)
}

impl Change {
    /// Asks for the answer that this key got before; without a key, for nothing.
    pub(crate) fn ask_replay(&self, batch: &mut Batch, idempotency: Option<&Idempotency>) {
        batch
            .add("SELECT request, answer FROM idempotency_keys WHERE account = $1 AND key = $2 AND created_at > $3")
            .bind(idempotency.map(|known| known.account.to_string()))
            .bind(idempotency.map(|known| known.key.clone()))
            .bind(self.now - KEPT);
    }

    /// The answer that this key got before, if it did.
    pub(crate) async fn replay<T: DeserializeOwned>(
        &mut self,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<T>, Error> {
        if idempotency.is_none() {
            return Ok(None);
        }
        let mut asked = Batch::default();
        self.ask_replay(&mut asked, idempotency);
        let answers = self.run(asked).await?;
        replayed(answers.first().map_or(&[], Vec::as_slice), idempotency)
    }

    /// Keeps the answer for the next time.
    pub(crate) fn remember<T: Serialize>(&mut self, idempotency: Option<&Idempotency>, answer: &T) {
        let Some(Idempotency { account, key, request }) = idempotency else { return };
        let now = self.now;
        self.deferred
            .add(
                "INSERT INTO idempotency_keys (account, key, request, answer, created_at) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, key) DO UPDATE
                 SET request = excluded.request, answer = excluded.answer, created_at = excluded.created_at",
            )
            .bind(account.to_string())
            .bind(key.clone())
            .bind(request.clone())
            .bind(to_json(answer))
            .bind(now);
    }
}
