//! DNS over HTTPS (RFC 8484), by HTTP/2.

use super::super::dns;
use super::Question;
use crate::limits;
use axum::body::{Body, to_bytes};
use hyper::client::conn::http2;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::Resolver;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

const MESSAGE: &str = "application/dns-message";

/// What is asked for.
#[derive(Clone)]
pub struct Place(String);

impl Place {
    /// At a resolver of this name, or else at its address.
    pub fn new(resolver: &Resolver, name: Option<&str>, path: &str) -> Self {
        let (address, port) = (resolver.address, resolver.address.port());
        Self(match (name, port) {
            (Some(name), 443) => format!("https://{name}{path}"),
            (Some(name), _) => format!("https://{name}:{port}{path}"),
            (None, _) => format!("https://{address}{path}"),
        })
    }
}

/// Says whether it speaks HTTP/2, and asks until the connection breaks or nobody wants to know anything. Who waits then hears that
/// nobody will answer.
pub async fn converse<S>(
    place: Place,
    socket: S,
    mut questions: mpsc::Receiver<Question>,
    ready: oneshot::Sender<Result<(), &'static str>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).max_header_list_size(limits::HEADER_LIST);
    let Ok((sender, connection)) = http.handshake(TokioIo::new(socket)).await else {
        let _ = ready.send(Err("does not speak HTTP/2"));
        return;
    };
    let _ = ready.send(Ok(()));
    let mut under_way = JoinSet::new();
    let asking = async {
        while let Some(question) = questions.recv().await {
            under_way.spawn(ask(place.clone(), sender.clone(), question));
            // What ended is forgotten.
            while under_way.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = asking => {}
        _ = connection => {}
    }
    questions.close();
}

/// One question. It stays without an answer if none comes.
async fn ask(place: Place, mut sender: http2::SendRequest<Body>, mut question: Question) {
    // Always 0, so that answers to equal questions are equal (RFC 8484, section 4.1).
    let packet = dns::query(&question.name, question.family, 0);
    let request = Request::post(place.0).header(ACCEPT, MESSAGE).header(CONTENT_TYPE, MESSAGE);
    let Ok(request) = request.body(Body::from(packet)) else { return };
    let answering = async {
        let answer = sender.send_request(request).await.ok()?;
        let kind = answer.headers().get(CONTENT_TYPE)?;
        if answer.status() != StatusCode::OK || !kind.as_bytes().eq_ignore_ascii_case(MESSAGE.as_bytes()) {
            tracing::debug!(status = %answer.status(), "a resolver answered with no message of DNS");
            return None;
        }
        to_bytes(Body::new(answer.into_body()), limits::RESOLVED_BYTES).await.ok()
    };
    tokio::select! {
        reply = answering => if let Some(reply) = reply {
            let found = dns::addresses(&reply, 0, &question.name, question.family);
            let _ = question.answer.send(found);
        },
        () = question.answer.closed() => {}
    }
}
