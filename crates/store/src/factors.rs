//! Second factors. A seed is here wrapped, as keys of accounts are, and changes with them to another wrapping key.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::Row;
use crate::secrets::DataKey;
use crate::{Error, Store};
use model::UserId;
use model::audit::EventKind;
use serde_json::json;

/// A person's second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factor {
    /// Its seed, wrapped.
    pub seed: DataKey,
    /// Whether a code of it was shown.
    pub confirmed: bool,
    /// The step of the last code that was taken.
    pub last_step: i64,
}

fn factor(row: &Row) -> Result<Factor, Error> {
    Ok(Factor {
        seed: DataKey {
            id: row.parsed("id")?,
            account: row.parsed("account")?,
            wrapped_by: row.text("wrapped_by")?,
            wrapped: row.try_get("wrapped")?,
        },
        confirmed: row.at_opt("confirmed_at")?.is_some(),
        last_step: row.try_get("last_step")?,
    })
}

impl Change {
    /// Takes the code of a step, once; so is every code before it.
    pub(crate) async fn take_step(&mut self, person: UserId, step: Option<i64>) -> Result<(), Error> {
        let Some(step) = step else { return Ok(()) };
        let taken = query("UPDATE factors SET last_step = $1 WHERE person = $2 AND last_step < $1")
            .bind(step)
            .bind(person.to_string())
            .execute(self.db().await?)
            .await?;
        if taken.rows_affected() == 0 { Err(Error::TokenRefused) } else { Ok(()) }
    }

    /// Whether a login asks for a code.
    pub(crate) async fn asks_for_a_code(&mut self, person: UserId) -> Result<bool, Error> {
        let row = query("SELECT 1 FROM factors WHERE person = $1 AND confirmed_at IS NOT NULL")
            .bind(person.to_string())
            .fetch_optional(self.db().await?)
            .await?;
        Ok(row.is_some())
    }
}

impl Store {
    /// A person's second factor, confirmed or not.
    pub async fn factor(&self, person: UserId) -> Result<Option<Factor>, Error> {
        let row = query("SELECT * FROM factors WHERE person = $1")
            .bind(person.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        row.as_ref().map(factor).transpose()
    }

    /// Keeps a seed that waits for its first code, in place of another that does; never in place of one that is in use.
    pub async fn begin_factor(&self, actor: Actor, person: UserId, seed: &DataKey) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let now = change.now;
        let kept = query(
            "INSERT INTO factors (person, id, account, wrapped_by, wrapped, created_at, last_step)
             VALUES ($1, $2, $3, $4, $5, $6, 0)
             ON CONFLICT (person) DO UPDATE SET id = excluded.id, wrapped_by = excluded.wrapped_by,
                wrapped = excluded.wrapped, created_at = excluded.created_at, last_step = 0
             WHERE factors.confirmed_at IS NULL",
        )
        .bind(person.to_string())
        .bind(seed.id.to_string())
        .bind(seed.account.to_string())
        .bind(seed.wrapped_by.clone())
        .bind(seed.wrapped.clone())
        .bind(now)
        .execute(change.db().await?)
        .await?;
        if kept.rows_affected() == 0 {
            return Err(Error::InUse { what: "there is a second factor already".to_owned() });
        }
        change.event(Some(seed.account), EventKind::SecondFactorBegun, person, json!({}));
        change.commit().await
    }

    /// Has every login ask for it from now on; its first code is taken by that. Sessions that began without it end, but for one.
    pub async fn confirm_factor(
        &self,
        person: UserId,
        seed: &DataKey,
        step: i64,
        session: model::SessionId,
    ) -> Result<(), Error> {
        let mut change = self.change(Actor::Session { session, person, standing: None }).await?;
        let now = change.now;
        let confirmed = query(
            "UPDATE factors SET confirmed_at = $1, last_step = $2
             WHERE person = $3 AND id = $4 AND confirmed_at IS NULL AND last_step < $2",
        )
        .bind(now)
        .bind(step)
        .bind(person.to_string())
        .bind(seed.id.to_string())
        .execute(change.db().await?)
        .await?;
        if confirmed.rows_affected() == 0 {
            return Err(Error::Overtaken);
        }
        let ended = change.end_sessions_but(person, Some(session)).await?;
        let detail = json!({"sessions_ended": ended});
        change.event(Some(seed.account), EventKind::SecondFactorEnabled, person, detail);
        change.commit().await
    }

    /// Removes a second factor. Every account of the person hears of it.
    pub async fn remove_factor(&self, actor: Actor, person: UserId) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let gone = query("DELETE FROM factors WHERE person = $1")
            .bind(person.to_string())
            .execute(change.db().await?)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::NotFound { what: "second factor" });
        }
        change.event_of(person, EventKind::SecondFactorRemoved, |_| json!({})).await?;
        change.commit().await
    }
}
