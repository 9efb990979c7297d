//! Small files around a boundary: the init binary by content, the runtime directory.

use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The jail binary, kept under the SHA-256 of its content so that a newer one changes no running agent.
#[derive(Debug)]
pub(crate) struct InitBinary {
    pub(crate) digest: String,
    pub(crate) path: PathBuf,
}

impl InitBinary {
    /// Copies the binary into the store unless that content is there.
    pub(crate) fn store(jail: &Path, store: &Path) -> io::Result<Self> {
        directory(store, 0o700)?;
        let content = fs::read(jail)?;
        let digest = hex(&Sha256::digest(&content));
        let path = store.join(&digest);
        if !path.exists() {
            let partial = store.join(format!("{digest}.{}{}", std::process::id(), crate::volume::PARTIAL));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(&partial)?;
            let written = file.write_all(&content).and_then(|()| {
                // Readable for all: else `/proc/PID` of init's children would be the host root's, and init could
                // not adjust them.
                file.set_permissions(fs::Permissions::from_mode(0o755))?;
                file.sync_all()?;
                drop(file);
                fs::rename(&partial, &path)
            });
            if let Err(error) = written {
                let _ = fs::remove_file(&partial);
                return Err(error);
            }
        }
        Ok(Self { digest, path })
    }
}

/// Lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a directory and those above it; the mode is that of the new ones.
pub(crate) fn directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&partial, path)
}

/// Reads at most `limit` bytes; what is longer is an error, for files that something untrusted writes.
pub(crate) fn read_bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than allowed"));
    }
    Ok(content)
}

/// Removes a file that may be gone.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a directory with all that is in it; it may be gone.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
