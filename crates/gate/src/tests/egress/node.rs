//! Node, as the gate's egress knows it: it hands doors over, connects, and has a resolver.

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::AgentId;
use model::gate_api::{FromGateSockets, MAX_PACKET, ToGateSockets, Unconnected};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio_rustls::TlsAcceptor;

pub struct Doors {
    pub tcp: u16,
    pub udp: u16,
}

/// The gate's end of a socket for sockets, and node's.
pub fn pair() -> (OwnedFd, UnixDatagram) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = rustix::net::AddressFamily::UNIX;
    let (gate, node) = rustix::net::socketpair(family, SocketType::SEQPACKET, flags, None).unwrap();
    (gate, UnixDatagram::from_std(node.into()).unwrap())
}

/// Sends bytes with descriptors.
pub fn send_packet(socket: &UnixDatagram, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// What becomes of a request to connect.
#[derive(Clone)]
pub enum Route {
    To(SocketAddr),
    /// The same, and little is kept on the way.
    Narrow(SocketAddr),
    Fail(Unconnected),
    /// No answer until the test gives one.
    Never,
}

/// The node behind the gate.
#[derive(Default)]
pub struct Node {
    pub routes: Mutex<HashMap<SocketAddr, Route>>,
    /// What it was asked for, in order.
    pub asked: Mutex<Vec<FromGateSockets>>,
    /// What the resolver knows.
    pub names: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// What the resolver was asked for.
    pub resolved: Mutex<Vec<String>>,
    /// Questions that the resolver answers before it closes the connection; 0: no end.
    pub patience: AtomicU32,
    /// What the resolver shows, if it speaks TLS.
    pub shown: Mutex<Option<TlsAcceptor>>,
    /// What the resolver says by HTTPS: status and type.
    pub says: Mutex<Option<(u16, &'static str)>>,
    /// Handshakes and questions in the clear that came to a resolver that speaks TLS.
    pub strange: AtomicU32,
}

/// Hands new doors to the gate.
pub fn give_doors(sockets: &UnixDatagram, agent: AgentId) -> Doors {
    let tcp = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let udp = std::net::UdpSocket::bind("[::]:0").unwrap();
    setsockopt(&udp, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
    setsockopt(&udp, sockopt::Ipv4PacketInfo, &true).unwrap();
    let doors = Doors { tcp: tcp.local_addr().unwrap().port(), udp: udp.local_addr().unwrap().port() };
    let packet = serde_json::to_vec(&ToGateSockets::Doors { agent }).unwrap();
    send_packet(sockets, &packet, &[tcp.as_fd(), udp.as_fd()]);
    doors
}

pub fn say(sockets: &UnixDatagram, packet: &ToGateSockets, descriptors: &[BorrowedFd<'_>]) {
    send_packet(sockets, &serde_json::to_vec(packet).unwrap(), descriptors);
}

pub async fn serve_node(node: Arc<Node>, sockets: Arc<UnixDatagram>) {
    let resolver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resolver_at = resolver.local_addr().unwrap();
    let knows = node.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = resolver.accept().await {
            tokio::spawn(secured(knows.clone(), stream));
        }
    });
    loop {
        let mut bytes = [0; MAX_PACKET];
        let receive = || Ok(rustix::net::recv(&*sockets, &mut bytes, rustix::net::RecvFlags::empty())?.1);
        let length = sockets.async_io(Interest::READABLE, receive).await.unwrap();
        if length == 0 {
            return;
        }
        let asked: FromGateSockets = serde_json::from_slice(&bytes[..length]).unwrap();
        node.asked.lock().unwrap().push(asked);
        let (request, route) = match asked {
            FromGateSockets::Resolver { request } => (request, Route::To(resolver_at)),
            FromGateSockets::Connect { request, address, .. } => {
                let route = node.routes.lock().unwrap().get(&address).cloned();
                (request, route.unwrap_or(Route::Fail(Unconnected::Unreachable)))
            }
        };
        let why = match route {
            Route::Never => continue,
            Route::Fail(why) => why,
            Route::To(address) | Route::Narrow(address) => match TcpStream::connect(address).await {
                Ok(stream) => {
                    if matches!(route, Route::Narrow(_)) {
                        setsockopt(&stream, sockopt::SndBuf, &4096).unwrap();
                    }
                    say(&sockets, &ToGateSockets::Connected { request }, &[stream.as_fd()]);
                    continue;
                }
                Err(_) => Unconnected::Refused,
            },
        };
        say(&sockets, &ToGateSockets::Failed { request, why }, &[]);
    }
}

async fn secured(node: Arc<Node>, stream: TcpStream) {
    let shown = node.shown.lock().unwrap().clone();
    let Some(shown) = shown else { return serve_resolver(node, stream).await };
    let Ok(stream) = shown.accept(stream).await else {
        node.strange.fetch_add(1, Ordering::Relaxed);
        return;
    };
    if node.says.lock().unwrap().is_none() {
        return serve_resolver(node, stream).await;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let node = node.clone();
        async move {
            assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/dns-query"));
            assert_eq!(request.uri().authority().unwrap(), "dns.example");
            assert_eq!(request.headers()["content-type"], "application/dns-message");
            let question = to_bytes(Body::new(request.into_body()), 1000).await.unwrap();
            // Equal questions are equal.
            assert_eq!(question[..2], [0, 0]);
            let answer = resolve_for_gate(&node, &question);
            let (status, kind) = node.says.lock().unwrap().unwrap();
            let response = Response::builder().status(status).header("content-type", kind);
            Ok::<_, Infallible>(response.body(Body::from(answer)).unwrap())
        }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn serve_resolver(node: Arc<Node>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut answered = 0;
    while let Ok(length) = stream.read_u16().await {
        if length == 0x1603 {
            // It begins as TLS does, and this speaks none.
            return;
        }
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        if node.patience.load(Ordering::Relaxed) == answered && answered > 0 {
            return;
        }
        answered += 1;
        let answer = resolve_for_gate(&node, &question);
        stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

fn resolve_for_gate(node: &Node, question: &[u8]) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let name = labels.join(".");
    let kind = question[at + 2];
    let addresses = node.names.lock().unwrap().get(&name).cloned();
    node.resolved.lock().unwrap().push(name);
    let code = if addresses.is_some() { 0 } else { 3 };
    let data: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .into_iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), 1) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), 28) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
    answer.extend(&question[12..at + 5]);
    for data in data {
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend(data);
    }
    answer
}
