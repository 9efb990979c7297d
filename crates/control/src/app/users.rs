//! People: made known by the operator, and their passwords.

use crate::app::{App, names, sessions};
use crate::auth::access::Action;
use crate::auth::passwords::{self, Asks};
use crate::auth::{Caller, secret};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use model::mode::Mode;
use model::people::{Account, ChangePassword, CreateAccount, CreateUser, Email, RedeemReset, Reset, User};
use model::quota::Quota;
use model::secret::SecretValue;
use model::{Code, Name, Problem, UserId};
use store::{Credentials, Resets};
use time::Duration;

/// How long a token is good that sets a password.
const RESET_LIFE: Duration = Duration::hours(1);
/// How many names are tried for an account that nobody named.
const NAMES: usize = 8;

/// Names to try, one after the other, for a person's own account.
pub(super) fn names_for(email: &Email) -> Result<Vec<Name>, Fault> {
    let names = (0..NAMES).map(|tried| names::personal(email, tried > 0));
    names.collect::<Result<_, _>>().map_err(|error| Fault::internal(&error))
}

/// Makes a person known, with an account of their own and a token that sets their first password.
pub(crate) async fn create(app: &App, caller: &Caller, request: &CreateUser) -> Result<Reset, Fault> {
    caller.proved(app.store.now())?;
    let token = generated(secret::RESET)?;
    let hash = secret::hash(token.expose());
    let mut last = store::Error::Overtaken;
    for name in names_for(&request.email)? {
        match app.store.create_user(caller.actor(), &request.email, &name, &hash, RESET_LIFE).await {
            Ok((user, expires_at)) => return Ok(Reset { user, token, expires_at }),
            Err(error @ store::Error::NameTaken { .. }) => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

pub(super) fn generated(prefix: &str) -> Result<SecretValue, Fault> {
    secret::generate(prefix).map(SecretValue::new).map_err(|error| Fault::internal(&error))
}

/// Somebody by id or address; for the operator.
async fn find(app: &App, key: &str) -> Result<Credentials, Fault> {
    if let Ok(id) = key.parse::<UserId>() {
        return Fault::or_missing(app.store.credentials_of(id).await, "user", key);
    }
    let email: Email = key.parse().map_err(|_| Fault::missing("user", key))?;
    app.store.credentials(&email).await?.ok_or_else(|| Fault::missing("user", key))
}

/// A token that sets another password for somebody, which is how they come back in where no mail reaches them; control sends none.
///
/// Whoever has it can be them, but for their second factor, which stays. So it is made at the machine alone ([`Action::Impersonate`]),
/// except for somebody who never chose a password: there is nothing yet that they could see. Every account that they belong to has it
/// among its events.
pub(crate) async fn reset(app: &App, caller: &Caller, from: Client, key: &str) -> Result<Reset, Fault> {
    caller.proved(app.store.now())?;
    let who = find(app, key).await?;
    if who.hash.is_some() {
        caller.check(Action::Impersonate)?;
    }
    // They may choose one meanwhile.
    let resets = if caller.may(Action::Impersonate) { Resets::All } else { Resets::First };
    app.limits.check(Kind::Reset, from.address, Some(&who.user.id)).await?;
    let token = generated(secret::RESET)?;
    let hash = secret::hash(token.expose());
    let issued = app.store.issue_reset(caller.actor(), who.user.id, resets, &hash, RESET_LIFE);
    let (user, expires_at) = issued.await?;
    Ok(Reset { user, token, expires_at })
}

/// Takes the second factor from somebody who lost it. It opens nothing by itself: their password is asked for as before.
pub(crate) async fn remove_factor(app: &App, caller: &Caller, key: &str) -> Result<(), Fault> {
    caller.check(Action::Impersonate)?;
    caller.proved(app.store.now())?;
    let who = find(app, key).await?;
    Fault::or_missing(app.store.remove_factor(caller.actor(), who.user.id).await, "second factor", key)
}

/// Refuses what holds their address, the name of their account, or what others would try.
pub(super) fn acceptable(password: &SecretValue, email: &Email) -> Result<(), Fault> {
    passwords::check(password, &[email.local(), email.as_str()])
}

fn token_refused() -> Fault {
    let problem = Problem::new(Code::Unauthenticated, "the token is unknown, expired or was used already");
    problem.remedy("ask for another one").into()
}

/// Sets a password by a token, once.
pub(crate) async fn redeem(app: &App, from: Client, request: &RedeemReset) -> Result<User, Fault> {
    let hash = secret::hash(request.token.expose());
    app.limits.check(Kind::Redemption, from.address, Some(&hash)).await?;
    // Looked up first: what is no token costs no hash of a password.
    let who = app.store.reset(&hash).await?.ok_or_else(token_refused)?;
    acceptable(&request.password, &who.user.email)?;
    let password = app.passwords.hash(Asks::Stranger, &request.password).await?;
    match app.store.redeem_reset(&hash, &who, &password).await {
        Err(store::Error::TokenRefused) => Err(token_refused()),
        redeemed => {
            redeemed?;
            Ok(app.store.credentials_of(who.user.id).await?.user)
        }
    }
}

/// Another password for the person of a session, who shows the one before.
pub(crate) async fn change_password(
    app: &App,
    caller: &Caller,
    from: Client,
    request: &ChangePassword,
) -> Result<(), Fault> {
    let sitting = caller.sitting()?;
    let who = app.store.credentials_of(sitting.person).await?;
    sessions::verify(app, from, &who, &request.current, "current").await?;
    acceptable(&request.password, &who.user.email)?;
    let password = app.passwords.hash(Asks::Known, &request.password).await?;
    Ok(app.store.change_password(&who, &password, sitting.session).await?)
}

/// What an account may have that is made without the operator. Where accounts share machines, or may have only so much, that is nothing,
/// until the operator gives it more: else whoever is short of room would make another account.
pub(super) fn unasked(app: &App) -> Option<Quota> {
    let shared = app.mode == Mode::Managed || !app.quota.is_unlimited();
    shared.then_some(Quota { agents: Some(0), ..Quota::default() })
}

/// Makes an organisation: of the caller, or, by an operator, of somebody else.
pub(crate) async fn create_account(
    app: &App,
    caller: &Caller,
    from: Client,
    request: &CreateAccount,
) -> Result<Account, Fault> {
    caller.check(if request.owner.is_some() { Action::Operate } else { Action::Person })?;
    caller.proved(app.store.now())?;
    let owner = match &request.owner {
        Some(email) => {
            let unknown = || Problem::invalid("owner", "there is no user with this address");
            let owner = app.store.credentials(email).await?.ok_or_else(unknown)?.user.id;
            return Ok(app.store.create_organisation(caller.actor(), &request.name, owner).await?);
        }
        None => {
            let nobody = || Problem::new(Code::Forbidden, "this key is nobody's");
            caller.person.ok_or_else(nobody)?
        }
    };
    app.limits.check(Kind::Accounts, from.address, Some(&owner)).await?;
    Ok(app.store.create_own_organisation(caller.actor(), &request.name, owner, unasked(app)).await?)
}

/// Where the caller belongs; for a key that is an account's own, that one.
pub(crate) async fn accounts(app: &App, caller: &Caller) -> Result<Vec<Account>, Fault> {
    match (caller.person, &caller.standing.scopes) {
        // A key is for one account, whoever made it.
        (Some(person), None) => Ok(app.store.accounts_of(person).await?),
        _ => Ok(vec![app.store.account(caller.account, caller.role()).await?]),
    }
}
