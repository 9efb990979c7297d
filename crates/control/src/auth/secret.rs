//! Opaque secrets: 256 random bits behind a prefix. Only their SHA-256 is stored; with that much entropy a slow
//! hash would add nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// API keys.
pub(crate) const API_KEY: &str = "cof_";
/// What a session's cookie holds.
pub(crate) const SESSION: &str = "cofs_";
/// Tokens that set a password.
pub(crate) const RESET: &str = "cofr_";
/// Tokens of invitations.
pub(crate) const INVITATION: &str = "cofi_";
/// Tokens that enrol a node.
pub(crate) const BOOTSTRAP: &str = "cofb_";
/// Tokens that nodes call with.
pub(crate) const CALLBACK: &str = "cofn_";

/// The system's random source does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// A new secret.
pub(crate) fn generate(prefix: &str) -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is stored of a secret: lowercase hex of its SHA-256.
pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
