//! API keys of the caller's account.

use crate::app::App;
use crate::auth::{Caller, secret};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use model::KeyId;
use model::api::{ApiKey, CreateKey};
use store::{Fresh, Idempotency};

/// Makes a key. The secret is in this answer alone: a replay under the same idempotency key comes without.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    from: Client,
    request: CreateKey,
    idempotency: Option<Idempotency>,
) -> Result<ApiKey, Fault> {
    app.limits.check(Kind::ApiKeys, from.address, Some(&caller.account)).await?;
    let secret = secret::generate(secret::API_KEY).map_err(|error| Fault::internal(&error))?;
    let (key, fresh) = app
        .store
        .create_key(
            caller.actor(),
            caller.account,
            &request.name,
            &secret::hash(&secret),
            idempotency.as_ref(),
        )
        .await?;
    Ok(ApiKey { secret: (fresh == Fresh::Yes).then_some(secret), ..key })
}

pub(crate) async fn delete(app: &App, caller: &Caller, id: &str) -> Result<(), Fault> {
    let key: KeyId = id.parse().map_err(|_| Fault::missing("key", id))?;
    Fault::or_missing(app.store.delete_key(caller.actor(), caller.account, key).await, "key", id)
}
