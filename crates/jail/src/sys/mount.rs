//! The mount API of Linux 5.2 and later (fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)): mounts are
//! descriptors until they are attached, and are attached to descriptors, so that no path is looked up twice.

use super::{check, descriptor};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

pub use libc::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

/// `nosuid,nodev`.
pub const PLAIN: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
/// `nosuid,nodev,noexec`.
pub const DATA: u64 = PLAIN | MOUNT_ATTR_NOEXEC;

/// A filesystem that is being put together.
pub struct Filesystem {
    context: OwnedFd,
}

impl Filesystem {
    /// fsopen(2).
    pub fn new(kind: &CStr) -> io::Result<Self> {
        // SAFETY: `kind` ends with NUL.
        let context =
            descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
        Ok(Self { context })
    }

    fn configure(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both texts are null, where the command allows it, or end with NUL.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.context.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        });
        result.map(drop).map_err(|error| self.explain(error))
    }

    /// Adds what the kernel wrote into the context's log, which says which option it did not like.
    fn explain(&self, error: io::Error) -> io::Error {
        let mut log = [0u8; 512];
        match super::read(self.context.as_fd(), &mut log) {
            Ok(length) if length > 2 => {
                let text = String::from_utf8_lossy(&log[2..length]).trim().to_owned();
                Explained { errno: error.raw_os_error().unwrap_or(0), text }.into()
            }
            _ => error,
        }
    }

    /// An option with a value.
    pub fn set(self, key: &CStr, value: &str) -> io::Result<Self> {
        let value = CString::new(value)?;
        self.configure(libc::FSCONFIG_SET_STRING, Some(key), Some(&value))?;
        Ok(self)
    }

    /// An option without one.
    pub fn flag(self, key: &CStr) -> io::Result<Self> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(key), None)?;
        Ok(self)
    }

    /// Creates it and returns its detached mount with `attributes` (`MOUNT_ATTR_*`).
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: no pointers.
        descriptor(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.context.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes as libc::c_uint,
            )
        })
        .map_err(|error| self.explain(error))
    }
}

/// An error with the kernel's own words for it.
#[derive(Debug)]
pub struct Explained {
    /// `errno`.
    pub errno: i32,
    /// From the context's log.
    pub text: String,
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Explained {}

impl From<Explained> for io::Error {
    fn from(explained: Explained) -> Self {
        Self::other(explained)
    }
}

/// A detached copy of the mount at `path`; with `recursive` of all mounts beneath it too.
pub fn copy_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: `path` ends with NUL.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// What to change about a mount.
#[derive(Debug, Default, Clone, Copy)]
pub struct Change<'a> {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// Map its ids through this user namespace.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Neither receive nor send mounts (`MS_PRIVATE`).
    pub private: bool,
    /// All mounts beneath it too.
    pub recursive: bool,
}

/// mount_setattr(2).
pub fn change(mount: BorrowedFd<'_>, change: Change<'_>) -> io::Result<()> {
    let mut set = change.set;
    let mut userns = 0;
    if let Some(namespace) = change.idmap {
        set |= libc::MOUNT_ATTR_IDMAP;
        userns = namespace.as_raw_fd() as u64;
    }
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: if change.private { libc::MS_PRIVATE } else { 0 },
        userns_fd: userns,
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the size that is stated.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Attaches a detached mount on top of an opened directory or file (`O_PATH` will do).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty texts that end with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// Makes `new_root` the root of this mount namespace and of this process, and lets go of the old one with
/// everything beneath it. The current directory is the new root afterwards.
pub fn enter_root(new_root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers but texts that end with NUL. pivot_root(2) documents this use of ".": the old root ends
    // up on top of the new one, and umount2 takes the topmost.
    unsafe {
        check(libc::fchdir(new_root.as_raw_fd()).into())?;
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into())?;
        check(libc::chdir(c"/".as_ptr()).into())?;
    }
    Ok(())
}

/// Detaches what is mounted at `path`.
pub fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` ends with NUL.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
}
