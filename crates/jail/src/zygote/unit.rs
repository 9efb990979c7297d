//! A zygote that systemd starts as a unit of its own, for one boundary.
//!
//! The unit is hardened beyond what any zygote of node's can be, for this one makes a single boundary and no more: its
//! network, ipc and uts namespaces are the boundary's, its seccomp filters and its bounding set stay with all that comes out
//! of it. What it is given on its standard input is the other end of node's socket, and nothing else: systemd keeps a copy of
//! that standard input, so nobody would learn from it that the zygote ended.
//!
//! The process that becomes init is a child of systemd's, and the unit's main process from the moment that it is there. The
//! zygote ends when it has made it.

use crate::layout::ZYGOTE_FD;
use crate::step::{Step, StepError};
use crate::sys::{self, process};
use crate::wire;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What systemd makes for the unit, and nobody else has.
pub(super) const GIVEN: i32 = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// As [`super::run`].
pub fn run(hidden: impl Iterator<Item = OsString>) -> i32 {
    if let Err(error) = take_socket() {
        eprintln!("cofferdam-jail: {error}");
        return 1;
    }
    super::run_as(hidden, true)
}

/// Puts the socket that comes by standard input where a zygote has it.
fn take_socket() -> Result<(), StepError> {
    let step = "receiving the zygote's socket";
    // SAFETY: standard input is this process's, and nothing else here owns it.
    let input = unsafe { OwnedFd::from_raw_fd(0) };
    let (_, fds) = wire::receive::<()>(input.as_fd()).step(step)?.ok_or(StepError::new(step, "none came"))?;
    let [socket] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| StepError::new(step, "it is not one"))?;
    let null = sys::open(c"/dev/null", libc::O_RDWR).step(step)?;
    // Away from the numbers that are given below.
    let above = |fd: OwnedFd| process::duplicate_above(fd.as_fd(), ZYGOTE_FD + 1);
    let (socket, null) = (above(socket).step(step)?, above(null).step(step)?);
    // Its number is another's from here on.
    let _ = input.into_raw_fd();
    process::place(null, 0).and_then(|()| process::place(socket, ZYGOTE_FD)).step(step)
}

/// Where systemd listens (sd_notify(3)).
pub(super) struct Notify(UnixDatagram);

impl Notify {
    /// As long as it can be reached by its path.
    pub(super) fn connect() -> Result<Self, StepError> {
        let connect = || {
            let path = std::env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotFound)?;
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&path)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address).map(|()| Self(socket))
        };
        connect().step("finding systemd")
    }

    /// Says who the unit is from now on.
    pub(super) fn main_process(&self, pid: i32) -> Result<(), StepError> {
        let said = self.0.send(format!("MAINPID={pid}\nREADY=1").as_bytes());
        said.map(drop).step("telling systemd of init")
    }
}
