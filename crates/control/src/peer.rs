//! Who is at the other end of a connection, and behind it: a client itself, or a proxy that the configuration names and that tells for
//! whom it speaks. Nobody else's word is taken for that.

use crate::app::App;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use model::Network;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The other end of a connection over a network. Absent for what came by the unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether the connection is TLS that ends here.
    pub(crate) tls: bool,
}

/// Whom a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Client {
    /// `None`: from this machine, by the unix socket.
    pub(crate) address: Option<IpAddr>,
    /// Whether it came by TLS, to us or to a proxy that is named.
    pub(crate) secure: bool,
}

/// Which header the proxies write. Only one is read: a proxy passes on what a client wrote into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// `X-Forwarded-For` with `X-Forwarded-Proto`, which most write.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Whose word is taken for whom they speak for, and where they write it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    pub(crate) networks: Vec<Network>,
    pub(crate) by: ForwardedBy,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// One proxy's word on who called it.
#[derive(Default)]
struct Hop<'a> {
    from: Option<&'a str>,
    proto: Option<&'a str>,
}

impl Proxies {
    fn trust(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Whom a request of this peer came from: the nearest address that is no named proxy's.
    pub(crate) fn client(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Client {
        let Some(peer) = peer else { return Client::default() };
        let mut address = peer.address.to_canonical();
        let mut secure = peer.tls;
        if !self.trust(address) {
            return Client { address: Some(address), secure };
        }
        let hops = match self.by {
            ForwardedBy::XForwardedFor => x_forwarded(headers),
            ForwardedBy::Forwarded => forwarded(headers),
        };
        // The last word is that of the proxy before us; the ones before are worth what the one behind is.
        for hop in hops.iter().rev() {
            secure |= hop.proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
            // Words that are no address end it: what stands before them came from nobody who is trusted.
            let Some(before) = hop.from.and_then(node) else { break };
            address = before;
            if !self.trust(address) {
                break;
            }
        }
        Client { address: Some(address), secure }
    }
}

fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    lines.flat_map(|line| line.split(',')).map(str::trim).collect()
}

fn x_forwarded(headers: &HeaderMap) -> Vec<Hop<'_>> {
    let mut hops: Vec<Hop<'_>> = elements(headers, &X_FORWARDED_FOR)
        .into_iter()
        .map(|from| Hop { from: Some(from), proto: None })
        .collect();
    if let Some(proto) = elements(headers, &X_FORWARDED_PROTO).last() {
        // Of the nearest proxy alone: the others' words are in no order that could be relied on.
        match hops.last_mut() {
            Some(last) => last.proto = Some(proto),
            None => hops.push(Hop { from: None, proto: Some(proto) }),
        }
    }
    hops
}

fn forwarded(headers: &HeaderMap) -> Vec<Hop<'_>> {
    elements(headers, &header::FORWARDED)
        .into_iter()
        .map(|element| {
            let mut hop = Hop::default();
            for (name, value) in element.split(';').filter_map(|pair| pair.trim().split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim() {
                    name if name.eq_ignore_ascii_case("for") => hop.from = Some(value),
                    name if name.eq_ignore_ascii_case("proto") => hop.proto = Some(value),
                    _ => {}
                }
            }
            hop
        })
        .collect()
}

/// An address, with or without a port: `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = Infallible;

    /// `api::shield` found it out.
    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(by: ForwardedBy, peer: &str, headers: &[(&'static str, &str)], expected: &str, secure: bool) {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let peer = Peer { address: peer.parse().unwrap(), tls: false };
        let client = Proxies { networks, by }.client(Some(&peer), &map);
        assert_eq!((client.address, client.secure), (Some(expected.parse().unwrap()), secure), "{headers:?}");
    }

    #[test]
    fn the_nearest_address_that_is_no_proxys_counts() {
        let xff = "x-forwarded-for";
        let by = ForwardedBy::XForwardedFor;
        check(by, "10.0.0.1", &[(xff, "198.51.100.7")], "198.51.100.7", false);
        check(by, "10.0.0.1", &[(xff, "1.1.1.1, 198.51.100.7, 10.9.9.9")], "198.51.100.7", false);
        check(by, "10.0.0.1", &[(xff, "1.1.1.1"), (xff, "198.51.100.7")], "198.51.100.7", false);
        check(by, "::ffff:10.0.0.1", &[(xff, "::ffff:198.51.100.7")], "198.51.100.7", false);
        check(by, "fd00::1", &[(xff, "[2001:db8::7]:4711")], "2001:db8::7", false);
        check(
            by,
            "10.0.0.1",
            &[(xff, "198.51.100.7:80"), ("x-forwarded-proto", "https")],
            "198.51.100.7",
            true,
        );
        check(by, "10.0.0.1", &[("x-forwarded-proto", "https")], "10.0.0.1", true);
        check(by, "10.0.0.1", &[(xff, "10.0.0.2, 10.0.0.3")], "10.0.0.2", false);
        let by = ForwardedBy::Forwarded;
        let last = "for=1.1.1.1, For=\"[2001:db8::7]:80\";proto=https;by=_x";
        check(by, "10.0.0.1", &[("forwarded", last)], "2001:db8::7", true);
        check(by, "10.0.0.1", &[("forwarded", "for=198.51.100.7;proto=http")], "198.51.100.7", false);
    }

    #[test]
    fn nobody_chooses_the_address_that_is_counted() {
        let xff = "x-forwarded-for";
        let by = ForwardedBy::XForwardedFor;
        // Not from a proxy that is named.
        check(by, "198.51.100.9", &[(xff, "1.1.1.1"), ("x-forwarded-proto", "https")], "198.51.100.9", false);
        check(by, "11.0.0.1", &[(xff, "10.0.0.1")], "11.0.0.1", false);
        // What the client wrote itself stands before what the proxy wrote.
        check(by, "10.0.0.1", &[(xff, "10.0.0.2, 198.51.100.7")], "198.51.100.7", false);
        for words in ["unknown", "", "1.1.1.1 x", "_hidden", "1.1.1.1, nonsense"] {
            check(by, "10.0.0.1", &[(xff, words)], "10.0.0.1", false);
        }
        check(by, "10.0.0.1", &[(xff, "1.1.1.1, unknown, 10.0.0.2")], "10.0.0.2", false);
        // A proxy that writes the one header passes on the other as it came.
        check(by, "10.0.0.1", &[("forwarded", "for=1.1.1.1;proto=https")], "10.0.0.1", false);
        let by = ForwardedBy::Forwarded;
        check(by, "10.0.0.1", &[(xff, "1.1.1.1"), ("x-forwarded-proto", "https")], "10.0.0.1", false);
        let quoted = "for=\"1.1.1.1, for=2.2.2.2\"";
        check(
            by,
            "10.0.0.1",
            &[("forwarded", quoted), ("forwarded", "for=198.51.100.7")],
            "198.51.100.7",
            false,
        );
    }

    #[test]
    fn the_unix_socket_has_no_address() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("1.1.1.1"));
        let networks = vec!["0.0.0.0/0".parse().unwrap()];
        assert_eq!(Proxies { networks, ..Proxies::default() }.client(None, &headers), Client::default());
    }
}
