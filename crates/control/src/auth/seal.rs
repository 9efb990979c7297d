//! A node's request for the secrets of one of its agents: a short-lived JWT under the key that it enrolled, and the answer, which only
//! whoever made that request can read (HPKE, RFC 9180, to a key in it).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use model::node_api::SealedSecrets;
use model::token::SealAssertion;
use model::{AgentId, NodeId};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};

/// The longest life of a request, in seconds.
const LIFE: i64 = 60;
/// How far a node's clock may run ahead, in seconds.
const LEEWAY: i64 = 30;
const MAX_LEN: usize = 4096;
/// A public key of X25519, in bytes.
const PUBLIC: usize = 32;

/// Why a request was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("the assertion is not signed with the key that the node enrolled")]
    Signature,
    #[error("the assertion is of another node")]
    Issuer,
    #[error("the assertion is for another installation, or for something else than secrets")]
    Audience,
    #[error("the assertion is for another agent")]
    Subject,
    #[error("the assertion is expired, not yet valid, or valid for more than 60 seconds")]
    Lifetime,
    #[error("the assertion has no key of X25519 to seal an answer to")]
    Key,
}

/// Verifies a request of a node for an agent against the node's key (base64url). `now` is in seconds since 1970.
pub(crate) fn verify(
    assertion: &str,
    node: NodeId,
    agent: AgentId,
    public_key: &str,
    installation: &str,
    now: i64,
) -> Result<SealAssertion, SealError> {
    if assertion.len() > MAX_LEN {
        return Err(SealError::Signature);
    }
    let key = DecodingKey::from_ed_components(public_key).map_err(|_| SealError::Signature)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    // Times and audience are held against our own clock and installation below.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<SealAssertion>(assertion, &key, &validation)
        .map_err(|_| SealError::Signature)?
        .claims;
    if claims.iss != node {
        return Err(SealError::Issuer);
    }
    if claims.aud != SealAssertion::audience(installation) {
        return Err(SealError::Audience);
    }
    if claims.sub != agent {
        return Err(SealError::Subject);
    }
    let life = claims.exp.checked_sub(claims.iat).ok_or(SealError::Lifetime)?;
    let timely = (1..=LIFE).contains(&life)
        && claims.iat <= now.saturating_add(LEEWAY)
        && claims.exp > now
        && !claims.jti.is_empty()
        && claims.jti.len() <= 128;
    if timely { Ok(claims) } else { Err(SealError::Lifetime) }
}

/// Seals an answer to the key in a request.
pub(crate) fn seal(claims: &SealAssertion, revision: u64, plain: &[u8]) -> Result<SealedSecrets, SealError> {
    let key = URL_SAFE_NO_PAD.decode(&claims.seal).ok().filter(|key| key.len() == PUBLIC);
    let key = HpkePublicKey(key.ok_or(SealError::Key)?);
    let aad = SealedSecrets::aad(claims.sub, revision);
    // A key that leads to a shared secret of zeros is refused there (RFC 9180, section 7.1.4).
    let (enc, ciphertext) = DH_KEM_X25519_HKDF_SHA256_AES_256
        .seal(SealedSecrets::INFO, aad.as_bytes(), plain, &key)
        .map_err(|_| SealError::Key)?;
    Ok(SealedSecrets {
        revision,
        enc: URL_SAFE_NO_PAD.encode(enc.0),
        ciphertext: URL_SAFE_NO_PAD.encode(ciphertext),
    })
}
