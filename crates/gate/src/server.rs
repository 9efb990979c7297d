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
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// A connection, as its requests know it. It keeps its place while this lives, also when it became a WebSocket.
pub type Connection = Arc<Guest<CancellationToken>>;

/// Serves so many connections at a time until it is dropped. When there are more, those that did not yet show a
/// token, or idle, make room: see [`model::crowd`]. So descriptors never run out, and nobody without a token
/// keeps others out.
pub async fn serve(listener: TcpListener, router: Router, places: usize, mut hands: Hands) {
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
        let http = http.clone();
        hands.give(stream, async move |stream| {
            let connection =
                http.serve_connection(TokioIo::new(Impatient::new(stream)), service).with_upgrades();
            tokio::select! {
                served = connection => if let Err(error) = served {
                    tracing::debug!(%error, "a client's connection ended early");
                },
                () = leave.cancelled() => tracing::debug!("a client's connection made room for another"),
            }
        });
    }
}

/// Who serves connections. Each stays with the thread that it was given to, so that nothing of a call is handed from one
/// to another: to wake a thread takes longer than all that the gate has to do for most calls.
pub struct Hands {
    /// The first, which is `None`, accepts.
    runtimes: Vec<Option<Handle>>,
    turn: usize,
}

impl Hands {
    /// The runtime that accepts, and these.
    pub fn new(more: Vec<Handle>) -> Self {
        Self { runtimes: std::iter::once(None).chain(more.into_iter().map(Some)).collect(), turn: 0 }
    }

    /// Lets the next one serve this connection.
    fn give<F>(&mut self, stream: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = self.runtimes.get(self.turn).cloned().flatten();
        self.turn = (self.turn + 1) % self.runtimes.len();
        let Some(runtime) = runtime else { return drop(tokio::spawn(serve(stream))) };
        // The other one's events are to tell of it.
        let stream = stream.into_std();
        runtime.spawn(async move {
            match stream.and_then(TcpStream::from_std) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
            }
        });
    }
}

/// Descriptors that this process may have for connections.
pub fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    descriptors.saturating_sub(limits::OWN_DESCRIPTORS)
}

/// As many connections as these descriptors are there for.
pub fn client_places(descriptors: usize) -> usize {
    // A client may take one for itself and one for a channel.
    (descriptors / 2).clamp(1, limits::CLIENTS)
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

#[cfg(test)]
mod tests {
    use super::Hands;
    use std::thread;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, oneshot};

    #[tokio::test]
    async fn connections_are_dealt_out_in_turn() {
        let (handle, handles) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let other = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            handle.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(ended);
        });
        let mut hands = Hands::new(vec![handles.await.unwrap()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tell, mut told) = mpsc::channel(1);
        let mut served = async || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            hands.give(stream, async move |mut stream| {
                tell.send(thread::current().id()).await.unwrap();
                // Until the client goes, of which this thread's runtime has to hear.
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
                tell.send(thread::current().id()).await.unwrap();
            });
            (told.recv().await.unwrap(), client)
        };
        let (here, there) = (thread::current().id(), other.thread().id());
        let mut clients = Vec::new();
        for expected in [here, there, here, there] {
            let (by, client) = served().await;
            assert_eq!(by, expected);
            clients.push(client);
        }
        drop((clients.remove(3), clients.remove(1)));
        assert_eq!((told.recv().await, told.recv().await), (Some(there), Some(there)));
        drop(end);
        other.join().unwrap();
    }
}
