//! API keys, hashed. Each acts with a role; one that a person made never does more than its person may.

use crate::change::{Actor, Change, Changed};
use crate::db::query;
use crate::rows::{Row, millis, to_json};
use crate::{Error, Idempotency, PageOf, Store};
use model::audit::EventKind;
use model::people::{ApiKey, KeyScope, Role};
use model::{AccountId, KeyId, Name, UserId};
use serde_json::json;
use time::OffsetDateTime;

/// Whom an API key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The key.
    pub key: KeyId,
    /// Its account.
    pub account: AccountId,
    /// The account's name.
    pub account_name: Name,
    /// Whether the account operates the installation.
    pub operator: bool,
    /// What it acts as now.
    pub role: Role,
    /// What of that it is for.
    pub scopes: Vec<KeyScope>,
    /// Who made it.
    pub person: Option<UserId>,
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key to add.
#[derive(Debug, Clone)]
pub struct NewKey<'a> {
    /// Of which account.
    pub account: AccountId,
    /// Its name.
    pub name: &'a Name,
    /// Of the key.
    pub hash: &'a str,
    /// The most that it acts as.
    pub role: Role,
    /// What of that it is for.
    pub scopes: &'a [KeyScope],
    /// Who makes it.
    pub person: Option<UserId>,
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
}

impl<'a> NewKey<'a> {
    /// One that is the account's own and does everything.
    pub fn of_account(account: AccountId, name: &'a Name, hash: &'a str) -> Self {
        let scopes = &[KeyScope::Admin];
        Self { account, name, hash, role: Role::Owner, scopes, person: None, expires_at: None }
    }
}

fn key(row: &Row) -> Result<ApiKey, Error> {
    Ok(ApiKey {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        secret: None,
        role: row.parsed("role")?,
        scopes: row.json("scopes")?,
        user: row.parsed_opt("person")?,
        created_at: row.at("created_at")?,
        expires_at: row.at_opt("expires_at")?,
        last_used: row.at_opt("last_used")?,
    })
}

impl Change {
    pub(crate) async fn add_key(&mut self, new: &NewKey<'_>) -> Result<ApiKey, Error> {
        let taken = query("SELECT id FROM api_keys WHERE account = $1 AND name = $2")
            .bind(new.account.to_string())
            .bind(new.name.as_str())
            .fetch_optional(self.db().await?)
            .await?;
        if taken.is_some() {
            return Err(Error::NameTaken { name: new.name.to_string() });
        }
        let id = KeyId::new();
        let (now, made_by) = (self.now, self.actor.key());
        let row = query(
            "INSERT INTO api_keys (id, account, name, hash, role, scopes, person, created_at, expires_at, made_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING *",
        )
        .bind(id.to_string())
        .bind(new.account.to_string())
        .bind(new.name.as_str())
        .bind(new.hash)
        .bind(new.role.as_str())
        .bind(to_json(&new.scopes))
        .bind(new.person.map(|person| person.to_string()))
        .bind(now)
        .bind(new.expires_at.map(millis))
        .bind(made_by.map(|key| key.to_string()))
        .fetch_one(self.db().await?)
        .await?;
        let key = key(&row)?;
        let detail = json!({"name": key.name, "role": key.role, "scopes": key.scopes, "user": key.user});
        self.event(Some(new.account), EventKind::KeyCreated, id, detail);
        Ok(key)
    }

    /// Removes a key with those that it made; tells which, and whether workspace tokens were issued to any. The key that asks stays if
    /// it is another, with those that it made, so that one can take the place of the one that made it; then whoever made that one
    /// has made it.
    async fn remove_key(&mut self, account: AccountId, id: KeyId) -> Result<(Vec<KeyId>, bool), Error> {
        let asks = self.actor.key().filter(|key| *key != id).map(|key| key.to_string());
        let gone = query(
            "WITH RECURSIVE gone (id) AS (
                SELECT id FROM api_keys WHERE id = $1 AND account = $2
                UNION SELECT k.id FROM api_keys k JOIN gone ON k.made_by = gone.id
                    WHERE k.account = $2 AND ($3 IS NULL OR k.id <> $3))
             DELETE FROM api_keys WHERE id IN (SELECT id FROM gone) RETURNING id, made_by, issued",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .bind(asks.clone())
        .fetch_all(self.db().await?)
        .await?;
        let issued = gone.iter().map(|row| row.number("issued")).sum::<Result<u64, _>>()? > 0;
        let gone = gone.iter().map(|row| Ok((row.parsed("id")?, row.parsed_opt("made_by")?)));
        let gone = gone.collect::<Result<Vec<(KeyId, Option<KeyId>)>, Error>>()?;
        let maker = gone.iter().find(|(key, _)| *key == id).and_then(|(_, maker)| *maker);
        query(
            "UPDATE api_keys SET made_by = $1 WHERE id = $2 AND made_by IS NOT NULL
                AND made_by NOT IN (SELECT id FROM api_keys)",
        )
        .bind(maker.map(|key| key.to_string()))
        .bind(asks)
        .execute(self.db().await?)
        .await?;
        Ok((gone.into_iter().map(|(key, _)| key).collect(), issued))
    }
}

impl Store {
    /// Whom the key with this hash stands for. That it was used is written later, see [`Store::write_uses`].
    pub async fn bearer(&self, hash: &str) -> Result<Option<Bearer>, Error> {
        let now = self.now();
        let good = |bearer: &Bearer| bearer.expires_at.is_none_or(|end| now < end);
        let reading = match self.0.bearers.find(hash) {
            Ok(bearer) => return Ok(Some(bearer).filter(good)),
            Err(reading) => reading,
        };
        let row = query(
            "SELECT k.id, k.role, k.scopes, k.person, k.expires_at, m.role AS standing, a.id AS account, a.name, a.operator
             FROM api_keys k JOIN accounts a ON a.id = k.account
             LEFT JOIN memberships m ON m.account = k.account AND m.person = k.person
             WHERE k.hash = $1 AND (k.person IS NULL OR m.role IS NOT NULL)",
        )
        .bind(hash)
        .fetch_optional(&self.0.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let role: Role = row.parsed("role")?;
        let bearer = Bearer {
            key: row.parsed("id")?,
            account: row.parsed("account")?,
            account_name: row.parsed("name")?,
            operator: row.flag("operator")?,
            role: row.parsed_opt("standing")?.map_or(role, |standing: Role| standing.min(role)),
            scopes: row.json("scopes")?,
            person: row.parsed_opt("person")?,
            expires_at: row.at_opt("expires_at")?,
        };
        if !good(&bearer) {
            return Ok(None);
        }
        self.0.bearers.remember(hash, &bearer, &reading);
        self.0.uses.note(bearer.key.to_string(), millis(now));
        Ok(Some(bearer))
    }

    /// Adds a key. On a replay the key that was made before comes back and `hash` is not stored.
    pub async fn create_key(
        &self,
        actor: Actor,
        new: &NewKey<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<(ApiKey, Fresh), Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok((before, Fresh::No));
        }
        let key = change.add_key(new).await?;
        change.remember(idempotency, &key);
        change.commit().await?;
        Ok((key, Fresh::Yes))
    }

    /// The account's keys, or those alone that one person made.
    pub async fn keys(
        &self,
        account: AccountId,
        of: Option<UserId>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<ApiKey>, Error> {
        let rows = query(
            "SELECT * FROM api_keys WHERE account = $1 AND ($2 IS NULL OR person = $2) AND ($3 IS NULL OR id < $3)
             ORDER BY id DESC LIMIT $4",
        )
        .bind(account.to_string())
        .bind(of.map(|person| person.to_string()))
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(key).collect::<Result<_, _>>()?, limit))
    }

    /// One of the account's keys, or of those that one person made.
    pub async fn key(&self, account: AccountId, of: Option<UserId>, id: KeyId) -> Result<ApiKey, Error> {
        let row =
            query("SELECT * FROM api_keys WHERE id = $1 AND account = $2 AND ($3 IS NULL OR person = $3)")
                .bind(id.to_string())
                .bind(account.to_string())
                .bind(of.map(|person| person.to_string()))
                .fetch_optional(&self.0.reader)
                .await?;
        key(&row.ok_or(Error::NotFound { what: "key" })?)
    }

    /// Removes a key with all that it made, and, if workspace tokens were issued to whoever held it, all of the account.
    pub async fn delete_key(&self, actor: Actor, account: AccountId, id: KeyId) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let (gone, issued) = change.remove_key(account, id).await?;
        if gone.is_empty() {
            return Err(Error::NotFound { what: "key" });
        }
        let revoked = change.revoke_invitations_of_keys(account).await?;
        change.has_an_owner(account).await?;
        if issued {
            change.revoke_workspace_tokens(account).await?;
        }
        let tokens = if issued { "revoked" } else { "kept" };
        for key in gone {
            let detail = match key == id {
                true => json!({"invitations_revoked": revoked, "workspace_tokens": tokens}),
                false => json!({"with": id}),
            };
            change.event(Some(account), EventKind::KeyDeleted, key, detail);
        }
        change.touch(Changed::Keys);
        change.commit().await
    }
}

/// Whether something was made now, or came back from an earlier request with the same idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// Now.
    Yes,
    /// Before.
    No,
}
