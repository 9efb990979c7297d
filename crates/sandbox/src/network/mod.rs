//! The dry network: what an agent sends goes to its gate, or nowhere.
//!
//! An agent's network namespace has `lo` and no other device, so nothing leaves it whatever its rules are. Steering gives what is
//! sent a place to arrive at: routes deliver every address to `lo`, rules hand every TCP connection to a socket of node's,
//! and another socket takes the questions of DNS. These sockets are the doors, and whoever accepts from them is the gate.
//!
//! All of it is done from outside by netlink: a thread enters the namespace to make sockets there, and only the sockets stay.
//! What was set is read back and compared byte by byte. Nothing has to be taken away: it goes with the namespace.

mod netlink;
mod routes;
mod rules;
#[cfg(test)]
mod tests;

use crate::host::{namespace, sockets};
use netlink::Link;
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Where TCP arrives that was meant for elsewhere.
pub(crate) const DOOR: u16 = 15_001;
/// Where questions of DNS arrive, whomever they were meant for.
const DNS: u16 = 53;

/// Of routes, or of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// There are none.
    None,
    /// What we set, and nothing else.
    Ours,
    /// Something else, in words.
    Foreign(String),
}

/// A namespace could not be steered.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The kernel refused.
    #[error("cannot {what} in a network namespace{}", hint(.source))]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is not as it was set.
    #[error("its network namespace has {0}")]
    Foreign(String),
}

/// A kernel that lacks a part of it says no more than that there is no such thing.
fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::INVAL) => {
            "; it takes the kernel's modules nf_tables and nft_tproxy (modprobe nft_tproxy)"
        }
        _ => "",
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> SteerError {
    move |source| SteerError::Kernel { what, source }
}

/// The two sockets by which a namespace is spoken to.
struct Links {
    route: Link,
    /// A kernel without netfilter has none, and no rules.
    netfilter: Option<Link>,
}

impl Links {
    fn open(pid: u32) -> io::Result<Self> {
        namespace::inside_network(pid, Self::open_here)
    }

    fn open_here() -> io::Result<Self> {
        let netfilter = match Link::open(Some(NETFILTER)) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PROTONOSUPPORT) => None,
            other => Some(other?),
        };
        Ok(Self { route: Link::open(None)?, netfilter })
    }

    fn look(&self) -> io::Result<(Found, Found)> {
        let rules = self.netfilter.as_ref().map_or(Ok(Found::None), rules::look)?;
        Ok((routes::look(&self.route)?, rules))
    }

    fn steer(&self) -> Result<(), SteerError> {
        let netfilter = self.netfilter.as_ref().ok_or(Errno::PROTONOSUPPORT.into());
        let netfilter = netfilter.map_err(failed("set packet rules"))?;
        routes::set(&self.route).map_err(failed("set routes"))?;
        // Never in vain: the kernel takes ten milliseconds to undo what is refused.
        if rules::look(netfilter).map_err(failed("read packet rules"))? == Found::None {
            rules::set(netfilter).map_err(failed("set packet rules"))?;
        }
        match self.look().map_err(failed("read routes and packet rules back"))? {
            (Found::Ours, Found::Ours) => Ok(()),
            (Found::Foreign(what), _) | (_, Found::Foreign(what)) => Err(SteerError::Foreign(what)),
            _ => Err(SteerError::Foreign("lost what was just set".to_owned())),
        }
    }
}

/// Sets routes and rules in the network namespace of a process, unless they are there, and sees that there is nothing else.
/// Refused for the host's own namespace.
fn steer(pid: u32) -> Result<(), SteerError> {
    Links::open(pid).map_err(failed("open sockets"))?.steer()?;
    match old_tables(pid) {
        old if old.is_empty() => Ok(()),
        old => Err(SteerError::Foreign(format!("tables of iptables {old:?}"))),
    }
}

/// The same in a namespace that goes with the try.
pub(crate) fn try_out() -> Result<(), SteerError> {
    let tried = namespace::in_new_network(|| {
        let links = Links::open_here().map_err(failed("open sockets"))?;
        routes::raise(&links.route).map_err(failed("bring lo up"))?;
        links.steer()
    });
    tried.map_err(failed("begin")).flatten()
}

/// The same for a boundary that is being made. One that has no namespace of its own is left as it is: whoever looks at it
/// before it begins misses that.
pub(crate) fn own_doors(pid: u32) -> Result<Option<Doors>, SteerError> {
    match namespace::is_in_hosts_network(pid) {
        Ok(true) => Ok(None),
        _ => doors(pid).map(Some),
    }
}

/// The names of the tables of iptables, whose rules are another matter than those of nf_tables.
fn old_tables(pid: u32) -> Vec<String> {
    let of = |family| {
        // Without the module there is no such file.
        let names = fs::read_to_string(format!("/proc/{pid}/net/{family}_tables_names")).unwrap_or_default();
        names.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    ["ip", "ip6"].into_iter().flat_map(of).collect()
}

/// What the routes are, by the files that show them outside of the namespace.
pub(crate) fn routes(v4: &str, v6: &str) -> Found {
    routes::look_at_text(v4, v6)
}

/// What there is of routes and rules, in words, or what there is that is not ours.
pub(crate) fn inspect(pid: u32) -> Result<String, String> {
    let look = Links::open(pid).and_then(|links| links.look());
    let (routes, rules) = look.map_err(|error| format!("cannot read its packet rules: {error}"))?;
    let old = old_tables(pid);
    if !old.is_empty() {
        return Err(format!("it has tables of iptables {old:?}: nobody of ours made them"));
    }
    match (routes, rules) {
        (Found::Foreign(what), _) | (_, Found::Foreign(what)) => {
            Err(format!("its network namespace has {what}: nobody of ours made that"))
        }
        (Found::Ours, Found::Ours) => {
            Ok("packet rules: TCP to its gate, as they were set, and no others".to_owned())
        }
        (Found::None, Found::None) => Ok("no packet rules".to_owned()),
        (Found::Ours, Found::None) => Err("the packet rules that lead to its gate are gone".to_owned()),
        (Found::None, Found::Ours) => Err("the routes that lead to its gate are gone".to_owned()),
    }
}

/// Where all that leaves an agent arrives. The sockets belong to its namespace, which stays as long as anybody has them.
#[derive(Debug)]
pub struct Doors {
    /// What listens for all TCP: a connection's own address is the one that it was meant for.
    pub tcp: OwnedFd,
    /// What takes questions of DNS: each says which address it was sent to (`IPV6_PKTINFO`), and the answer says the same.
    pub udp: OwnedFd,
}

/// Doors of a namespace, and what leads there. The doors are shut.
pub(crate) fn doors(pid: u32) -> Result<Doors, SteerError> {
    steer(pid)?;
    Doors::make(pid).map_err(failed("make sockets"))
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 512;

impl Doors {
    /// In the network namespace of a process. Shut: connections are refused until [`Doors::open`].
    fn make(pid: u32) -> io::Result<Self> {
        let (tcp, udp) =
            namespace::inside_network(pid, || Ok((sockets::transparent_tcp()?, sockets::any_udp()?)))?;
        sockets::bind_any(udp.as_fd(), DNS)?;
        sockets::bind_any(tcp.as_fd(), DOOR)?;
        let doors = Self { tcp, udp };
        // What never listened could be joined at its port by anybody who says that ports are to be reused.
        doors.open()?;
        doors.shut()?;
        Ok(doors)
    }

    /// Lets connections in, to wait for whoever accepts.
    pub fn open(&self) -> io::Result<()> {
        sockets::reuse(self.tcp.as_fd(), true)?;
        Ok(rustix::net::listen(&self.tcp, BACKLOG)?)
    }

    /// Refuses connections at once, also those that wait. The port stays taken.
    pub fn shut(&self) -> io::Result<()> {
        // Twice would last: all that it accepts later would be at its end when it begins.
        if rustix::net::sockopt::socket_acceptconn(&self.tcp)? {
            rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Read)?;
        }
        sockets::reuse(self.tcp.as_fd(), false)
    }
}
