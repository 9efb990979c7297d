//! The node's key pair: made at the first start, never leaves the machine, proves who calls.

use crate::journal::{JournalError, Sync, replace};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::token::{ImageVoucher, NodeAssertion, SealAssertion};
use model::{AccountId, AgentId, NodeId};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// An Ed25519 key pair, in `key.pem` as PKCS #8 (RFC 8410), readable by root alone.
pub(crate) struct NodeKey {
    public: String,
    signing: EncodingKey,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is not a key.
    #[error("{0} is not an Ed25519 private key; restore it, or enrol the node anew")]
    Damaged(PathBuf),
    /// The file cannot be read.
    #[error("could not read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] JournalError),
    /// The library refused.
    #[error("could not make a key pair")]
    Make,
    /// The library refused.
    #[error("could not sign")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

const FILE: &str = "key.pem";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// The type of signed reports.
const REPORT: &str = "cofferdam-report";

/// How long an assertion is good for, in seconds. Control accepts a minute at most; clocks differ a little.
const ASSERTION_LIFE: i64 = 50;

impl NodeKey {
    /// Reads the key in the directory, and makes it if there is none.
    pub(crate) fn load_or_make(root: &Path) -> Result<Self, KeyError> {
        match Self::load(root) {
            Err(KeyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let document =
                    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Make)?;
                let der = Zeroizing::new(document.as_ref().to_vec());
                replace(root, FILE, encode(&der).as_bytes(), Sync::Now)?;
                Self::load(root)
            }
            loaded => loaded,
        }
    }

    /// Reads the key in the directory.
    pub(crate) fn load(root: &Path) -> Result<Self, KeyError> {
        let path = root.join(FILE);
        let pem = std::fs::read_to_string(&path).map(Zeroizing::new);
        let pem = pem.map_err(|source| KeyError::Read { path: path.clone(), source })?;
        let der = decode(&pem).ok_or_else(|| KeyError::Damaged(path.clone()))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| KeyError::Damaged(path))?;
        Ok(Self {
            public: URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
            signing: EncodingKey::from_ed_der(&der),
        })
    }

    /// The public half, base64url without padding.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// A signed statement of who calls, good for one exchange.
    pub(crate) fn assertion(
        &self,
        node: NodeId,
        installation: &str,
        now: OffsetDateTime,
    ) -> Result<String, KeyError> {
        let issued = now.unix_timestamp();
        let claims = NodeAssertion {
            iss: node,
            aud: installation.to_owned(),
            jti: nonce()?,
            iat: issued,
            exp: issued + ASSERTION_LIFE,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing).map_err(KeyError::Sign)
    }

    /// A signed question for an agent's secrets, which are to be sealed to this public key.
    pub(crate) fn seal_assertion(
        &self,
        node: NodeId,
        installation: &str,
        agent: AgentId,
        seal: &str,
        now: OffsetDateTime,
    ) -> Result<String, KeyError> {
        let issued = now.unix_timestamp();
        let claims = SealAssertion {
            iss: node,
            aud: SealAssertion::audience(installation),
            sub: agent,
            seal: seal.to_owned(),
            jti: nonce()?,
            iat: issued,
            exp: issued + ASSERTION_LIFE,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing).map_err(KeyError::Sign)
    }

    /// A report in its signed form (JWS, RFC 7515), for whoever audits the machine: what was so at that time stays so, and
    /// its type keeps it from being taken for a statement of another kind.
    pub(crate) fn sign_report(&self, report: &impl serde::Serialize) -> Result<String, KeyError> {
        let header = Header { typ: Some(REPORT.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, report, &self.signing).map_err(KeyError::Sign)
    }

    /// A signed statement that an account may have an image.
    pub(crate) fn voucher(
        &self,
        node: NodeId,
        installation: &str,
        account: AccountId,
        digest: &str,
        size: u64,
        now: OffsetDateTime,
    ) -> Result<String, KeyError> {
        let issued = now.unix_timestamp();
        let claims = ImageVoucher {
            iss: node,
            aud: ImageVoucher::audience(installation),
            sub: account,
            digest: digest.to_owned(),
            size,
            iat: issued,
            exp: issued + ASSERTION_LIFE,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing).map_err(KeyError::Sign)
    }
}

/// What makes an assertion good for one answer.
fn nonce() -> Result<String, KeyError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| KeyError::Make)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

fn encode(der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut pem = Zeroizing::new(format!("{BEGIN}\n"));
    for start in (0..body.len()).step_by(64) {
        pem.push_str(&body[start..body.len().min(start + 64)]);
        pem.push('\n');
    }
    pem.push_str(END);
    pem.push('\n');
    pem
}

fn decode(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let body = pem.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}
