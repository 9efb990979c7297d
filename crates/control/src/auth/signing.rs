//! The key that signs workspace tokens: Ed25519, PKCS#8 in PEM (RFC 8410, RFC 7468), in a file of its own beside
//! the database, so that a copy of the database signs nothing.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::KeyId;
use model::token::WorkspaceClaims;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file could not be read or written.
    #[error("cannot use the signing key {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} holds no Ed25519 private key; put the right file back, or remove it to have a new key made",
        path.display()
    )]
    NotAKey {
        /// Which.
        path: PathBuf,
    },
    /// No key could be made, or it did not sign.
    #[error("the cryptographic library refused to make or use an Ed25519 key")]
    Crypto,
}

/// A key that is ready to sign.
pub(crate) struct Signer {
    key: EncodingKey,
    kid: KeyId,
}

/// A key whose id is not known yet.
pub(crate) struct SigningKey {
    key: EncodingKey,
    /// The public half, base64url.
    pub(crate) x: String,
}

impl SigningKey {
    /// Reads the key from its file; makes both if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, SigningError> {
        parse(&read_or_make(path)?).ok_or_else(|| SigningError::NotAKey { path: path.to_owned() })
    }

    /// The same of the key that signs checkpoints of the ledger.
    pub(crate) fn open_ledger(path: &Path) -> Result<ledger::Signer, SigningError> {
        let unusable = || SigningError::NotAKey { path: path.to_owned() };
        ledger::Signer::new(&der(&read_or_make(path)?).ok_or_else(unusable)?).map_err(|_| unusable())
    }

    pub(crate) fn named(self, kid: KeyId) -> Signer {
        Signer { key: self.key, kid }
    }
}

fn read_or_make(path: &Path) -> Result<String, SigningError> {
    let failed = |source| SigningError::File { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pem = generate()?;
            write_private(path, &pem).map_err(failed)?;
            Ok(pem)
        }
        read => read.map_err(failed),
    }
}

fn generate() -> Result<String, SigningError> {
    let key = Ed25519KeyPair::generate().map_err(|_| SigningError::Crypto)?;
    let document = key.to_pkcs8v1().map_err(|_| SigningError::Crypto)?;
    Ok(format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(document.as_ref())))
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let body: String = pem.trim().strip_prefix(BEGIN)?.strip_suffix(END)?.split_whitespace().collect();
    STANDARD.decode(body).ok()
}

fn parse(pem: &str) -> Option<SigningKey> {
    let der = der(pem)?;
    let pair = Ed25519KeyPair::from_pkcs8(&der).ok()?;
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    Some(SigningKey { key: EncodingKey::from_ed_der(&der), x })
}

/// Writes a file that nobody else may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl Signer {
    /// A workspace token.
    pub(crate) fn sign(&self, claims: &WorkspaceClaims) -> Result<String, SigningError> {
        let header = Header { kid: Some(self.kid.to_string()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| SigningError::Crypto)
    }
}
