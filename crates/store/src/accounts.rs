//! Accounts.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::{Error, Store};
use model::{AccountId, Name};
use serde_json::json;

/// An account to make, with its first key.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The account's name.
    pub name: Name,
    /// The key's name.
    pub key: Name,
    /// The hash of the key.
    pub hash: String,
}

impl Change {
    pub(crate) async fn add_account(&mut self, new: &NewAccount, operator: bool) -> Result<AccountId, Error> {
        let taken = query("SELECT id FROM accounts WHERE name = $1")
            .bind(new.name.as_str())
            .fetch_optional(self.db().await?)
            .await?;
        if taken.is_some() {
            return Err(Error::NameTaken { name: new.name.to_string() });
        }
        let account = AccountId::new();
        let now = self.now;
        query("INSERT INTO accounts (id, name, operator, created_at) VALUES ($1, $2, $3, $4)")
            .bind(account.to_string())
            .bind(new.name.as_str())
            .bind(i64::from(operator))
            .bind(now)
            .execute(self.db().await?)
            .await?;
        self.event(Some(account), "account.created", account, json!({"name": new.name}));
        self.add_key(account, &new.key, &new.hash).await?;
        Ok(account)
    }
}

impl Store {
    /// Makes an account.
    pub async fn create_account(&self, actor: Actor, new: &NewAccount) -> Result<AccountId, Error> {
        let mut change = self.change(actor).await?;
        let account = change.add_account(new, false).await?;
        change.commit().await?;
        Ok(account)
    }

    /// Whether there is such an account.
    pub async fn account_exists(&self, account: AccountId) -> Result<bool, Error> {
        let row = query("SELECT id FROM accounts WHERE id = $1")
            .bind(account.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        Ok(row.is_some())
    }

    /// The account that operates the installation; `None` before the first start.
    pub async fn operator(&self) -> Result<Option<AccountId>, Error> {
        let row = query("SELECT id FROM accounts WHERE operator = 1 ORDER BY id")
            .fetch_optional(&self.0.reader)
            .await?;
        row.map(|row| row.parsed("id")).transpose()
    }
}
