//! The cookie that tells a session, and the `Origin` that has to come with it.
//!
//! `__Host-` makes a browser take it from this host alone, over TLS (or loopback), for every path (RFC 6265bis, 4.1.3.2): no other host of the
//! same site can lay one of its own into it.

use crate::problems::Fault;
use axum::http::{HeaderMap, HeaderValue, header};
use model::{Code, Problem};
use time::Duration;

/// Its name.
pub(crate) const NAME: &str = "__Host-cofferdam";
/// How long a session lasts.
pub(crate) const LIFE: Duration = Duration::days(7);
const MAX_TOKEN: usize = 128;

/// The token that a request shows. Two are none: a browser sends one of ours.
pub(crate) fn session(headers: &HeaderMap) -> Option<Result<&str, Fault>> {
    let pairs =
        headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let mut tokens = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(NAME.as_bytes())?.strip_prefix(b"=")
    });
    let (token, another) = (tokens.next()?, tokens.next());
    let token = std::str::from_utf8(token).ok().filter(|token| token.len() <= MAX_TOKEN && another.is_none());
    let wrong = || Problem::new(Code::Unauthenticated, "the cookie is none of ours").into();
    Some(token.ok_or_else(wrong))
}

/// Sets the cookie.
pub(crate) fn begin(token: &str) -> HeaderValue {
    let seconds = LIFE.whole_seconds();
    let text = format!("{NAME}={token}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
    let mut value = HeaderValue::from_str(&text).expect("a token is base64url");
    value.set_sensitive(true);
    value
}

/// Takes it back.
pub(crate) fn end() -> HeaderValue {
    HeaderValue::from_static("__Host-cofferdam=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax")
}

/// Whether a page that says `origin` is this server's own, where the request is addressed to `host`. Without TLS loopback alone is.
pub(crate) fn is_own(origin: &HeaderValue, host: &str) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    let loopback = matches!(name, "127.0.0.1" | "localhost" | "[::1]");
    match origin.split_once("://") {
        Some(("https", named)) => named == host,
        Some(("http", named)) => loopback && named == host,
        _ => false,
    }
}

/// Asks for the `Origin` that `api::shield` has compared.
pub(crate) fn own_origin(headers: &HeaderMap) -> Result<(), Fault> {
    if headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let problem =
        Problem::new(Code::CrossOrigin, "a change in a session needs the Origin of this server's own pages");
    Err(problem.remedy("send `Origin`, or use an API key").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        let check = |origin: &str, host: &str, expected| {
            assert_eq!(is_own(&HeaderValue::from_str(origin).unwrap(), host), expected, "{origin} {host}");
        };
        check("https://a.example", "a.example", true);
        check("https://a.example:8443", "a.example:8443", true);
        check("http://127.0.0.1:7700", "127.0.0.1:7700", true);
        check("http://[::1]:7700", "[::1]:7700", true);
        check("http://localhost", "localhost", true);
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("https://a.example", "a.example:8443"),
            ("https://a.example.evil.example", "a.example"),
            ("https://evil.example/https://a.example", "a.example"),
            ("http://127.0.0.1:7701", "127.0.0.1:7700"),
            ("http://localhost:7700", "127.0.0.1:7700"),
            ("null", "a.example"),
            ("", ""),
            ("a.example", "a.example"),
        ] {
            check(origin, host, false);
        }
    }

    #[test]
    fn one_cookie_is_read() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(header::COOKIE, HeaderValue::from_str(value).unwrap());
            });
            session(&headers).map(|token| token.ok().map(str::to_owned))
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["a=b; cofferdam=x; x__Host-cofferdam=y"]), None);
        assert_eq!(read(&["a=b;__Host-cofferdam=cofs_x; c=d"]), Some(Some("cofs_x".to_owned())));
        assert_eq!(read(&["__Host-cofferdam=a; __Host-cofferdam=b"]), Some(None));
        assert_eq!(read(&["__Host-cofferdam=a", "__Host-cofferdam=b"]), Some(None));
        assert_eq!(read(&[&format!("__Host-cofferdam={}", "a".repeat(200))]), Some(None));
    }
}
