//! The agent's root: its image under its scratch layer or the machine's system, its home, and the mounts that are its alone.
//!
//! Image and scratch layer are foreign data. As long as the host's root works in them, every name is looked up without
//! following links and without leaving the mount (openat2(2)), and nothing is written through what was there before.

use super::root::{LOWER, NEW_ROOT, VOLUME, open as place};
use crate::layout::{HOME, NAMESERVER};
use crate::step::{Step, StepError};
use crate::sys::mount::{self, Change, Filesystem, MOUNT_ATTR_RDONLY, PLAIN};
use crate::sys::{self};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const DIRECTORY: i32 = libc::O_PATH | libc::O_DIRECTORY;

/// Mounts image, volume and the overlay of both; returns the overlay's root, attached at [`NEW_ROOT`]. The caller's
/// filesystem uid and gid are the agent's first: what the overlay makes on its own is theirs.
pub fn mount_overlay(
    keep_scratch: bool,
    image: BorrowedFd<'_>,
    volume: BorrowedFd<'_>,
    userns: BorrowedFd<'_>,
) -> Result<OwnedFd, StepError> {
    let mapped = |set| Change { set, idmap: Some(userns), ..Change::default() };
    let step = "mapping the image's ids";
    mount::change(image, mapped(PLAIN | MOUNT_ATTR_RDONLY)).step(step)?;
    place(LOWER).and_then(|target| mount::attach(image, target.as_fd())).step(step)?;

    mount_volume(volume, userns)?;

    let step = "mounting the overlay";
    let overlay = || {
        let overlay = Filesystem::new(c"overlay")?
            .set(c"source", "overlay")?
            .set(c"lowerdir", LOWER)?
            .set(c"upperdir", &format!("{VOLUME}/upper"))?
            .set(c"workdir", &format!("{VOLUME}/work"))?
            // Without these two, renaming a directory of the image fails, and chown copies whole files.
            .set(c"redirect_dir", "on")?
            .set(c"metacopy", "on")?;
        // A layer that is thrown away at the next start has no use of being synced.
        let overlay = if keep_scratch { overlay } else { overlay.flag(c"volatile")? };
        overlay.mount(PLAIN)
    };
    let root = overlay().step(step)?;
    // The kernel falls back to this without an error when it cannot write to the work directory.
    if sys::filesystem_flags(root.as_fd()).step(step)? & libc::ST_RDONLY != 0 {
        let detail = "the kernel made it read-only: the volume is full, or cannot be written to";
        return Err(StepError { errno: libc::EROFS, ..StepError::new(step, detail) });
    }
    place(NEW_ROOT).and_then(|target| mount::attach(root.as_fd(), target.as_fd())).step(step)?;
    Ok(root)
}

/// Mounts the volume, with the ids of the agent's range.
fn mount_volume(volume: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> Result<(), StepError> {
    let step = "mapping the volume's ids";
    let mapped = Change { set: PLAIN, idmap: Some(userns), ..Change::default() };
    mount::change(volume, mapped).step(step)?;
    place(VOLUME).and_then(|target| mount::attach(volume, target.as_fd())).step(step)
}

/// Mounts the volume, and a copy of the machine's system at [`NEW_ROOT`].
pub fn mount_system(
    system: BorrowedFd<'_>,
    volume: BorrowedFd<'_>,
    userns: BorrowedFd<'_>,
) -> Result<(), StepError> {
    mount_volume(volume, userns)?;
    let step = "mounting the machine's system";
    place(NEW_ROOT).and_then(|target| mount::attach(system, target.as_fd())).step(step)
}

/// Opens a directory of the root, which is made where it is missing.
pub fn directory(root: BorrowedFd<'_>, path: &str, mode: u32) -> Result<OwnedFd, StepError> {
    open_directory(root, path, mode).map_err(|error| match error.errno {
        libc::ELOOP | libc::ENOTDIR => {
            let detail =
                "the image or the agent's kept scratch layer has something there that is no directory";
            StepError { detail: detail.into(), ..error }
        }
        _ => error,
    })
}

fn open_directory(root: BorrowedFd<'_>, path: &str, mode: u32) -> Result<OwnedFd, StepError> {
    let step = format!("opening /{path}");
    let inside = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let mut dir = sys::open_at(root, c".", DIRECTORY, 0).step(&step)?;
    for name in path.split('/') {
        let name = CString::new(name).expect("paths here are constants");
        sys::ensure_dir(dir.as_fd(), &name, mode).step(&step)?;
        dir = sys::open_beneath(dir.as_fd(), &name, DIRECTORY, 0, inside).step(&step)?;
    }
    Ok(dir)
}

/// A tmpfs of the agent's own, attached at a directory.
pub fn attach_tmpfs(
    target: BorrowedFd<'_>,
    owner: u32,
    mode: &str,
    size: u64,
    attributes: u64,
) -> io::Result<OwnedFd> {
    // An inode costs about a page of kernel memory.
    let inodes = (size / 4096).max(64);
    let tmpfs = Filesystem::new(c"tmpfs")?
        .set(c"source", "tmpfs")?
        .set(c"mode", mode)?
        .set(c"uid", &owner.to_string())?
        .set(c"gid", &owner.to_string())?
        .set(c"size", &size.to_string())?
        .set(c"nr_inodes", &inodes.to_string())?
        .mount(attributes)?;
    mount::attach(tmpfs.as_fd(), target)?;
    Ok(tmpfs)
}

/// Mounts home, `/run`, and what is like `/tmp`. Returns `/run`.
pub fn furnish(
    root: BorrowedFd<'_>,
    owner: u32,
    temporary: &[&str],
    tmp_bytes: u64,
) -> Result<OwnedFd, StepError> {
    let home = directory(root, HOME.trim_start_matches('/'), 0o755)?;
    let attach_home = || {
        let copy = mount::copy_tree(place(VOLUME)?.as_fd(), c"home", false)?;
        mount::attach(copy.as_fd(), home.as_fd())
    };
    attach_home().step("mounting the home")?;

    let mount = |path: &str, mode, size| {
        let target = directory(root, path, 0o755)?;
        let mounted = attach_tmpfs(target.as_fd(), owner, mode, size, PLAIN);
        mounted.step(&format!("mounting /{path}"))
    };
    for path in temporary {
        mount(path, "1777", tmp_bytes)?;
    }
    mount("run", "0755", 16 << 20)
}

/// Writes where names are resolved, over an image's file.
pub fn write_resolver(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let etc = directory(root, "etc", 0o755)?;
    let resolver = format!("nameserver {NAMESERVER}\noptions timeout:2 attempts:2\n");
    match replace(etc.as_fd(), c"resolv.conf", resolver.as_bytes()) {
        // An agent whose disk is full must come up, or nobody could ever make room on it.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(()),
        other => other.step("writing the resolver's configuration"),
    }
}

/// Puts a new file in the place of whatever was there: never through a link. A directory stays, for it can only be there
/// because the agent wanted one.
fn replace(dir: BorrowedFd<'_>, name: &CStr, bytes: &[u8]) -> io::Result<()> {
    match sys::unlink_at(dir, name, 0) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) if error.raw_os_error() == Some(libc::EISDIR) => return Ok(()),
        Err(error) => return Err(error),
    }
    let file =
        sys::open_at(dir, name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, 0o644)?;
    sys::write_all(file.as_fd(), bytes)
}
