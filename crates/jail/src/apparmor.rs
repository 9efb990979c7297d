//! The AppArmor profile around containers, by the kernel's interface (proc(5), `/proc/PID/attr/apparmor`). Node loads the
//! profile; here processes ask to be put into it.
//!
//! They write to a procfs that they have as a descriptor, or that the host mounted: what an image has at `/proc` is never
//! taken for one.

use crate::sys;
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

/// Its name.
pub const PROFILE: &str = "cofferdam-agent";

/// Has the kernel put what this process executes next into the profile, and with it all that comes out of that.
pub fn confine_next(proc: BorrowedFd<'_>) -> io::Result<()> {
    ask(proc, c"self/attr/apparmor/exec", "exec")
}

/// Puts this process into it, and all that comes out of it.
pub fn confine_now(proc: BorrowedFd<'_>) -> io::Result<()> {
    ask(proc, c"self/attr/apparmor/current", "changeprofile")
}

fn ask(proc: BorrowedFd<'_>, file: &CStr, what: &str) -> io::Result<()> {
    sys::write_file_at(proc, file, format!("{what} {PROFILE}").as_bytes())
}
