//! Listens, serves connections with limits, and ends cleanly.

use crate::Error;
use crate::peer::Peer;
use crate::tls::{CHALLENGE, Tls};
use axum::Router;
use axum::http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use model::Network;
use model::crowd::{Crowd, Guest};
use rustls::server::Acceptor;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

/// Connections at a time, if the limit of descriptors allows so many.
const CONNECTIONS: usize = 2048;
/// Descriptors that are not there for connections: the database and its log for each of its connections, the
/// runtime, and connections that were put out and are not closed yet.
const OWN_DESCRIPTORS: usize = 128;
const HEADER_TIME: Duration = Duration::from_secs(10);
/// hyper reads up to twice as much before it refuses.
const HEADER_BYTES: usize = 64 << 10;
const HEADERS: usize = 64;
/// How long answers under way may take once control is told to end.
const GRACE: Duration = Duration::from_secs(5);
/// After a failure to accept, such as when descriptors run out.
const BACKOFF: Duration = Duration::from_millis(100);

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortTaken { address },
        _ => Error::Listen { address, source },
    })
}

/// Where control is reached: everything that comes in by either door has to show the same keys.
pub(crate) struct Doors {
    pub(crate) tcp: TcpListener,
    pub(crate) entry: Entry,
    /// `control.sock`, if the supervisor made one.
    pub(crate) unix: Option<UnixListener>,
}

/// How one comes in over a network.
pub(crate) enum Entry {
    /// By TLS that ends here.
    Tls(Arc<Tls>),
    /// As it is, for this machine and for proxies: over a network, keys would go in the clear.
    Plain(Vec<Network>),
}

impl Entry {
    pub(crate) fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        match self {
            Self::Tls(_) => true,
            Self::Plain(proxies) => peer.is_loopback() || proxies.iter().any(|it| it.contains(peer)),
        }
    }
}

type Plain = Either<TcpStream, UnixStream>;

/// Which door a request came by. Absent for those that came by no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Tcp,
    Unix,
}

impl Doors {
    /// Takes over the socket that the supervisor listens on.
    pub(crate) fn new(
        tcp: TcpListener,
        entry: Entry,
        unix: Option<std::os::unix::net::UnixListener>,
    ) -> io::Result<Self> {
        let unix = unix.map(|listener| listener.set_nonblocking(true).map(|()| listener)).transpose()?;
        Ok(Self { tcp, entry, unix: unix.map(UnixListener::from_std).transpose()? })
    }

    async fn accept(&self) -> io::Result<(Plain, Option<Peer>)> {
        let unix = async {
            match &self.unix {
                Some(unix) => unix.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.tcp.accept() => {
                let (stream, address) = accepted?;
                // Answers are small and awaited; without this they wait for the peer's delayed ACK.
                let _ = stream.set_nodelay(true);
                Ok((Either::Left(stream), Some(Peer { address: address.ip(), tls: matches!(self.entry, Entry::Tls(_)) })))
            }
            accepted = unix => Ok((Either::Right(accepted?.0), None)),
        }
    }
}

/// Ends TLS, if that is what is spoken on this connection.
async fn open(
    stream: Plain,
    tls: Option<Arc<Tls>>,
    within: Duration,
) -> io::Result<Either<Plain, TlsStream<Plain>>> {
    let Some(tls) = tls else { return Ok(Either::Left(stream)) };
    let shake = async {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = tls.answer(&begun.client_hello());
        let stream =
            begun.into_stream(config.ok_or_else(|| io::Error::other("there is no certificate yet"))?).await?;
        // That was all that a connection is for which proves a name.
        match stream.get_ref().1.alpn_protocol() {
            Some(CHALLENGE) => Err(io::Error::other("a name was proved")),
            _ => Ok(stream),
        }
    };
    let shaken = tokio::time::timeout(within, shake).await;
    Ok(Either::Right(shaken.map_err(|_| io::ErrorKind::TimedOut)??))
}

/// A connection, as its requests know it.
pub(crate) type Connection = Arc<Guest<CancellationToken>>;

/// As many connections as descriptors are there for.
fn places() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Failing leaves the limit as it is, and then there are fewer places.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok();
    let limit = if raised { limit.maximum } else { limit.current };
    let descriptors = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    descriptors.saturating_sub(OWN_DESCRIPTORS).clamp(1, CONNECTIONS)
}

/// Serves until `ending`, then lets answers under way finish.
pub(crate) async fn serve(doors: Doors, router: Router, ending: CancellationToken) {
    serve_some(doors, router, ending, Bounds { places: places(), head: HEADER_TIME }).await;
}

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at a time.
    pub(crate) places: usize,
    /// How long the head of a request may take, and how long a connection may idle before it.
    pub(crate) head: Duration,
}

/// The same within bounds. When there are more connections, those that did not yet show who they are, or
/// idle, make room: see [`model::crowd`].
pub(crate) async fn serve_some(doors: Doors, router: Router, ending: CancellationToken, bounds: Bounds) {
    let graceful = GracefulShutdown::new();
    let crowd = Crowd::new(bounds.places);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS);
    loop {
        let accepted = tokio::select! {
            accepted = doors.accept() => accepted,
            () = ending.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
        };
        if peer.is_some_and(|peer| !doors.entry.admits(peer.address)) {
            tracing::debug!(?peer, "a connection without TLS from somewhere else than a proxy");
            continue;
        }
        let tls = match &doors.entry {
            Entry::Tls(tls) => peer.map(|_| tls.clone()),
            Entry::Plain(_) => None,
        };
        let leave = CancellationToken::new();
        // Every place is taken by a request that may be made: this one has to come again.
        let Some((guest, out)) = crowd.enter(leave.clone()) else { continue };
        if let Some(out) = out {
            out.cancel();
        }
        let inner = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert::<Connection>(guest.clone());
            request.extensions_mut().insert(if peer.is_some() { Door::Tcp } else { Door::Unix });
            peer.map(|peer| request.extensions_mut().insert(peer));
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
        let (http, watcher, ending) = (http.clone(), graceful.watcher(), ending.clone());
        let connection = async move {
            let stream = tokio::select! {
                opened = open(stream, tls, bounds.head) => opened?,
                () = ending.cancelled() => return Ok(()),
            };
            watcher
                .watch(http.serve_connection(TokioIo::new(stream), service))
                .await
                .map_err(io::Error::other)
        };
        tokio::spawn(async move {
            tokio::select! {
                served = connection => if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended badly");
                },
                () = leave.cancelled() => tracing::debug!("a connection made room for another"),
            }
        });
    }
    drop(doors);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
}

/// Cancels `ending` at SIGTERM or SIGINT.
pub(crate) fn end_on_signals(ending: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ending.cancel();
    });
    Ok(())
}

/// Tells the supervisor that we are ready: sd_notify(3), without the library.
pub(crate) fn notify_ready() -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(b"READY=1", &address)?;
        }
        None => {
            socket.send_to(b"READY=1", path)?;
        }
    }
    Ok(())
}
