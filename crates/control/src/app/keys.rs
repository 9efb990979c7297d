//! API keys of the caller's account: one's own, and for admins those of others.

use crate::app::App;
use crate::auth::access::Action;
use crate::auth::{Caller, secret};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use model::people::{ApiKey, CreateKey, KeyScope, Role};
use model::{KeyId, Problem, UserId};
use store::{Fresh, Idempotency, NewKey, PageOf};

/// Makes a key, which does no more than its maker. The secret is in this answer alone: a replay under the same idempotency key comes
/// without.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    from: Client,
    request: CreateKey,
    idempotency: Option<Idempotency>,
) -> Result<ApiKey, Fault> {
    app.limits.check(Kind::ApiKeys, from.address, Some(&caller.account)).await?;
    caller.proved(app.store.now())?;
    let now = app.store.now();
    // As it is kept: in milliseconds.
    let expires_at = request.expires_at.map(|end| end.truncate_to_millisecond());
    if expires_at.is_some_and(|end| end <= now) {
        return Err(Problem::invalid("expires_at", "this is over already").into());
    }
    if let Some(until) = caller.until
        && expires_at.is_none_or(|end| end > until)
    {
        let problem = Problem::invalid("expires_at", "a key makes none that lasts longer than itself");
        return Err(problem.remedy("let it end no later than the key that makes it").into());
    }
    // Whoever may make keys does everything that its role may, so that there is no scope to give that they lack.
    let mut scopes = request.scopes.unwrap_or_else(|| vec![KeyScope::Admin]);
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Problem::invalid("scopes", "expected one at least, such as read").into());
    }
    let secret = secret::generate(secret::API_KEY).map_err(|error| Fault::internal(&error))?;
    let new = NewKey {
        account: caller.account,
        name: &request.name,
        hash: &secret::hash(&secret),
        role: caller.role(),
        scopes: &scopes,
        person: caller.person,
        expires_at,
    };
    let (key, fresh) = app.store.create_key(caller.actor(), &new, idempotency.as_ref()).await?;
    Ok(ApiKey { secret: (fresh == Fresh::Yes).then_some(secret), ..key })
}

/// Whose keys the caller sees: nobody's in particular, or their own.
fn visible(caller: &Caller) -> Result<Option<UserId>, Fault> {
    if caller.may(Action::KeysOfOthers) {
        return Ok(None);
    }
    match caller.person {
        Some(person) => Ok(Some(person)),
        // A key of the account's own with a lesser role; there is nobody whose keys those would be.
        None => Err(caller.check(Action::KeysOfOthers).err().unwrap_or_else(|| Fault::missing("key", ""))),
    }
}

pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    before: Option<&str>,
    limit: u32,
) -> Result<PageOf<ApiKey>, Fault> {
    Ok(app.store.keys(caller.account, visible(caller)?, before, limit).await?)
}

pub(crate) async fn delete(app: &App, caller: &Caller, from: Client, id: &str) -> Result<(), Fault> {
    let who = caller.person.map_or_else(|| caller.actor().to_string(), |person| person.to_string());
    app.limits.check(Kind::KeyDeletions, from.address, Some(&who)).await?;
    let key: KeyId = id.parse().map_err(|_| Fault::missing("key", id))?;
    let found = Fault::or_missing(app.store.key(caller.account, visible(caller)?, key).await, "key", id)?;
    if found.role == Role::Owner {
        // One's own also if one is no owner any more.
        if found.user.is_none() || found.user != caller.person {
            caller.check(Action::Owners)?;
        }
        caller.proved(app.store.now())?;
    }
    Fault::or_missing(app.store.delete_key(caller.actor(), caller.account, key).await, "key", id)
}
