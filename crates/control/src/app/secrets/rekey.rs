//! Other keys in place of those in use, while everything goes on: the key of an account, or the one that wraps them all.
//!
//! First the new key is there beside the old one, then what is under the old one is put under the new one piece by piece, and then the
//! old one is forgotten. Whatever dies in between, [`finish`] goes on from there.

use crate::app::App;
use crate::auth::Caller;
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use crate::vault::{KeyError, VaultError};
use model::{Code, Problem};
use store::{DataKey, StoredValue};

/// Rows that are read at once.
const BATCH: u32 = 64;

/// Why keys were not changed, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RekeyError {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl From<RekeyError> for Fault {
    fn from(error: RekeyError) -> Self {
        match error {
            RekeyError::Store(error) => error.into(),
            RekeyError::Vault(error) => error.into(),
            RekeyError::Keys(error) => Self::internal(&error),
        }
    }
}

/// Gives the caller's account another key, and encrypts its secrets anew.
pub(crate) async fn account(app: &App, caller: &Caller, from: Client) -> Result<(), Fault> {
    caller.proved(app.store.now())?;
    app.limits.check(Kind::Rekey, from.address, Some(&caller.account)).await?;
    {
        let _turning = app.vault.turning.read().await;
        app.store.next_data_key(caller.actor(), &app.vault.make(caller.account)?).await?;
    }
    Ok(encrypt_anew(app).await?)
}

/// Makes another key the one that wraps the keys of all accounts.
pub(crate) async fn installation(app: &App, caller: &Caller, from: Client) -> Result<(), Fault> {
    caller.proved(app.store.now())?;
    if !app.vault.makes_its_own() {
        let detail =
            "the key that wraps all others is handed to control as a credential, which control cannot change";
        let remedy = "put a new key before the old one in the credential, and restart control";
        return Err(Problem::new(Code::WrongState, detail).remedy(remedy).into());
    }
    app.limits.check(Kind::Rekey, from.address, Some(&caller.account)).await?;
    let _turning = app.vault.turning.write().await;
    // One that was not finished is finished first: a ring has two keys at most.
    end_turn(app).await?;
    let from = app.vault.wraps_by();
    let to = app.vault.begin_turn().map_err(RekeyError::from)?;
    app.store.wrapping_key_rotated(caller.actor(), &from, &to).await?;
    Ok(end_turn(app).await?)
}

/// Goes on with what was begun.
pub(crate) async fn finish(app: &App) -> Result<(), RekeyError> {
    {
        let _turning = app.vault.turning.write().await;
        end_turn(app).await?;
    }
    encrypt_anew(app).await
}

/// Has all keys of accounts wrapped by the key that wraps now, and forgets those before. Whoever calls this holds `turning`, so that
/// nobody stores a key meanwhile that was wrapped by an older one.
async fn end_turn(app: &App) -> Result<(), RekeyError> {
    let (mut after, mut failed) = (None, None);
    loop {
        let keys = app.store.data_keys_not_wrapped_by(&app.vault.wraps_by(), after, BATCH).await?;
        let Some(last) = keys.last() else { break };
        after = Some(last.id);
        for key in &keys {
            if let Err(error) = wrap_one(app, key).await {
                tracing::error!(%error, key = %key.id, account = %key.account, "cannot wrap the key of an account anew");
                failed = Some(error);
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let first = app.vault.wraps_by();
    if !app.vault.has_older() || app.store.wrapped_by().await?.iter().any(|id| *id != first) {
        return Ok(());
    }
    if app.vault.makes_its_own() {
        app.vault.end_turn()?;
        tracing::info!(key = first, "one key wraps the keys of all accounts; those before are forgotten");
    } else {
        tracing::info!(
            key = first,
            "the first key of the credential wraps the keys of all accounts; the others can be removed"
        );
    }
    Ok(())
}

async fn wrap_one(app: &App, key: &DataKey) -> Result<(), RekeyError> {
    Ok(app.store.wrap_anew(key, &app.vault.wrap_anew(key)?).await?)
}

/// Has all values encrypted under the keys that are in use, and forgets those before.
async fn encrypt_anew(app: &App) -> Result<(), RekeyError> {
    let (mut after, mut failed) = (None, None);
    loop {
        let values = app.store.values_under_retired_keys(after, BATCH).await?;
        let Some(last) = values.last() else { break };
        after = Some(last.secret);
        for value in &values {
            if let Err(error) = encrypt_one(app, value).await {
                tracing::error!(%error, secret = %value.secret, "cannot encrypt a secret anew");
                failed = Some(error);
            }
        }
    }
    app.store.forget_retired_keys().await?;
    failed.map_or(Ok(()), Err)
}

async fn encrypt_one(app: &App, old: &StoredValue) -> Result<(), RekeyError> {
    let Some(key) = app.store.data_key(old.key.account).await? else { return Ok(()) };
    let value = app.vault.open_key(&old.key)?.decrypt(old.secret, old.version, &old.value)?;
    let new = app.vault.open_key(&key)?.encrypt(old.secret, old.version, &value)?;
    Ok(app.store.encrypt_anew(old, &new).await?)
}
