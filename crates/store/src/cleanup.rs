//! The removal of what has expired: tokens, traded assertions, remembered answers.

use crate::change::Actor;
use crate::idempotency::KEPT;
use crate::{Error, Store};

impl Store {
    /// Removes what has expired, and tells how many rows.
    pub async fn remove_expired(&self) -> Result<u64, Error> {
        let mut change = self.change(Actor::System).await?;
        let now = change.now;
        let mut removed = 0;
        for (sql, before) in [
            ("DELETE FROM bootstrap_tokens WHERE expires_at <= $1", now),
            ("DELETE FROM callback_tokens WHERE expires_at <= $1", now),
            ("DELETE FROM assertions WHERE expires_at <= $1", now),
            ("DELETE FROM idempotency_keys WHERE created_at <= $1", now - KEPT),
        ] {
            removed += sqlx::query(sql).bind(before).execute(change.db().await?).await?.rows_affected();
        }
        change.commit_bookkeeping().await?;
        Ok(removed)
    }
}
