//! The routes of the dry network (rtnetlink(7)): whatever is sent to anywhere is delivered to the agent's own loopback.
//!
//! In table `main`, not `local`: there IPv6 would take the agent's own addresses for others.

use super::Found;
use super::netlink::{Attributes, Dump, Link, Order, attributes, message, same};
use rustix::io::Errno;
use std::io;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `lo` is the first device of every namespace.
const LOOPBACK: u32 = 1;

const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_RULE: u16 = 32;
const GET_RULE: u16 = 34;

const RT_TABLE_DEFAULT: u8 = 253;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_PREF: u16 = 20;

const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;

/// `struct rtmsg`, and `struct fib_rule_hdr` as well.
const FIXED: usize = 12;

/// What `ip -6 route` gives a route that names none.
const METRIC_V6: u32 = 1024;

/// A route of ours: its family, the header, its attributes.
struct Route {
    family: u8,
    fixed: [u8; FIXED],
    attributes: Attributes,
}

impl Route {
    /// `local default dev lo src 127.0.0.1`, or `::1`.
    fn of(family: u8) -> Self {
        let (scope, source): (u8, Vec<u8>) = match family {
            AF_INET => (RT_SCOPE_HOST, vec![127, 0, 0, 1]),
            _ => (RT_SCOPE_UNIVERSE, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
        };
        // Lengths of destination and source, type of service, table, protocol, scope, type; then flags.
        let fixed = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_LOCAL, 0, 0, 0, 0];
        let mut attributes =
            Attributes::default().put(RTA_PREFSRC, &source).put(RTA_OIF, &LOOPBACK.to_ne_bytes());
        if family == AF_INET6 {
            attributes = attributes.put(RTA_PRIORITY, &METRIC_V6.to_ne_bytes());
        }
        Self { family, fixed, attributes }
    }

    fn message(&self) -> Vec<u8> {
        message(NEW_ROUTE, Order::Make, &self.fixed, &self.attributes)
    }

    fn is(&self, fixed: &[u8], rest: &[u8]) -> io::Result<bool> {
        let added = |kind, value: &[u8]| match kind {
            RTA_TABLE => value == u32::from(RT_TABLE_MAIN).to_ne_bytes(),
            RTA_CACHEINFO => true,
            RTA_PREF => value == [0],
            _ => false,
        };
        Ok(fixed == self.fixed && same(&self.attributes, rest, added)?)
    }
}

/// Brings `lo` up: for a try, for agents have theirs up from the start.
pub(super) fn raise(link: &Link) -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const UP: u32 = 1;
    // `struct ifinfomsg`: family, type, index; flags and which of them to change.
    let fixed = [0, LOOPBACK, UP, UP].map(u32::to_ne_bytes).concat();
    link.order(&message(NEW_LINK, Order::Change, &fixed, &Attributes::default()))
}

/// Makes both routes. One that is there is fine; what else is in the way shows when they are compared.
pub(super) fn set(link: &Link) -> io::Result<()> {
    for family in [AF_INET, AF_INET6] {
        match link.order(&Route::of(family).message()) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {}
            // It is not there, or switched off: then nothing can be sent by it either.
            Err(error) if family == AF_INET6 && is_without_v6(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// What kernels answer that have no IPv6 (`ipv6.disable=1`, or no such code), or none on this device.
fn is_without_v6(error: &io::Error) -> bool {
    let errors = [Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::ACCESS, Errno::NODEV];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// Compares all routes, and the rules that choose between tables of them.
pub(super) fn look(link: &Link) -> io::Result<Found> {
    let (v4, v6) = (family(link, AF_INET)?, family(link, AF_INET6)?);
    let found = match (v4, v6) {
        (foreign @ Found::Foreign(_), _) | (_, foreign @ Found::Foreign(_)) => foreign,
        (Found::Ours, Found::Ours) => Found::Ours,
        (Found::Ours, Found::None) if !has_v6(link)? => Found::Ours,
        (Found::None, Found::None) => Found::None,
        _ => Found::Foreign("the route of one family is not there".to_owned()),
    };
    Ok(match choices(link)? {
        Some(foreign) => Found::Foreign(foreign),
        None => found,
    })
}

fn family(link: &Link, family: u8) -> io::Result<Found> {
    let (ours, mut found) = (Route::of(family), 0);
    for (kind, body) in dump(link, GET_ROUTE, family)? {
        let (fixed, rest) = body.split_at_checked(FIXED).ok_or(io::ErrorKind::InvalidData)?;
        if kind != NEW_ROUTE || fixed[0] != ours.family || is_kernels(fixed, rest)? {
            continue;
        }
        if !ours.is(fixed, rest)? {
            return Ok(Found::Foreign(format!("a route that is not ours ({})", shown(&body))));
        }
        found += 1;
    }
    Ok(match found {
        0 => Found::None,
        1 => Found::Ours,
        more => Found::Foreign(format!("{more} times the same route")),
    })
}

/// What the kernel makes for the addresses of `lo` when that comes up.
fn is_kernels(fixed: &[u8], rest: &[u8]) -> io::Result<bool> {
    let (mut loopback, mut device) = (false, false);
    for attribute in attributes(rest)? {
        match (attribute.kind, attribute.value) {
            (RTA_DST, [127, _, _, _]) => loopback = true,
            (RTA_DST, value) => loopback = value == std::net::Ipv6Addr::LOCALHOST.octets(),
            (RTA_OIF, value) => device = value == LOOPBACK.to_ne_bytes(),
            _ => {}
        }
    }
    Ok(loopback && device && fixed[4] == RT_TABLE_LOCAL && fixed[5] == RTPROT_KERNEL)
}

/// Whether `lo` has an address of IPv6, which comes with a route.
fn has_v6(link: &Link) -> io::Result<bool> {
    Ok(!dump(link, GET_ROUTE, AF_INET6)?.is_empty())
}

/// A rule beside the three that every namespace begins with, by which another table would count.
fn choices(link: &Link) -> io::Result<Option<String>> {
    for family in [AF_INET, AF_INET6] {
        for (kind, body) in dump(link, GET_RULE, family)? {
            let (fixed, rest) = body.split_at_checked(FIXED).ok_or(io::ErrorKind::InvalidData)?;
            if kind != NEW_RULE || fixed[0] != family {
                continue;
            }
            let (mut table, mut priority) = (0, 0);
            for attribute in attributes(rest)? {
                let number = attribute.value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
                match attribute.kind {
                    FRA_TABLE => table = number.unwrap_or_default(),
                    FRA_PRIORITY => priority = number.unwrap_or_default(),
                    _ => {}
                }
            }
            let known = [(RT_TABLE_LOCAL, 0), (RT_TABLE_MAIN, 32_766), (RT_TABLE_DEFAULT, 32_767)];
            if !known.iter().any(|(of, at)| u32::from(*of) == table && *at == priority) {
                return Ok(Some(format!("a rule for routes that is not the kernel's ({})", shown(&body))));
            }
        }
    }
    Ok(None)
}

fn dump(link: &Link, kind: u16, family: u8) -> io::Result<Dump> {
    let mut fixed = [0; FIXED];
    fixed[0] = family;
    match link.dump(kind, &fixed) {
        // No such family, or tables that nobody can choose between.
        Err(error) if is_without_v6(&error) => Ok(Vec::new()),
        other => other,
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.iter().take(48).map(|byte| format!("{byte:02x}")).collect()
}

/// What `/proc/PID/net/route` and `ipv6_route` say of the same, for whoever looks without entering.
pub(super) fn look_at_text(v4: &str, v6: &str) -> Found {
    let mut found = [0, 0];
    // A heading; then device, destination, gateway, flags, references, use, metric, mask and more.
    for line in v4.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            ["lo", "00000000", "00000000", "0001", _, _, "0", "00000000", ..] => found[0] += 1,
            _ => return Found::Foreign(format!("a route that is not ours ({})", fields.join(" "))),
        }
    }
    const ANY: &str = "00000000000000000000000000000000";
    const ONE: &str = "00000000000000000000000000000001";
    // Destination, source and next hop with their lengths, metric, references, use, flags, device.
    for line in v6.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [ANY, "00", ANY, "00", ANY, "00000400", _, _, "80000001", "lo"] => found[1] += 1,
            // That of the address; and where everything ends for which there is no route.
            [ONE, "80", ANY, "00", ANY, _, _, _, _, "lo"]
            | [ANY, "00", ANY, "00", ANY, "ffffffff", _, _, _, "lo"] => {}
            _ => return Found::Foreign(format!("a route that is not ours ({})", fields.join(" "))),
        }
    }
    let has_v6 = v6.lines().any(|line| line.starts_with(ONE));
    match found {
        [0, 0] => Found::None,
        [1, 1] => Found::Ours,
        [1, 0] if !has_v6 => Found::Ours,
        _ => Found::Foreign(format!("{} routes of IPv4 and {} of IPv6", found[0], found[1])),
    }
}
