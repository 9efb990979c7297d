//! The installation: its id, its first account, and the keys that sign its workspace tokens.

use crate::accounts::NewAccount;
use crate::change::Actor;
use crate::db::query;
use crate::{Error, Store};
use model::audit::EventKind;
use model::token::VerifyingKey;
use model::{AccountId, KeyId};
use serde_json::json;

/// What every node remembers, so that it never obeys another installation or an older database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Unique in the world.
    pub id: String,
    /// Raised when a backup is restored.
    pub database_epoch: u64,
}

impl Store {
    /// Makes the installation and its first account, unless there is one.
    pub async fn found(&self, founding: &NewAccount) -> Result<Option<AccountId>, Error> {
        let mut change = self.change(Actor::System).await?;
        let exists = query("SELECT id FROM installation").fetch_optional(change.db().await?).await?;
        if exists.is_some() {
            return Ok(None);
        }
        let id = uuid::Uuid::now_v7().to_string();
        let now = change.now;
        query("INSERT INTO installation (singleton, id, database_epoch, created_at) VALUES (1, $1, 1, $2)")
            .bind(&id)
            .bind(now)
            .execute(change.db().await?)
            .await?;
        change.event(None, EventKind::InstallationFounded, &id, json!({}));
        let account = change.add_account(founding, true).await?;
        change.commit().await?;
        Ok(Some(account))
    }

    /// The installation; `None` before the first start.
    pub async fn installation(&self) -> Result<Option<Installation>, Error> {
        let row = query("SELECT id, database_epoch FROM installation").fetch_optional(&self.0.reader).await?;
        row.map(|row| Ok(Installation { id: row.text("id")?, database_epoch: row.number("database_epoch")? }))
            .transpose()
    }

    /// Makes this public key the one that verifies workspace tokens, and tells its id. Others are retired.
    pub async fn use_signing_key(&self, x: &str) -> Result<KeyId, Error> {
        let mut change = self.change(Actor::System).await?;
        let known = query("SELECT id FROM signing_keys WHERE x = $1 AND retired_at IS NULL")
            .bind(x)
            .fetch_optional(change.db().await?)
            .await?;
        if let Some(row) = known {
            return row.parsed("id");
        }
        let id = KeyId::new();
        let now = change.now;
        query("UPDATE signing_keys SET retired_at = $1 WHERE retired_at IS NULL")
            .bind(now)
            .execute(change.db().await?)
            .await?;
        // The file may have been put back after another was in use: the same key is in use again.
        query(
            "INSERT INTO signing_keys (id, x, created_at) VALUES ($1, $2, $3)
             ON CONFLICT (x) DO UPDATE SET id = excluded.id, retired_at = NULL",
        )
        .bind(id.to_string())
        .bind(x)
        .bind(now)
        .execute(change.db().await?)
        .await?;
        change.event(None, EventKind::SigningKeyUsed, id, json!({"x": x}));
        for row in query("SELECT id FROM nodes").fetch_all(change.db().await?).await? {
            change.raise(row.parsed("id")?);
        }
        change.commit().await?;
        Ok(id)
    }

    /// Keys that verify workspace tokens.
    pub async fn verifying_keys(&self) -> Result<Vec<VerifyingKey>, Error> {
        let rows = query("SELECT id, x FROM signing_keys WHERE retired_at IS NULL")
            .fetch_all(&self.0.reader)
            .await?;
        rows.iter().map(|row| Ok(VerifyingKey { kid: row.parsed("id")?, x: row.text("x")? })).collect()
    }
}
