//! Signatures as cosign makes them: a small document that names an image's digest, signed, kept in the registry under the
//! tag `sha256-DIGEST.sig`. They are verified on this machine, against what its operator has put there: a public key, or
//! the certificates of an authority. No service is asked.

mod authority;

pub use authority::{Authority, AuthorityError};

use crate::import::Worker;
use crate::job::{Blob, Job};
use crate::pull::{PullError, parse};
use crate::registry::Registry;
use crate::store::Digest;
use crate::worker::Parsed;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Signatures of one image that are looked at.
pub(crate) const MAX_SIGNATURES: usize = 64;

/// `SubjectPublicKeyInfo` (RFC 5480) of a key of the curve P-256, up to the point itself.
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: a byte and two coordinates.
const POINT: usize = 65;

/// Whose signature counts.
#[derive(Debug, Clone)]
pub enum Signer {
    /// Who has the other half of this key (`cosign sign --key`).
    Key(PublicKey),
    /// Whom an authority has given a certificate in the right name.
    Authority(Box<Authority>),
}

/// One signature, as it lies in the registry: anybody may have put it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signed {
    /// What is signed.
    pub(crate) payload: Blob,
    /// In base64.
    pub(crate) signature: String,
    /// Who says to have signed, in PEM.
    pub(crate) certificate: Option<String>,
    /// Those between that certificate and an authority's, in PEM.
    pub(crate) chain: Option<String>,
    /// What a transparency log says of it, as JSON.
    pub(crate) bundle: Option<String>,
}

/// A key of the curve P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

/// Not such a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a public key as cosign writes it: PEM of an ECDSA key of the curve P-256 (cosign.pub)")]
pub struct ParseKeyError;

/// Why an image counts as not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none at all.
    #[error(
        "the image sha256:{0} is not signed, and this machine takes signed images only (registry.signed_by in node.toml)"
    )]
    Missing(Digest),
    /// There are some, and none counts.
    #[error(
        "none of the {count} signatures of the image sha256:{digest} is by whom registry.signed_by of node.toml asks for{}",
        why.as_ref().map(|why| format!("; of the last one, {why}")).unwrap_or_default()
    )]
    Wrong {
        /// What should have been signed.
        digest: Digest,
        /// How many there are.
        count: usize,
        /// What is wrong with a certificate.
        why: Option<AuthorityError>,
    },
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(pem: &str) -> Result<Self, ParseKeyError> {
        let (_, rest) = pem.split_once("-----BEGIN PUBLIC KEY-----").ok_or(ParseKeyError)?;
        let (body, _) = rest.split_once("-----END PUBLIC KEY-----").ok_or(ParseKeyError)?;
        let body: String = body.split_whitespace().collect();
        let info = STANDARD.decode(body).map_err(|_| ParseKeyError)?;
        let point = info.strip_prefix(&P256_INFO).ok_or(ParseKeyError)?;
        let point: [u8; POINT] = point.try_into().map_err(|_| ParseKeyError)?;
        if point[0] == 4 { Ok(Self(point)) } else { Err(ParseKeyError) }
    }
}

impl PublicKey {
    pub(crate) fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(payload, signature).is_ok()
    }
}

impl Signer {
    /// Whether this payload was signed by whom we trust; with a reason where more than the signature can be wrong.
    fn accepts(&self, payload: &[u8], signed: &Signed) -> Result<bool, AuthorityError> {
        let signature = STANDARD.decode(&signed.signature).unwrap_or_default();
        match self {
            Self::Key(key) => Ok(key.verifies(payload, &signature)),
            Self::Authority(authority) => {
                authority.verify(payload, &signature, signed, UnixTime::now()).map(|()| true)
            }
        }
    }

    /// Makes sure that one of these digests, which all lead to the same image, was signed.
    pub(crate) fn require(
        &self,
        registry: &mut Registry,
        worker: &Worker,
        digests: &[&Digest],
    ) -> Result<(), PullError> {
        let (mut count, mut why) = (0, None);
        let mut digests = digests.to_vec();
        digests.dedup();
        for digest in &digests {
            let bytes = match registry.manifest(&format!("sha256-{digest}.sig")) {
                Ok((_, bytes)) => bytes,
                Err(PullError::Missing(_)) => continue,
                Err(error) => return Err(error),
            };
            let Parsed::Signatures(signatures) = parse(worker, &Job::Signatures {}, &bytes)? else {
                continue;
            };
            for signed in signatures {
                count += 1;
                let payload = registry.small(&signed.payload)?;
                match self.accepts(&payload, &signed) {
                    // Only what they vouch for is looked into.
                    Ok(true) => match parse(worker, &Job::Payload {}, &payload)? {
                        Parsed::Payload(own) if own == **digest => return Ok(()),
                        _ => {}
                    },
                    Ok(false) => {}
                    Err(error) => why = Some(error),
                }
            }
        }
        let digest = digests.first().map(|digest| (*digest).clone());
        let Some(digest) = digest else { return Err(PullError::Refused("there is no image".to_owned())) };
        Err(if count == 0 {
            SignatureError::Missing(digest)
        } else {
            SignatureError::Wrong { digest, count, why }
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::{P256_INFO, PublicKey};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn pem(info: &[u8]) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(info))
    }

    #[test]
    fn only_the_right_key_and_payload_pass() {
        let own = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let other = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let info = [&P256_INFO, own.public_key().as_ref()].concat();
        let key: PublicKey = pem(&info).parse().unwrap();
        let signature = own.sign(&SystemRandom::new(), b"payload").unwrap();
        assert!(key.verifies(b"payload", signature.as_ref()));
        assert!(!key.verifies(b"Payload", signature.as_ref()));
        assert!(!key.verifies(b"payload", other.sign(&SystemRandom::new(), b"payload").unwrap().as_ref()));
        assert!(!key.verifies(b"payload", b""));

        for bad in [&info[..90], &[&info[..], b"x"].concat(), own.public_key().as_ref(), b""] {
            assert!(pem(bad).parse::<PublicKey>().is_err());
        }
        assert!("no key".parse::<PublicKey>().is_err());
        assert!(pem(&info).replace("PUBLIC", "PRIVATE").parse::<PublicKey>().is_err());
    }
}
