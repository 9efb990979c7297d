//! The system calls that exist behind a boundary: an allowlist, compiled once into a BPF program that finds its answer
//! in a handful of comparisons (a linear list costs 0.4 ms more to load, and every call pays for it again).
//!
//! What is not listed fails with EPERM, what is newer than the list with ENOSYS, so that programs fall back to
//! what they did before. A call through another architecture's table ends the process: its numbers mean something else.

mod bpf;
mod service;
mod table;
#[cfg(test)]
mod tests;

use crate::sys::{check, descriptor};
use std::io;
use std::os::fd::OwnedFd;

pub use table::Profile;

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Compiles the list of a profile.
    pub fn new(profile: Profile) -> Self {
        Self(bpf::compile(&table::rules(profile), table::DENIED, table::NEWEST))
    }

    /// Puts this process, and all that come out of it, under the filter for good (seccomp(2)). Needs no_new_privs, or
    /// `CAP_SYS_ADMIN` in the user namespace.
    pub fn load(&self) -> io::Result<()> {
        self.set(0).map(drop)
    }

    /// The same, with the listener that decides what [`Profile::Agent`] leaves open (seccomp_unotify(2)); close-on-exec.
    pub fn load_with_listener(&self) -> io::Result<OwnedFd> {
        descriptor(self.set(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?)
    }

    fn set(&self, flags: libc::c_ulong) -> io::Result<libc::c_long> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points at as many instructions as it says; the kernel copies them.
        check(unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        })
    }
}
