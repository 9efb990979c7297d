//! Secrets: what is told of them, and their values as ciphertexts. What a value is, this crate never learns.
//!
//! Of a secret there is one value. A new one takes the place of the old, whose bytes are overwritten in the database's file.

mod bindings;
mod delivery;
mod keys;

pub use bindings::{Placeholders, named};
pub(crate) use bindings::{ask_known, known, wishes};
pub use delivery::{BoundSecret, Delivery};
pub use keys::{DataKey, StoredValue};

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::{Row, to_json};
use crate::{Error, Idempotency, PageOf, Store};
use model::audit::EventKind;
use model::secret::Secret;
use model::{AccountId, KeyId, Name, SecretId};
use serde_json::json;

/// Secrets of one account.
const MOST: u64 = 1000;

/// A value, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// Under this key of its account.
    pub data_key: KeyId,
    /// 12 bytes.
    pub nonce: Vec<u8>,
    /// With its tag.
    pub ciphertext: Vec<u8>,
}

/// A secret to make, of version 1.
#[derive(Debug, Clone)]
pub struct NewSecret {
    /// Chosen by whoever encrypted the value, which is bound to it.
    pub id: SecretId,
    /// Whose.
    pub account: AccountId,
    /// Its name.
    pub name: Name,
    /// The hosts that it may go to.
    pub hosts: Vec<String>,
    /// What is shown of it.
    pub hint: String,
    /// Its value.
    pub value: Encrypted,
}

/// Another value for a secret.
#[derive(Debug, Clone)]
pub struct NewValue {
    /// The version that it is encrypted for: the next.
    pub version: u64,
    /// What is shown of it.
    pub hint: String,
    /// The value.
    pub value: Encrypted,
}

fn secret(row: &Row) -> Result<Secret, Error> {
    Ok(Secret {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        hint: row.text("hint")?,
        hosts: row.json("hosts")?,
        version: row.number("version")?,
        created_at: row.at("created_at")?,
        rotated_at: row.at("rotated_at")?,
    })
}

impl Change {
    async fn secret(&mut self, account: AccountId, id: SecretId) -> Result<Secret, Error> {
        let row = query("SELECT * FROM secrets WHERE id = $1 AND account = $2")
            .bind(id.to_string())
            .bind(account.to_string())
            .fetch_optional(self.db().await?)
            .await?;
        secret(&row.ok_or(Error::NotFound { what: "secret" })?)
    }

    /// Refuses a key that is no longer the one to encrypt under.
    async fn check_key(&mut self, account: AccountId, key: KeyId) -> Result<(), Error> {
        let row = query("SELECT id FROM data_keys WHERE id = $1 AND account = $2 AND retired_at IS NULL")
            .bind(key.to_string())
            .bind(account.to_string())
            .fetch_optional(self.db().await?)
            .await?;
        row.map(drop).ok_or(Error::Overtaken)
    }

    /// Whether what is deleted or replaced from here on is overwritten wherever it is. That costs writes, so that it is done for
    /// ciphertexts alone.
    async fn overwrite(&mut self, on: bool) -> Result<(), Error> {
        self.db().await?.overwrite(on).await
    }
}

impl Store {
    /// Makes a secret. [`Error::Overtaken`] if another key of the account is in use by now.
    pub async fn create_secret(
        &self,
        actor: Actor,
        new: &NewSecret,
        idempotency: Option<&Idempotency>,
    ) -> Result<Secret, Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok(before);
        }
        let NewSecret { id, account, name, hosts, hint, value } = new;
        change.check_key(*account, value.data_key).await?;
        let row = query(
            "SELECT count(*) AS count, count(*) FILTER (WHERE name = $2) AS same FROM secrets WHERE account = $1",
        )
        .bind(account.to_string())
        .bind(name.as_str())
        .fetch_one(change.db().await?)
        .await?;
        if row.number("same")? > 0 {
            return Err(Error::NameTaken { name: name.to_string() });
        }
        if row.number("count")? >= MOST {
            return Err(Error::TooManySecrets { most: MOST });
        }
        let now = change.now;
        change
            .deferred
            .add(
                "INSERT INTO secrets (id, account, name, hosts, version, hint, created_at, rotated_at)
                 VALUES ($1, $2, $3, $4, 1, $5, $6, $6)",
            )
            .bind(id.to_string())
            .bind(account.to_string())
            .bind(name.to_string())
            .bind(to_json(hosts))
            .bind(hint.clone())
            .bind(now)
            .add(
                "INSERT INTO secret_values (secret, version, account, data_key, nonce, ciphertext)
                 VALUES ($1, 1, $2, $3, $4, $5)",
            )
            .bind(id.to_string())
            .bind(account.to_string())
            .bind(value.data_key.to_string())
            .bind(value.nonce.clone())
            .bind(value.ciphertext.clone());
        change.event(Some(*account), EventKind::SecretCreated, id, json!({"name": name, "hosts": hosts}));
        let made = change.secret(*account, *id).await?;
        change.remember(idempotency, &made);
        change.commit().await?;
        Ok(made)
    }

    /// Gives a secret another value, and tells the nodes of all agents that have it. [`Error::Overtaken`] if that is not the next
    /// version, or another key of the account is in use.
    pub async fn rotate_secret(
        &self,
        actor: Actor,
        account: AccountId,
        id: SecretId,
        new: &NewValue,
        idempotency: Option<&Idempotency>,
    ) -> Result<Secret, Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok(before);
        }
        let NewValue { version, hint, value } = new;
        let before = change.secret(account, id).await?;
        if before.version + 1 != *version {
            return Err(Error::Overtaken);
        }
        change.check_key(account, value.data_key).await?;
        let now = change.now;
        change.overwrite(true).await?;
        change
            .deferred
            .add("UPDATE secrets SET version = $1, hint = $2, rotated_at = $3 WHERE id = $4")
            .bind(*version as i64)
            .bind(hint.clone())
            .bind(now)
            .bind(id.to_string())
            .add("UPDATE secret_values SET version = $1, data_key = $2, nonce = $3, ciphertext = $4 WHERE secret = $5")
            .bind(*version as i64)
            .bind(value.data_key.to_string())
            .bind(value.nonce.clone())
            .bind(value.ciphertext.clone())
            .bind(id.to_string());
        change.overwrite(false).await?;
        change.tell_holders(id).await?;
        change.event(
            Some(account),
            EventKind::SecretRotated,
            id,
            json!({"name": before.name, "version": version}),
        );
        let after = change.secret(account, id).await?;
        change.remember(idempotency, &after);
        change.commit().await?;
        Ok(after)
    }

    /// Says which hosts a secret may go to. Refused while an agent has it for others.
    pub async fn set_secret_hosts(
        &self,
        actor: Actor,
        account: AccountId,
        id: SecretId,
        hosts: &[String],
    ) -> Result<Secret, Error> {
        let mut change = self.change(actor).await?;
        let before = change.secret(account, id).await?;
        if before.hosts == hosts {
            change.settle().await?;
            return Ok(before);
        }
        change.check_hosts(&before, hosts).await?;
        change
            .deferred
            .add("UPDATE secrets SET hosts = $1 WHERE id = $2")
            .bind(to_json(&hosts))
            .bind(id.to_string());
        change.tell_holders(id).await?;
        change.event(
            Some(account),
            EventKind::SecretChanged,
            id,
            json!({"name": before.name, "hosts": hosts}),
        );
        let after = change.secret(account, id).await?;
        change.commit().await?;
        Ok(after)
    }

    /// Deletes a secret. Refused while an agent has it.
    pub async fn delete_secret(&self, actor: Actor, account: AccountId, id: SecretId) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let before = change.secret(account, id).await?;
        let holders = change.holders(id).await?;
        if !holders.is_empty() {
            let what = format!("the secret {} is in use: {}", before.name, bindings::listed(&holders));
            return Err(Error::InUse { what });
        }
        change.overwrite(true).await?;
        change
            .deferred
            .add("DELETE FROM agent_secrets WHERE secret = $1")
            .bind(id.to_string())
            .add("DELETE FROM secret_values WHERE secret = $1")
            .bind(id.to_string())
            .add("DELETE FROM secrets WHERE id = $1")
            .bind(id.to_string());
        change.overwrite(false).await?;
        change.event(Some(account), EventKind::SecretDeleted, id, json!({"name": before.name}));
        change.commit().await
    }

    /// A secret of an account, by its id or its name.
    pub async fn secret(&self, account: AccountId, key: &str) -> Result<Secret, Error> {
        let row = query("SELECT * FROM secrets WHERE account = $1 AND (id = $2 OR name = $2)")
            .bind(account.to_string())
            .bind(key)
            .fetch_optional(&self.0.reader)
            .await?;
        secret(&row.ok_or(Error::NotFound { what: "secret" })?)
    }

    /// Secrets of an account, newest first.
    pub async fn secrets(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Secret>, Error> {
        let rows = query(
            "SELECT * FROM secrets WHERE account = $1 AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(secret).collect::<Result<_, _>>()?, limit))
    }
}
