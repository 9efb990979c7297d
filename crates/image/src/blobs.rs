//! Downloaded layers, as they are packed, each named by its SHA-256: an image that shares layers with one that was pulled
//! before takes them from here.
//!
//! Beside each layer lies where it came from. Knowing a digest is no right to the content: a layer is used again only
//! when the very registry that gave it says that this pull's credentials may have it.

use crate::reference::Host;
use crate::store::{Digest, Store, StoreError};
use rustix::fs::{FlockOperation, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

const PARTIAL: &str = ".partial";
const ORIGINS: &str = ".from";
/// Registries that are remembered for one layer.
const MAX_ORIGINS: usize = 32;

/// The folder `DATA/images/layers`.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    dir: PathBuf,
    store: Store,
}

impl Blobs {
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        let dir = store.dir().join("layers");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| store.error("make the folder for layers", source))?;
        Ok(Self { dir, store: store.clone() })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.as_str())
    }

    fn beside(&self, digest: &Digest, suffix: &str) -> PathBuf {
        self.dir.join(format!("{digest}{suffix}"))
    }

    /// A layer that is there whole.
    pub(crate) fn get(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.path(digest)).ok()?;
        (file.metadata().ok()?.len() == size).then_some(file)
    }

    /// Whether this registry gave the layer before.
    pub(crate) fn came_from(&self, digest: &Digest, registry: &Host) -> bool {
        let text = fs::read_to_string(self.beside(digest, ORIGINS)).unwrap_or_default();
        text.lines().any(|line| line == registry.to_string())
    }

    fn remember(&self, digest: &Digest, registry: &Host) -> io::Result<()> {
        let path = self.beside(digest, ORIGINS);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let own = registry.to_string();
        let mut lines: Vec<&str> = text.lines().filter(|line| *line != own).collect();
        lines.push(&own);
        let start = lines.len().saturating_sub(MAX_ORIGINS);
        let fresh = self.beside(digest, ".from-new");
        fs::write(&fresh, lines[start..].join("\n"))?;
        fs::rename(fresh, path)
    }

    /// Begins a download, or goes on with one that was cut. Waits for another that is under way.
    pub(crate) fn begin(&self, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
        let begin = || -> io::Result<Partial> {
            let path = self.beside(digest, PARTIAL);
            loop {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let file = File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?);
                rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
                // Whoever had the lock may have finished, and then this is not the file of that name any more.
                let (own, named) = (rustix::fs::fstat(&file)?, rustix::fs::stat(&path));
                if named.is_ok_and(|named| (named.st_ino, named.st_dev) == (own.st_ino, own.st_dev)) {
                    let partial = Partial {
                        blobs: self.clone(),
                        digest: digest.clone(),
                        size,
                        file,
                        path,
                        at: 0,
                        hash: Sha256::new(),
                    };
                    return partial.catch_up();
                }
            }
        };
        begin().map_err(|source| self.store.error("write a layer", source))
    }

    /// Removes all layers but these, and downloads that nobody goes on with. Bytes that were freed.
    pub(crate) fn retain(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<u64, StoreError> {
        let sweep = || -> io::Result<u64> {
            let mut freed = 0;
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let (digits, suffix) = name.split_at(name.find('.').unwrap_or(name.len()));
                if suffix != PARTIAL && digits.parse().is_ok_and(|digest| keep(&digest)) {
                    continue;
                }
                if suffix == PARTIAL {
                    let file = File::open(entry.path())?;
                    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                        continue;
                    }
                }
                freed += entry.metadata()?.len();
                fs::remove_file(entry.path())?;
            }
            Ok(freed)
        };
        sweep().map_err(|source| self.store.error("remove layers", source))
    }
}

/// A layer on its way. Dropped, it stays for a later pull to go on with.
pub(crate) struct Partial {
    blobs: Blobs,
    digest: Digest,
    size: u64,
    file: File,
    path: PathBuf,
    at: u64,
    hash: Sha256,
}

/// Why a download is not the layer that it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("it has more than the {0} bytes that the manifest says")]
    TooLong(u64),
    #[error("it ended after {got} of {size} bytes")]
    TooShort { got: u64, size: u64 },
    #[error("its content is sha256:{found}, and the manifest says sha256:{wanted}")]
    Content { found: Digest, wanted: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Partial {
    /// Takes the hash of what is there already.
    fn catch_up(mut self) -> io::Result<Self> {
        let there = self.file.metadata()?.len();
        if there > self.size {
            self.restart()?;
            return Ok(self);
        }
        let mut buffer = vec![0; 1 << 18];
        self.file.rewind()?;
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(self);
            }
            self.hash.update(&buffer[..count]);
            self.at += count as u64;
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.at = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Bytes that are there.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Says where what follows begins: here, or at the start.
    pub(crate) fn continue_at(&mut self, from: u64) -> Result<(), Wrong> {
        if from == self.at {
            return Ok(());
        }
        self.restart().map_err(|source| Wrong::Store(self.blobs.store.error("write a layer", source)))
    }

    /// Takes in the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        if self.at + bytes.len() as u64 > self.size {
            return Err(Wrong::TooLong(self.size));
        }
        let written = self.file.write_all(bytes);
        written.map_err(|source| Wrong::Store(self.blobs.store.error("write a layer", source)))?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Verifies it and gives it its name.
    pub(crate) fn finish(mut self, registry: &Host) -> Result<File, Wrong> {
        if self.at < self.size {
            return Err(Wrong::TooShort { got: self.at, size: self.size });
        }
        let found = Digest::of(&std::mem::take(&mut self.hash).finalize());
        if found != self.digest {
            let wanted = self.digest.clone();
            self.discard();
            return Err(Wrong::Content { found, wanted });
        }
        let keep = || -> io::Result<File> {
            self.file.sync_data()?;
            self.blobs.remember(&self.digest, registry)?;
            fs::rename(&self.path, self.blobs.path(&self.digest))?;
            File::open(self.blobs.path(&self.digest))
        };
        keep().map_err(|source| Wrong::Store(self.blobs.store.error("keep a layer", source)))
    }

    /// Removes what is not worth going on with.
    pub(crate) fn discard(self) {
        // Should it fail, the next attempt finds the same, and prune removes it.
        let _ = fs::remove_file(&self.path);
    }
}
