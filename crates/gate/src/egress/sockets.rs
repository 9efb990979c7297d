//! The socket over which node hands sockets to this gate: each agent's doors, and the connections that the gate asks for.
//!
//! A gate has no network of its own. It names an address, and node, which looks at it once more, connects.

use super::Egress;
use super::agent::Agent;
use crate::limits;
use model::AgentId;
use model::gate_api::{FromGateSockets, MAX_PACKET, ToGateSockets, Unconnected};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketType,
};
use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixDatagram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Descriptors of one packet, and one more: a packet with too many is noticed.
const MOST_DESCRIPTORS: usize = 3;

/// Why the conversation about sockets ended.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The socket failed.
    #[error("the socket for sockets failed")]
    Socket(#[from] io::Error),
    /// A packet that is none of ours.
    #[error("node sent a packet that this version does not understand")]
    Packet(#[source] serde_json::Error),
    /// Longer than is agreed on, or with other descriptors than belong to it.
    #[error("node sent a packet with the wrong descriptors, or one that was cut: {0}")]
    Descriptors(&'static str),
    /// An answer to what nobody asked.
    #[error("node answered request {0}, which was never made")]
    Unasked(u64),
}

/// Has node connect.
pub struct Dialer {
    /// It keeps packets apart as one of datagrams does, and tells of its end besides.
    socket: UnixDatagram,
    asked: Mutex<Asked>,
    /// Requests under way, of all agents. A permit stays with its request until node answered, also when nobody
    /// waits for the answer any more, so that node never has more of them than this.
    all: Arc<Semaphore>,
    /// Whether there was no way to the last address of IPv6.
    only_v4: AtomicBool,
}

#[derive(Default)]
struct Asked {
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

struct Waiting {
    answer: oneshot::Sender<Result<OwnedFd, Unconnected>>,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Dialer {
    /// Of the socket that node gave. Call it within the runtime that will [`follow`].
    pub fn new(socket: OwnedFd) -> io::Result<Arc<Self>> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            socket: UnixDatagram::from_std(socket)?,
            asked: Mutex::default(),
            all: Arc::new(Semaphore::new(limits::DIALS)),
            only_v4: AtomicBool::new(false),
        }))
    }

    /// Connects for an agent.
    pub async fn connect(&self, agent: &Agent, address: SocketAddr) -> Result<TcpStream, Unconnected> {
        // First its own, so that an agent which waits for many connections takes few of the places for all.
        let own = agent.dials.clone().acquire_owned().await.ok();
        let id = agent.id;
        let connected = self.ask(own, |request| FromGateSockets::Connect { request, agent: id, address }).await;
        if address.is_ipv6() {
            let no_way = matches!(connected, Err(Unconnected::Unreachable));
            self.only_v4.store(no_way, Ordering::Relaxed);
        }
        connected
    }

    /// Connects to the resolver of this node.
    pub async fn resolver(&self) -> Result<TcpStream, Unconnected> {
        self.ask(None, |request| FromGateSockets::Resolver { request }).await
    }

    /// Whether an address of IPv4 should be tried first.
    pub fn only_v4(&self) -> bool {
        self.only_v4.load(Ordering::Relaxed)
    }

    async fn ask(
        &self,
        own: Option<OwnedSemaphorePermit>,
        question: impl FnOnce(u64) -> FromGateSockets,
    ) -> Result<TcpStream, Unconnected> {
        let asking = async {
            let permit = self.all.clone().acquire_owned().await.ok();
            let (answer, answered) = oneshot::channel();
            let request = {
                let mut asked = self.asked();
                asked.last += 1;
                let request = asked.last;
                asked.waiting.insert(request, Waiting { answer, _permits: [own, permit] });
                request
            };
            let mut unsent = Unsent { dialer: self, request: Some(request) };
            self.send(&question(request)).await.map_err(|_| Unconnected::Unreachable)?;
            unsent.request = None;
            answered.await.unwrap_or(Err(Unconnected::Unreachable))
        };
        let socket = tokio::time::timeout(limits::DIAL_TIME, asking).await.unwrap_or(Err(Unconnected::Slow))?;
        adopt(socket).map_err(|error| {
            tracing::warn!(%error, "cannot use a connection from node");
            Unconnected::Unreachable
        })
    }

    async fn send(&self, packet: &FromGateSockets) -> io::Result<()> {
        let bytes = serde_json::to_vec(packet)?;
        let send = || Ok(rustix::net::send(&self.socket, &bytes, SendFlags::NOSIGNAL)?);
        self.socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    async fn receive(&self) -> io::Result<Received> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: u64, answer: Result<OwnedFd, Unconnected>) -> Result<(), SocketsError> {
        let mut asked = self.asked();
        match asked.waiting.remove(&request) {
            // When nobody waits any more, the descriptor is closed here.
            Some(waiting) => drop(waiting.answer.send(answer)),
            // Given up before it was sent as a whole, or answered twice: neither harms.
            None if (1..=asked.last).contains(&request) => {}
            None => return Err(SocketsError::Unasked(request)),
        }
        Ok(())
    }
}

/// Forgets a request that node never got.
struct Unsent<'a> {
    dialer: &'a Dialer,
    request: Option<u64>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.dialer.asked().waiting.remove(&request);
        }
    }
}

fn adopt(socket: OwnedFd) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    // What is passed on should not wait for an acknowledgement. Without it it only is slower.
    let _ = socket.set_nodelay(true);
    TcpStream::from_std(socket)
}

/// Follows node until it closes the socket.
pub async fn follow(egress: &Egress) -> Result<(), SocketsError> {
    let dialer = egress.dialer();
    loop {
        let Some((packet, descriptors)) = dialer.receive().await?? else { return Ok(()) };
        let wrong = |_| SocketsError::Descriptors("not as many as belong to it");
        let none = |descriptors: Vec<OwnedFd>| <[_; 0]>::try_from(descriptors).map(drop).map_err(wrong);
        match packet {
            ToGateSockets::Doors { agent } => {
                let [tcp, udp] = descriptors.try_into().map_err(wrong)?;
                doors(egress, agent, tcp, udp)?;
            }
            ToGateSockets::Closed { agent } => {
                none(descriptors)?;
                egress.close(agent);
            }
            ToGateSockets::Connected { request } => {
                let [socket] = descriptors.try_into().map_err(wrong)?;
                dialer.answer(request, Ok(socket))?;
            }
            ToGateSockets::Failed { request, why } => {
                none(descriptors)?;
                dialer.answer(request, Err(why))?;
            }
        }
    }
}

fn doors(egress: &Egress, agent: AgentId, tcp: OwnedFd, udp: OwnedFd) -> Result<(), SocketsError> {
    use rustix::net::sockopt::{socket_acceptconn, socket_type};
    if socket_type(&tcp).ok() != Some(SocketType::STREAM) || socket_acceptconn(&tcp).ok() != Some(true) {
        return Err(SocketsError::Descriptors("the first door does not listen"));
    }
    if socket_type(&udp).ok() != Some(SocketType::DGRAM) {
        return Err(SocketsError::Descriptors("the second door does not take datagrams"));
    }
    for door in [&tcp, &udp] {
        rustix::io::ioctl_fionbio(door, true).map_err(io::Error::from)?;
    }
    egress.open(agent, tcp, udp);
    Ok(())
}

/// One packet; `None` at the end.
type Received = Result<Option<(ToGateSockets, Vec<OwnedFd>)>, SocketsError>;

/// The outer error is for the runtime, which has to see that a call would block.
fn receive(socket: &UnixDatagram) -> io::Result<Received> {
    let mut bytes = [0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Err(SocketsError::Descriptors("it was cut")));
    }
    if received.bytes == 0 {
        return Ok(Ok(None));
    }
    let packet = bytes.get(..received.bytes).unwrap_or_default();
    Ok(match serde_json::from_slice(packet) {
        Ok(packet) => Ok(Some((packet, descriptors))),
        Err(error) => Err(SocketsError::Packet(error)),
    })
}
