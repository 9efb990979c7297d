//! A node's assertion (RFC 7523): a short-lived JWT under the key that it enrolled.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use model::NodeId;
use model::token::NodeAssertion;

/// The longest life of an assertion, in seconds.
const LIFE: i64 = 60;
/// How far a node's clock may run ahead, in seconds.
const LEEWAY: i64 = 30;
const MAX_LEN: usize = 4096;

/// Why an assertion was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssertionError {
    #[error("the assertion is not a signed node assertion")]
    Malformed,
    #[error("the assertion is not signed with the key that the node enrolled")]
    Signature,
    #[error("the assertion is for another installation")]
    Audience,
    #[error("the assertion is expired, not yet valid, or valid for more than 60 seconds")]
    Lifetime,
}

/// The node that an assertion claims to come from; proves nothing.
pub(crate) fn claimed_issuer(assertion: &str) -> Result<NodeId, AssertionError> {
    if assertion.len() > MAX_LEN {
        return Err(AssertionError::Malformed);
    }
    jsonwebtoken::dangerous::insecure_decode_claims::<NodeAssertion>(assertion)
        .map(|claims| claims.iss)
        .map_err(|_| AssertionError::Malformed)
}

/// Verifies an assertion against the node's key (base64url). `now` is in seconds since 1970.
pub(crate) fn verify(
    assertion: &str,
    public_key: &str,
    installation: &str,
    now: i64,
) -> Result<NodeAssertion, AssertionError> {
    let key = DecodingKey::from_ed_components(public_key).map_err(|_| AssertionError::Signature)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    // Times and audience are held against our own clock and installation below.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<NodeAssertion>(assertion, &key, &validation)
        .map_err(|_| AssertionError::Signature)?
        .claims;
    if claims.aud != installation {
        return Err(AssertionError::Audience);
    }
    let life = claims.exp.checked_sub(claims.iat).ok_or(AssertionError::Lifetime)?;
    let timely = (1..=LIFE).contains(&life)
        && claims.iat <= now.saturating_add(LEEWAY)
        && claims.exp > now
        && !claims.jti.is_empty()
        && claims.jti.len() <= 128;
    if timely { Ok(claims) } else { Err(AssertionError::Lifetime) }
}
