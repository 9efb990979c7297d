//! Secrets that the agent is given as files: in memory, for its user alone.

use super::sys;
use crate::layout::SECRETS;
use crate::spec::Identity;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Only its owner reads it, and nobody writes to it.
const MODE: u32 = 0o400;

/// Writes them. Nothing of the agent runs yet.
pub fn write(secrets: &BTreeMap<String, String>, owner: Identity) -> io::Result<()> {
    if secrets.is_empty() {
        return Ok(());
    }
    make_directory(SECRETS, 0o700, owner)?;
    for (name, value) in secrets {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = Path::new(SECRETS).join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
        file.write_all(value.as_bytes())?;
        if !sys::is_os_user() {
            sys::own(file.as_fd(), owner.uid, owner.gid, MODE)?;
        }
    }
    Ok(())
}

/// Makes a directory in `/run`, which is new with each start. Without an image it is there, and the user's.
pub fn make_directory(path: &str, mode: u32, owner: Identity) -> io::Result<()> {
    if sys::is_os_user() {
        return Ok(());
    }
    match DirBuilder::new().mode(mode).create(path) {
        // A runtime's.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let directory =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?;
    sys::own(directory.as_fd(), owner.uid, owner.gid, mode)
}
