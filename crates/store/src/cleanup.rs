//! The removal of what has expired: tokens, sessions, invitations, traded assertions, remembered answers, questions of nodes that fell silent.

use crate::change::Actor;
use crate::db::query;
use crate::idempotency::KEPT;
use crate::{Error, Store};

/// How long a question stays that is over, in milliseconds: its node may go by another clock, and list it still.
const OVER: i64 = 3600 * 1000;

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
            ("DELETE FROM sessions WHERE expires_at <= $1", now),
            ("DELETE FROM password_resets WHERE expires_at <= $1", now),
            ("DELETE FROM invitations WHERE expires_at <= $1", now),
            ("DELETE FROM idempotency_keys WHERE created_at <= $1", now - KEPT),
            ("DELETE FROM egress_questions WHERE until <= $1", now - OVER),
        ] {
            removed += query(sql).bind(before).execute(change.db().await?).await?.rows_affected();
        }
        change.commit_bookkeeping().await?;
        Ok(removed)
    }
}
