//! Keys of accounts, which are here wrapped alone; and what it takes to change them one by one, so that a crash in between is made good
//! by going on.

use super::Encrypted;
use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::Row;
use crate::{Error, Store};
use model::audit::EventKind;
use model::{AccountId, KeyId, SecretId};
use serde_json::json;

/// A key of an account, wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey {
    /// Its id.
    pub id: KeyId,
    /// Whose.
    pub account: AccountId,
    /// What unwraps it.
    pub wrapped_by: String,
    /// In the form of whatever wrapped it.
    pub wrapped: Vec<u8>,
}

/// A value that is encrypted under a key which is not to be used any more.
#[derive(Debug, Clone)]
pub struct StoredValue {
    /// Of which secret.
    pub secret: SecretId,
    /// Of which version.
    pub version: u64,
    /// The value.
    pub value: Encrypted,
    /// Its key.
    pub key: DataKey,
}

pub(super) fn data_key(row: &Row) -> Result<DataKey, Error> {
    Ok(DataKey {
        id: row.parsed("data_key")?,
        account: row.parsed("account")?,
        wrapped_by: row.text("wrapped_by")?,
        wrapped: row.try_get("wrapped")?,
    })
}

pub(super) fn encrypted(row: &Row) -> Result<Encrypted, Error> {
    Ok(Encrypted {
        data_key: row.parsed("data_key")?,
        nonce: row.try_get("nonce")?,
        ciphertext: row.try_get("ciphertext")?,
    })
}

const IN_USE: &str = "SELECT id AS data_key, account, wrapped_by, wrapped FROM data_keys
    WHERE account = $1 AND retired_at IS NULL";

impl Change {
    async fn data_key(&mut self, account: AccountId) -> Result<Option<DataKey>, Error> {
        let row = query(IN_USE).bind(account.to_string()).fetch_optional(self.db().await?).await?;
        row.as_ref().map(data_key).transpose()
    }

    fn add_data_key(&mut self, key: &DataKey) {
        let now = self.now;
        self.deferred
            .add("INSERT INTO data_keys (id, account, wrapped_by, wrapped, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(key.id.to_string())
            .bind(key.account.to_string())
            .bind(key.wrapped_by.clone())
            .bind(key.wrapped.clone())
            .bind(now);
    }
}

impl Store {
    /// The key that an account's values are encrypted under now.
    pub async fn data_key(&self, account: AccountId) -> Result<Option<DataKey>, Error> {
        let row = query(IN_USE).bind(account.to_string()).fetch_optional(&self.0.reader).await?;
        row.as_ref().map(data_key).transpose()
    }

    /// Makes this the first key of its account; tells the one that is in use then, which is another if somebody was first.
    pub async fn first_data_key(&self, actor: Actor, key: &DataKey) -> Result<DataKey, Error> {
        let mut change = self.change(actor).await?;
        if let Some(first) = change.data_key(key.account).await? {
            change.settle().await?;
            return Ok(first);
        }
        change.add_data_key(key);
        change.event(Some(key.account), EventKind::DataKeyCreated, key.id, json!({}));
        change.commit().await?;
        Ok(key.clone())
    }

    /// Makes this the key of its account in place of the one that was in use, which stays until nothing is encrypted under it.
    pub async fn next_data_key(&self, actor: Actor, key: &DataKey) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let before = change.data_key(key.account).await?.map(|before| before.id);
        let now = change.now;
        change
            .deferred
            .add("UPDATE data_keys SET retired_at = $1 WHERE account = $2 AND retired_at IS NULL")
            .bind(now)
            .bind(key.account.to_string());
        change.add_data_key(key);
        change.event(Some(key.account), EventKind::DataKeyRotated, key.id, json!({"from": before}));
        change.commit().await
    }

    /// Some values under keys that are not to be used any more, of secrets behind this one.
    pub async fn values_under_retired_keys(
        &self,
        after: Option<SecretId>,
        limit: u32,
    ) -> Result<Vec<StoredValue>, Error> {
        let rows = query(
            "SELECT v.secret, v.version, v.nonce, v.ciphertext, v.data_key, k.account, k.wrapped_by, k.wrapped
             FROM data_keys k JOIN secret_values v ON v.data_key = k.id
             WHERE k.retired_at IS NOT NULL AND ($1 IS NULL OR v.secret > $1) ORDER BY v.secret LIMIT $2",
        )
        .bind(after.map(|after| after.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.0.reader)
        .await?;
        let value = |row: &Row| {
            Ok(StoredValue {
                secret: row.parsed("secret")?,
                version: row.number("version")?,
                value: encrypted(row)?,
                key: data_key(row)?,
            })
        };
        rows.iter().map(value).collect()
    }

    /// Puts the same value in place of `old`, encrypted anew, unless it was changed since or its key is not in use.
    pub async fn encrypt_anew(&self, old: &StoredValue, new: &Encrypted) -> Result<(), Error> {
        let mut change = self.change(Actor::System).await?;
        change.overwrite(true).await?;
        query(
            "UPDATE secret_values SET data_key = $1, nonce = $2, ciphertext = $3
             WHERE secret = $4 AND version = $5 AND data_key = $6
                AND EXISTS (SELECT 1 FROM data_keys k WHERE k.id = $1 AND k.retired_at IS NULL)",
        )
        .bind(new.data_key.to_string())
        .bind(new.nonce.clone())
        .bind(new.ciphertext.clone())
        .bind(old.secret.to_string())
        .bind(old.version as i64)
        .bind(old.key.id.to_string())
        .execute(change.db().await?)
        .await?;
        change.overwrite(false).await?;
        change.commit_bookkeeping().await
    }

    /// Forgets keys that were retired and that nothing is encrypted under.
    pub async fn forget_retired_keys(&self) -> Result<u64, Error> {
        let mut change = self.change(Actor::System).await?;
        change.overwrite(true).await?;
        let forgotten = query(
            "DELETE FROM data_keys WHERE retired_at IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM secret_values v WHERE v.data_key = data_keys.id)",
        )
        .execute(change.db().await?)
        .await?;
        change.overwrite(false).await?;
        change.commit_bookkeeping().await?;
        Ok(forgotten.rows_affected())
    }

    /// What wraps the keys (and seeds of second factors) that there are: each once.
    pub async fn wrapped_by(&self) -> Result<Vec<String>, Error> {
        let rows = query(
            "SELECT wrapped_by FROM data_keys UNION SELECT wrapped_by FROM factors ORDER BY wrapped_by",
        )
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(|row| row.text("wrapped_by")).collect()
    }

    /// Some keys (and seeds) that are wrapped by something else than this, behind `after`.
    pub async fn data_keys_not_wrapped_by(
        &self,
        id: &str,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<DataKey>, Error> {
        let rows = query(
            "SELECT id AS data_key, account, wrapped_by, wrapped FROM (
                SELECT id, account, wrapped_by, wrapped FROM data_keys
                UNION ALL SELECT id, account, wrapped_by, wrapped FROM factors) AS wrapped_keys
             WHERE wrapped_by <> $1 AND ($2 IS NULL OR id > $2) ORDER BY id LIMIT $3",
        )
        .bind(id)
        .bind(after.map(|after| after.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(data_key).collect()
    }

    /// Puts the same key in place of `old`, wrapped anew, unless that was done since.
    pub async fn wrap_anew(&self, old: &DataKey, new: &DataKey) -> Result<(), Error> {
        let mut change = self.change(Actor::System).await?;
        change.overwrite(true).await?;
        for statement in [
            "UPDATE data_keys SET wrapped_by = $1, wrapped = $2 WHERE id = $3 AND wrapped_by = $4",
            "UPDATE factors SET wrapped_by = $1, wrapped = $2 WHERE id = $3 AND wrapped_by = $4",
        ] {
            query(statement)
                .bind(new.wrapped_by.clone())
                .bind(new.wrapped.clone())
                .bind(old.id.to_string())
                .bind(old.wrapped_by.clone())
                .execute(change.db().await?)
                .await?;
        }
        change.overwrite(false).await?;
        change.commit_bookkeeping().await
    }

    /// Notes that keys are wrapped by another key from now on.
    pub async fn wrapping_key_rotated(&self, actor: Actor, from: &str, to: &str) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        change.event(None, EventKind::WrappingKeyRotated, to, json!({"from": from}));
        change.commit().await
    }
}
