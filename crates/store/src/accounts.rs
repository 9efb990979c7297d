//! Accounts.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::keys::NewKey;
use crate::rows::Row;
use crate::{Error, Store};
use model::audit::EventKind;
use model::people::{Account, AccountKind, Role};
use model::quota::Quota;
use model::{AccountId, Name, NodeId, UserId};
use serde_json::json;

/// As many organisations may somebody own who makes another.
const MOST_OWNED: u64 = 20;

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

pub(crate) fn account(row: &Row) -> Result<Account, Error> {
    Ok(Account {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        kind: row.parsed("kind")?,
        role: row.parsed("role")?,
        created_at: row.at("created_at")?,
    })
}

impl Change {
    /// An account that nobody belongs to yet.
    pub(crate) async fn add_bare_account(
        &mut self,
        name: &Name,
        kind: AccountKind,
        operator: bool,
    ) -> Result<AccountId, Error> {
        let taken = query("SELECT id FROM accounts WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(self.db().await?)
            .await?;
        if taken.is_some() {
            return Err(Error::NameTaken { name: name.to_string() });
        }
        let account = AccountId::new();
        let now = self.now;
        self.deferred
            .add("INSERT INTO accounts (id, name, kind, operator, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(account.to_string())
            .bind(name.to_string())
            .bind(kind.as_str())
            .bind(i64::from(operator))
            .bind(now);
        self.event(Some(account), EventKind::AccountCreated, account, json!({"name": name, "kind": kind}));
        // Whoever operates the installation is held to nothing but the machine.
        if !operator && !self.new_quota.is_unlimited() {
            let quota = self.new_quota;
            self.put_quota(account, &quota);
        }
        Ok(account)
    }

    pub(crate) async fn add_account(&mut self, new: &NewAccount, operator: bool) -> Result<AccountId, Error> {
        let account = self.add_bare_account(&new.name, AccountKind::Organisation, operator).await?;
        self.add_key(&NewKey::of_account(account, &new.key, &new.hash)).await?;
        Ok(account)
    }

    async fn add_organisation(mut self, name: &Name, owner: UserId) -> Result<Account, Error> {
        let id = self.add_bare_account(name, AccountKind::Organisation, false).await?;
        self.add_member(id, owner, Role::Owner);
        let row = query(
            "SELECT a.*, m.role FROM accounts a JOIN memberships m ON m.account = a.id WHERE a.id = $1",
        )
        .bind(id.to_string())
        .fetch_one(self.db().await?)
        .await?;
        let made = account(&row)?;
        self.commit().await?;
        Ok(made)
    }

    /// Ends every workspace token of an account: some were issued to somebody who is to have none any more.
    pub(crate) async fn revoke_workspace_tokens(&mut self, account: AccountId) -> Result<(), Error> {
        query("UPDATE agents SET token_epoch = token_epoch + 1 WHERE account = $1 AND state <> 'destroyed'")
            .bind(account.to_string())
            .execute(self.db().await?)
            .await?;
        let nodes = query("SELECT DISTINCT node FROM agents WHERE account = $1 AND state <> 'destroyed'")
            .bind(account.to_string())
            .fetch_all(self.db().await?)
            .await?;
        if !nodes.is_empty() {
            self.event(Some(account), EventKind::AccountTokensRevoked, account, json!({}));
        }
        for row in nodes {
            self.raise(row.parsed::<NodeId>("node")?);
        }
        Ok(())
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

    /// Makes an organisation that a person owns.
    pub async fn create_organisation(
        &self,
        actor: Actor,
        name: &Name,
        owner: UserId,
    ) -> Result<Account, Error> {
        let change = self.change(actor).await?;
        change.add_organisation(name, owner).await
    }

    /// The same for somebody who makes it for themselves, and does not own 20 organisations yet. It may have what `quota` says, if it says
    /// anything.
    pub async fn create_own_organisation(
        &self,
        actor: Actor,
        name: &Name,
        owner: UserId,
        quota: Option<Quota>,
    ) -> Result<Account, Error> {
        let mut change = self.change(actor).await?;
        change.new_quota = quota.unwrap_or(change.new_quota);
        let row = query(
            "SELECT COUNT(*) AS owned FROM memberships m JOIN accounts a ON a.id = m.account
             WHERE m.person = $1 AND m.role = 'owner' AND a.kind = 'organisation'",
        )
        .bind(owner.to_string())
        .fetch_one(change.db().await?)
        .await?;
        if row.number("owned")? >= MOST_OWNED {
            return Err(Error::TooManyOrganisations { most: MOST_OWNED });
        }
        change.add_organisation(name, owner).await
    }

    /// Where a person belongs: their own account first.
    pub async fn accounts_of(&self, person: UserId) -> Result<Vec<Account>, Error> {
        let rows = query(
            "SELECT a.*, m.role FROM memberships m JOIN accounts a ON a.id = m.account WHERE m.person = $1
             ORDER BY a.kind DESC, a.name",
        )
        .bind(person.to_string())
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(account).collect()
    }

    /// What kind of account it is, and when it was made.
    pub async fn account(&self, id: AccountId, role: Role) -> Result<Account, Error> {
        let row = query("SELECT a.*, $2 AS role FROM accounts a WHERE id = $1")
            .bind(id.to_string())
            .bind(role.as_str())
            .fetch_optional(&self.0.reader)
            .await?;
        account(&row.ok_or(Error::NotFound { what: "account" })?)
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
