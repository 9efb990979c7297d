//! Networks, as owners of machines name them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with the same beginning, in CIDR notation: `10.1.0.0/16`. An address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
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
        let network = Self::around(first, bits);
        if network.first != first {
            return Err(format!("{text:?} must be written {network}, as the network begins"));
        }
        Ok(network)
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl Network {
    /// The network of so many bits that an address is in.
    pub fn around(address: IpAddr, bits: u32) -> Self {
        let first = match address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        };
        Self { first, bits }
    }

    /// Whether the address is one of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && Self::around(address, self.bits) == *self
    }

    /// Whether all of it is the machine itself.
    pub fn is_loopback(&self) -> bool {
        let whole = match self.first {
            IpAddr::V4(_) => 8,
            IpAddr::V6(_) => 128,
        };
        self.first.is_loopback() && self.bits >= whole
    }
}
