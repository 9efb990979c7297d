//! Who resolves names for gates, as the machine's operator writes it.

use crate::policy::name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;
const HTTPS_PATH: &str = "/dns-query";
const LONGEST_PATH: usize = 255;

/// A resolver: `1.1.1.1:53` by DNS over TCP, `tls://1.1.1.1#one.one.one.one` by DNS over TLS (RFC 7858), or
/// `https://1.1.1.1/dns-query#one.one.one.one` by DNS over HTTPS (RFC 8484). An address of IPv6 stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resolver {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is asked.
    pub by: ResolvesBy,
}

/// How a resolver is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ResolvesBy {
    /// In the clear.
    Tcp,
    /// By TLS.
    Tls {
        /// For whom its certificate has to be: this name, or else its address.
        name: Option<String>,
    },
    /// By HTTP/2 inside of TLS.
    Https {
        /// As with TLS.
        name: Option<String>,
        /// What is asked for.
        path: String,
    },
}

/// Why a text names no resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an address and a port, such as 1.1.1.1:53, or tls://ADDRESS#NAME, or https://ADDRESS/PATH#NAME: the address is \
     connected to, and the certificate has to be for the name, or without one for the address"
)]
pub struct NoResolver;

impl Resolver {
    /// In the clear.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, by: ResolvesBy::Tcp }
    }
}

impl FromStr for Resolver {
    type Err = NoResolver;

    fn from_str(text: &str) -> Result<Self, NoResolver> {
        let resolver = if let Some(rest) = text.strip_prefix("tls://") {
            let (place, name) = named(rest)?;
            Self { address: address(place, TLS_PORT)?, by: ResolvesBy::Tls { name } }
        } else if let Some(rest) = text.strip_prefix("https://") {
            let (place, name) = named(rest)?;
            let (place, path) = match place.find('/') {
                Some(at) => place.split_at(at),
                None => (place, HTTPS_PATH),
            };
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
            if path.len() > LONGEST_PATH || !path.bytes().all(is_plain) {
                return Err(NoResolver);
            }
            let by = ResolvesBy::Https { name, path: path.to_owned() };
            Self { address: address(place, HTTPS_PORT)?, by }
        } else {
            Self::plain(text.parse().map_err(|_| NoResolver)?)
        };
        let there = resolver.address;
        match there.port() == 0 || there.ip().is_unspecified() {
            true => Err(NoResolver),
            false => Ok(resolver),
        }
    }
}

/// What stands before `#`, and the name behind it.
fn named(text: &str) -> Result<(&str, Option<String>), NoResolver> {
    match text.split_once('#') {
        Some((place, text)) => Ok((place, Some(name(text).ok_or(NoResolver)?))),
        None => Ok((text, None)),
    }
}

fn address(text: &str, port: u16) -> Result<SocketAddr, NoResolver> {
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = match alone {
        Some(alone) => alone.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    };
    match ip {
        Some(ip) => Ok(SocketAddr::new(ip, port)),
        None => text.parse().map_err(|_| NoResolver),
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, name) = match &self.by {
            ResolvesBy::Tcp => return self.address.fmt(f),
            ResolvesBy::Tls { name } => (format!("tls://{}", self.address), name),
            ResolvesBy::Https { name, path } => (format!("https://{}{path}", self.address), name),
        };
        match name {
            Some(name) => write!(f, "{address}#{name}"),
            None => f.write_str(&address),
        }
    }
}

impl TryFrom<String> for Resolver {
    type Error = NoResolver;

    fn try_from(text: String) -> Result<Self, NoResolver> {
        text.parse()
    }
}

impl From<Resolver> for String {
    fn from(resolver: Resolver) -> Self {
        resolver.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Resolver;

    #[test]
    fn resolvers_are_read_and_written() {
        let check = |text: &str, expected: Option<&str>| {
            let read = text.parse::<Resolver>().ok();
            assert_eq!(read.as_ref().map(Resolver::to_string).as_deref(), expected, "{text}");
            if let Some(read) = read {
                assert_eq!(read.to_string().parse(), Ok(read));
            }
        };
        for text in
            ["1.1.1.1:53", "[2606:4700::1111]:5353", "tls://1.1.1.1:853", "https://1.1.1.1:443/x#a.example"]
        {
            check(text, Some(text));
        }
        check("tls://1.1.1.1#One.One.One.One.", Some("tls://1.1.1.1:853#one.one.one.one"));
        check("tls://[2606:4700::1111]", Some("tls://[2606:4700::1111]:853"));
        check("tls://[2606:4700::1111]:8853#a.example", Some("tls://[2606:4700::1111]:8853#a.example"));
        check("https://9.9.9.9#dns.example", Some("https://9.9.9.9:443/dns-query#dns.example"));
        check("https://9.9.9.9/", Some("https://9.9.9.9:443/"));
        for bad in [
            "",
            "1.1.1.1",
            "1.1.1.1:0",
            "0.0.0.0:53",
            "[::]:53",
            "one.one.one.one:53",
            "tls://",
            "tls://one.one.one.one",
            "tls://1.1.1.1:0",
            "tls://1.1.1.1#",
            "tls://1.1.1.1#a b",
            "tls://1.1.1.1#a.example#b.example",
            "tls://1.1.1.1/x#a.example",
            "tls://2606:4700::1111",
            "https://dns.example/dns-query",
            "https://1.1.1.1/x?y",
            "https://1.1.1.1/a b",
            "https://1.1.1.1/\r\nhost: x",
            "http://1.1.1.1/dns-query",
            "TLS://1.1.1.1",
        ] {
            check(bad, None);
        }
    }
}
