//! The agent's questions of DNS, answered here: names that could be reached have an address that stands for them, all others
//! are refused. Nobody else is asked.

use super::Context;
use super::agent::{Agent, Resolved};
use super::dns::{self, Answer};
use crate::limits;
use model::egress::{Connection, Outcome};
use model::gate_api::FromGate;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Answers one question; `None` for what is none.
async fn answer(context: &Context, agent: &Agent, question: &[u8]) -> Option<Vec<u8>> {
    let mut named = None;
    let answer = dns::answer(question, |name| match agent.resolve(name) {
        Resolved::To { stands, new } => {
            named = new.then(|| name.to_owned());
            Answer::Addresses { v4: stands.v4, v6: stands.v6 }
        }
        Resolved::TooMany => {
            agent.ledger.write(refused(name, "too many names".to_owned()));
            Answer::Failed
        }
        Resolved::Refused { by } => {
            agent.ledger.write(refused(name, by.to_string()));
            Answer::Refused
        }
    });
    if let Some(name) = named {
        // Before the agent knows the address, so that it stands for this name also after the gate was started again.
        let _ = context.to_node.send(FromGate::Named { agent: agent.id, name }).await;
    }
    answer
}

/// The record of a name that was refused.
fn refused(name: &str, by: String) -> Connection {
    Connection {
        credentials: Vec::new(),
        at: OffsetDateTime::now_utc(),
        host: name.to_owned(),
        port: None,
        address: None,
        protocol: None,
        outcome: Outcome::Denied,
        by,
        sent: 0,
        received: 0,
        duration_ms: 0,
        end: None,
        count: 1,
    }
}

/// Answers the datagrams of a door, until it fails.
pub async fn answer_datagrams(context: &Context, agent: &Agent, door: &UdpSocket) -> io::Result<()> {
    let mut turn = 0;
    let mut buffer = [0; limits::QUESTION];
    loop {
        let received = match door.async_io(Interest::READABLE, || receive(door, &mut buffer)).await {
            Ok(received) => received,
            // What the kernel tells of an answer that did not arrive.
            Err(error) if is_of_a_peer(&error) => continue,
            Err(error) => return Err(error),
        };
        turn += 1;
        if turn % limits::DOOR_TURN == 0 {
            tokio::task::yield_now().await;
        }
        let Some(Received { length, from, asked }) = received else { continue };
        if agent.questions.take().is_err() {
            continue;
        }
        let question = buffer.get(..length).unwrap_or_default();
        if let Some(answer) = answer(context, agent, question).await {
            // Without room for it, it is lost like any datagram.
            if let Err(error) = reply(door, &answer, &from, asked) {
                tracing::debug!(%error, "cannot answer a question of DNS");
            }
        }
    }
}

fn is_of_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

struct Received {
    length: usize,
    from: SockaddrStorage,
    asked: ControlMessageOwned,
}

/// One datagram; `None` for one that is not whole, or does not say which address was asked.
fn receive(door: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    // Sockets that were made for both families tell of the address twice.
    let mut space = nix::cmsg_space!(nix::libc::in_pktinfo, nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(door.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Ok(None);
    }
    let (mut v4, mut v6) = (None, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(_) => v4 = Some(control),
            ControlMessageOwned::Ipv6PacketInfo(_) => v6 = Some(control),
            _ => {}
        }
    }
    let (length, from) = (message.bytes, message.address);
    Ok(from.zip(v6.or(v4)).map(|(from, asked)| Received { length, from, asked }))
}

/// Answers from the very address that was asked.
fn reply(
    door: &UdpSocket,
    answer: &[u8],
    to: &SockaddrStorage,
    asked: ControlMessageOwned,
) -> io::Result<()> {
    let send = |control: ControlMessage<'_>| {
        sendmsg(door.as_raw_fd(), &[IoSlice::new(answer)], &[control], MsgFlags::MSG_DONTWAIT, Some(to))
    };
    match asked {
        ControlMessageOwned::Ipv6PacketInfo(asked) => send(ControlMessage::Ipv6PacketInfo(&asked))?,
        ControlMessageOwned::Ipv4PacketInfo(mut asked) => {
            asked.ipi_spec_dst = asked.ipi_addr;
            send(ControlMessage::Ipv4PacketInfo(&asked))?
        }
        _ => return Ok(()),
    };
    Ok(())
}

/// Answers the questions on a connection (RFC 7766), until it ends or nothing comes for a while.
pub async fn answer_stream(context: &Context, agent: &Agent, client: &mut TcpStream) {
    for _ in 0..limits::QUESTIONS_PER_CONNECTION {
        let question = async {
            let length = client.read_u16().await?;
            let mut question = vec![0; usize::from(length).min(limits::QUESTION)];
            client.read_exact(&mut question).await?;
            // A longer one is none.
            if usize::from(length) > question.len() {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            Ok(question)
        };
        let Ok(Ok(question)) = timeout(limits::QUESTION_TIME, question).await else { return };
        if let Err(wait) = agent.questions.take() {
            tokio::time::sleep(wait).await;
        }
        let Some(answer) = answer(context, agent, &question).await else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let bytes = [&length.to_be_bytes()[..], &answer].concat();
        if !matches!(timeout(limits::QUESTION_TIME, client.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}
