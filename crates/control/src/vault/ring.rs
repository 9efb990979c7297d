//! The keys that wrap keys of accounts, and where they are kept: in a file of control's own, or in a credential that systemd hands to
//! it. Never in the database, so that a copy of that opens nothing.
//!
//! Each line of the text is a key; the first wraps, and all unwrap. So one key takes the place of another without a moment in which
//! something cannot be read.

use super::aead::{KEY, Key};
use crate::auth::signing::write_private;
use crate::config::Provider;
use crate::{Config, NoRandomness};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What a line begins with.
const PREFIX: &str = "cofk_";
/// Keys of one ring.
const MOST: usize = 8;
/// A text of keys, in bytes.
const MAX_TEXT: u64 = 4096;

/// Why there are no keys to wrap with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file or credential could not be read or written.
    #[error("cannot use the keys of secrets in {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others than control could read the file.
    #[error("{} holds the keys of secrets, and others can read or change it; chown it to control's user and chmod 600 it", path.display())]
    Loose {
        /// Which.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} does not hold keys of secrets: each line is {PREFIX} and 43 characters, as in the file that control makes; put the right one back", path.display())]
    NotKeys {
        /// Which.
        path: PathBuf,
    },
    /// The database needs another key.
    #[error("the secrets in the database need the key {id}, which is not in {}; put it back there, behind those that are", path.display())]
    Lost {
        /// Where it should be.
        path: PathBuf,
        /// Its id.
        id: String,
    },
    /// Nobody handed a credential over.
    #[error(
        "`secrets.provider` in control.toml is `credential`, and systemd handed none over; see LoadCredentialEncrypted= in systemd.exec(5)"
    )]
    NoCredentials,
    /// No key can be made.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// A key that wraps.
pub(super) struct Wrapping {
    /// What tells it from others, and tells nothing of it.
    pub(super) id: String,
    pub(super) key: Key,
    bytes: Zeroizing<[u8; KEY]>,
}

impl Wrapping {
    fn new(bytes: Zeroizing<[u8; KEY]>) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"cofferdam wrapping key 1\n");
        digest.update(*bytes);
        let id = crate::auth::secret::hex(&digest.finalize()[..8]);
        Self { id, key: Key::new(&bytes), bytes }
    }

    fn made() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; KEY]);
        getrandom::fill(&mut *bytes).map_err(|_| NoRandomness)?;
        Ok(Self::new(bytes))
    }
}

/// At least one.
pub(super) struct Ring(Vec<std::sync::Arc<Wrapping>>);

impl Ring {
    /// The one that wraps.
    pub(super) fn first(&self) -> &Wrapping {
        &self.0[0]
    }

    pub(super) fn find(&self, id: &str) -> Option<&Wrapping> {
        self.0.iter().find(|key| key.id == id).map(|key| &**key)
    }

    pub(super) fn has_older(&self) -> bool {
        self.0.len() > 1
    }

    pub(super) fn with_another(&self) -> Result<Self, NoRandomness> {
        let mut keys = vec![std::sync::Arc::new(Wrapping::made()?)];
        keys.extend(self.0.iter().cloned());
        Ok(Self(keys))
    }

    pub(super) fn without_older(&self) -> Self {
        Self(vec![self.0[0].clone()])
    }

    fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut keys: Vec<std::sync::Arc<Wrapping>> = Vec::new();
        for line in lines {
            let decoded = URL_SAFE_NO_PAD.decode(line.strip_prefix(PREFIX)?).map(Zeroizing::new).ok()?;
            let mut bytes = Zeroizing::new([0; KEY]);
            if decoded.len() != KEY {
                return None;
            }
            bytes.copy_from_slice(&decoded);
            keys.push(std::sync::Arc::new(Wrapping::new(bytes)));
        }
        (1..=MOST).contains(&keys.len()).then_some(Self(keys))
    }

    fn text(&self) -> Zeroizing<String> {
        let head = "# Keys that wrap the keys of secrets: the first wraps, all unwrap. Keep a copy apart from the database's.\n";
        let mut text = Zeroizing::new(String::with_capacity(head.len() + 64 * self.0.len()));
        text.push_str(head);
        for key in &self.0 {
            text.push_str(PREFIX);
            text.push_str(&Zeroizing::new(URL_SAFE_NO_PAD.encode(*key.bytes)));
            text.push('\n');
        }
        text
    }
}

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Ours to make and change.
    File(PathBuf),
    /// Handed over by systemd, which looks after who reads it.
    Credential(PathBuf),
}

impl Place {
    pub(super) fn of(config: &Config) -> Result<Self, KeyError> {
        match config.secrets.provider {
            Provider::File => Ok(Self::File(config.secrets_key())),
            Provider::Credential => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or(KeyError::NoCredentials)?;
                Ok(Self::Credential(Path::new(&directory).join(&config.secrets.credential)))
            }
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::File(_))
    }

    fn path(&self) -> &Path {
        let (Self::File(path) | Self::Credential(path)) = self;
        path
    }

    fn failed(&self, source: std::io::Error) -> KeyError {
        KeyError::File { path: self.path().to_owned(), source }
    }

    /// Reads the keys, of which some are needed. A file is made where there is none and none is needed.
    pub(super) fn open(&self, needed: &[String]) -> Result<Ring, KeyError> {
        let path = || self.path().to_owned();
        let ring = match self.read() {
            Ok(text) => Ring::parse(&text).ok_or_else(|| KeyError::NotKeys { path: path() })?,
            Err(KeyError::File { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && self.is_ours() =>
            {
                if let Some(id) = needed.first() {
                    return Err(KeyError::Lost { path: path(), id: id.clone() });
                }
                let ring = Ring(vec![std::sync::Arc::new(Wrapping::made()?)]);
                self.write(&ring)?;
                ring
            }
            Err(error) => return Err(error),
        };
        match needed.iter().find(|id| ring.find(id).is_none()) {
            Some(id) => Err(KeyError::Lost { path: path(), id: id.clone() }),
            None => Ok(ring),
        }
    }

    fn read(&self) -> Result<Zeroizing<String>, KeyError> {
        // Not through a link, which somebody else may have laid.
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = match self {
            Self::File(path) => OpenOptions::new().read(true).custom_flags(flags).open(path),
            Self::Credential(path) => File::open(path),
        };
        let mut file = file.map_err(|source| self.failed(source))?;
        if let Self::File(path) = self {
            let metadata = file.metadata().map_err(|source| self.failed(source))?;
            let own = metadata.uid() == rustix::process::geteuid().as_raw();
            if !metadata.is_file() || metadata.mode() & 0o077 != 0 || !own {
                return Err(KeyError::Loose { path: path.clone() });
            }
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT as usize + 1));
        let read = Read::by_ref(&mut file).take(MAX_TEXT).read_to_string(&mut text);
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(KeyError::NotKeys { path: self.path().to_owned() })
            }
            read => read.map(|_| text).map_err(|source| self.failed(source)),
        }
    }

    /// Writes the file, whole or not at all, and on disk when this returns.
    pub(super) fn write(&self, ring: &Ring) -> Result<(), KeyError> {
        write_private(self.path(), &ring.text()).map_err(|source| self.failed(source))
    }
}
