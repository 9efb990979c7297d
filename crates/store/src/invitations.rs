//! Invitations, hashed: each is taken once, by whoever has its token and its address.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::{Row, millis};
use crate::{Error, PageOf, Store};
use model::audit::EventKind;
use model::people::{Email, Invitation, Role};
use model::quota::Quota;
use model::{AccountId, InvitationId, Name, UserId};
use serde_json::json;
use time::Duration;

/// An invitation to make.
#[derive(Debug)]
pub struct NewInvitation<'a> {
    /// To which account.
    pub account: AccountId,
    /// Whom.
    pub email: &'a Email,
    /// As what.
    pub role: Role,
    /// Who makes it; nobody for a key that is the account's own.
    pub person: Option<UserId>,
    /// Of its token.
    pub hash: &'a str,
    /// How long it can be taken.
    pub life: Duration,
}

/// What the token of an invitation is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// The invitation.
    pub id: InvitationId,
    /// To which account.
    pub account: AccountId,
    /// Its name.
    pub account_name: Name,
    /// Whether it operates the installation: so does whoever invited, then.
    pub operator: bool,
    /// Whom.
    pub email: Email,
    /// As what.
    pub role: Role,
}

fn invitation(row: &Row) -> Result<Invitation, Error> {
    Ok(Invitation {
        id: row.parsed("id")?,
        email: row.parsed("email")?,
        role: row.parsed("role")?,
        token: None,
        created_at: row.at("created_at")?,
        expires_at: row.at("expires_at")?,
    })
}

impl Change {
    async fn is_member(&mut self, account: AccountId, email: &Email) -> Result<bool, Error> {
        let row = query(
            "SELECT 1 FROM memberships m JOIN users u ON u.id = m.person WHERE m.account = $1 AND u.email = $2",
        )
        .bind(account.to_string())
        .bind(email.as_str())
        .fetch_optional(self.db().await?)
        .await?;
        Ok(row.is_some())
    }

    /// Takes back what somebody invited to who may no longer, and tells how many that were.
    pub(crate) async fn revoke_invitations_of(
        &mut self,
        account: AccountId,
        person: UserId,
    ) -> Result<u64, Error> {
        let gone = query("DELETE FROM invitations WHERE account = $1 AND person = $2")
            .bind(account.to_string())
            .bind(person.to_string())
            .execute(self.db().await?)
            .await?;
        Ok(gone.rows_affected())
    }

    /// Takes back what was invited to with keys that are not there any more, and tells how many that were.
    pub(crate) async fn revoke_invitations_of_keys(&mut self, account: AccountId) -> Result<u64, Error> {
        let gone = query(
            "DELETE FROM invitations WHERE account = $1 AND made_by IS NOT NULL
                AND made_by NOT IN (SELECT id FROM api_keys WHERE account = $1)",
        )
        .bind(account.to_string())
        .execute(self.db().await?)
        .await?;
        Ok(gone.rows_affected())
    }

    /// Uses an invitation up.
    async fn take(&mut self, invited: &Invited, hash: &str) -> Result<(), Error> {
        let now = self.now;
        let taken = query("DELETE FROM invitations WHERE id = $1 AND hash = $2 AND expires_at > $3")
            .bind(invited.id.to_string())
            .bind(hash)
            .bind(now)
            .execute(self.db().await?)
            .await?;
        if taken.rows_affected() == 0 { Err(Error::TokenRefused) } else { Ok(()) }
    }
}

impl Store {
    /// Invites somebody, in place of an earlier invitation of theirs.
    pub async fn invite(&self, actor: Actor, new: &NewInvitation<'_>) -> Result<Invitation, Error> {
        let NewInvitation { account, email, role, person, hash, life } = *new;
        let mut change = self.change(actor).await?;
        let personal = query("SELECT 1 FROM accounts WHERE id = $1 AND kind = 'personal'")
            .bind(account.to_string())
            .fetch_optional(change.db().await?)
            .await?;
        if personal.is_some() {
            return Err(Error::Personal);
        }
        if change.is_member(account, email).await? {
            return Err(Error::InUse { what: format!("{email} is a member already") });
        }
        let (id, now) = (InvitationId::new(), change.now);
        let replaced = query("DELETE FROM invitations WHERE account = $1 AND email = $2 RETURNING id")
            .bind(account.to_string())
            .bind(email.as_str())
            .fetch_optional(change.db().await?)
            .await?;
        if let Some(row) = replaced {
            let before: InvitationId = row.parsed("id")?;
            change.event(
                Some(account),
                EventKind::InvitationRevoked,
                before,
                json!({"because": "invitation.created"}),
            );
        }
        let row = query(
            "INSERT INTO invitations (id, account, email, role, person, hash, created_at, expires_at, made_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .bind(email.as_str())
        .bind(role.as_str())
        .bind(person.map(|person| person.to_string()))
        .bind(hash)
        .bind(now)
        .bind(now + life.whole_milliseconds() as i64)
        .bind(actor.key().map(|key| key.to_string()))
        .fetch_one(change.db().await?)
        .await?;
        let made = invitation(&row)?;
        change.event(Some(account), EventKind::InvitationCreated, id, json!({"email": email, "role": role}));
        change.commit().await?;
        Ok(made)
    }

    /// Invitations of an account that can still be taken, the newest first.
    pub async fn invitations(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Invitation>, Error> {
        let rows = query(
            "SELECT * FROM invitations WHERE account = $1 AND expires_at > $2 AND ($3 IS NULL OR id < $3)
             ORDER BY id DESC LIMIT $4",
        )
        .bind(account.to_string())
        .bind(millis(self.now()))
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(invitation).collect::<Result<_, _>>()?, limit))
    }

    /// Takes an invitation back.
    pub async fn revoke_invitation(
        &self,
        actor: Actor,
        account: AccountId,
        id: InvitationId,
    ) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let gone = query("DELETE FROM invitations WHERE id = $1 AND account = $2")
            .bind(id.to_string())
            .bind(account.to_string())
            .execute(change.db().await?)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::NotFound { what: "invitation" });
        }
        change.event(Some(account), EventKind::InvitationRevoked, id, json!({}));
        change.commit().await
    }

    /// What the token with this hash is good for.
    pub async fn invited(&self, hash: &str) -> Result<Option<Invited>, Error> {
        let row = query(
            "SELECT i.id, i.account, i.email, i.role, a.name, a.operator FROM invitations i JOIN accounts a ON a.id = i.account
             WHERE i.hash = $1 AND i.expires_at > $2",
        )
        .bind(hash)
        .bind(millis(self.now()))
        .fetch_optional(&self.0.reader)
        .await?;
        row.map(|row| {
            Ok(Invited {
                id: row.parsed("id")?,
                account: row.parsed("account")?,
                account_name: row.parsed("name")?,
                operator: row.flag("operator")?,
                email: row.parsed("email")?,
                role: row.parsed("role")?,
            })
        })
        .transpose()
    }

    /// Takes an invitation, once, for somebody who is known.
    pub async fn join(
        &self,
        actor: Actor,
        invited: &Invited,
        hash: &str,
        person: UserId,
    ) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        change.take(invited, hash).await?;
        if change.is_member(invited.account, &invited.email).await? {
            return Err(Error::InUse { what: format!("{} is a member already", invited.email) });
        }
        change.add_member(invited.account, person, invited.role);
        change.event(
            Some(invited.account),
            EventKind::InvitationAccepted,
            invited.id,
            json!({"user": person}),
        );
        change.commit().await
    }

    /// The same for somebody who is not known yet, with the hash of their password. Their own account may have what `quota` says, if it
    /// says anything.
    pub async fn join_anew(
        &self,
        invited: &Invited,
        hash: &str,
        personal: &Name,
        password: &str,
        quota: Option<Quota>,
    ) -> Result<UserId, Error> {
        let mut change = self.change(Actor::System).await?;
        change.new_quota = quota.unwrap_or(change.new_quota);
        change.take(invited, hash).await?;
        let person = change.add_user(&invited.email, personal, Some(password)).await?;
        change.add_member(invited.account, person, invited.role);
        change.event(
            Some(invited.account),
            EventKind::InvitationAccepted,
            invited.id,
            json!({"user": person}),
        );
        change.commit().await?;
        Ok(person)
    }
}
