//! Around every request: its id, whom it came from, the checks that keep web pages out, and the headers that keep them from what
//! is answered. A page in the user's browser can reach loopback; it cannot choose `Host` (DNS rebinding would show), nor leave out
//! `Origin` where it matters. It cannot reach a unix socket at all: there clients without an address to name may also say
//! `localhost`. No header here lets another origin read anything (CORS).

use crate::app::App;
use crate::auth::cookie;
use crate::limits::Kind;
use crate::problems::{Fault, render};
use crate::server::Door;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::{Code, Problem};
use std::net::SocketAddr;
use std::sync::Arc;
use tracing::Instrument;

/// The values of `Host` that are answered: loopback's names and our own address with our own port, and those of
/// the configuration.
pub(crate) fn hosts(own: SocketAddr, configured: &[String]) -> Vec<String> {
    let port = own.port();
    let mut hosts: Vec<String> = configured.iter().map(|host| host.to_ascii_lowercase()).collect();
    for name in ["127.0.0.1", "localhost", "[::1]"] {
        hosts.push(format!("{name}:{port}"));
        if port == 80 {
            hosts.push(name.to_owned());
        }
    }
    if !own.ip().is_unspecified() {
        hosts.push(own.to_string());
    }
    hosts
}

fn refuse_foreign(app: &App, request: &Request) -> Result<(), Fault> {
    let headers = request.headers();
    let mut named = headers.get_all(header::HOST).iter();
    let host = match (named.next(), named.next(), request.uri().authority()) {
        (Some(host), None, None) => host.to_str().ok().map(str::to_ascii_lowercase),
        (None, None, Some(authority)) => Some(authority.as_str().to_ascii_lowercase()),
        (Some(host), None, Some(authority)) => {
            let authority = authority.as_str().to_ascii_lowercase();
            host.to_str().ok().filter(|host| host.eq_ignore_ascii_case(&authority)).map(|_| authority)
        }
        _ => None,
    };
    let local = request.extensions().get() == Some(&Door::Unix);
    let Some(host) = host.filter(|host| app.hosts.contains(host) || local && host == "localhost") else {
        let problem = Problem::new(Code::Misdirected, "this server does not answer for that host name");
        return Err(problem.remedy("add the name to `hosts` in control.toml if it is meant to").into());
    };
    let crossing = headers.get("sec-fetch-site").is_some_and(|site| {
        site != HeaderValue::from_static("none") && site != HeaderValue::from_static("same-origin")
    });
    // A page of our own has a session's cookie, and never a key.
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let foreign = match (origins.next(), origins.next()) {
        (None, _) => false,
        (Some(origin), None) => !cookie::is_own(origin, &host) || headers.contains_key(header::AUTHORIZATION),
        _ => true,
    };
    if foreign || crossing {
        let problem = Problem::new(Code::CrossOrigin, "web pages may not call this API");
        return Err(problem.remedy("call it from a program, without an Origin header").into());
    }
    Ok(())
}

/// What a browser is told to do with whatever control answers: nothing. A page that is one says what it needs itself.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A year. Other hosts of the domain are not ours to speak for.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

fn secure(headers: &mut HeaderMap, tls: bool) {
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
}

fn request_id() -> String {
    let random = getrandom::u64().unwrap_or_default();
    format!("req_{random:016x}")
}

/// The outermost layer.
pub(crate) async fn shield(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request_id();
    let client = app.proxies.client(request.extensions().get(), request.headers());
    request.extensions_mut().insert(client);
    let presented =
        [header::AUTHORIZATION, header::COOKIE].iter().any(|it| request.headers().contains_key(it));
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let response = match refuse_foreign(&app, &request) {
        Ok(()) => store::asked_from(client.address, &id, next.run(request).instrument(span)).await,
        Err(fault) => fault.into_response(),
    };
    let mut response = response;
    let failed = |problem: &Problem| problem.code == Code::Unauthenticated;
    if presented
        && response.extensions().get().is_some_and(failed)
        && let Err(fault) = app.limits.check(Kind::Failures, client.address, None).await
    {
        response = fault.into_response();
    }
    if let Some(problem) = response.extensions_mut().get_mut::<Problem>() {
        Fault::locate(problem, app.database.as_deref());
    }
    let mut response = render(response, &id);
    let headers = response.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_str(&id).expect("made of hexadecimal digits"));
    secure(headers, client.secure);
    response
}
