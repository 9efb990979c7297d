//! How values of secrets are encrypted: each under a key of its account, and that one wrapped by a key which is not in the database.
//!
//! A ciphertext is good in one place alone: what it is of (account, secret, version; or account and key) is authenticated with it
//! (AES-256-GCM, its associated data). Nothing here speaks to the database.

mod aead;
mod ring;
#[cfg(test)]
mod tests;

pub use ring::KeyError;

use crate::auth::secret::NoRandomness;
use crate::auth::totp;
use aead::Key;
use model::secret::SecretValue;
use model::{AccountId, KeyId, SecretId};
use ring::{Place, Ring};
use std::sync::{Arc, PoisonError, RwLock};
use store::{DataKey, Encrypted};
use zeroize::Zeroizing;

/// Why something was not encrypted or decrypted. What it was is not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("a key of an account is wrapped by a key that is not here")]
    Locked,
    #[error("what the database holds of a secret is not what was written there")]
    Refused,
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// The keys that wrap, as they are now.
pub(crate) struct Vault {
    place: Place,
    ring: RwLock<Arc<Ring>>,
    /// Read by whoever makes a key of an account, from its wrapping until it is stored; written by whoever changes the ring.
    pub(crate) turning: tokio::sync::RwLock<()>,
}

/// A key of an account, unwrapped.
pub(crate) struct OpenKey {
    id: KeyId,
    account: AccountId,
    key: Key,
}

fn about_key(account: AccountId, id: KeyId, wrapped_by: &str) -> String {
    format!("cofferdam data key 1\n{account}\n{id}\n{wrapped_by}")
}

fn about_value(key: &OpenKey, secret: SecretId, version: u64) -> String {
    format!("cofferdam secret 1\n{}\n{}\n{secret}\n{version}", key.account, key.id)
}

impl Vault {
    /// Reads the keys that wrap; makes the first one where the place allows that and nothing is wrapped yet. `needed` wrap what the
    /// database has.
    pub(crate) fn open(config: &crate::Config, needed: &[String]) -> Result<Self, KeyError> {
        let place = Place::of(config)?;
        let ring = place.open(needed)?;
        Ok(Self { place, ring: RwLock::new(Arc::new(ring)), turning: tokio::sync::RwLock::default() })
    }

    fn ring(&self) -> Arc<Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn turn(&self, ring: Ring) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    /// The id of the key that wraps.
    pub(crate) fn wraps_by(&self) -> String {
        self.ring().first().id.clone()
    }

    /// Whether there are keys that only unwrap.
    pub(crate) fn has_older(&self) -> bool {
        self.ring().has_older()
    }

    /// Whether keys that wrap are made here; else the operator does.
    pub(crate) fn makes_its_own(&self) -> bool {
        self.place.is_ours()
    }

    /// Makes another key the one that wraps, on disk before anything else; those before still unwrap. Tells its id.
    pub(crate) fn begin_turn(&self) -> Result<String, KeyError> {
        let ring = self.ring().with_another()?;
        self.place.write(&ring)?;
        let id = ring.first().id.clone();
        self.turn(ring);
        Ok(id)
    }

    /// Forgets all keys but the one that wraps.
    pub(crate) fn end_turn(&self) -> Result<(), KeyError> {
        let ring = self.ring().without_older();
        self.place.write(&ring)?;
        self.turn(ring);
        Ok(())
    }

    /// Makes a key for an account.
    pub(crate) fn make(&self, account: AccountId) -> Result<DataKey, VaultError> {
        let mut bytes = Zeroizing::new([0; aead::KEY]);
        getrandom::fill(&mut *bytes).map_err(|_| NoRandomness)?;
        self.wrap(account, KeyId::new(), &bytes[..])
    }

    /// Makes the seed of a second factor: wrapped, and as it is for the one time that its person sees it. It is a key like those of
    /// accounts, of another length, and unwraps in no other place than its own.
    pub(crate) fn make_seed(&self, account: AccountId) -> Result<(DataKey, Zeroizing<Vec<u8>>), VaultError> {
        let mut bytes = Zeroizing::new(vec![0; totp::SEED]);
        getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok((self.wrap(account, KeyId::new(), &bytes)?, bytes))
    }

    /// Unwraps a seed.
    pub(crate) fn open_seed(&self, seed: &DataKey) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let bytes = self.unwrap(seed)?;
        if bytes.len() == totp::SEED { Ok(bytes) } else { Err(VaultError::Refused) }
    }

    fn wrap(&self, account: AccountId, id: KeyId, bytes: &[u8]) -> Result<DataKey, VaultError> {
        let ring = self.ring();
        let by = ring.first();
        let wrapped = by.key.seal(&about_key(account, id, &by.id), bytes)?;
        Ok(DataKey { id, account, wrapped_by: by.id.clone(), wrapped: wrapped.joined() })
    }

    fn unwrap(&self, key: &DataKey) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let ring = self.ring();
        let by = ring.find(&key.wrapped_by).ok_or(VaultError::Locked)?;
        let (nonce, wrapped) = key.wrapped.split_at_checked(aead::NONCE).ok_or(VaultError::Refused)?;
        by.key.open(&about_key(key.account, key.id, &by.id), nonce, wrapped)
    }

    /// Unwraps a key of an account.
    pub(crate) fn open_key(&self, key: &DataKey) -> Result<OpenKey, VaultError> {
        let bytes = self.unwrap(key)?;
        let bytes = bytes.as_slice().try_into().map_err(|_| VaultError::Refused)?;
        Ok(OpenKey { id: key.id, account: key.account, key: Key::new(bytes) })
    }

    /// The same key, wrapped by what wraps now.
    pub(crate) fn wrap_anew(&self, key: &DataKey) -> Result<DataKey, VaultError> {
        self.wrap(key.account, key.id, &self.unwrap(key)?)
    }
}

impl OpenKey {
    /// Encrypts the value of a version of a secret.
    pub(crate) fn encrypt(
        &self,
        secret: SecretId,
        version: u64,
        value: &SecretValue,
    ) -> Result<Encrypted, VaultError> {
        let sealed = self.key.seal(&about_value(self, secret, version), value.expose().as_bytes())?;
        Ok(Encrypted { data_key: self.id, nonce: sealed.nonce.to_vec(), ciphertext: sealed.ciphertext })
    }

    /// The value of a version of a secret.
    pub(crate) fn decrypt(
        &self,
        secret: SecretId,
        version: u64,
        value: &Encrypted,
    ) -> Result<SecretValue, VaultError> {
        let about = about_value(self, secret, version);
        let mut bytes = self.key.open(&about, &value.nonce, &value.ciphertext)?;
        // Taken over, not copied.
        match String::from_utf8(std::mem::take(&mut *bytes)) {
            Ok(text) => Ok(SecretValue::new(text)),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                Err(VaultError::Refused)
            }
        }
    }

    /// What tells one request with a value from another, and from which nobody who lacks this key can guess the value.
    pub(crate) fn fingerprint(&self, request: &[u8]) -> Vec<u8> {
        self.key.fingerprint(request)
    }
}
