//! Whom node connects to for a gate. It does so from the machine's own network, so this is what keeps a gate that was taken
//! over from the machine's neighbours.

use model::address::refused;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with the same beginning, in CIDR notation: `10.1.0.0/16`. An address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    first: IpAddr,
    bits: u32,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| format!("{text:?} is no address or network"))?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = match length {
            None => most,
            // No sign, no leading zero: what looks odd is a slip.
            Some(length) => match length.parse::<u32>() {
                Ok(bits) if bits <= most && length == bits.to_string() => bits,
                _ => return Err(format!("{text:?} must have a length of 0 to {most} behind the '/'")),
            },
        };
        let network = Self { first, bits };
        let begins = network.begins();
        if begins != first {
            return Err(format!("{text:?} must be written {begins}/{bits}, as the network begins"));
        }
        Ok(network)
    }
}

impl Network {
    fn begins(&self) -> IpAddr {
        match self.first {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && Self { first: address, bits: self.bits }.begins() == self.first
    }

    /// Whether all of it is the machine itself.
    fn is_loopback(&self) -> bool {
        let whole = match self.first {
            IpAddr::V4(_) => 8,
            IpAddr::V6(_) => 128,
        };
        self.first.is_loopback() && self.bits >= whole
    }
}

/// Whether an address may be connected to: a public one, or one of a network that is open. The machine itself is never meant
/// by a network that is wider.
pub(crate) fn is_allowed(address: IpAddr, open: &[Network]) -> bool {
    let disguised = matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    // The kernel takes "no address" for the machine itself.
    if disguised || address.is_unspecified() {
        return false;
    }
    let opened = |network: &&Network| network.contains(address);
    match address.is_loopback() {
        true => open.iter().filter(opened).any(Network::is_loopback),
        false => refused(address).is_none() || is_opened(address, open),
    }
}

/// Whether the owner of the machine named it.
pub(crate) fn is_opened(address: IpAddr, open: &[Network]) -> bool {
    open.iter().any(|network| network.contains(address))
}
