//! The control API on people: sessions, users, accounts, members, invitations, keys.

use crate::control::Control;
use crate::credential::begun;
use crate::error::Error;
use model::AccountId;
use model::people::{
    AcceptInvitation, Account, ApiKey, ChangePassword, ConfirmFactor, CreateAccount, CreateInvitation,
    CreateKey, CreateUser, Invitation, LoggedIn, Login, Member, NewFactor, RedeemReset, Reset, Role, Session,
    SetRole, User, WhoAmI,
};
use model::quota::{AccountQuota, Quota};
use model::secret::SecretValue;
use reqwest::header::ORIGIN;

impl Control {
    /// Who calls, and in which account.
    pub async fn whoami(&self) -> Result<WhoAmI, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "whoami"])).await
    }

    /// Logs in: who that is, and what tells the session from here on. The session that this client had, if any, ends.
    pub async fn login(&self, login: &Login) -> Result<(LoggedIn, SecretValue), Error> {
        let mut request = self.endpoint.post(&["v1", "session"]).json(login);
        if !self.is_person() {
            request = request.header(ORIGIN, self.endpoint.page());
        }
        let response = self.endpoint.send(request).await?;
        let token = begun(response.headers());
        let token = token.ok_or_else(|| Error::protocol(self.origin(), "its answer has no session"))?;
        Ok((self.endpoint.read(response).await?, token))
    }

    /// Who is logged in, and where they belong.
    pub async fn session(&self) -> Result<LoggedIn, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "session"])).await
    }

    /// Logs out.
    pub async fn logout(&self) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "session"])).await.map(drop)
    }

    /// The person's sessions, newest first.
    pub async fn sessions(&self) -> Result<Vec<Session>, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "sessions"])).await
    }

    /// Ends one of them.
    pub async fn end_session(&self, id: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "sessions", id])).await.map(drop)
    }

    /// Changes the person's password; their other sessions end.
    pub async fn change_password(&self, change: &ChangePassword) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.put(&["v1", "password"]).json(change)).await.map(drop)
    }

    /// Sets a password by a token; all sessions of its person end. Needs no credential.
    pub async fn redeem_reset(&self, redeem: &RedeemReset) -> Result<User, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "password-reset"]).json(redeem)).await
    }

    /// Makes a second factor, which waits for its first code.
    pub async fn begin_factor(&self) -> Result<NewFactor, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "second-factor"])).await
    }

    /// Has logins ask for it.
    pub async fn confirm_factor(&self, confirm: &ConfirmFactor) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.put(&["v1", "second-factor"]).json(confirm)).await.map(drop)
    }

    /// Removes the person's second factor.
    pub async fn remove_factor(&self) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "second-factor"])).await.map(drop)
    }

    /// All people, newest first; for operators.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "users"])).await
    }

    /// Makes a person known; for operators.
    pub async fn create_user(&self, create: &CreateUser) -> Result<Reset, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "users"]).json(create)).await
    }

    /// A token that sets another password for somebody, by id or address; for operators.
    pub async fn reset_password(&self, user: &str) -> Result<Reset, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "users", user, "reset"])).await
    }

    /// Takes the second factor from somebody, by id or address; for operators.
    pub async fn remove_factor_of(&self, user: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "users", user, "second-factor"])).await.map(drop)
    }

    /// Where the caller belongs.
    pub async fn accounts(&self) -> Result<Vec<Account>, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "accounts"])).await
    }

    /// Makes an organisation.
    pub async fn create_account(&self, create: &CreateAccount) -> Result<Account, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "accounts"]).json(create)).await
    }

    /// What all agents of the account may have together, and what they have.
    pub async fn quota(&self) -> Result<AccountQuota, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "quota"])).await
    }

    /// Says what all agents of an account may have together; for operators.
    pub async fn set_quota(&self, account: AccountId, quota: &Quota) -> Result<Quota, Error> {
        let id = account.to_string();
        self.endpoint.json(self.endpoint.put(&["v1", "accounts", &id, "quota"]).json(quota)).await
    }

    /// Leaves the account.
    pub async fn leave_account(&self) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "membership"])).await.map(drop)
    }

    /// The members of the account.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "members"])).await
    }

    /// Makes a member something else, by id or address.
    pub async fn set_role(&self, member: &str, role: Role) -> Result<Member, Error> {
        self.endpoint.json(self.endpoint.put(&["v1", "members", member]).json(&SetRole { role })).await
    }

    /// Removes a member, by id or address, with the keys that they made.
    pub async fn remove_member(&self, member: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "members", member])).await.map(drop)
    }

    /// Invitations that nobody has taken yet.
    pub async fn invitations(&self) -> Result<Vec<Invitation>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "invitations"])).await
    }

    /// Invites somebody; the answer holds the token, once.
    pub async fn invite(&self, create: &CreateInvitation) -> Result<Invitation, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "invitations"]).json(create)).await
    }

    /// Takes an invitation back.
    pub async fn revoke_invitation(&self, id: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "invitations", id])).await.map(drop)
    }

    /// Takes an invitation: as the person that this client is, or as somebody new, who needs no credential.
    pub async fn accept_invitation(&self, accept: &AcceptInvitation) -> Result<Account, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "invitations", "accept"]).json(accept)).await
    }

    /// API keys that the caller may see; without their secrets.
    pub async fn keys(&self) -> Result<Vec<ApiKey>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "keys"])).await
    }

    /// Makes an API key; the answer holds its secret, once.
    pub async fn create_key(&self, create: &CreateKey) -> Result<ApiKey, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "keys"]).json(create)).await
    }

    /// Revokes an API key.
    pub async fn remove_key(&self, id: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "keys", id])).await.map(drop)
    }
}
