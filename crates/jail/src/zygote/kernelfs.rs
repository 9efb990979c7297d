//! `/dev`, `/proc` and `/sys`, as little of them as programs can work with.
//!
//! All of it is mounted by the host's root and belongs to the host's user namespace: root inside owns the nodes and
//! nothing else, and cannot mount again what is masked here.

use super::root::{EMPTY, SYSFS, open as place};
use super::rootfs::{attach_tmpfs, directory};
use crate::layout::MASKED;
use crate::sabotage;
use crate::step::{Step, StepError};
use crate::sys;
use crate::sys::mount::{
    self, Change, DATA, Filesystem, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Name, major, minor: `Documentation/admin-guide/devices.txt` of the kernel.
const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];

const DEVICE_LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// The group of terminals in every distribution.
const TTY_GROUP: u32 = 5;

/// Directories of sysfs that language runtimes read: how many processors there are, the size of huge pages, and the
/// devices of the agent's own network namespace. What is not here is not there: loop devices, for one, tell the host's
/// paths, and their numbers tell how many agents there are.
const SYSFS_PARTS: [&str; 5] = [
    "devices/system/cpu",
    "devices/system/node",
    "devices/virtual/net",
    "class/net",
    "kernel/mm/transparent_hugepage",
];

fn detached(kind: &CStr, attributes: u64) -> io::Result<OwnedFd> {
    let source = kind.to_str().map_err(|_| io::ErrorKind::InvalidInput)?;
    Filesystem::new(kind)?.set(c"source", source)?.mount(attributes)
}

/// A procfs of the caller's pid namespace, not attached yet.
pub fn new_proc() -> Result<OwnedFd, StepError> {
    detached(c"proc", DATA).step("mounting a procfs")
}

/// Attaches `/proc` and masks it.
pub fn attach_proc(root: BorrowedFd<'_>, proc: BorrowedFd<'_>) -> Result<(), StepError> {
    let step = "mounting /proc";
    let target = directory(root, "proc", 0o555)?;
    mount::attach(proc, target.as_fd()).step(step)?;
    if sabotage::leaves_out("kernel_interfaces") {
        return Ok(());
    }

    // Masks come from a filesystem of their own with nothing in it: no path of the host shows in the list of mounts.
    let step = "masking /proc";
    let tmpfs = || {
        let tmpfs = Filesystem::new(c"tmpfs")?.set(c"source", "tmpfs")?;
        tmpfs.set(c"size", "4k")?.set(c"nr_inodes", "4")?.set(c"mode", "0555")?.mount(DATA)
    };
    let empty = tmpfs().step(step)?;
    sys::mkdir_at(empty.as_fd(), c"d", 0o555).step(step)?;
    sys::open_at(empty.as_fd(), c"f", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o444).step(step)?;
    mount::change(empty.as_fd(), Change { set: MOUNT_ATTR_RDONLY, ..Change::default() }).step(step)?;
    place(EMPTY).and_then(|target| mount::attach(empty.as_fd(), target.as_fd())).step(step)?;
    for name in MASKED {
        mask(proc, empty.as_fd(), name).step(&format!("masking /proc/{}", name.to_string_lossy()))?;
    }

    let read_only = || {
        let sysctl = mount::copy_tree(proc, c"sys", false)?;
        mount::change(sysctl.as_fd(), Change { set: DATA | MOUNT_ATTR_RDONLY, ..Change::default() })?;
        mount::attach(sysctl.as_fd(), sys::open_at(proc, c"sys", libc::O_PATH, 0)?.as_fd())
    };
    read_only().step("making /proc/sys read-only")
}

fn mask(proc: BorrowedFd<'_>, empty: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let is_directory = |flag| sys::open_at(proc, name, libc::O_PATH | libc::O_NOFOLLOW | flag, 0);
    let (target, what) = match is_directory(libc::O_DIRECTORY) {
        Ok(target) => (target, c"d"),
        // What this kernel does not have need not be masked.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => (is_directory(0)?, c"f"),
        Err(error) => return Err(error),
    };
    mount::attach(mount::copy_tree(empty, what, false)?.as_fd(), target.as_fd())
}

/// Mounts `/sys`: a read-only tmpfs with parts of a read-only sysfs.
pub fn attach_sys(root: BorrowedFd<'_>, owner: u32) -> Result<(), StepError> {
    let step = "mounting /sys";
    let target = directory(root, "sys", 0o555)?;
    let sysfs = detached(c"sysfs", DATA | MOUNT_ATTR_RDONLY).step(step)?;
    place(SYSFS).and_then(|target| mount::attach(sysfs.as_fd(), target.as_fd())).step(step)?;
    let tmpfs = attach_tmpfs(target.as_fd(), owner, "0555", 65_536, DATA).step(step)?;
    for path in SYSFS_PARTS {
        let part = CString::new(path).expect("no NUL in a constant");
        let copy = match mount::copy_tree(sysfs.as_fd(), &part, false) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            other => other.step(step)?,
        };
        mount::attach(copy.as_fd(), directory(tmpfs.as_fd(), path, 0o555)?.as_fd()).step(step)?;
    }
    mount::change(tmpfs.as_fd(), Change { set: MOUNT_ATTR_RDONLY, ..Change::default() }).step(step)
}

/// Mounts `/dev`: six nodes, terminals of its own, shared memory, and nothing that could be added.
pub fn attach_dev(root: BorrowedFd<'_>, owner: u32, terminals: u32, shm_bytes: u64) -> Result<(), StepError> {
    let step = "mounting /dev";
    let target = directory(root, "dev", 0o755)?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    let dev = attach_tmpfs(target.as_fd(), owner, "0755", 65_536, attributes).step(step)?;
    for (name, major, minor) in DEVICES {
        sys::make_char_device(dev.as_fd(), name, 0o666, major, minor).step("making the nodes in /dev")?;
    }
    if sabotage::leaves_out("devices (a node)") {
        // The kernel's log.
        sys::make_char_device(dev.as_fd(), c"kmsg", 0o666, 1, 11).step("making a node too much")?;
    }
    for (name, goal) in DEVICE_LINKS {
        sys::symlink_at(goal, dev.as_fd(), name).step("making the links in /dev")?;
    }
    let devpts = || {
        Filesystem::new(c"devpts")?
            .set(c"source", "devpts")?
            .set(c"ptmxmode", "0666")?
            .set(c"mode", "0620")?
            .set(c"gid", &(owner + TTY_GROUP).to_string())?
            .set(c"max", &terminals.to_string())?
            .mount(attributes)
    };
    let devpts = devpts().step("mounting /dev/pts")?;
    let target = directory(dev.as_fd(), "pts", 0o755)?;
    mount::attach(devpts.as_fd(), target.as_fd()).step("mounting /dev/pts")?;
    let target = directory(dev.as_fd(), "shm", 0o755)?;
    attach_tmpfs(target.as_fd(), owner, "1777", shm_bytes, DATA).step("mounting /dev/shm")?;
    if sabotage::leaves_out("devices") {
        return Ok(());
    }
    mount::change(dev.as_fd(), Change { set: MOUNT_ATTR_RDONLY, ..Change::default() }).step(step)
}
