//! The network namespace of a boundary: `lo`, and nothing that leads anywhere.

use crate::step::{Step, StepError};
use crate::sys::{self, check, descriptor};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Brings `lo` up and lets every user bind every port. `proc` is any procfs; its `sys/net` is the caller's namespace.
pub fn prepare(proc: BorrowedFd<'_>) -> Result<(), StepError> {
    raise_loopback().step("bringing up the loopback device")?;
    // No other network is there in which a low port could mean anything.
    sys::write_file_at(proc, c"sys/net/ipv4/ip_unprivileged_port_start", b"0").step("opening low ports")?;
    // Ping sockets are for the groups in this range: none.
    sys::write_file_at(proc, c"sys/net/ipv4/ping_group_range", b"1 0").step("closing ping sockets")
}

fn raise_loopback() -> std::io::Result<()> {
    // SAFETY: no pointers.
    let socket =
        descriptor(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: ifreq is plain data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: `request` names the device and has the flags, as netdevice(7) wants it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}
