//! What a gate has of networks: the doors of its account's agents, which node hands it, and connections that node makes
//! for it.
//!
//! One packet is one JSON document, with the descriptors that belong to it. What a gate says is hostile once it was taken
//! over: packets are short and have no descriptors, so many connections are being made at once and no more, and an agent
//! of another account is none of its business.

use super::Gates;
use crate::egress;
use model::Network;
use model::gate_api::{FromGateSockets, MAX_PACKET, ToGateSockets, Unconnected};
use model::{AccountId, AgentId};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use sandbox::Doors;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

/// Connections that are being made for one gate at once.
pub(super) const DIALS: usize = 128;
/// How long one may take to be made.
const DIAL: Duration = Duration::from_secs(5);
/// How long a gate may leave its packets where they are.
const PATIENCE: Duration = Duration::from_secs(20);

impl Gates {
    /// Whether anything may leave the agent by this account's gate.
    fn has_doors(&self, account: AccountId, agent: AgentId) -> bool {
        let inner = self.lock();
        let known = inner.running.get(&account).and_then(|running| running.agents.get(&agent));
        known.is_some_and(|known| known.doors.is_some())
    }

    /// What differs from the doors that the gate has: those that it lacks, and whose are gone.
    fn news_of_doors(&self, account: AccountId, handed: &Handed) -> Vec<(AgentId, Option<Arc<Doors>>)> {
        let inner = self.lock();
        let agents = inner.running.get(&account).map(|running| &running.agents);
        let of = |agent: &AgentId| agents.and_then(|agents| agents.get(agent)?.doors.as_ref());
        let gone = handed.keys().filter(|agent| of(agent).is_none()).map(|agent| (*agent, None));
        let has = |agent: &AgentId, doors: &Arc<Doors>| {
            handed.get(agent).is_some_and(|handed| handed.ptr_eq(&Arc::downgrade(doors)))
        };
        let lacking = agents
            .into_iter()
            .flatten()
            .filter_map(|(agent, known)| Some((agent, known.doors.as_ref()?)))
            .filter(|(agent, doors)| !has(agent, doors))
            .map(|(agent, doors)| (*agent, Some(doors.clone())));
        gone.chain(lacking).collect()
    }

    /// Nobody serves the account's agents: their connections are refused at once, rather than left to hang.
    pub(super) fn shut_doors(&self, account: AccountId) {
        let inner = self.lock();
        let agents = inner.running.get(&account).into_iter().flat_map(|running| &running.agents);
        for (agent, doors) in agents.filter_map(|(agent, known)| Some((agent, known.doors.as_ref()?))) {
            if let Err(error) = doors.shut() {
                tracing::error!(%agent, %error, "its door cannot be shut");
            }
        }
    }
}

/// What came of a question, and the room that it takes until the gate is told.
struct Answer {
    request: u64,
    connected: Result<OwnedFd, Unconnected>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Hands over doors and connects, until the gate says something wrong or nothing more.
pub(super) async fn serve(
    gates: &Arc<Gates>,
    account: AccountId,
    socket: UnixStream,
    changes: watch::Receiver<u64>,
) -> io::Error {
    let (answers, queue) = mpsc::channel(DIALS);
    tokio::select! {
        error = read(gates, account, &socket, answers) => error,
        error = write(gates, account, &socket, changes, queue) => error,
    }
}

/// The doors that a gate has.
type Handed = BTreeMap<AgentId, Weak<Doors>>;

async fn write(
    gates: &Arc<Gates>,
    account: AccountId,
    socket: &UnixStream,
    mut changes: watch::Receiver<u64>,
    mut answers: mpsc::Receiver<Answer>,
) -> io::Error {
    let mut handed = Handed::new();
    changes.mark_unchanged();
    loop {
        for (agent, doors) in gates.news_of_doors(account, &handed) {
            if let Err(error) = hand_over(socket, agent, doors, &mut handed).await {
                return error;
            }
        }
        let sent = tokio::select! {
            // When it is released, its other wire says so.
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => std::future::pending().await,
            },
            answer = answers.recv() => match answer {
                Some(answer) => tell(socket, answer).await,
                None => std::future::pending().await,
            },
        };
        if let Err(error) = sent {
            return error;
        }
    }
}

/// Opens doors and hands them over, or says that they are gone.
async fn hand_over(
    socket: &UnixStream,
    agent: AgentId,
    doors: Option<Arc<Doors>>,
    handed: &mut Handed,
) -> io::Result<()> {
    let Some(doors) = doors else {
        handed.remove(&agent);
        return send(socket, &ToGateSockets::Closed { agent }, &[]).await;
    };
    handed.insert(agent, Arc::downgrade(&doors));
    if let Err(error) = doors.open() {
        // Its port may have been taken while there was no gate. Then nothing leaves the agent, which is its own doing.
        tracing::warn!(%agent, %error, "its door cannot be opened");
    }
    send(socket, &ToGateSockets::Doors { agent }, &[doors.tcp.as_fd(), doors.udp.as_fd()]).await
}

async fn tell(socket: &UnixStream, answer: Answer) -> io::Result<()> {
    let request = answer.request;
    match &answer.connected {
        Ok(connection) => send(socket, &ToGateSockets::Connected { request }, &[connection.as_fd()]).await,
        Err(why) => send(socket, &ToGateSockets::Failed { request, why: *why }, &[]).await,
    }
}

async fn send(socket: &UnixStream, packet: &ToGateSockets, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = socket.async_io(Interest::WRITABLE, || jail::wire::send(socket.as_fd(), packet, fds));
    timeout(PATIENCE, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read(
    gates: &Arc<Gates>,
    account: AccountId,
    socket: &UnixStream,
    answers: mpsc::Sender<Answer>,
) -> io::Error {
    let dials = Arc::new(Semaphore::new(DIALS));
    loop {
        let packet = match socket.async_io(Interest::READABLE, || receive(socket)).await {
            Ok(packet) => packet,
            Err(error) => return error,
        };
        let (request, target) = match packet {
            FromGateSockets::Connect { request, agent, address } => {
                let may = gates.has_doors(account, agent);
                (request, may.then_some(Target::Address(address)).ok_or(Unconnected::Forbidden))
            }
            FromGateSockets::Resolver { request } => (request, Ok(Target::Resolver)),
        };
        let permit = dials.clone().try_acquire_owned().map_err(|_| Unconnected::Busy);
        let (target, permit) = match (target, permit) {
            (Ok(target), Ok(permit)) => (target, permit),
            (Err(why), _) | (_, Err(why)) => {
                let answer = Answer { request, connected: Err(why), _permit: None };
                if answers.send(answer).await.is_err() {
                    return io::ErrorKind::BrokenPipe.into();
                }
                continue;
            }
        };
        let (gates, answers) = (gates.clone(), answers.clone());
        tokio::spawn(async move {
            let settings = &gates.settings.egress;
            let connected = match target {
                Target::Resolver => connect(settings.resolver.address).await,
                Target::Address(address) => dial(address, &gates.open).await,
            };
            let connected = connected.map(OwnedFd::from);
            let _ = answers.send(Answer { request, connected, _permit: Some(permit) }).await;
        });
    }
}

enum Target {
    /// Where an agent wants to go.
    Address(SocketAddr),
    /// The one of node's configuration.
    Resolver,
}

/// One packet; descriptors that come with it are never taken in.
fn receive(socket: &UnixStream) -> io::Result<FromGateSockets> {
    let mut buffer = [0; MAX_PACKET + 1];
    let (_, length) = recv(socket, &mut buffer[..], RecvFlags::TRUNC)?;
    match buffer.get(..length) {
        Some([]) => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(packet) if length <= MAX_PACKET => {
            serde_json::from_slice(packet).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is too long")),
    }
}

/// Connects on behalf of an agent.
async fn dial(address: SocketAddr, open: &[Network]) -> Result<std::net::TcpStream, Unconnected> {
    if !egress::is_allowed(address.ip(), open) {
        return Err(Unconnected::Forbidden);
    }
    let stream = connect(address).await?;
    // From an address to itself: that is the machine, under a name that the public has for it.
    let own = matches!((stream.local_addr(), stream.peer_addr()), (Ok(from), Ok(to)) if from.ip() == to.ip());
    if own && !egress::is_opened(address.ip(), open) {
        return Err(Unconnected::Forbidden);
    }
    Ok(stream)
}

async fn connect(address: SocketAddr) -> Result<std::net::TcpStream, Unconnected> {
    let connected = timeout(DIAL, TcpStream::connect(address)).await.map_err(|_| Unconnected::Slow)?;
    let stream = connected.and_then(TcpStream::into_std).map_err(|error| reason(&error))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn reason(error: &io::Error) -> Unconnected {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => Unconnected::Refused,
        Some(Errno::TIMEDOUT) => Unconnected::Slow,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => Unconnected::Busy,
        _ => Unconnected::Unreachable,
    }
}
