//! HTTP passed on request by request, in the clear or inside of TLS, so that each is decided on by itself and none is hidden in
//! another: what is sent onwards was taken apart and put together again.
//!
//! A client's connection has one connection onwards, which speaks what the client speaks: in the clear it is made for the first
//! request that passes. When one ends, so does the other.

mod answer;
mod host;
mod onwards;
mod outgoing;
mod relay;
mod streams;
mod websocket;

pub use answer::bad_gateway;
pub use onwards::{Ends, Link, silent, unreachable};

use super::Context;
use super::agent::Denied;
use super::connection::End;
use super::flow::Flow;
use super::secrets::placeholder::Scanner;
use super::secrets::put::{self, Put, Refused};
use super::share::Bucket;
use super::wire::Wire;
use crate::limits;
use answer::{Answer, refusal};
use host::HostError;
use hyper::body::Incoming;
use hyper::header;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::policy::{Inject, Protocol};
use model::{Code, Problem, policy};
use onwards::{Failed, Sent};
use outgoing::{Outgoing, Watched};
use relay::Upgrade;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use streams::Streams;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Serves a client that speaks HTTP in the clear, of which `prefix` was read. `server` is the connection onwards, if there is one
/// already.
pub async fn serve(
    context: &Arc<Context>,
    flow: &Arc<Flow>,
    client: &Arc<TcpStream>,
    prefix: Vec<u8>,
    server: Option<TcpStream>,
) -> Result<(), End> {
    let proxy = Proxy::new(context, flow, Protocol::Http, Link::to_be_made(server), Ends::default());
    let wire = Wire::client(prefix, client.clone(), flow.clone());
    serve_one(&proxy, TokioIo::new(wire)).await
}

/// What the requests of one connection share.
pub struct Proxy {
    context: Arc<Context>,
    flow: Arc<Flow>,
    /// In the clear, or inside of TLS.
    protocol: Protocol,
    link: Link,
    /// Both ends, once they agreed on another protocol.
    upgraded: Mutex<Option<Upgrade>>,
    ends: Ends,
}

/// Serves a client by HTTP/1.
pub async fn serve_one<I>(proxy: &Arc<Proxy>, client: I) -> Result<(), End>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::NEXT_REQUEST_TIME)
        .max_headers(limits::HTTP_HEADERS)
        .max_header_size(limits::HEAD_BYTES)
        .max_buf_size(limits::HTTP_BUFFER)
        .preserve_header_case(true)
        .auto_date_header(false);
    let service = {
        let proxy = proxy.clone();
        service_fn(move |request| {
            let proxy = proxy.clone();
            async move { proxy.answer(request).await }
        })
    };
    {
        let mut serving = pin!(http.serve_connection(client, service).with_upgrades());
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = proxy.ends.over.cancelled() => {
                // What is being answered is answered to its end.
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        served.map_err(ended)?;
    }
    let upgraded = proxy.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
    match upgraded {
        Some(upgraded) => relay::relay(&proxy.flow, upgraded).await,
        None => Ok(()),
    }
}

/// Serves a client by HTTP/2.
pub async fn serve_two<I>(proxy: &Arc<Proxy>, client: I) -> Result<(), End>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (streams, _all) = Streams::new();
    let mut http = hyper::server::conn::http2::Builder::new(streams);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS)
        .max_pending_accept_reset_streams(limits::UNSEEN_RESETS)
        .max_local_error_reset_streams(limits::FAULTY_STREAMS)
        .initial_stream_window_size(limits::CLIENT_STREAM_WINDOW)
        .initial_connection_window_size(limits::CLIENT_WINDOW)
        .max_header_list_size(limits::HEADER_LIST)
        .max_send_buf_size(limits::STREAM_BUFFER)
        .auto_date_header(false);
    let patience = Patience::new();
    let service = {
        let (proxy, patience) = (proxy.clone(), patience.clone());
        service_fn(move |request| {
            let (proxy, waits) = (proxy.clone(), patience.waits());
            async move {
                let answer = proxy.answer(request).await;
                waits.answered();
                answer
            }
        })
    };
    let mut serving = pin!(http.serve_connection(client, service));
    let quiet = || proxy.flow.requests.quiet(limits::NEXT_REQUEST_TIME);
    tokio::select! {
        served = serving.as_mut() => return served.map_err(ended),
        () = patience.over.cancelled() => return Err(End::Told(GIVEN_UP.to_owned())),
        () = proxy.ends.over.cancelled() => {}
        () = quiet() => {}
    }
    // What is being answered is answered to its end.
    serving.as_mut().graceful_shutdown();
    let too_long = async {
        tokio::time::sleep(limits::GOODBYE_TIME).await;
        quiet().await;
    };
    tokio::select! {
        served = serving.as_mut() => served.map_err(ended),
        () = patience.over.cancelled() => Err(End::Told(GIVEN_UP.to_owned())),
        () = too_long => Err(End::Idle),
    }
}

const GIVEN_UP: &str = "the client gave up too many requests";

/// What is borne of a client that begins requests and gives them up (CVE-2023-44487): each costs a decision, and the server work.
#[derive(Clone)]
struct Patience {
    left: Arc<Bucket>,
    over: CancellationToken,
}

/// A request that is not answered yet.
struct Waits(Option<Patience>);

impl Patience {
    fn new() -> Self {
        let left = Bucket::with(limits::GIVEN_UP_PER_SECOND, limits::GIVEN_UP_AT_ONCE);
        Self { left: Arc::new(left), over: CancellationToken::new() }
    }

    fn waits(&self) -> Waits {
        Waits(Some(self.clone()))
    }
}

impl Waits {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(patience) = self.0.take()
            && patience.left.take().is_err()
        {
            patience.over.cancel();
        }
    }
}

fn ended(error: hyper::Error) -> End {
    match error.is_parse() {
        true => End::Told(error.to_string()),
        false => End::Broken(io::Error::other(error)),
    }
}

/// A request that can be sent.
struct Prepared {
    put: Put,
    body: Outgoing,
    watched: Watched,
    /// Once the server has all of a body that is held here.
    taken: Option<CancellationToken>,
}

/// Why a request is not passed on.
enum Stop {
    /// The client is told so; whether that is the last that it hears.
    Told(Problem, bool),
    /// The connection ends without a word.
    Broken(hyper::Error),
}

impl Proxy {
    /// For one connection.
    pub fn new(
        context: &Arc<Context>,
        flow: &Arc<Flow>,
        protocol: Protocol,
        link: Link,
        ends: Ends,
    ) -> Arc<Self> {
        Arc::new(Self {
            context: context.clone(),
            flow: flow.clone(),
            protocol,
            link,
            upgraded: Mutex::default(),
            ends,
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, hyper::Error> {
        match self.pass(request).await {
            Ok(response) => Ok(response),
            Err(Stop::Told(problem, last)) => Ok(refusal(&problem, last)),
            Err(Stop::Broken(error)) => Err(error),
        }
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, Stop> {
        self.examine(&mut request).map_err(|problem| Stop::Told(problem, true))?;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let decided = self.flow.decide_request(self.protocol, method.as_str(), &path).await;
        let ongoing = decided.map_err(|denied| {
            self.flow.request_refused(denied.to_string());
            Stop::Told(self.denied(&method, &path, denied), false)
        })?;
        if let Link::Nobody(problem) = &self.link {
            // The next connection may find somebody.
            self.ends.over.cancel();
            return Err(Stop::Told(problem.clone(), true));
        }
        let client = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let Prepared { put, body, watched, taken } = self.prepare(&mut parts, body, &path).await?;
        let upgrading = parts.headers.contains_key(header::UPGRADE);
        let sent = tokio::select! {
            sent = self.link.send(self, Request::from_parts(parts, body), upgrading) => sent,
            problem = outgoing::not_taken(taken) => Err(Failed::Told(problem)),
        };
        let Sent { mut answer, closed } = sent.map_err(|failed| match failed {
            _ if watched.is_stray() => Stop::Told(stray(), true),
            Failed::Told(problem) => Stop::Told(problem, true),
            Failed::Broken(error) => Stop::Broken(error),
        })?;
        let scrubber = put.scrubber();
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = hyper::upgrade::on(&mut answer);
            let clear = self.protocol == Protocol::Http;
            let upgrade = Upgrade { client, server, clear, scrubber: put.scrubber() };
            *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
        } else if self.ends.switching.swap(false, Ordering::Relaxed) && closed {
            self.ends.over.cancel();
        }
        match scrubber {
            Some(scrubber) => answer::scrubbed(answer, scrubber).map_err(|problem| {
                self.flow.request_refused("an encoded answer to a credential".to_owned());
                Stop::Told(problem, true)
            }),
            None => Ok(answer.map(Answer::passed)),
        }
        .map(|answer| answer.map(|body| body.of(ongoing)))
    }

    /// Puts credentials into a request, and looks for placeholders in what the agent wrote.
    async fn prepare(&self, parts: &mut Parts, body: Incoming, path: &str) -> Result<Prepared, Stop> {
        if self.protocol == Protocol::Tls {
            // So that frames of a WebSocket can be read.
            parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
        }
        let watched = Watched::default();
        let stream = |body| Outgoing::stream(body, Scanner::default(), self.flow.clone(), watched.clone());
        let table = self.flow.agent.table();
        let method = parts.method.clone();
        let asked = policy::Request { method: method.as_str(), path };
        let of_host: Vec<&Inject> = match self.flow.name() {
            Some(name) if self.protocol == Protocol::Tls => table.inject_at(name, self.flow.port).collect(),
            _ => Vec::new(),
        };
        let injects: Vec<&Inject> = of_host.iter().copied().filter(|inject| inject.covers(&asked)).collect();
        let credentials = self.flow.agent.credentials();
        if injects.is_empty() {
            put::check(parts).map_err(|refused| self.refused(&refused))?;
            let body = stream(body);
            let mut put = Put::default();
            put.keep_from_answers(&of_host, credentials.as_deref(), &mut parts.headers);
            return Ok(Prepared { put, body, watched, taken: None });
        }
        let Some(credentials) = credentials else {
            self.flow.request_refused("credentials that are not there yet".to_owned());
            let detail = "The credentials of the agent's policy are not there yet.";
            let problem = Problem::new(Code::Unavailable, detail);
            return Err(Stop::Told(problem.remedy("Try again in a moment."), true));
        };
        let mut put = put::put(parts, &injects, &credentials).map_err(|refused| self.refused(&refused))?;
        let (body, taken) = match outgoing::format(&put, parts) {
            Some(format) => {
                let agent = &self.flow.agent;
                let read = outgoing::read(body, &agent.bodies, &self.context.bodies).await;
                let (read, places) = read.map_err(|problem| Stop::Told(problem, true))?;
                let whole = put.into_body(format, read).map_err(|refused| self.refused(&refused))?;
                outgoing::say_length(&mut parts.headers, whole.len());
                let (body, taken) = Outgoing::whole(whole, places);
                (body, Some(taken))
            }
            None => (stream(body), None),
        };
        put.keep_from_answers(&of_host, Some(&credentials), &mut parts.headers);
        self.flow.puts(&put.credentials, &asked).map_err(|denied| {
            self.flow.request_refused(denied.to_string());
            let problem = Problem::new(Code::Unavailable, "A credential of the request changed meanwhile.");
            Stop::Told(problem.remedy("Try again."), true)
        })?;
        Ok(Prepared { put, body, watched, taken })
    }

    /// Whether the request is one that can be passed on, and for whom its address stands. Makes it one that says so in one way.
    fn examine(&self, request: &mut Request<Incoming>) -> Result<(), Problem> {
        let mismatch = |detail: String| {
            self.flow.request_refused("the request's host".to_owned());
            Problem::new(Code::Forbidden, detail)
                .remedy("Ask the host whose name was resolved: other names have other addresses.")
        };
        if request.method() == Method::CONNECT {
            self.flow.request_refused("no CONNECT".to_owned());
            return Err(Problem::new(Code::Forbidden, "CONNECT is not passed on.")
                .remedy("Connect to the host itself: no proxy is needed."));
        }
        match host::agrees(request, self.scheme(), self.flow.name(), self.flow.port) {
            Ok(()) => {}
            Err(HostError::Other(other)) => {
                let name = self.flow.name().unwrap_or_default();
                return Err(mismatch(format!(
                    "The request is for {other:?}, but the connection is to {name:?}."
                )));
            }
            Err(HostError::Malformed(why)) => {
                self.flow.request_refused("the request's host".to_owned());
                return Err(Problem::new(Code::Validation, why)
                    .remedy("Send one Host header with the name of the host that you connected to."));
            }
        }
        host::only_path(request);
        // Any other protocol than that of WebSockets passes only where anything does. It is not looked into, so that nothing of it
        // is there inside of TLS, where requests are.
        if request.headers().contains_key(header::UPGRADE)
            && !host::asks_for_websocket(request)
            && (self.protocol == Protocol::Tls || !self.flow.could_be(Protocol::Tcp))
        {
            host::stay_with_http(request);
        }
        Ok(())
    }

    fn scheme(&self) -> &'static str {
        if self.protocol == Protocol::Tls { "https" } else { "http" }
    }

    fn refused(&self, refused: &Refused) -> Stop {
        self.flow.request_refused(refused.to_string());
        let problem = match refused {
            Refused::Stray => stray(),
            Refused::Unfit { secret, why } => {
                let detail = format!("The credential {secret} cannot be put into the request: {why}.");
                Problem::new(Code::Unavailable, detail).remedy(
                    "Whoever runs the agent can give the secret another value, or the policy another place.",
                )
            }
            Refused::Malformed(_) => {
                let detail = "The body is not what its content type says, and a credential is a field of it.";
                Problem::new(Code::Validation, detail).remedy("Send a form, or one object of JSON.")
            }
        };
        Stop::Told(problem, true)
    }

    fn denied(&self, method: &Method, path: &str, by: Denied) -> Problem {
        if by == Denied::TooMany {
            let problem = Problem::new(Code::TooMany, "The agent has too many requests under way.");
            return problem.remedy("Wait until some of them ended.");
        }
        let host = self.flow.name().map_or_else(|| "this address".to_owned(), str::to_owned);
        let port = self.flow.port;
        let detail =
            format!("The agent's policy does not let {method} {path} pass to {host} at port {port} ({by}).");
        Problem::new(Code::Forbidden, detail)
            .remedy("Whoever runs the agent can add a rule for it to the agent's policy.")
    }
}

fn stray() -> Problem {
    let detail = "The request holds a placeholder where no credential is put in place of it.";
    Problem::new(Code::Forbidden, detail)
        .remedy("Send it to the host, and in the place, that the agent's policy names for the credential.")
}
