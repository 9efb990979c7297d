//! For whom a request of HTTP says that it is.

use hyper::header::{self, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri, Version};

/// Why a request cannot be passed on.
#[derive(Debug, PartialEq, Eq)]
pub enum HostError {
    /// It is for somebody else.
    Other(String),
    /// It does not say for whom it is, or not clearly.
    Malformed(&'static str),
}

/// Whether a request that came to `name` at `port` is for it: its Host header says so (RFC 9112, section 3.2), and so does its
/// target, where that has a name. Without a name there is nothing to compare: who decides goes by the address.
pub fn agrees<B>(request: &Request<B>, scheme: &str, name: Option<&str>, port: u16) -> Result<(), HostError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let uri = request.uri();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host),
        // Its target says so.
        (None, None) if request.version() == Version::HTTP_2 && uri.authority().is_some() => None,
        _ => return Err(HostError::Malformed("The request has no Host header, or more than one.")),
    };
    if uri.scheme_str().is_some_and(|own| own != scheme) {
        return Err(HostError::Malformed("The request's target has another scheme than the connection."));
    }
    let target_is_authority = uri.authority().is_some() && uri.scheme().is_none();
    if target_is_authority {
        return Err(HostError::Malformed("The request's target has no path."));
    }
    let Some(name) = name else { return Ok(()) };
    let unclear = HostError::Malformed("The request's Host header is not the name of a host.");
    let host = host.map(HeaderValue::to_str).transpose().map_err(|_| unclear)?;
    let said = host.into_iter().chain(uri.authority().map(|authority| authority.as_str()));
    for said in said {
        if !is(said, name, port) {
            return Err(HostError::Other(said.chars().take(255).collect()));
        }
    }
    Ok(())
}

/// Whether `host` or `host:port` is this one. Without a port it is taken as this one.
fn is(said: &str, name: &str, port: u16) -> bool {
    let said = said.trim_matches([' ', '\t']);
    let (host, right_port) = match said.rsplit_once(':') {
        Some((host, digits)) => {
            (host, digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse() == Ok(port))
        }
        None => (said, true),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    right_port && host.eq_ignore_ascii_case(name)
}

/// Takes the name out of the request's target, which servers are to ignore (and some do not).
pub fn only_path<B>(request: &mut Request<B>) {
    if request.uri().authority().is_none() {
        return;
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
}

/// Writes the name into the request's target, and nowhere else, as HTTP/2 has it.
pub fn name_authority<B>(request: &mut Request<B>, name: &str, port: u16) {
    let authority = if port == 443 { name.to_owned() } else { format!("{name}:{port}") };
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path);
    if let Ok(uri) = uri.build() {
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(header::HOST);
}

/// Whether the request asks for a WebSocket, and for nothing else.
pub fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    let one = upgrades.next();
    upgrades.next().is_none() && one.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Takes the wish for another protocol out of a request.
pub fn stay_with_http<B>(request: &mut Request<B>) {
    const SETTINGS: &str = "http2-settings";
    let headers = request.headers_mut();
    headers.remove(header::UPGRADE);
    headers.remove(SETTINGS);
    let kept = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let kept = kept.flat_map(|value| value.split(',')).map(str::trim);
    let gone = |option: &str| {
        option.is_empty() || option.eq_ignore_ascii_case("upgrade") || option.eq_ignore_ascii_case(SETTINGS)
    };
    let kept = kept.filter(|option| !gone(option)).collect::<Vec<_>>().join(", ");
    headers.remove(header::CONNECTION);
    if !kept.is_empty()
        && let Ok(kept) = HeaderValue::from_str(&kept)
    {
        headers.insert(header::CONNECTION, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::{HostError, agrees, asks_for_websocket, only_path, stay_with_http};
    use hyper::{Request, Version};

    fn request(target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_request_is_for_whom_its_address_stands_for() {
        let check = |target: &str, hosts: &[&str], expected: bool| {
            let agreed = agrees(&request(target, hosts), "http", Some("api.example.com"), 8080);
            assert_eq!(agreed.is_ok(), expected, "{target} {hosts:?}: {agreed:?}");
        };
        for host in ["api.example.com", "API.example.com:8080", "api.example.com.", "api.example.com.:8080"] {
            check("/", &[host], true);
            check("http://api.example.com/x", &[host], true);
            check("http://api.example.com:8080/x", &[host], true);
            check("*", &[host], true);
            check("http://example.com/x", &[host], false);
            check("http://u@api.example.com/x", &[host], false);
            check("https://api.example.com/x", &[host], false);
            check("api.example.com:8080", &[host], false);
            check("/", &[host, host], false);
        }
        for host in [
            "",
            "example.com",
            "xapi.example.com",
            "api.example.com:80",
            "api.example.com:",
            "api.example.com:+8080",
            "api.example.com:x",
            "api.example.com..",
            "a@api.example.com",
            "api.example.com, example.com",
            "api.example.com example.com",
            "api.example.com/",
            "api.example.com:8080:8080",
            "[::1]:8080",
        ] {
            check("/", &[host], false);
            assert_eq!(agrees(&request("/", &[host]), "http", None, 8080), Ok(()));
        }
        check("/", &[], false);
        assert!(matches!(agrees(&request("/", &[]), "http", None, 80), Err(HostError::Malformed(_))));
        let two = |target: &str, hosts: &[&str]| {
            let mut request = request(target, hosts);
            *request.version_mut() = Version::HTTP_2;
            agrees(&request, "https", Some("api.example.com"), 8080).is_ok()
        };
        assert!(two("https://api.example.com:8080/", &[]));
        assert!(two("https://api.example.com/", &["api.example.com"]));
        assert!(!two("https://example.com/", &[]) && !two("https://api.example.com/", &["example.com"]));
        assert!(!two("http://api.example.com/", &[]) && !two("/", &[]));
        assert!(matches!(agrees(&request("/", &["é"]), "http", Some("x"), 80), Err(HostError::Malformed(_))));
    }

    #[test]
    fn only_the_path_goes_on() {
        for (target, expected) in
            [("http://x/a?b", "/a?b"), ("http://x", "/"), ("http://x?b", "/?b"), ("/a?b", "/a?b"), ("*", "*")]
        {
            let mut request = request(target, &[]);
            only_path(&mut request);
            assert_eq!(request.uri().to_string(), expected);
        }
    }

    #[test]
    fn other_protocols_than_websockets_are_not_agreed_on() {
        let with = |upgrades: &[&str]| {
            let mut request = Request::builder();
            for upgrade in upgrades {
                request = request.header("upgrade", *upgrade);
            }
            request.body(()).unwrap()
        };
        assert!(asks_for_websocket(&with(&["WebSocket"])));
        for other in [&["h2c"][..], &["websocket, h2c"], &["websocket", "h2c"], &[]] {
            assert!(!asks_for_websocket(&with(other)));
        }
        let mut request = Request::builder()
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("connection", "keep-alive, x")
            .header("upgrade", "h2c")
            .header("http2-settings", "AA")
            .body(())
            .unwrap();
        stay_with_http(&mut request);
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.headers()["connection"], "keep-alive, x");
    }
}
