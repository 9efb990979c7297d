//! `control.sock`: made by root in a directory where control may write nothing, and handed to it.
//!
//! It gets its name only once its owner and mode are right, so that there is no instant at which anybody else could
//! connect. Who may: control's user and its group, into which an administrator puts people; and they still need a key.

use super::setup::User;
use crate::failure::fail_with;
use anyhow::Context as _;
use model::Code;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Listens at `path`, in place of a socket that nobody listens on any more.
pub fn listen(path: &Path, owner: User) -> anyhow::Result<UnixListener> {
    let attempt = || format!("cannot listen on {}", path.display());
    refuse_living(path)?;
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(attempt),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).with_context(attempt)?;
    // Not of root's group, not open to everybody, whatever the umask is.
    fs::set_permissions(&draft, Permissions::from_mode(0o000)).with_context(attempt)?;
    chown(&draft, Some(owner.uid), Some(owner.gid)).with_context(attempt)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o660)).with_context(attempt)?;
    fs::rename(&draft, path).with_context(attempt)?;
    Ok(listener)
}

/// What is there may only be a socket, and one that nobody listens on.
fn refuse_living(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => {
            return Err(fail_with(
                Code::InUse,
                format!("{} is there, and is no socket.", path.display()),
                "remove it, then try again",
            ));
        }
    }
    match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        _ => Err(fail_with(
            Code::InUse,
            format!("Another process listens on {}.", path.display()),
            "end it, or choose another directory with COFFERDAM_RUN",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn me() -> User {
        User { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    #[test]
    fn it_is_for_its_owner_and_group() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _listener = listen(&path, me()).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o660, me().uid, me().gid));
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dead_one_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(listen(&path, me()).unwrap());
        let living = listen(&path, me()).unwrap();
        let error = listen(&path, me()).unwrap_err();
        assert!(error.to_string().contains("Another process listens"), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "it was left alone");
        drop(living);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(listen(&path, me()).unwrap_err().to_string().contains("is no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
