//! Detached mounts: filesystems without a place in any tree (fsopen(2), fsmount(2)). They vanish with their
//! last descriptor, so nothing has to be unmounted after a crash.

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag};
use rustix::mount::{fsconfig_set_string, fsmount, fsopen};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `MOUNT_ATTR_IDMAP` of linux/mount.h.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// A filesystem could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {source_name} as {kind}{said}")]
pub(crate) struct MountError {
    kind: &'static str,
    source_name: String,
    /// The kernel's own words, when it had any.
    said: String,
    /// Why.
    #[source]
    pub(crate) source: io::Error,
}

/// Mounts a filesystem at no place. `options` are `(key, value)`; an empty value is a flag.
pub(crate) fn detached(
    kind: &'static str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, MountError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| MountError {
        kind,
        source_name: source.to_owned(),
        said: ": the kernel does not have this filesystem".to_owned(),
        source: error.into(),
    })?;
    let configure = || {
        fsconfig_set_string(&context, "source", source)?;
        for (key, value) in options {
            match value.is_empty() {
                true => fsconfig_set_flag(&context, *key)?,
                false => fsconfig_set_string(&context, *key, *value)?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    configure().map_err(|error| MountError {
        kind,
        source_name: source.to_owned(),
        said: said(&context),
        source: error.into(),
    })
}

/// The messages that the kernel left in a filesystem context.
fn said(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        text.push_str(": ");
        text.push_str(String::from_utf8_lossy(&buffer[..length]).trim_start_matches("e ").trim());
    }
    text
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Maps the ids of a detached mount through a user namespace (mount_setattr(2)).
pub(crate) fn idmap(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: user_namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path is a valid empty C string and the attributes are a struct mount_attr of the size that
    // is passed; the kernel reads both and writes neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
