//! The accept loop: HTTP/1.1 only, each connection bounded in head, time and memory.

use crate::limits;
use axum::Router;
use axum::http::{HeaderValue, header};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use model::crowd::{Crowd, Guest};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// A connection, as its requests know it. It keeps its place while this lives, also when it became a WebSocket.
pub type Connection = Arc<Guest<CancellationToken>>;

/// Serves so many connections at a time until it is dropped. When there are more, those that did not yet show a
/// token, or idle, make room: see [`model::crowd`]. So descriptors never run out, and nobody without a token
/// keeps others out.
pub async fn serve(listener: TcpListener, router: Router, places: usize) {
    let crowd = Crowd::new(places);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME)
        .max_headers(limits::HEADERS)
        .max_header_size(limits::HEAD_BYTES)
        .max_buf_size(limits::CLIENT_BUFFER);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The client went away, or the machine is short of something; pausing keeps a lasting fault
                // from spinning. There is no event to wait for.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let leave = CancellationToken::new();
        // Every place is taken by a call that may be made: this one has to come again.
        let Some((guest, out)) = crowd.enter(leave.clone()) else { continue };
        if let Some(out) = out {
            out.cancel();
        }
        // Keystrokes should not wait for an acknowledgement. Without it they only are slower.
        let _ = stream.set_nodelay(true);
        let inner = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert::<Connection>(guest.clone());
            // A body of chunks may come with a length too, which hyper does not show: whoever relayed it may see its end
            // elsewhere, so nothing that follows is taken for a request (RFC 9112, section 6.1).
            let last = request.headers().contains_key(header::TRANSFER_ENCODING);
            let answer = inner.call(request);
            async move {
                let mut answer = answer.await?;
                if last {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let connection = http.serve_connection(TokioIo::new(Impatient::new(stream)), service).with_upgrades();
        tokio::spawn(async move {
            tokio::select! {
                served = connection => if let Err(error) = served {
                    tracing::debug!(%error, "a client's connection ended early");
                },
                () = leave.cancelled() => tracing::debug!("a client's connection made room for another"),
            }
        });
    }
}

/// As many connections as descriptors are there for.
pub fn client_places() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    // A client may take one for itself and one for a channel.
    (descriptors.saturating_sub(limits::OWN_DESCRIPTORS) / 2).clamp(1, limits::CLIENTS)
}

/// A stream whose peer must take bytes in time: a write that waits for [`limits::STALL`] is an error. A write
/// that makes progress starts the time anew.
pub struct Impatient<S> {
    inner: S,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Impatient<TcpStream> {
    fn new(inner: TcpStream) -> Self {
        Self { inner, deadline: Box::pin(tokio::time::sleep(limits::STALL)), waiting: false }
    }
}

impl<S: AsyncWrite + Unpin> Impatient<S> {
    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + limits::STALL);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
