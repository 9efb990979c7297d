//! AES-256-GCM with random nonces: of one key there are far less than the 2^32 messages that these are good for (NIST SP 800-38D, 8.3).

use super::VaultError;
use crate::auth::secret::NoRandomness;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

pub(super) const KEY: usize = 32;
pub(super) const NONCE: usize = 12;
const TAG: usize = 16;

/// A key, ready to use.
pub(super) struct Key {
    aead: LessSafeKey,
    fingerprints: hmac::Key,
}

/// A ciphertext with its tag, and its nonce.
pub(super) struct Sealed {
    pub(super) nonce: [u8; NONCE],
    pub(super) ciphertext: Vec<u8>,
}

impl Sealed {
    /// The nonce, and the ciphertext behind it.
    pub(super) fn joined(self) -> Vec<u8> {
        let mut joined = self.nonce.to_vec();
        joined.extend_from_slice(&self.ciphertext);
        joined
    }
}

impl Key {
    pub(super) fn new(bytes: &[u8; KEY]) -> Self {
        let aead = UnboundKey::new(&AES_256_GCM, bytes).expect("the key has the cipher's length");
        // A key of its own: none serves two algorithms.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"cofferdam fingerprints 1");
        Self {
            aead: LessSafeKey::new(aead),
            fingerprints: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
        }
    }

    /// Encrypts. What it is about has to be said to decrypt it.
    pub(super) fn seal(&self, about: &str, plain: &[u8]) -> Result<Sealed, VaultError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| NoRandomness)?;
        // As long as it will be, so that no copy of the plain text is left behind by growing.
        let mut buffer = Vec::with_capacity(plain.len() + TAG);
        buffer.extend_from_slice(plain);
        let about = Aad::from(about.as_bytes());
        self.aead
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about, &mut buffer)
            .map_err(|_| VaultError::Refused)?;
        Ok(Sealed { nonce, ciphertext: buffer })
    }

    /// Decrypts what was encrypted under this key, with this nonce, about this.
    pub(super) fn open(
        &self,
        about: &str,
        nonce: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Refused)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .aead
            .open_in_place(nonce, Aad::from(about.as_bytes()), &mut buffer)
            .map_err(|_| VaultError::Refused)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    pub(super) fn fingerprint(&self, of: &[u8]) -> Vec<u8> {
        hmac::sign(&self.fingerprints, of).as_ref().to_vec()
    }
}
