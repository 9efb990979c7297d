//! Attempts on the network, and on what sockets reach.

use super::word::{NULL, call};
use super::{Outside, Prober, Seen, refused, refused_or};
use libc::*;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A device that there is nowhere.
const NO_DEVICE: i32 = 0x7fff_fff0;

/// What the filter says of a family or protocol that it does not have.
const NO_SUCH: [i32; 2] = [EAFNOSUPPORT, EPROTONOSUPPORT];

pub fn attempts(prober: &mut Prober<'_>) {
    reach(prober);
    configure(prober);
    families(prober);
    sockets(prober);
}

/// Opens a socket of a family that must not be there. A filter that is missing lets the kernel load modules for it, as any
/// user of such a machine can.
fn no_socket(family: i32, kind: i32, protocol: i32) -> Seen {
    refused_or(&NO_SUCH, call!(SYS_socket, family, kind | SOCK_CLOEXEC, protocol))
}

/// How long a gate may take to close what it lets nobody have.
const PATIENCE: Duration = Duration::from_secs(5);

/// Neither TLS nor HTTP nor anything else that somebody would answer.
const NONSENSE: &[u8] = b"\xff\x00cofferdam\n";

/// Connects to an address that nobody may have. That a gate takes the connection to close it is no way out; a single byte from
/// the other end is one.
fn no_connection(to: IpAddr, port: u16) -> Seen {
    let nowhere = [ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, EADDRNOTAVAIL, EAFNOSUPPORT];
    let mut stream = match TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Seen::held("no answer"),
        Err(error) => return refused_or(&nowhere, Err(error)),
    };
    let mut byte = [0];
    let heard = stream
        .set_read_timeout(Some(PATIENCE))
        // It may be closed already.
        .map(|()| stream.write_all(NONSENSE).is_ok())
        .and_then(|_| stream.read(&mut byte));
    match heard {
        Ok(0) => Seen::held("taken by the gate, and closed without a byte"),
        Ok(_) => Seen::broken("something answered"),
        Err(error) => match error.raw_os_error() {
            Some(ECONNRESET | EPIPE) => Seen::held("taken by the gate, and closed without a byte"),
            _ => Seen::unclear(format!("taken by the gate, and not closed: {error}")),
        },
    }
}

fn reach(prober: &mut Prober<'_>) {
    prober.attempt("net-devices", |_| match fs::read_to_string("/proc/self/net/dev") {
        Ok(text) => {
            let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
            let names: Vec<&str> = names.map(str::trim).collect();
            Seen::expect(names == ["lo"], format!("devices: {}", names.join(" ")))
        }
        Err(error) => Seen::unclear(error.to_string()),
    });
    // Addresses for documentation (RFC 5737, RFC 3849): nobody has them.
    prober.attempt("net-connect-ipv4", |_| no_connection(Ipv4Addr::new(192, 0, 2, 1).into(), 443));
    prober.attempt("net-connect-ipv6", |_| {
        no_connection(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), 443)
    });
    prober.attempt("net-metadata", |_| no_connection(Ipv4Addr::new(169, 254, 169, 254).into(), 80));
}

/// What the kernel answers to one message of netlink.
fn ask(kind: u16, body: [u64; 2]) -> io::Result<i64> {
    let socket = call!(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)?;
    // `struct nlmsghdr`: length, kind, flags (request, acknowledge), sequence, port; then 16 bytes.
    let kind_and_flags = u64::from(kind) | (5 << 16);
    let header = [32 | kind_and_flags << 32, 1];
    call!(SYS_sendto, socket, &[header[0], header[1], body[0], body[1]], 32, 0, NULL, 0)?;
    let mut answer = [0u64; 16];
    call!(SYS_recvfrom, socket, &mut answer, 128, 0, NULL, NULL)?;
    match (answer[0] >> 32 & 0xffff, answer[2] as u32 as i32) {
        // NLMSG_ERROR: a header, then an errno.
        (2, 0) => Ok(0),
        (2, error) => Err(io::Error::from_raw_os_error(-error)),
        (kind, _) => Ok(kind as i64),
    }
}

fn configure(prober: &mut Prober<'_>) {
    // `struct ifinfomsg`: family, type, index, flags, change.
    prober.attempt("net-delete-link", |_| refused(ask(RTM_DELLINK, [(NO_DEVICE as u64) << 32, 0])));
    // `struct ifaddrmsg`: family, prefix, flags, scope, index.
    prober.attempt("net-add-address", |_| {
        refused(ask(RTM_NEWADDR, [AF_INET as u64 | 32 << 8 | (NO_DEVICE as u64) << 32, 0]))
    });
    // `struct rtmsg` of a family that there is not.
    prober.attempt("net-add-route", |_| refused(ask(RTM_NEWROUTE, [0xff, 0])));
    prober.attempt("net-device-flags", |_| {
        let mut request = [0u64; 5];
        request[0] = u64::from_ne_bytes(*b"cofprobe");
        match call!(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) {
            Ok(socket) => refused(call!(SYS_ioctl, socket, SIOCSIFFLAGS, &mut request)),
            Err(error) => refused(Err(error)),
        }
    });
    prober.attempt("net-sysctl", |_| super::files::closed(c"/proc/sys/net/ipv4/conf/all/forwarding"));
    prober.attempt("net-mark", |_| option(SOL_SOCKET, SO_MARK, &[]));
    prober.attempt("net-receive-buffer", |_| option(SOL_SOCKET, SO_RCVBUFFORCE, &[]));
    prober.attempt("net-transparent", |_| option(SOL_IP, IP_TRANSPARENT, &[]));
    // A machine that never used iptables has nothing there.
    prober.attempt("net-iptables", |_| option(SOL_IP, IPT_SO_SET_REPLACE, &[ENOPROTOOPT]));
}

const IPT_SO_SET_REPLACE: i32 = 64;

fn option(level: i32, name: i32, absent: &[i32]) -> Seen {
    let result = call!(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
        .and_then(|socket| call!(SYS_setsockopt, socket, level, name, &[1u64], 4));
    match result {
        Err(error) if error.raw_os_error().is_some_and(|number| absent.contains(&number)) => {
            Seen::unsupported(error.to_string())
        }
        result => refused(result),
    }
}

fn families(prober: &mut Prober<'_>) {
    prober.attempt("net-raw", |_| no_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    prober.attempt("net-raw-ipv6", |_| no_socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    prober.attempt("net-packet", |_| no_socket(AF_PACKET, SOCK_RAW, 0));
    prober.attempt("net-vsock", |_| no_socket(AF_VSOCK, SOCK_STREAM, 0));
    prober.attempt("net-netfilter", |_| no_socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
    prober.attempt("net-xfrm", |_| no_socket(AF_NETLINK, SOCK_RAW, NETLINK_XFRM));
    prober.attempt("net-audit", |_| no_socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
    prober.attempt("net-uevent", |_| no_socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT));
    prober.attempt("net-alg", |_| no_socket(AF_ALG, SOCK_SEQPACKET, 0));
    prober.attempt("net-rds", |_| no_socket(AF_RDS, SOCK_SEQPACKET, 0));
    prober.attempt("net-tipc", |_| no_socket(AF_TIPC, SOCK_SEQPACKET, 0));
    prober.attempt("net-key", |_| no_socket(AF_KEY, SOCK_RAW, 2));
    prober.attempt("net-bluetooth", |_| no_socket(AF_BLUETOOTH, SOCK_RAW, 1));
    prober.attempt("net-can", |_| no_socket(AF_CAN, SOCK_RAW, 1));
    prober.attempt("net-xdp", |_| no_socket(AF_XDP, SOCK_RAW, 0));
    prober.attempt("net-sctp", |_| no_socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP));
    prober.attempt("net-dccp", |_| no_socket(AF_INET, 6, IPPROTO_DCCP));
    prober.attempt("net-udplite", |_| no_socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE));
}

/// Connects to an abstract unix socket.
pub fn abstract_socket(name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
}

/// Sockets of managers that would do anything for whoever can speak to them.
const MANAGERS: [&str; 9] = [
    "/run/cofferdam/control.sock",
    "/run/cofferdam/node.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/snapd.socket",
];

fn sockets(prober: &mut Prober<'_>) {
    prober.attempt("net-abstract-socket", |outside: &Outside| {
        if outside.abstract_socket.is_empty() {
            return Seen::unclear("no socket listens outside");
        }
        let result = abstract_socket(&outside.abstract_socket).map(|()| 0);
        refused_or(&[ECONNREFUSED], result)
    });
    prober.attempt("root-manager-sockets", |_| {
        for path in MANAGERS {
            let Ok(stream) = std::os::unix::net::UnixStream::connect(path) else { continue };
            // Somebody inside may listen there; who has no number here is outside.
            let (mut peer, mut length) = ([0u64; 2], [12u64]);
            let asked = call!(
                SYS_getsockopt,
                std::os::fd::AsFd::as_fd(&stream),
                SOL_SOCKET,
                SO_PEERCRED,
                &mut peer,
                &mut length
            );
            if asked.is_ok() && peer[0] as u32 == 0 {
                return Seen::broken(format!("{path} is answered from outside"));
            }
        }
        Seen::held("none is answered from outside")
    });
}
