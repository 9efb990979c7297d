//! Which hosts a rule is for.

use super::name::name;
use super::table::Host;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which hosts a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// This name.
    Exact(String),
    /// All names below this one, at any depth, but not itself.
    Below(String),
    /// Literal addresses that begin with so many bits.
    Network(IpAddr, u8),
}

/// Why a text is no pattern: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoPattern(pub(super) String, pub(super) String);

fn no<T>(message: &str, remedy: impl Into<String>) -> Result<T, NoPattern> {
    Err(NoPattern(message.to_owned(), remedy.into()))
}

const WRITE: &str =
    "write a name such as `api.example.com`, `*.example.com` for all below it, or an address or network";

impl Pattern {
    /// Reads the host of a rule.
    pub(super) fn parse(text: &str) -> Result<Self, NoPattern> {
        if text == "*" {
            return no("is every host", "set egress.preset: `https` is every public host by TLS");
        }
        if let Some(base) = text.strip_prefix("*.") {
            return match name(base) {
                Some(base) => Ok(Self::Below(base)),
                None => no("has no name after its star", WRITE),
            };
        }
        if text.contains('*') {
            return no("has a star within it", "a star stands only at the beginning, as in `*.example.com`");
        }
        if let Some((address, bits)) = text.split_once('/')
            && let Ok(address) = address.parse::<IpAddr>()
        {
            return network(address, bits);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return network(address, if address.is_ipv4() { "32" } else { "128" });
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split(['/', ':', '?', '#']).next().and_then(name);
            let remedy = host.map_or(WRITE.to_owned(), |host| format!("write the host alone: `{host}`"));
            return no("is a URL", remedy);
        }
        if text.starts_with('[') {
            return no("has brackets", "write the address without brackets, and ports in `ports`");
        }
        if let Some((host, _)) = text.split_once(':')
            && name(host).is_some()
        {
            return no("has a port", "write the host alone, and ports in `ports`");
        }
        match name(text) {
            Some(name) => Ok(Self::Exact(name)),
            None => no("is neither a name nor an address", WRITE),
        }
    }

    /// Whether the host is one of them.
    pub(super) fn covers(&self, host: Host<'_>) -> bool {
        match (self, host) {
            (Self::Exact(own), Host::Name(name)) => own == name,
            (Self::Below(base), Host::Name(name)) => {
                name.strip_suffix(base.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Self::Network(network, bits), Host::Address(address)) => {
                masked(address.to_canonical(), *bits) == Some(*network)
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(base) => write!(f, "*.{base}"),
            Self::Network(address, bits) if *bits == width(*address) => write!(f, "{address}"),
            Self::Network(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first so many bits of the address; `None` when it does not have so many.
pub(super) fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let rest = width(address).checked_sub(bits)?;
    Some(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(u32::from(rest)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(u32::from(rest)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    })
}

fn network(address: IpAddr, bits: &str) -> Result<Pattern, NoPattern> {
    if address != address.to_canonical() {
        return no("is an address of IPv4 in disguise", "write it as an address of IPv4");
    }
    let plain = bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = bits.parse::<u8>().ok().filter(|bits| plain && *bits <= width(address));
    let Some(bits) = bits else {
        return no("has no length of a prefix after its slash", "write a network as in `192.0.2.0/24`");
    };
    match masked(address, bits) {
        Some(start) if start == address => Ok(Pattern::Network(address, bits)),
        start => {
            let start = start.unwrap_or(address);
            no(
                "has bits beyond its prefix",
                format!("write `{start}/{bits}` for that network, or `{address}`"),
            )
        }
    }
}
