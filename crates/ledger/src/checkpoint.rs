//! Where a chain stood, signed (Ed25519, RFC 8032): a receipt for whoever keeps it. And the proof that an event is in a chain.

use crate::hash::{Hash, link};
use crate::record::Record;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Where a chain stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Of which installation.
    pub installation: String,
    /// Of which chain: an account's id, or `installation`.
    pub chain: String,
    /// Its last number.
    pub seq: u64,
    /// The hash of that entry.
    pub hash: Hash,
    /// When, in milliseconds since 1970.
    pub at: i64,
}

impl Checkpoint {
    /// What is signed.
    fn statement(&self) -> String {
        let Self { installation, chain, seq, hash, at } = self;
        format!("cofferdam checkpoint v1\n{installation}\n{chain}\n{seq}\n{hash}\n{at}\n")
    }
}

/// A checkpoint, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// What is said.
    pub checkpoint: Checkpoint,
    /// The public key, base64url.
    pub key: String,
    /// Its signature, base64url.
    pub signature: String,
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    /// It was changed, or was never signed.
    #[error("the receipt is not signed by the key that it names")]
    Signature,
    /// The event, the number or what follows it is not what was signed.
    #[error("the proof does not lead to what is signed")]
    Proof,
}

/// What is no key of Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no private key of Ed25519")]
pub struct KeyFault;

/// Signs checkpoints.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl Signer {
    /// With a private key (PKCS #8).
    pub fn new(pkcs8: &[u8]) -> Result<Self, KeyFault> {
        Ok(Self { pair: Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyFault)? })
    }

    /// The public half, base64url.
    pub fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// Signs.
    pub fn sign(&self, checkpoint: Checkpoint) -> Receipt {
        let signature = self.pair.sign(checkpoint.statement().as_bytes());
        Receipt { checkpoint, key: self.x(), signature: URL_SAFE_NO_PAD.encode(signature) }
    }
}

impl Receipt {
    /// Whether the key that it names signed it. Whose that key is, is for the caller to know.
    pub fn verify(&self) -> Result<(), ReceiptFault> {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| ReceiptFault::Signature);
        UnparsedPublicKey::new(&ED25519, bytes(&self.key)?)
            .verify(self.checkpoint.statement().as_bytes(), &bytes(&self.signature)?)
            .map_err(|_| ReceiptFault::Signature)
    }
}

/// That an event stands in a chain, up to a checkpoint behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Its number.
    pub seq: u64,
    /// The event.
    pub record: Record,
    /// The hash of the entry before it.
    pub previous: Hash,
    /// The hashes of the events that follow it, each of it alone, up to the checkpoint.
    pub following: Vec<Hash>,
    /// The checkpoint.
    pub receipt: Receipt,
}

impl Proof {
    /// Whether it leads to what is signed.
    pub fn verify(&self) -> Result<(), ReceiptFault> {
        self.receipt.verify()?;
        let first = link(&self.previous, &self.record.hash());
        let hash = self.following.iter().fold(first, |hash, event| link(&hash, event));
        let Checkpoint { chain, seq, hash: signed, .. } = &self.receipt.checkpoint;
        let numbered = self.seq.checked_add(self.following.len() as u64) == Some(*seq);
        let own = *chain == self.record.account.as_deref().unwrap_or(crate::INSTALLATION);
        if numbered && own && hash == *signed { Ok(()) } else { Err(ReceiptFault::Proof) }
    }
}
