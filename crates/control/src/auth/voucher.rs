//! A node's word that an account may have an image: a short-lived JWT under the key that the node enrolled.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use model::NodeId;
use model::token::ImageVoucher;

/// The longest life of a voucher, in seconds.
const LIFE: i64 = 60;
/// How far a node's clock may run ahead, in seconds.
const LEEWAY: i64 = 30;
const MAX_LEN: usize = 4096;

/// Why a voucher was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VoucherError {
    #[error("the voucher is not one that a node signed")]
    Malformed,
    #[error("the voucher is not signed with the key that the node enrolled")]
    Signature,
    #[error("the voucher is for another installation, or for something else than images")]
    Audience,
    #[error("the voucher is for another account, or another image")]
    Subject,
    #[error("the voucher is expired, not yet valid, or valid for more than 60 seconds")]
    Lifetime,
}

/// The node that a voucher claims to come from; proves nothing.
pub(crate) fn claimed_issuer(voucher: &str) -> Result<NodeId, VoucherError> {
    if voucher.len() > MAX_LEN {
        return Err(VoucherError::Malformed);
    }
    jsonwebtoken::dangerous::insecure_decode_claims::<ImageVoucher>(voucher)
        .map(|claims| claims.iss)
        .map_err(|_| VoucherError::Malformed)
}

/// Verifies a voucher against the node's key (base64url). `now` is in seconds since 1970. Whom and what it is for is
/// for the caller to compare.
pub(crate) fn verify(
    voucher: &str,
    public_key: &str,
    installation: &str,
    now: i64,
) -> Result<ImageVoucher, VoucherError> {
    let key = DecodingKey::from_ed_components(public_key).map_err(|_| VoucherError::Signature)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    // Times and audience are held against our own clock and installation below.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<ImageVoucher>(voucher, &key, &validation)
        .map_err(|_| VoucherError::Signature)?
        .claims;
    if claims.aud != ImageVoucher::audience(installation) {
        return Err(VoucherError::Audience);
    }
    let life = claims.exp.checked_sub(claims.iat).ok_or(VoucherError::Lifetime)?;
    let timely = (1..=LIFE).contains(&life) && claims.iat <= now.saturating_add(LEEWAY) && claims.exp > now;
    if timely { Ok(claims) } else { Err(VoucherError::Lifetime) }
}
