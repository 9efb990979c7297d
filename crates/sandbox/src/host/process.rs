//! Starting a helper process with a socket at a fixed descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts the command with `fd` as its descriptor `number`, which must be above 2.
pub(crate) fn spawn_with_fd(mut command: Command, fd: OwnedFd, number: i32) -> io::Result<Child> {
    let from = fd.as_raw_fd();
    // While the number is in use here, it cannot be that of the pipe by which the standard library learns of a
    // failed exec, which the child would overwrite.
    let reserved = rustix::io::fcntl_dupfd_cloexec(&fd, number)?;
    // SAFETY: between fork and exec the closure makes nothing but async-signal-safe system calls (dup2,
    // fcntl). `fd` lives until after the spawn.
    unsafe {
        command.pre_exec(move || {
            let result = match from == number {
                // Already there: only the close-on-exec flag has to go.
                true => libc::fcntl(from, libc::F_SETFD, 0),
                false => libc::dup2(from, number),
            };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let child = command.spawn();
    drop((fd, reserved));
    child
}
