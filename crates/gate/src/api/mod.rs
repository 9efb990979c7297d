//! The workspace API at the guard: routes, and what holds for all of them.
//!
//! Shapes beyond `model::workspace`:
//!
//! - Lists (`GET execs`, `GET processes`, `files?view=list`) are plain JSON arrays. They are sent while they come
//!   from the agent; when that fails half way the connection is cut.
//! - `POST execs` answers 201 with the `Exec`; with `wait=TIME` (at most 60s) once it ended, with an `ExecOutput`: up
//!   to a mebibyte of output, at which it is killed. When the time is over it goes on, and has no exit yet. Changes
//!   that have nothing to show answer 204.
//! - `execs/attach` (no id): the client's first text message is a `CreateExec`; the first text message back is the
//!   `Exec`, or a `Problem`, after which the socket is closed.
//! - `execs/X/attach`: `Cofferdam-Exec-Offset: OUT,ERR` in the answer says where in stdout and stderr the bytes
//!   that follow begin.
//! - A WebSocket that ends for another reason than its own carries the `Problem` as its last text message, and
//!   closes with code 4000 + the problem's status (4503: the agent went away).
//! - A token is looked at when a call begins. A stream or relay outlives its token's `exp`, but never a raised
//!   epoch: revoking cuts it.
//! - Programs that cannot be run: `NOT_FOUND` with field `argv` (a shell's 127), `FORBIDDEN` with field `argv`
//!   (a shell's 126).

mod attach;
mod convert;
mod execs;
mod files;
mod input;
mod list;
mod logs;
mod ports;
mod processes;
mod session;
mod stats;
mod stream;
mod tar;
mod upload;
mod websocket;

use crate::problems::Refusal;
use crate::state::Shared;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use model::token::Scope;
use model::{Code, ExecId, Problem};
use session::{Need, guarded};
use std::sync::Arc;
use std::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All routes, for a guard that listens on `port` of the loopback addresses.
pub(crate) fn router(shared: Arc<Shared>, port: u16) -> Router {
    let running = |scope, routes| guarded(&shared, scope, Need::Running, routes);
    let execs = Router::new()
        .route("/execs", get(execs::list).post(execs::create))
        .route("/execs/attach", get(attach::create))
        .route("/execs/{exec}", get(execs::get).delete(execs::forget))
        .route("/execs/{exec}/signal", post(execs::signal))
        .route("/execs/{exec}/attach", get(attach::attach))
        .route("/processes", get(processes::list));
    let files = Router::new()
        .route("/files", get(files::get).put(files::put).post(files::change).delete(files::remove))
        .route("/tar", get(tar::get).put(tar::put));
    let logs = Router::new().route("/logs", get(logs::get));
    let ports = Router::new().route("/ports/{port}", get(ports::relay));
    let stats = Router::new().route("/stats", get(stats::get));
    let agent = running(Scope::Exec, execs)
        .merge(running(Scope::Files, files))
        .merge(running(Scope::Ports, ports))
        // Node has them, of an agent that does not run.
        .merge(guarded(&shared, Scope::Logs, Need::Nothing, logs))
        // Node answers these, also for an agent that is frozen.
        .merge(guarded(&shared, Scope::Exec, Need::Nothing, stats));
    Router::new()
        .route("/v1/healthz", get(async || "ok\n"))
        .nest("/v1/agents/{agent}", agent)
        .fallback(async || refuse(Code::NotFound, "There is no such resource."))
        .method_not_allowed_fallback(async || {
            refuse(Code::MethodNotAllowed, "The resource has no such method.")
        })
        .layer(middleware::from_fn_with_state(port, envelope))
}

fn refuse(code: Code, detail: &str) -> Refusal {
    Problem::new(code, detail).into()
}

/// What is the same for all answers: who may ask at all, the request id, the shape of errors.
async fn envelope(State(port): State<u16>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    // An exec's id is as good as any: unique, and sorted by time.
    let id = format!("req_{}", ExecId::new().base32());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = match check_origin(request.uri(), request.headers(), port) {
        Ok(()) => next.run(request).await,
        Err(problem) => Refusal::from(problem).into_response(),
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        response = with_request_id(response, &id);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    // What agents wrote is never to be interpreted or kept by anything on the way.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The template of the path, never the path or the query: those name the agent's files.
    let (status, took) = (response.status().as_u16(), began.elapsed());
    tracing::info!(%id, %method, route = route.as_deref().unwrap_or("-"), status, ?took, "answered");
    response
}

fn with_request_id(response: Response, id: &str) -> Response {
    let problem = response.extensions().get::<Arc<Problem>>().map(|problem| Problem::clone(problem));
    let mut problem = problem.unwrap_or_else(|| {
        // An extractor of the framework said no; its words are not ours.
        match response.status().as_u16() {
            405 => Problem::new(Code::MethodNotAllowed, "The resource has no such method."),
            426 | 400 => Problem::new(Code::Validation, "This resource is a WebSocket.")
                .remedy("Ask for an upgrade with the subprotocol cofferdam.v1."),
            _ => Problem::new(Code::Internal, "The request could not be answered."),
        }
    });
    problem.request_id = Some(id.to_owned());
    Refusal::from(problem).into_response()
}

/// Only programs that mean this server get in: a web page cannot leave out its Origin, and a name that an
/// attacker made point here (DNS rebinding) is not ours.
fn check_origin(uri: &Uri, headers: &HeaderMap, port: u16) -> Result<(), Problem> {
    let ours = |host: &str| {
        let name = host.strip_suffix(&format!(":{port}"));
        name.is_some_and(|name| {
            matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
        })
    };
    let mut hosts = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let one = matches!((hosts.next(), hosts.next()), (Some(host), None) if ours(host));
    // The absolute form names a host too (RFC 9112, 3.2.2).
    if !one || uri.authority().is_some_and(|authority| !ours(authority.as_str())) {
        return Err(Problem::new(Code::Misdirected, "This server does not answer for that host name.")
            .remedy(format!("Use 127.0.0.1:{port} or localhost:{port}.")));
    }
    if headers.contains_key(header::ORIGIN) {
        return Err(Problem::new(Code::CrossOrigin, "Web pages may not call the workspace API.")
            .remedy("Call it from a program that sends no Origin header."));
    }
    Ok(())
}
