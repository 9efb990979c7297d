//! An agent's doors: what takes its connections, and what takes its questions of DNS.

use super::agent::Agent;
use super::{Context, connection, questions};
use crate::limits;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

/// Takes what comes to the doors until `replaced`, or until the agent's boundary is gone.
pub fn open(
    context: &Arc<Context>,
    agent: &Arc<Agent>,
    [tcp, udp]: [OwnedFd; 2],
    replaced: CancellationToken,
    boundary: CancellationToken,
) {
    let home = context.workers.next();
    let (context_, agent_) = (context.clone(), agent.clone());
    let (replaced_, boundary_) = (replaced.clone(), boundary.clone());
    context.workers.spawn(home, async move {
        let taking = connections(&context_, &agent_, tcp, home, &boundary_);
        tokio::select! {
            Err(error) = taking => tracing::warn!(%error, agent = %agent_.id, "an agent's door fails"),
            () = replaced_.cancelled() => {}
            () = boundary_.cancelled() => {}
        }
    });
    let (context_, agent) = (context.clone(), agent.clone());
    context.workers.spawn(home, async move {
        let answering = async {
            let door = UdpSocket::from_std(udp.into())?;
            questions::answer_datagrams(&context_, &agent, &door).await
        };
        tokio::select! {
            Err(error) = answering => tracing::warn!(%error, agent = %agent.id, "an agent's door for DNS fails"),
            () = replaced.cancelled() => {}
            () = boundary.cancelled() => {}
        }
    });
}

async fn connections(
    context: &Arc<Context>,
    agent: &Arc<Agent>,
    door: OwnedFd,
    home: usize,
    boundary: &CancellationToken,
) -> io::Result<()> {
    let door = TcpListener::from_std(door.into())?;
    let mut turn = 0;
    loop {
        // Too many wait in the kernel's queue, where they take nothing from others.
        if let Err(wait) = agent.arrivals.take() {
            tokio::time::sleep(wait).await;
            continue;
        }
        let client = match door.accept().await {
            Ok((client, _)) => client,
            // Node shut it down: the boundary goes.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // The machine is short of something; pausing keeps a lasting fault from spinning. There is no event to wait for.
                tracing::warn!(%error, "cannot accept a connection out of an agent");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        turn += 1;
        if turn % limits::DOOR_TURN == 0 {
            tokio::task::yield_now().await;
        }
        let Some(place) = agent.place(&context.places) else {
            connection::send_away(context, agent, client);
            continue;
        };
        let (context_, agent, boundary) = (context.clone(), agent.clone(), boundary.clone());
        let chosen = context.workers.choose(home);
        if chosen == home {
            context.workers.deal(home, async move {
                connection::serve(context_, agent, client, boundary).await;
                drop(place);
            });
            continue;
        }
        // The other one's events are to tell of it.
        let client = client.into_std();
        context.workers.deal(chosen, async move {
            match client.and_then(TcpStream::from_std) {
                Ok(client) => connection::serve(context_, agent, client, boundary).await,
                Err(error) => tracing::warn!(%error, "cannot serve a connection out of an agent"),
            }
            drop(place);
        });
    }
}
