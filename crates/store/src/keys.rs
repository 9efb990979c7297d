//! API keys, hashed.

use crate::change::{Actor, Change, Changed};
use crate::rows::Columns;
use crate::{Error, Idempotency, PageOf, Store};
use model::api::ApiKey;
use model::{AccountId, KeyId, Name, NodeId};
use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

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
}

fn key(row: &SqliteRow) -> Result<ApiKey, Error> {
    Ok(ApiKey {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        secret: None,
        created_at: row.at("created_at")?,
    })
}

impl Change {
    pub(crate) async fn add_key(
        &mut self,
        account: AccountId,
        name: &Name,
        hash: &str,
    ) -> Result<ApiKey, Error> {
        let taken = sqlx::query("SELECT id FROM api_keys WHERE account = $1 AND name = $2")
            .bind(account.to_string())
            .bind(name.as_str())
            .fetch_optional(self.db().await?)
            .await?;
        if taken.is_some() {
            return Err(Error::NameTaken { name: name.to_string() });
        }
        let id = KeyId::new();
        let now = self.now;
        let row = sqlx::query(
            "INSERT INTO api_keys (id, account, name, hash, created_at) VALUES ($1, $2, $3, $4, $5)
             RETURNING id, name, created_at",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .bind(name.as_str())
        .bind(hash)
        .bind(now)
        .fetch_one(self.db().await?)
        .await?;
        self.event(Some(account), "key.created", id, json!({"name": name}));
        key(&row)
    }
}

impl Store {
    /// Whom the key with this hash stands for.
    pub async fn bearer(&self, hash: &str) -> Result<Option<Bearer>, Error> {
        let reading = match self.0.bearers.find(hash) {
            Ok(bearer) => return Ok(Some(bearer)),
            Err(reading) => reading,
        };
        let row = sqlx::query(
            "SELECT k.id, a.id AS account, a.name, a.operator FROM api_keys k JOIN accounts a ON a.id = k.account
             WHERE k.hash = $1",
        )
        .bind(hash)
        .fetch_optional(&self.0.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let bearer = Bearer {
            key: row.parsed("id")?,
            account: row.parsed("account")?,
            account_name: row.parsed("name")?,
            operator: row.try_get::<i64, _>("operator")? == 1,
        };
        self.0.bearers.remember(hash, &bearer, &reading);
        Ok(Some(bearer))
    }

    /// Adds a key. On a replay the key that was made before comes back and `hash` is not stored.
    pub async fn create_key(
        &self,
        actor: Actor,
        account: AccountId,
        name: &Name,
        hash: &str,
        idempotency: Option<&Idempotency>,
    ) -> Result<(ApiKey, Fresh), Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok((before, Fresh::No));
        }
        let key = change.add_key(account, name, hash).await?;
        change.remember(idempotency, &key);
        change.commit().await?;
        Ok((key, Fresh::Yes))
    }

    /// The account's keys.
    pub async fn keys(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<ApiKey>, Error> {
        let rows = sqlx::query(
            "SELECT id, name, created_at FROM api_keys WHERE account = $1 AND ($2 IS NULL OR id < $2)
             ORDER BY id DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(key).collect::<Result<_, _>>()?, limit))
    }

    /// Removes a key, and with it every workspace token of the account: some were issued to whoever held it.
    pub async fn delete_key(&self, actor: Actor, account: AccountId, id: KeyId) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let gone = sqlx::query("DELETE FROM api_keys WHERE id = $1 AND account = $2")
            .bind(id.to_string())
            .bind(account.to_string())
            .execute(change.db().await?)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::NotFound { what: "key" });
        }
        let left = sqlx::query("SELECT id FROM api_keys WHERE account = $1 LIMIT 1")
            .bind(account.to_string())
            .fetch_optional(change.db().await?)
            .await?;
        if left.is_none() {
            return Err(Error::InUse { what: "this is the last key of the account".to_owned() });
        }
        sqlx::query(
            "UPDATE agents SET token_epoch = token_epoch + 1 WHERE account = $1 AND state <> 'destroyed'",
        )
        .bind(account.to_string())
        .execute(change.db().await?)
        .await?;
        let nodes =
            sqlx::query("SELECT DISTINCT node FROM agents WHERE account = $1 AND state <> 'destroyed'")
                .bind(account.to_string())
                .fetch_all(change.db().await?)
                .await?;
        for row in nodes {
            change.raise(row.parsed::<NodeId>("node")?);
        }
        change.event(Some(account), "key.deleted", id, json!({"workspace_tokens": "revoked"}));
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
