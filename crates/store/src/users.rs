//! People, and what sets their passwords. A password is here as what Argon2id made of it.

use crate::change::{Actor, Change, Changed};
use crate::db::query;
use crate::rows::{Row, millis};
use crate::{Error, PageOf, Store};
use model::audit::EventKind;
use model::people::{AccountKind, Email, Role, User};
use model::{AccountId, KeyId, Name, UserId};
use serde_json::json;
use time::{Duration, OffsetDateTime};

/// A person with what a login is held against.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who.
    pub user: User,
    /// Their own account.
    pub personal: AccountId,
    /// Of their password, if they have chosen one.
    pub hash: Option<String>,
}

/// Whom a token may be made for that sets another password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resets {
    /// Anybody.
    All,
    /// Somebody who never chose a password.
    First,
}

macro_rules! users {
    ($which:literal) => {
        concat!(
            "SELECT u.id, u.email, u.password, u.personal, u.created_at, (SELECT COUNT(*) FROM factors f
                WHERE f.person = u.id AND f.confirmed_at IS NOT NULL) AS second_factor FROM users u ",
            $which
        )
    };
}

fn user(row: &Row) -> Result<User, Error> {
    Ok(User {
        id: row.parsed("id")?,
        email: row.parsed("email")?,
        has_password: row.try_get::<Option<&str>, _>("password")?.is_some(),
        second_factor: row.flag("second_factor")?,
        created_at: row.at("created_at")?,
    })
}

fn credentials(row: &Row) -> Result<Credentials, Error> {
    Ok(Credentials { user: user(row)?, personal: row.parsed("personal")?, hash: row.try_get("password")? })
}

impl Change {
    /// A person with an account of their own.
    pub(crate) async fn add_user(
        &mut self,
        email: &Email,
        personal: &Name,
        hash: Option<&str>,
    ) -> Result<UserId, Error> {
        let taken = query("SELECT id FROM users WHERE email = $1")
            .bind(email.as_str())
            .fetch_optional(self.db().await?)
            .await?;
        if taken.is_some() {
            return Err(Error::EmailTaken { email: email.clone() });
        }
        let account = self.add_bare_account(personal, AccountKind::Personal, false).await?;
        let (id, now) = (UserId::new(), self.now);
        self.deferred
            .add("INSERT INTO users (id, email, password, personal, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(id.to_string())
            .bind(email.to_string())
            .bind(hash.map(str::to_owned))
            .bind(account.to_string())
            .bind(now);
        self.event(Some(account), EventKind::UserCreated, id, json!({"email": email}));
        self.add_member(account, id, Role::Owner);
        Ok(id)
    }

    /// Another password in place of the one before, if that is still `from`. Every session but `kept` ends.
    pub(crate) async fn set_password(
        &mut self,
        who: &Credentials,
        hash: &str,
        kept: Option<model::SessionId>,
    ) -> Result<(), Error> {
        let person = who.user.id;
        let set = query("UPDATE users SET password = $1 WHERE id = $2 AND password IS NOT DISTINCT FROM $3")
            .bind(hash)
            .bind(person.to_string())
            .bind(who.hash.as_deref())
            .execute(self.db().await?)
            .await?;
        if set.rows_affected() == 0 {
            return Err(Error::Overtaken);
        }
        let ended = self.end_sessions_but(person, kept).await?;
        query("DELETE FROM password_resets WHERE person = $1")
            .bind(person.to_string())
            .execute(self.db().await?)
            .await?;
        // Whoever knew the old one may have got tokens by it.
        for account in self
            .event_of(person, EventKind::UserPasswordSet, |own| match own {
                true => json!({"sessions_ended": ended, "workspace_tokens": "revoked"}),
                false => json!({"workspace_tokens": "revoked"}),
            })
            .await?
        {
            self.revoke_workspace_tokens(account).await?;
        }
        Ok(())
    }

    /// Deletes every key that a person made, wherever that was.
    async fn delete_keys_of(&mut self, person: UserId) -> Result<(), Error> {
        let rows = query("DELETE FROM api_keys WHERE person = $1 RETURNING id, account")
            .bind(person.to_string())
            .fetch_all(self.db().await?)
            .await?;
        for row in rows {
            let (key, account): (KeyId, AccountId) = (row.parsed("id")?, row.parsed("account")?);
            self.event(Some(account), EventKind::KeyDeleted, key, json!({"because": "user.password_reset"}));
        }
        self.touch(Changed::Keys);
        Ok(())
    }

    /// An event of a person for every account that they belong to, their own and others; tells which these are.
    pub(crate) async fn event_of(
        &mut self,
        person: UserId,
        kind: EventKind,
        detail: impl Fn(bool) -> serde_json::Value,
    ) -> Result<Vec<AccountId>, Error> {
        let rows = query(
            "SELECT m.account, a.kind FROM memberships m JOIN accounts a ON a.id = m.account WHERE m.person = $1",
        )
        .bind(person.to_string())
        .fetch_all(self.db().await?)
        .await?;
        let mut accounts = Vec::with_capacity(rows.len());
        for row in rows {
            let account = row.parsed("account")?;
            let own = row.parsed::<AccountKind>("kind")? == AccountKind::Personal;
            self.event(Some(account), kind, person, detail(own));
            accounts.push(account);
        }
        Ok(accounts)
    }

    /// A person's own account.
    pub(crate) async fn personal(&mut self, person: UserId) -> Result<AccountId, Error> {
        let row = query("SELECT personal FROM users WHERE id = $1")
            .bind(person.to_string())
            .fetch_optional(self.db().await?)
            .await?;
        row.ok_or(Error::NotFound { what: "user" })?.parsed("personal")
    }

    async fn user(&mut self, id: UserId) -> Result<User, Error> {
        let row = query(users!("WHERE u.id = $1")).bind(id.to_string()).fetch_one(self.db().await?).await?;
        user(&row)
    }

    fn add_reset(&mut self, who: &User, hash: &str, life: Duration) -> OffsetDateTime {
        let until = self.now + life.whole_milliseconds() as i64;
        self.deferred
            .add(
                "INSERT INTO password_resets (person, hash, expires_at) VALUES ($1, $2, $3)
                 ON CONFLICT (person) DO UPDATE SET hash = excluded.hash, expires_at = excluded.expires_at",
            )
            .bind(who.id.to_string())
            .bind(hash.to_owned())
            .bind(until);
        crate::rows::instant(until).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl Store {
    /// Makes a person known, with the hash of a token that sets their first password.
    pub async fn create_user(
        &self,
        actor: Actor,
        email: &Email,
        personal: &Name,
        reset: &str,
        life: Duration,
    ) -> Result<(User, OffsetDateTime), Error> {
        let mut change = self.change(actor).await?;
        let id = change.add_user(email, personal, None).await?;
        let user = change.user(id).await?;
        let until = change.add_reset(&user, reset, life);
        change.commit().await?;
        Ok((user, until))
    }

    /// Keeps the hash of a token that sets another password, in place of an earlier one. Every account of the person hears of it.
    pub async fn issue_reset(
        &self,
        actor: Actor,
        person: UserId,
        resets: Resets,
        reset: &str,
        life: Duration,
    ) -> Result<(User, OffsetDateTime), Error> {
        let mut change = self.change(actor).await?;
        change.personal(person).await?;
        let user = change.user(person).await?;
        if user.has_password && resets == Resets::First {
            return Err(Error::Overtaken);
        }
        let until = change.add_reset(&user, reset, life);
        change.event_of(person, EventKind::UserResetIssued, |_| json!({})).await?;
        change.commit().await?;
        Ok((user, until))
    }

    /// Whose password the token with this hash sets.
    pub async fn reset(&self, hash: &str) -> Result<Option<Credentials>, Error> {
        let row = query(users!(
            "JOIN password_resets r ON r.person = u.id WHERE r.hash = $1 AND r.expires_at > $2"
        ))
        .bind(hash)
        .bind(millis(self.now()))
        .fetch_optional(&self.0.reader)
        .await?;
        row.as_ref().map(credentials).transpose()
    }

    /// Sets a password by the token with this hash, which is used up by it. All sessions of its person end, and the keys that they made
    /// are deleted: somebody else may have made them.
    pub async fn redeem_reset(&self, hash: &str, who: &Credentials, password: &str) -> Result<(), Error> {
        let mut change = self.change(Actor::User(who.user.id)).await?;
        let now = change.now;
        let used = query("DELETE FROM password_resets WHERE hash = $1 AND person = $2 AND expires_at > $3")
            .bind(hash)
            .bind(who.user.id.to_string())
            .bind(now)
            .execute(change.db().await?)
            .await?;
        if used.rows_affected() == 0 {
            return Err(Error::TokenRefused);
        }
        change.set_password(who, password, None).await?;
        change.delete_keys_of(who.user.id).await?;
        change.commit().await
    }

    /// Sets another password for somebody who showed the one before. Every other session ends.
    pub async fn change_password(
        &self,
        who: &Credentials,
        password: &str,
        session: model::SessionId,
    ) -> Result<(), Error> {
        let by = Actor::Session { session, person: who.user.id, standing: None };
        let mut change = self.change(by).await?;
        change.set_password(who, password, Some(session)).await?;
        change.commit().await
    }

    /// What a login with this address is held against.
    pub async fn credentials(&self, email: &Email) -> Result<Option<Credentials>, Error> {
        let row =
            query(users!("WHERE u.email = $1")).bind(email.as_str()).fetch_optional(&self.0.reader).await?;
        row.as_ref().map(credentials).transpose()
    }

    /// The same by id.
    pub async fn credentials_of(&self, person: UserId) -> Result<Credentials, Error> {
        let row =
            query(users!("WHERE u.id = $1")).bind(person.to_string()).fetch_optional(&self.0.reader).await?;
        credentials(&row.ok_or(Error::NotFound { what: "user" })?)
    }

    /// Everybody, newest first.
    pub async fn users(&self, before: Option<&str>, limit: u32) -> Result<PageOf<User>, Error> {
        let rows = query(users!("WHERE $1 IS NULL OR u.id < $1 ORDER BY u.id DESC LIMIT $2"))
            .bind(before)
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.0.reader)
            .await?;
        Ok(PageOf::of(rows.iter().map(user).collect::<Result<_, _>>()?, limit))
    }
}
