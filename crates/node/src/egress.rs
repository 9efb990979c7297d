//! Whom node connects to for a gate. It does so from the machine's own network, so this is what keeps a gate that was taken
//! over from the machine's neighbours.

use model::Network;
use model::address::refused;
use std::net::IpAddr;

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
