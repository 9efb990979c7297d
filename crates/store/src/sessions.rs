//! Sessions of people in browsers, hashed.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::{Row, millis};
use crate::users::Credentials;
use crate::{Error, Store};
use model::audit::EventKind;
use model::people::{Role, Session};
use model::{AccountId, Name, SessionId, UserId};
use serde_json::json;
use time::{Duration, OffsetDateTime};

/// A session that somebody showed, and what they are where they want to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sitting {
    /// The session.
    pub session: SessionId,
    /// Whose.
    pub person: UserId,
    /// When they last showed a password or a code.
    pub proved_at: OffsetDateTime,
    /// The account, its name, whether it operates the installation, and what they are in it; nothing if they are not in it.
    pub standing: Option<(AccountId, Name, bool, Role)>,
}

impl Sitting {
    /// Its person, for what they do to themselves.
    pub fn actor(&self) -> Actor {
        Actor::Session { session: self.session, person: self.person, standing: None }
    }
}

/// A session to begin, for somebody who showed that they may.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// Of its token.
    pub hash: &'a str,
    /// How long it lasts.
    pub life: Duration,
    /// Of the token that came with the login: that session ends, whoever's it was.
    pub before: Option<&'a str>,
    /// The password hashed anew, where that is to be.
    pub rehashed: Option<&'a str>,
    /// The step of the code that came with it.
    pub step: Option<i64>,
}

fn session(row: &Row, current: SessionId) -> Result<Session, Error> {
    let id = row.parsed("id")?;
    Ok(Session {
        id,
        current: id == current,
        created_at: row.at("created_at")?,
        seen_at: row.at("seen_at")?,
        proved_at: row.at("proved_at")?,
        expires_at: row.at("expires_at")?,
    })
}

impl Change {
    /// Ends the sessions of a person, but for one; tells how many.
    pub(crate) async fn end_sessions_but(
        &mut self,
        person: UserId,
        kept: Option<SessionId>,
    ) -> Result<u64, Error> {
        let ended = query("DELETE FROM sessions WHERE person = $1 AND ($2 IS NULL OR id <> $2)")
            .bind(person.to_string())
            .bind(kept.map(|kept| kept.to_string()))
            .execute(self.db().await?)
            .await?;
        Ok(ended.rows_affected())
    }

    /// Ends the session of this token, if it is one: its person hears of it.
    async fn replace_session(&mut self, hash: &str) -> Result<(), Error> {
        let row = query("DELETE FROM sessions WHERE hash = $1 RETURNING id, person")
            .bind(hash)
            .fetch_optional(self.db().await?)
            .await?;
        let Some(row) = row else { return Ok(()) };
        let ended: SessionId = row.parsed("id")?;
        let account = self.personal(row.parsed("person")?).await?;
        self.event(Some(account), EventKind::SessionEnded, ended, json!({"because": "session.begun"}));
        Ok(())
    }
}

impl Store {
    /// Begins a session, if the password is still what it was when it was checked, and the code was not taken before.
    pub async fn begin_session(&self, who: &Credentials, new: &NewSession<'_>) -> Result<Session, Error> {
        let person = who.user.id;
        let mut change = self.change(Actor::User(person)).await?;
        let same = query("UPDATE users SET password = $1 WHERE id = $2 AND password IS NOT DISTINCT FROM $3")
            .bind(new.rehashed.or(who.hash.as_deref()))
            .bind(person.to_string())
            .bind(who.hash.as_deref())
            .execute(change.db().await?)
            .await?;
        if same.rows_affected() == 0 {
            return Err(Error::Overtaken);
        }
        change.take_step(person, new.step).await?;
        if new.step.is_none() && change.asks_for_a_code(person).await? {
            return Err(Error::Overtaken);
        }
        if let Some(before) = new.before {
            change.replace_session(before).await?;
        }
        let (id, now) = (SessionId::new(), change.now);
        let row = query(
            "INSERT INTO sessions (id, hash, person, created_at, expires_at, proved_at, seen_at)
             VALUES ($1, $2, $3, $4, $5, $4, $4) RETURNING *",
        )
        .bind(id.to_string())
        .bind(new.hash)
        .bind(person.to_string())
        .bind(now)
        .bind(now + new.life.whole_milliseconds() as i64)
        .fetch_one(change.db().await?)
        .await?;
        let made = session(&row, id)?;
        let detail = json!({"second_factor": new.step.is_some()});
        change.event(Some(who.personal), EventKind::SessionBegun, id, detail);
        change.commit().await?;
        Ok(made)
    }

    /// The session with this hash, and what its person is in an account: of this id or name, else in their own.
    pub async fn sitting(&self, hash: &str, account: Option<&str>) -> Result<Option<Sitting>, Error> {
        let now = millis(self.now());
        let row = query(
            "SELECT s.id, s.person, s.proved_at, a.id AS account, a.name, a.operator, m.role
             FROM sessions s JOIN users u ON u.id = s.person
             LEFT JOIN accounts a ON CASE WHEN $3 IS NULL THEN a.id = u.personal ELSE a.id = $3 OR a.name = $3 END
                AND EXISTS (SELECT 1 FROM memberships x WHERE x.account = a.id AND x.person = s.person)
             LEFT JOIN memberships m ON m.account = a.id AND m.person = s.person
             WHERE s.hash = $1 AND s.expires_at > $2",
        )
        .bind(hash)
        .bind(now)
        .bind(account)
        .fetch_optional(&self.0.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let standing = match row.parsed_opt("account")? {
            Some(account) => {
                let operator = row.flag("operator")?;
                Some((account, row.parsed("name")?, operator, row.parsed("role")?))
            }
            None => None,
        };
        let session: SessionId = row.parsed("id")?;
        self.0.uses.note(session.to_string(), now);
        let (person, proved_at) = (row.parsed("person")?, row.at("proved_at")?);
        Ok(Some(Sitting { session, person, proved_at, standing }))
    }

    /// Notes that the person of a session showed a password or a code just now. A code is taken by it.
    pub async fn prove(&self, sitting: &Sitting, step: Option<i64>) -> Result<(), Error> {
        let mut change = self.change(sitting.actor()).await?;
        let now = change.now;
        change.take_step(sitting.person, step).await?;
        let proved = query("UPDATE sessions SET proved_at = $1 WHERE id = $2")
            .bind(now)
            .bind(sitting.session.to_string())
            .execute(change.db().await?)
            .await?;
        if proved.rows_affected() == 0 {
            return Err(Error::TokenRefused);
        }
        let account = change.personal(sitting.person).await?;
        change.event(
            Some(account),
            EventKind::SessionProved,
            sitting.session,
            json!({"code": step.is_some()}),
        );
        change.commit().await
    }

    /// Notes that somebody showed what is not a person's code, behind their password, or not their password, in their session. It is for
    /// whoever asks to bound how often.
    pub async fn note_refused(&self, person: UserId, shown: &str) -> Result<(), Error> {
        let mut change = self.change(Actor::System).await?;
        let account = change.personal(person).await?;
        change.event(Some(account), EventKind::SessionCodeRefused, person, json!({"shown": shown}));
        change.commit().await
    }

    /// A person's sessions, the newest first; `current` is the one that asks.
    pub async fn sessions(&self, person: UserId, current: SessionId) -> Result<Vec<Session>, Error> {
        let rows = query("SELECT * FROM sessions WHERE person = $1 AND expires_at > $2 ORDER BY id DESC")
            .bind(person.to_string())
            .bind(millis(self.now()))
            .fetch_all(&self.0.reader)
            .await?;
        rows.iter().map(|row| session(row, current)).collect()
    }

    /// Ends one of a person's sessions.
    pub async fn end_session(&self, actor: Actor, person: UserId, id: SessionId) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let ended = query("DELETE FROM sessions WHERE id = $1 AND person = $2")
            .bind(id.to_string())
            .bind(person.to_string())
            .execute(change.db().await?)
            .await?;
        if ended.rows_affected() == 0 {
            return Err(Error::NotFound { what: "session" });
        }
        let account = change.personal(person).await?;
        change.event(Some(account), EventKind::SessionEnded, id, json!({}));
        change.commit().await
    }
}
