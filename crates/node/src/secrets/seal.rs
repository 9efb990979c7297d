//! How secrets come from control: sealed (HPKE, RFC 9180) to a key that is made for one answer and gone with it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::AgentId;
use model::node_api::{AgentSecret, AgentSecrets, SealedSecrets};
use model::secret::PLACEHOLDER_PREFIX;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

static SUITE: &dyn Hpke = DH_KEM_X25519_HKDF_SHA256_AES_256;

/// The longest placeholder.
const MAX_PLACEHOLDER: usize = 128;

/// The private half of a key, for one answer.
pub(crate) struct Seal {
    public: String,
    private: HpkePrivateKey,
}

/// Why an answer is none. It holds nothing of what was in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// The library refused.
    #[error("could not make a key to seal to")]
    Make,
    /// It is for another key, agent or revision, or it was changed on its way.
    #[error("it cannot be opened with the key that was asked with")]
    Open,
    /// There is something else in it.
    #[error("it does not hold an agent's secrets")]
    Content,
}

impl Seal {
    /// Makes a key.
    pub(crate) fn new() -> Result<Self, SealError> {
        let (public, private) = SUITE.generate_key_pair().map_err(|_| SealError::Make)?;
        Ok(Self { public: URL_SAFE_NO_PAD.encode(public.0), private })
    }

    /// The public half, base64url without padding.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// Opens the answer that was sealed to it.
    pub(crate) fn open(self, agent: AgentId, sealed: &SealedSecrets) -> Result<Vec<AgentSecret>, SealError> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Open);
        let (enc, ciphertext) = (decode(&sealed.enc)?, decode(&sealed.ciphertext)?);
        let aad = SealedSecrets::aad(agent, sealed.revision);
        let enc = EncapsulatedSecret(enc);
        let opened = SUITE.open(&enc, SealedSecrets::INFO, aad.as_bytes(), &ciphertext, &self.private);
        let opened = Zeroizing::new(opened.map_err(|_| SealError::Open)?);
        // What the parser says may hold a part of what it read.
        let AgentSecrets { secrets } = serde_json::from_slice(&opened).map_err(|_| SealError::Content)?;
        let names: BTreeSet<_> = secrets.iter().map(|secret| &secret.name).collect();
        let is_sane = names.len() == secrets.len() && secrets.iter().all(is_sane);
        if is_sane { Ok(secrets) } else { Err(SealError::Content) }
    }
}

/// Control is trusted to say what a secret is, not to be right.
fn is_sane(secret: &AgentSecret) -> bool {
    let is_placeholder = |text: &String| {
        let random = text.strip_prefix(PLACEHOLDER_PREFIX).unwrap_or_default();
        text.len() <= MAX_PLACEHOLDER
            && random.len() >= 16
            && random.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    secret.value.fault().is_none() && secret.placeholder.as_ref().is_none_or(is_placeholder)
}
