//! The content store: a folder of EROFS files, each named by the SHA-256 of its content.
//!
//! A file appears whole or not at all: it is written without a name (`O_TMPFILE`), synced, and only then linked in.
//! So whatever dies at whatever moment, no half-written image is left. Files are 0644 and owned by root; nothing
//! ever writes to one again.

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".erofs";
const STAGING_PREFIX: &str = ".staging-";

/// The name of an image's content: 64 lowercase hexadecimal digits of its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the SHA-256 of an image: 64 lowercase hexadecimal digits")]
pub struct ParseDigestError;

impl Digest {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a hash that was taken.
    pub(crate) fn of(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.to_owned())).ok_or(ParseDigestError)
    }
}

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} in the image store {}{}", .dir.display(), remedy(.source))]
pub struct StoreError {
    action: &'static str,
    dir: PathBuf,
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => ": the disk is full; make room or remove images (cofferdam image rm)",
        io::ErrorKind::PermissionDenied => ": run as root",
        io::ErrorKind::Unsupported => {
            ": this file system cannot make unnamed files (O_TMPFILE); use ext4, xfs or btrfs"
        }
        _ => "",
    }
}

/// The folder `DATA/images`.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store, makes it if need be, and clears away what builds that were killed left behind.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { dir: dir.into() };
        // Others may pass through, so that the worker's user reaches its staging folder, but not list.
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&store.dir);
        made.map_err(|source| store.error("make the folder", source))?;
        store.sweep().map_err(|source| store.error("clear stale staging folders", source))?;
        Ok(store)
    }

    /// Where an image lies, whether or not it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}{SUFFIX}"))
    }

    /// Bytes of an image; `None` when the store does not have it.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match fs::metadata(self.path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error("look for an image", source)),
        }
    }

    /// All images with their sizes in bytes, ordered by digest.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let read = || -> io::Result<Vec<(Digest, u64)>> {
            let mut images = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                let name = entry.file_name();
                let digest = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).map(str::parse);
                if let Some(Ok(digest)) = digest {
                    images.push((digest, entry.metadata()?.len()));
                }
            }
            images.sort();
            Ok(images)
        };
        read().map_err(|source| self.error("list images", source))
    }

    /// Holds off [`prune`](crate::prune) for as long as the file is open: for whoever makes an image and has not yet
    /// told anybody of it.
    pub fn hold(&self) -> Result<File, StoreError> {
        let hold = || -> io::Result<File> {
            let dir = File::open(&self.dir)?;
            rustix::fs::flock(&dir, FlockOperation::LockShared)?;
            Ok(dir)
        };
        hold().map_err(|source| self.error("lock", source))
    }

    /// The same for who removes images; `None` while somebody makes one.
    pub fn hold_alone(&self) -> Result<Option<File>, StoreError> {
        let hold = || -> io::Result<Option<File>> {
            let dir = File::open(&self.dir)?;
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(dir)),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                Err(errno) => Err(errno.into()),
            }
        };
        hold().map_err(|source| self.error("lock", source))
    }

    /// Removes an image; whether it was there. Agents that have it mounted keep it until they end.
    pub fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        match fs::remove_file(self.path(digest)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.error("remove an image", source)),
        }
    }

    /// Bytes that may still be written.
    pub(crate) fn free(&self) -> Result<u64, StoreError> {
        let found = rustix::fs::statvfs(&self.dir);
        let found = found.map_err(|errno| self.error("ask for free space", errno.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file without a name, on the store's file system; gone when closed unless it is committed.
    pub(crate) fn unnamed(&self) -> Result<File, StoreError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.dir, flags, Mode::from_raw_mode(0o600));
        opened.map(File::from).map_err(|errno| self.error("make a file", errno.into()))
    }

    /// Gives an unnamed file its digest's name. The same content twice is the same image.
    pub(crate) fn commit(&self, mut file: File) -> Result<(Digest, u64), StoreError> {
        let mut commit = || -> io::Result<(Digest, u64)> {
            file.rewind()?;
            let (digest, size) = digest(&mut file)?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            file.sync_all()?;
            // The one way to name such a file without CAP_DAC_READ_SEARCH, see open(2).
            let source = format!("/proc/self/fd/{}", file.as_raw_fd());
            match rustix::fs::linkat(CWD, source, CWD, self.path(&digest), AtFlags::SYMLINK_FOLLOW) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            File::open(&self.dir)?.sync_all()?;
            Ok((digest, size))
        };
        commit().map_err(|source| self.error("keep an image", source))
    }

    /// A folder for a build, removed when dropped.
    pub(crate) fn staging(&self) -> Result<Staging, StoreError> {
        let make = || -> io::Result<Staging> {
            let dir = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(&self.dir)?;
            let lock = File::open(dir.path())?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            // The build's processes inherit the lock: should we be killed, the folder stays theirs while they live.
            rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())?;
            Ok(Staging { dir, _lock: lock })
        };
        make().map_err(|source| self.error("make a staging folder", source))
    }

    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(STAGING_PREFIX.as_bytes()) {
                continue;
            }
            let lock = File::open(entry.path())?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError { action, dir: self.dir.clone(), source }
    }
}

/// A folder that one build owns.
pub(crate) struct Staging {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn digest(file: &mut File) -> io::Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
    Ok((Digest::of(&hash.finalize()), size))
}
