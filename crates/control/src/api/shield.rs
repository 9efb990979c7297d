//! Around every request: its id, and the checks that keep web pages out. A page in the user's browser can reach
//! loopback; it cannot choose `Host` (DNS rebinding would show), nor leave out `Origin` where it matters. It cannot
//! reach a unix socket at all: there clients without an address to name may also say `localhost`.

use crate::app::App;
use crate::auth::cookie;
use crate::problems::{Fault, render};
use crate::server::Door;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
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

fn request_id() -> String {
    let random = getrandom::u64().unwrap_or_default();
    format!("req_{random:016x}")
}

/// The outermost layer.
pub(crate) async fn shield(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = request_id();
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let response = match refuse_foreign(&app, &request) {
        Ok(()) => next.run(request).instrument(span).await,
        Err(fault) => fault.into_response(),
    };
    let mut response = response;
    if let Some(problem) = response.extensions_mut().get_mut::<Problem>() {
        Fault::locate(problem, &app.database);
    }
    let mut response = render(response, &id);
    let headers = response.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_str(&id).expect("made of hexadecimal digits"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
