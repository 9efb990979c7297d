//! Sockets with the options that make them take what was meant for others (ip(7), ipv6(7)).

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Sets an option that is a number.
fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads one int from the address, which is that of `value`, and no more than its length.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A socket for both families; on a kernel without IPv6 for the one that it has.
fn open(kind: SocketType) -> io::Result<(OwnedFd, bool)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match socket_with(AddressFamily::INET6, kind, flags, None) {
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            Ok((socket, true))
        }
        Err(Errno::AFNOSUPPORT) => Ok((socket_with(AddressFamily::INET, kind, flags, None)?, false)),
        Err(error) => Err(error.into()),
    }
}

/// Not bound yet.
pub(crate) fn transparent_tcp() -> io::Result<OwnedFd> {
    let (socket, v6) = open(SocketType::STREAM)?;
    set(socket.as_fd(), libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    if v6 {
        set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    }
    // Connections have it of the socket that accepted them. Without it they keep the agent from ports of its own.
    reuse(socket.as_fd(), true)?;
    Ok(socket)
}

/// Not bound yet. Says of all that comes which address it was sent to, and may answer from any. Never with a port that is to
/// be reused: the agent could take the port, too.
pub(crate) fn any_udp() -> io::Result<OwnedFd> {
    let (socket, v6) = open(SocketType::DGRAM)?;
    // Both, for answers of IPv4 by a socket of IPv6.
    set(socket.as_fd(), libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    match v6 {
        true => {
            set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_FREEBIND, 1)?;
            set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
        false => set(socket.as_fd(), libc::SOL_IP, libc::IP_PKTINFO, 1)?,
    }
    Ok(socket)
}

/// Binds to every address.
pub(crate) fn bind_any(socket: BorrowedFd<'_>, port: u16) -> io::Result<()> {
    let address = match sockopt::socket_domain(socket)? {
        AddressFamily::INET6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        _ => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    };
    Ok(bind(socket, &address)?)
}

/// Whether others may have its port, as long as none of them listens.
pub(crate) fn reuse(socket: BorrowedFd<'_>, allowed: bool) -> io::Result<()> {
    Ok(sockopt::set_socket_reuseaddr(socket, allowed)?)
}
