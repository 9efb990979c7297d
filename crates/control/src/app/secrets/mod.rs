//! Secrets of the caller's account: set, replaced, bound and deleted. A value that came in leaves again for the node of an agent that
//! has it, sealed, and for nobody else.

pub(crate) mod deliver;
pub(crate) mod rekey;

use crate::app::{App, validate};
use crate::auth::Caller;
use crate::auth::secret::{self, NoRandomness};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use crate::vault::{OpenKey, VaultError};
use model::policy::Policy;
use model::secret::{
    CreateSecret, PLACEHOLDER_PREFIX, PLACEHOLDER_RANDOM, RotateSecret, Secret, SecretValue, SetHosts,
};
use model::{AccountId, Name, Problem, SecretId};
use serde::Serialize;
use store::{Actor, Idempotency, NewSecret, NewValue, Placeholders};
use zeroize::Zeroizing;

/// How often something is begun anew that somebody else's change came before.
const TRIES: usize = 8;

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        Self::internal(&error)
    }
}

/// The key that values of the account are encrypted under; made with the first of them.
async fn key_of(app: &App, actor: Actor, account: AccountId) -> Result<OpenKey, Fault> {
    let known = app.store.data_key(account).await?;
    let key = match known {
        Some(key) => key,
        None => {
            let _turning = app.vault.turning.read().await;
            app.store.first_data_key(actor, &app.vault.make(account)?).await?
        }
    };
    Ok(app.vault.open_key(&key)?)
}

/// As JSON, of which no copy is left behind.
fn to_json<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, Fault> {
    struct Length(usize);
    impl std::io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let failed = |error: serde_json::Error| Fault::internal(&error);
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_err(failed)?;
    let mut json = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *json, value).map_err(failed)?;
    Ok(json)
}

/// What ties an idempotency key to a request that holds a value. A plain digest would tell whoever reads the database whether a guess at
/// the value is right.
fn idempotency<T: Serialize>(
    key: &OpenKey,
    account: AccountId,
    given: Option<&str>,
    request: &T,
) -> Result<Option<Idempotency>, Fault> {
    let Some(given) = given else { return Ok(None) };
    let request = secret::hex(&key.fingerprint(&to_json(request)?));
    Ok(Some(Idempotency { account, key: given.to_owned(), request }))
}

/// Makes a secret.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    from: Client,
    request: &CreateSecret,
    given: Option<&str>,
) -> Result<Secret, Fault> {
    validate::secret_value(&request.value)?;
    validate::secret_hosts(&request.hosts)?;
    app.limits.check(Kind::Secrets, from.address, Some(&caller.account)).await?;
    let CreateSecret { name, value, hosts } = request;
    let account = caller.account;
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let key = key_of(app, caller.actor(), account).await?;
        let idempotency = idempotency(&key, account, given, &("create_secret", request))?;
        let id = SecretId::new();
        let new = NewSecret {
            id,
            account,
            name: name.clone(),
            hosts: hosts.clone(),
            hint: value.hint(),
            value: key.encrypt(id, 1, value)?,
        };
        match app.store.create_secret(caller.actor(), &new, idempotency.as_ref()).await {
            Err(store::Error::Overtaken) if tries > 0 => {}
            Err(error @ store::Error::NameTaken { .. }) => {
                let Fault(problem) = Fault::from(error);
                let remedy = format!("POST /v1/secrets/{name}/rotate gives it another value");
                return Err(problem.remedy(remedy).into());
            }
            made => return Ok(made?),
        }
    }
}

/// A secret of the caller's account, by id or name.
pub(crate) async fn find(app: &App, caller: &Caller, key: &str) -> Result<Secret, Fault> {
    Fault::or_missing(app.store.secret(caller.account, key).await, "secret", key)
}

/// Gives a secret another value.
pub(crate) async fn rotate(
    app: &App,
    caller: &Caller,
    from: Client,
    secret: &str,
    request: &RotateSecret,
    given: Option<&str>,
) -> Result<Secret, Fault> {
    let value: &SecretValue = &request.value;
    validate::secret_value(value)?;
    let account = caller.account;
    app.limits.check(Kind::Secrets, from.address, Some(&account)).await?;
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let before = find(app, caller, secret).await?;
        let key = key_of(app, caller.actor(), account).await?;
        let idempotency = idempotency(&key, account, given, &("rotate_secret", secret, request))?;
        let version = before.version + 1;
        let new = NewValue { version, hint: value.hint(), value: key.encrypt(before.id, version, value)? };
        let rotated =
            app.store.rotate_secret(caller.actor(), account, before.id, &new, idempotency.as_ref()).await;
        match rotated {
            Err(store::Error::Overtaken) if tries > 0 => {}
            rotated => return Fault::or_missing(rotated, "secret", secret),
        }
    }
}

/// Says which hosts a secret may go to, which asks for a proof: it is how one would get out.
pub(crate) async fn set_hosts(
    app: &App,
    caller: &Caller,
    secret: &str,
    request: &SetHosts,
) -> Result<Secret, Fault> {
    validate::secret_hosts(&request.hosts)?;
    caller.proved(app.store.now())?;
    let id = find(app, caller, secret).await?.id;
    let set = app.store.set_secret_hosts(caller.actor(), caller.account, id, &request.hosts).await;
    match set {
        Err(error @ store::Error::InUse { .. }) => {
            let Fault(problem) = Fault::from(error);
            let remedy = "change what the agents are to have of it first, or name the hosts that they have it for, too";
            Err(Problem { field: Some("hosts".to_owned()), ..problem.remedy(remedy) }.into())
        }
        set => Fault::or_missing(set, "secret", secret),
    }
}

/// Deletes a secret that no agent has.
pub(crate) async fn delete(app: &App, caller: &Caller, secret: &str) -> Result<(), Fault> {
    let id = find(app, caller, secret).await?.id;
    match app.store.delete_secret(caller.actor(), caller.account, id).await {
        Err(error @ store::Error::InUse { .. }) => {
            let Fault(problem) = Fault::from(error);
            Err(problem.remedy("take it out of their policies, or destroy them").into())
        }
        deleted => Fault::or_missing(deleted, "secret", secret),
    }
}

/// A placeholder for each secret that a policy puts into requests.
pub(crate) fn placeholders(policy: Option<&Policy>) -> Result<Placeholders, NoRandomness> {
    let inject = policy.into_iter().flat_map(|policy| &policy.egress.inject);
    inject.map(|inject| Ok((inject.secret.clone(), placeholder()?))).collect()
}

fn placeholder() -> Result<String, NoRandomness> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; PLACEHOLDER_RANDOM];
    getrandom::fill(&mut random).map_err(|_| NoRandomness)?;
    // Five bits of each: 32 divides 256, so that no character is likelier than another.
    let characters = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    Ok(PLACEHOLDER_PREFIX.chars().chain(characters).collect())
}

/// The names of all secrets that a request for an agent speaks of.
pub(crate) fn named(request: &model::api::CreateAgent) -> Vec<Name> {
    store::secrets_named(&request.secrets, request.policy.as_ref()).cloned().collect()
}
