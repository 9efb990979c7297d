//! The rail on top of everything else: Landlock (landlock(7), `linux/landlock.h`), by its raw system calls.
//!
//! Beneath `/` everything is allowed but making device nodes; ioctls on devices are allowed beneath `/dev` alone. With a
//! rail, changes are allowed beneath some directories and nowhere else. What it
//! adds beyond that comes with every Landlock domain: no change of mounts, no signal and no abstract unix socket to
//! anybody outside of the domain.

use crate::sabotage;
use crate::sys::{self, check, descriptor};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: i32 = 1;

const FS_EXECUTE: u64 = 1;
const FS_READ_FILE: u64 = 1 << 2;
const FS_READ_DIR: u64 = 1 << 3;
const FS_MAKE_CHAR: u64 = 1 << 6;
const FS_MAKE_BLOCK: u64 = 1 << 11;
const FS_IOCTL_DEV: u64 = 1 << 15;

const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// `struct landlock_ruleset_attr`; kernels of an older ABI know a prefix of it.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The ABI of the running kernel; 0 = none, or switched off.
pub fn abi() -> u32 {
    // SAFETY: with this flag the call takes no attributes.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, CREATE_RULESET_VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// All filesystem rights that an ABI knows.
fn filesystem_rights(abi: u32) -> u64 {
    let bits = match abi {
        0 => 0,
        1 => 13,
        2 => 14,     // refer
        3 | 4 => 15, // truncate
        _ => 16,     // ioctl_dev
    };
    (1 << bits) - 1
}

fn allow(ruleset: &OwnedFd, beneath: BorrowedFd<'_>, allowed_access: u64) -> io::Result<()> {
    let attr = PathBeneathAttr { allowed_access, parent_fd: beneath.as_raw_fd() };
    // SAFETY: `attr` is what this type of rule takes.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &raw const attr, 0)
    })
    .map(drop)
}

/// Puts this process, and all that come out of it, into a domain of its own, as the running ABI allows. `program`, a
/// file that is not beneath `/`, may be executed all the same. With `writable` nothing else can be changed. Needs no_new_privs. With an ABI of 0 nothing happens;
/// whoever reports it must say so.
pub fn restrict(abi: u32, program: Option<BorrowedFd<'_>>, writable: Option<&[&CStr]>) -> io::Result<()> {
    if abi == 0 || sabotage::leaves_out("landlock (unsaid)") {
        return Ok(());
    }
    let rights = filesystem_rights(abi);
    let scoped = if abi >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
    let attr = RulesetAttr { handled_access_fs: rights, handled_access_net: 0, scoped };
    let size = match abi {
        1..=3 => 8,
        4 | 5 => 16,
        _ => size_of::<RulesetAttr>(),
    };
    // SAFETY: `attr` is at least as long as `size`.
    let ruleset =
        descriptor(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0) })?;
    let directory = |path: &CStr| sys::open(path, libc::O_PATH | libc::O_DIRECTORY);
    let all = rights & !(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_IOCTL_DEV);
    let reading = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR;
    allow(&ruleset, directory(c"/")?.as_fd(), if writable.is_some() { reading } else { all })?;
    for path in writable.unwrap_or_default() {
        allow(&ruleset, directory(path)?.as_fd(), all)?;
    }
    if rights & FS_IOCTL_DEV != 0 {
        allow(&ruleset, directory(c"/dev")?.as_fd(), FS_IOCTL_DEV)?;
    }
    if let Some(program) = program {
        allow(&ruleset, program, FS_EXECUTE | FS_READ_FILE)?;
    }
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}
