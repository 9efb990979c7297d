//! HTTP/1 in the clear, passed on request by request, so that each is decided on by itself and none is hidden in another:
//! what is sent onwards was taken apart and put together again.
//!
//! A client's connection has one connection onwards, made for the first request that passes. When one ends, so does the other.

use super::Context;
use super::agent::Denied;
use super::connection::End;
use super::copy;
use super::flow::{Flow, Way};
use super::host::{self, HostError};
use super::upstream;
use super::wire::Wire;
use crate::limits;
use crate::problems::to_json;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::policy::Protocol;
use model::{Code, Problem};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Serves a client that speaks HTTP, of which `prefix` was read. `server` is the connection onwards, if there is one already.
pub async fn serve(
    context: &Arc<Context>,
    flow: &Arc<Flow>,
    client: &Arc<TcpStream>,
    prefix: Vec<u8>,
    server: Option<TcpStream>,
) -> Result<(), End> {
    let proxy = Arc::new(Proxy {
        context: context.clone(),
        flow: flow.clone(),
        onwards: tokio::sync::Mutex::new(server.map_or(Onwards::Nobody, Onwards::Connected)),
        upgraded: Mutex::default(),
        switching: Arc::default(),
        over: CancellationToken::new(),
    });
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
    let wire = TokioIo::new(Wire::client(prefix, client.clone(), flow.clone()));
    {
        let mut serving = pin!(http.serve_connection(wire, service).with_upgrades());
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = proxy.over.cancelled() => {
                // What is being answered is answered to its end.
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        served.map_err(|error| match error.is_parse() {
            true => End::Told(error.to_string()),
            false => End::Broken(io::Error::other(error)),
        })?;
    }
    let upgraded = proxy.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
    match upgraded {
        Some((client, server)) => relay(flow, client, server).await,
        None => Ok(()),
    }
}

/// Passes on what both say after they agreed on another protocol.
async fn relay(flow: &Flow, client: OnUpgrade, server: OnUpgrade) -> Result<(), End> {
    let (client, server) = tokio::try_join!(client, server).map_err(io::Error::other)?;
    let ((before_client, client), (before_server, server)) = (parts(client)?, parts(server)?);
    for bytes in before_client {
        // Counted when it was read.
        copy::send(&server, &bytes).await?;
    }
    for bytes in before_server {
        copy::send(&client, &bytes).await?;
        flow.moved(Way::In, bytes.len());
    }
    Ok(copy::both(&client, &server, flow).await?)
}

type Parts = ([Bytes; 2], Arc<TcpStream>);

fn parts(upgraded: Upgraded) -> io::Result<Parts> {
    let parts = upgraded.downcast::<TokioIo<Wire>>().map_err(|_| io::ErrorKind::InvalidData)?;
    let (before, stream) = parts.io.into_inner().into_parts();
    Ok(([parts.read_buf, before], stream))
}

/// What the requests of one connection share.
struct Proxy {
    context: Arc<Context>,
    flow: Arc<Flow>,
    onwards: tokio::sync::Mutex<Onwards>,
    /// Both ends, once they agreed on another protocol.
    upgraded: Mutex<Option<(OnUpgrade, OnUpgrade)>>,
    /// Whether the end of the connection onwards may be that it is one of another protocol now.
    switching: Arc<AtomicBool>,
    /// The connection onwards is over.
    over: CancellationToken,
}

enum Onwards {
    Nobody,
    Connected(TcpStream),
    Speaking(SendRequest<Incoming>, #[allow(dead_code, reason = "ends with this")] AbortOnDropHandle<()>),
}

impl Proxy {
    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        if let Err(problem) = self.examine(&mut request).await {
            return Ok(refusal(&problem, true));
        }
        let path = request.uri().path().to_owned();
        if let Err(denied) = self.flow.decide_request(request.method().as_str(), &path).await {
            self.flow.request_refused(denied.to_string());
            return Ok(refusal(&self.denied(request.method(), &path, denied), false));
        }
        let mut onwards = self.onwards.lock().await;
        let fresh = !matches!(*onwards, Onwards::Speaking(..));
        if fresh && let Err(problem) = self.connect(&mut onwards).await {
            return Ok(refusal(&problem, true));
        }
        let Onwards::Speaking(sender, _) = &mut *onwards else { return Ok(refusal(&silent(), true)) };
        // When the server closed a connection that was used before, so is the client's, without an answer: it asks again, if
        // that does no harm.
        let answered = match sender.ready().await {
            Ok(()) => {
                self.switching.store(request.headers().contains_key(header::UPGRADE), Ordering::Relaxed);
                let client = hyper::upgrade::on(&mut request);
                sender.send_request(request).await.map(|answer| (client, answer))
            }
            Err(error) => Err(error),
        };
        let closed = sender.is_closed();
        drop(onwards);
        match answered {
            Ok((client, mut answer)) => {
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let server = hyper::upgrade::on(&mut answer);
                    *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some((client, server));
                } else if self.switching.swap(false, Ordering::Relaxed) && closed {
                    self.over.cancel();
                }
                Ok(answer.map(Body::new))
            }
            Err(error) if fresh => {
                tracing::debug!(%error, "a server did not answer a request");
                Ok(refusal(&silent(), true))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the request is one that can be passed on, and for whom its address stands. Makes it one that names only a path.
    async fn examine(&self, request: &mut Request<Incoming>) -> Result<(), Problem> {
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
        match host::agrees(request, self.flow.name(), self.flow.port) {
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
        // Any other protocol than that of WebSockets passes only where anything does.
        if request.headers().contains_key(header::UPGRADE)
            && !host::asks_for_websocket(request)
            && !self.flow.could_be(Protocol::Tcp)
        {
            host::stay_with_http(request);
        }
        Ok(())
    }

    /// Connects, and begins to speak HTTP.
    async fn connect(&self, onwards: &mut Onwards) -> Result<(), Problem> {
        let stream = match std::mem::replace(onwards, Onwards::Nobody) {
            Onwards::Connected(stream) => stream,
            _ => upstream::connect(&self.context, &self.flow).await.map_err(|error| {
                self.flow.failed(error.to_string());
                Problem::new(Code::Unavailable, format!("The host cannot be reached: {error}."))
                    .remedy("Look at the name and the port; if they are right, try again later.")
            })?,
        };
        let wire = TokioIo::new(Wire::upstream(Arc::new(stream), self.flow.clone()));
        let mut http = hyper::client::conn::http1::Builder::new();
        http.preserve_header_case(true).max_headers(limits::HTTP_HEADERS).max_buf_size(limits::HTTP_BUFFER);
        let (sender, connection) = http.handshake(wire).await.map_err(|_| silent())?;
        let (over, switching) = (self.over.clone(), self.switching.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a server ended early");
            }
            // Its end is that of the other one.
            if !switching.load(Ordering::Relaxed) {
                over.cancel();
            }
        });
        *onwards = Onwards::Speaking(sender, AbortOnDropHandle::new(task));
        Ok(())
    }

    fn denied(&self, method: &Method, path: &str, by: Denied) -> Problem {
        let host = self.flow.name().map_or_else(|| "this address".to_owned(), str::to_owned);
        let port = self.flow.port;
        let detail =
            format!("The agent's policy does not let {method} {path} pass to {host} at port {port} ({by}).");
        Problem::new(Code::Forbidden, detail)
            .remedy("Whoever runs the agent can add a rule for it to the agent's policy.")
    }
}

fn silent() -> Problem {
    Problem::new(Code::Unavailable, "The host closed the connection without an answer.")
        .remedy("Try again later.")
}

fn refusal(problem: &Problem, last: bool) -> Response<Body> {
    let mut response = Response::new(Body::from(to_json(problem)));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
