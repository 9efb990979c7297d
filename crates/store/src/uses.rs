//! When keys and sessions were last used. That is noted in memory on the way of a request, and written by whoever looks after it, together
//! for all: no request waits for a commit because of it. What a crash loses is a minute of it.

use crate::change::Actor;
use crate::db::query;
use crate::{Error, Store};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// By id: milliseconds since 1970.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<String, i64>>);

impl Uses {
    pub(crate) fn note(&self, id: String, at: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, at);
    }

    fn take(&self) -> HashMap<String, i64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// Writes what was used since the last time.
    pub async fn write_uses(&self) -> Result<(), Error> {
        let uses = self.0.uses.take();
        if uses.is_empty() {
            return Ok(());
        }
        // A power cut may take it.
        let mut change = self.repeatable_change(Actor::System).await?;
        for (id, at) in uses {
            // Another process may have seen it since.
            let statement = match id.starts_with(model::KeyId::PREFIX) {
                true => "UPDATE api_keys SET last_used = $1 WHERE id = $2 AND coalesce(last_used, 0) < $1",
                false => "UPDATE sessions SET seen_at = $1 WHERE id = $2 AND seen_at < $1",
            };
            query(statement).bind(at).bind(id).execute(change.db().await?).await?;
        }
        change.commit_bookkeeping().await
    }
}
