//! Who belongs to which account, and as what.

use crate::change::{Actor, Change, Changed};
use crate::db::query;
use crate::rows::Row;
use crate::{Error, PageOf, Store};
use model::audit::EventKind;
use model::people::{Member, Role};
use model::{AccountId, UserId};
use serde_json::json;

fn member(row: &Row) -> Result<Member, Error> {
    Ok(Member {
        user: row.parsed("person")?,
        email: row.parsed("email")?,
        role: row.parsed("role")?,
        since: row.at("created_at")?,
    })
}

impl Change {
    pub(crate) fn add_member(&mut self, account: AccountId, person: UserId, role: Role) {
        let now = self.now;
        self.deferred
            .add("INSERT INTO memberships (account, person, role, created_at) VALUES ($1, $2, $3, $4)")
            .bind(account.to_string())
            .bind(person.to_string())
            .bind(role.as_str())
            .bind(now);
        self.event(Some(account), EventKind::MemberAdded, person, json!({"role": role}));
    }

    /// Refuses to leave an account to nobody. A key of its own that acts as an owner is somebody, too: whoever holds it.
    pub(crate) async fn has_an_owner(&mut self, account: AccountId) -> Result<(), Error> {
        let owner = query(
            "SELECT 1 FROM memberships WHERE account = $1 AND role = 'owner'
             UNION ALL SELECT 1 FROM api_keys WHERE account = $1 AND person IS NULL AND role = 'owner'
                AND scopes LIKE '%\"admin\"%' AND expires_at IS NULL LIMIT 1",
        )
        .bind(account.to_string())
        .fetch_optional(self.db().await?)
        .await?;
        let last = || Error::InUse { what: "this is the last owner of the account".to_owned() };
        owner.map(drop).ok_or_else(last)
    }
}

impl Store {
    /// Members of an account, the newest first.
    pub async fn members(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Member>, Error> {
        let rows = query(
            "SELECT m.*, u.email FROM memberships m JOIN users u ON u.id = m.person
             WHERE m.account = $1 AND ($2 IS NULL OR m.person < $2) ORDER BY m.person DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(member).collect::<Result<_, _>>()?, limit))
    }

    /// A member of an account, by id or address.
    pub async fn member(&self, account: AccountId, key: &str) -> Result<Member, Error> {
        let row = query(
            "SELECT m.*, u.email FROM memberships m JOIN users u ON u.id = m.person
             WHERE m.account = $1 AND (u.id = $2 OR u.email = $2)",
        )
        .bind(account.to_string())
        .bind(key.to_ascii_lowercase())
        .fetch_optional(&self.0.reader)
        .await?;
        member(&row.ok_or(Error::NotFound { what: "member" })?)
    }

    /// Makes a member something else, if they still are what they were taken for. Whoever may less has invited nobody.
    pub async fn set_role(
        &self,
        actor: Actor,
        account: AccountId,
        before: &Member,
        role: Role,
    ) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let set = query("UPDATE memberships SET role = $1 WHERE account = $2 AND person = $3 AND role = $4")
            .bind(role.as_str())
            .bind(account.to_string())
            .bind(before.user.to_string())
            .bind(before.role.as_str())
            .execute(change.db().await?)
            .await?;
        if set.rows_affected() == 0 {
            return Err(Error::Overtaken);
        }
        change.has_an_owner(account).await?;
        let revoked = match role < before.role {
            true => change.revoke_invitations_of(account, before.user).await?,
            false => 0,
        };
        let detail = json!({"from": before.role, "to": role, "invitations_revoked": revoked});
        change.event(Some(account), EventKind::MemberRoleChanged, before.user, detail);
        change.touch(Changed::Keys);
        change.commit().await
    }

    /// Removes a member, with the keys and invitations that they made there, and ends the account's workspace tokens.
    pub async fn remove_member(
        &self,
        actor: Actor,
        account: AccountId,
        before: &Member,
    ) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let gone = query("DELETE FROM memberships WHERE account = $1 AND person = $2 AND role = $3")
            .bind(account.to_string())
            .bind(before.user.to_string())
            .bind(before.role.as_str())
            .execute(change.db().await?)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::Overtaken);
        }
        change.has_an_owner(account).await?;
        let keys = query("DELETE FROM api_keys WHERE account = $1 AND person = $2")
            .bind(account.to_string())
            .bind(before.user.to_string())
            .execute(change.db().await?)
            .await?
            .rows_affected();
        let revoked = change.revoke_invitations_of(account, before.user).await?;
        change.revoke_workspace_tokens(account).await?;
        let detail = json!({"role": before.role, "keys_deleted": keys, "invitations_revoked": revoked,
            "workspace_tokens": "revoked"});
        change.event(Some(account), EventKind::MemberRemoved, before.user, detail);
        change.touch(Changed::Keys);
        change.commit().await
    }
}
