//! Workspace tokens, verified offline: EdDSA JWTs (RFC 7519, RFC 8037) that control signed.
//!
//! The algorithm is fixed, whatever a token's header says; the header only picks one of the keys that node
//! named. Nothing here reads a clock: the caller says what time it is.

use crate::limits;
use crate::state::Snapshot;
use jsonwebtoken::{Algorithm, Validation};
use model::AgentId;
use model::token::{Scope, WORKSPACE_TOKEN_LIFE, WorkspaceClaims};
use std::sync::Arc;

/// By how much the clocks of control and this node may differ, in seconds.
pub const LEEWAY: i64 = 30;

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no JWT of ours: its form, algorithm, key, signature or claims.
    #[error("The token is not valid.")]
    Invalid,
    /// Another installation signed it.
    #[error("The token is of another installation.")]
    Installation,
    /// Its time is over.
    #[error("The token has expired.")]
    Expired,
    /// It begins in the future, or lives for longer than a token may.
    #[error("The token's times make no sense.")]
    Times,
    /// It is for another agent, or an agent that is not here any more. Both look the same from outside.
    #[error("The token is for another agent.")]
    OtherAgent,
    /// It is good, and the agent is not here, or not yet.
    #[error("The token is for another agent.")]
    NotHere,
    /// It was revoked.
    #[error("The token was revoked.")]
    Revoked,
    /// It does not allow this.
    #[error("The token does not have the scope.")]
    Scope,
}

/// Decides whether `token` allows `scope` on `agent` at the time `now` (seconds since 1970).
///
/// The order matters: nothing is said about an agent before the token is known to be for it.
pub fn verify(
    token: &str,
    snapshot: &Snapshot,
    agent: &str,
    scope: Scope,
    now: i64,
) -> Result<Arc<WorkspaceClaims>, TokenError> {
    let claims = signed_claims(token, snapshot)?;
    if claims.iss != snapshot.installation {
        return Err(TokenError::Installation);
    }
    if claims.exp <= now.saturating_sub(LEEWAY) {
        return Err(TokenError::Expired);
    }
    let life = claims.exp.checked_sub(claims.iat).ok_or(TokenError::Times)?;
    if claims.iat > now.saturating_add(LEEWAY) || life <= 0 || life > WORKSPACE_TOKEN_LIFE {
        return Err(TokenError::Times);
    }
    let asked: AgentId = agent.parse().map_err(|_| TokenError::OtherAgent)?;
    if claims.aud != asked || Some(claims.acc) != snapshot.account {
        return Err(TokenError::OtherAgent);
    }
    let absent = || match snapshot.gone.contains(&asked) {
        true => TokenError::OtherAgent,
        // Nobody waits for an agent in vain.
        false if !claims.scp.contains(&scope) => TokenError::Scope,
        false => TokenError::NotHere,
    };
    let known = snapshot.agents.get(&asked).ok_or_else(absent)?;
    if claims.epoch < known.epoch {
        return Err(TokenError::Revoked);
    }
    if !claims.scp.contains(&scope) {
        return Err(TokenError::Scope);
    }
    Ok(claims)
}

fn signed_claims(token: &str, snapshot: &Snapshot) -> Result<Arc<WorkspaceClaims>, TokenError> {
    if token.len() > limits::TOKEN {
        return Err(TokenError::Invalid);
    }
    if let Some(claims) = snapshot.keys.remembered(token) {
        return Ok(claims);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
    // `crit` names extensions that a reader must understand (RFC 7515, 4.1.11); we understand none.
    if header.alg != Algorithm::EdDSA || header.crit.is_some() {
        return Err(TokenError::Invalid);
    }
    let key =
        header.kid.as_deref().and_then(|kid| snapshot.keys.decoded.get(kid)).ok_or(TokenError::Invalid)?;
    // Only the signature is checked there; what the claims mean is decided above, with the caller's time.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode(token, key, &validation).map_err(|_| TokenError::Invalid)?;
    let claims = Arc::new(decoded.claims);
    snapshot.keys.remember(token, &claims);
    Ok(claims)
}
