//! Which addresses may be connected to on behalf of somebody who is not trusted: those of the public internet. What is
//! inside of a network, on the machine itself, or a cloud's metadata service is refused, however it is spelled.
//!
//! To be asked after a name was resolved, of the very address that is then connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From the IANA registries of special-purpose addresses, and one that only clouds give a meaning.
const REFUSED_V4: [([u8; 4], u32, &str); 17] = [
    ([0, 0, 0, 0], 8, "of this network only"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "of a carrier's own network"),
    ([127, 0, 0, 0], 8, "of this machine"),
    ([168, 63, 129, 16], 32, "of a cloud's metadata service"),
    ([169, 254, 0, 0], 16, "link-local, as metadata services are"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved for protocols"),
    ([192, 0, 2, 0], 24, "for documentation"),
    ([192, 31, 196, 0], 24, "reserved for protocols"),
    ([192, 88, 99, 0], 24, "of a relay for IPv6"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "for benchmarks of networks"),
    ([198, 51, 100, 0], 24, "for documentation"),
    ([203, 0, 113, 0], 24, "for documentation"),
    ([224, 0, 0, 0], 4, "for many at once"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// Within 2000::/3, which alone is public.
const REFUSED_V6: [([u16; 3], u32, &str); 4] = [
    ([0x2001, 0, 0], 23, "reserved for protocols"),
    ([0x2001, 0xdb8, 0], 32, "for documentation"),
    ([0x3fff, 0, 0], 20, "for documentation"),
    ([0x2620, 0x4f, 0x8000], 48, "reserved for protocols"),
];

/// Why an address is refused, as in "the address is …"; `None` for a public one.
pub fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refused_v4(address),
        IpAddr::V6(address) => refused_v6(address),
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    let within = |network: [u8; 4], bits: u32| {
        let mask = u32::MAX << (32 - bits);
        address.to_bits() & mask == u32::from_be_bytes(network)
    };
    REFUSED_V4.iter().find(|(network, bits, _)| within(*network, *bits)).map(|(_, _, why)| *why)
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded =
        |high: u16, low: u16| refused_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match [a, b, c, d, e, f] {
        // Addresses of IPv4 in disguise: translated ones (RFC 6052) lead where they would lead undisguised.
        [0x64, 0xff9b, 0, 0, 0, 0] => return embedded(g, h),
        [0, 0, 0, 0, 0, 0xffff] => return Some("an address of IPv4 in disguise"),
        // 6to4 (RFC 3056).
        [0x2002, ..] => return embedded(b, c),
        _ => {}
    }
    if a & 0xe000 != 0x2000 {
        return Some(match a {
            _ if address == Ipv6Addr::LOCALHOST => "of this machine",
            0xfe80..=0xfebf => "link-local",
            0xfc00..=0xfdff => "private",
            0xff00..=0xffff => "for many at once",
            _ => "not public",
        });
    }
    let within = |network: [u16; 3], bits: u32| {
        let high = |[x, y, z]: [u16; 3]| u64::from(x) << 32 | u64::from(y) << 16 | u64::from(z);
        let mask = u64::MAX << (48 - bits);
        high([a, b, c]) & mask == high(network)
    };
    REFUSED_V6.iter().find(|(network, bits, _)| within(*network, *bits)).map(|(_, _, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn only_the_public_internet_is_let_through() {
        let check = |text: &str, expected: bool| {
            let address = text.parse().unwrap();
            assert_eq!(refused(address).is_some(), expected, "{text}: {:?}", refused(address));
        };
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.0.1",
            "193.0.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "2002:101:101::1",
            "64:ff9b::101:101",
            "2001:200::1",
            "2001:4860:4860::8888",
        ] {
            check(public, false);
        }
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.0.9",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::1.1.1.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ] {
            check(refused, true);
        }
    }
}
