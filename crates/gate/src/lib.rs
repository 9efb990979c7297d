//! The gate: the only way from the network to what happens inside an agent, and the only way out of it.
//!
//! One process per account. Its guard side serves the workspace API ([`api`], `model::workspace`) over HTTP and WebSocket on
//! a listener that node made, verifies tokens offline, and speaks with each agent's init over that agent's unix
//! socket. What comes over those sockets is hostile. Its other side ([`egress`]) takes all that leaves an agent, and passes on
//! what the agent's policy allows.
//!
//! It never touches a database, a file or the jail, never starts a process, and holds no privilege: see
//! [`lockdown()`]. It remembers nothing: node tells it everything (`model::gate_api`), and when node's end of the
//! control socket closes it ends, once it told node what is left to tell, if node still hears that.
//!
//! `cofferdam gate --sockets DIR` calls [`main`] with the three inherited sockets, before any thread exists.

pub mod api;
mod channel;
mod control;
pub mod egress;
mod limits;
mod lockdown;
mod problems;
mod server;
mod state;
#[cfg(test)]
mod tests;
mod token;

pub use control::ControlError;
pub use egress::SocketsError;
pub use lockdown::{LockdownError, lockdown};

use model::gate_api::FromGate;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Why the gate ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not give up its rights; nothing was served.
    #[error("the gate could not lock itself down and serves nothing")]
    Lockdown(#[from] LockdownError),
    /// The runtime could not be built, or an inherited socket is not usable.
    #[error("the gate could not start")]
    Start(#[source] std::io::Error),
    /// Node spoke in a way that cannot be followed.
    #[error("the gate lost node")]
    Control(#[from] ControlError),
    /// Node spoke about sockets in a way that cannot be followed.
    #[error("the gate lost node, which connects for it")]
    Sockets(#[from] SocketsError),
}

/// The whole process: locks itself down, then builds the runtime, then serves until node closes `control` or `sockets`, or
/// SIGTERM comes. Call it in the main thread while no other thread exists, so that every thread is bound by what
/// [`lockdown()`] does. `sockets` is of kind SOCK_SEQPACKET; `sockets_dir` holds the agents' channel sockets
/// (`RUN/gates/<account>`).
pub fn main(
    control: UnixStream,
    guard: TcpListener,
    sockets: OwnedFd,
    sockets_dir: &Path,
) -> Result<(), Error> {
    let threads = threads();
    lockdown(sockets_dir)?;
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start);
    let runtime = build()?;
    let mut more = Vec::new();
    for _ in 1..threads {
        let runtime = build()?;
        more.push(runtime.handle().clone());
        let serve = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("gate".to_owned()).spawn(serve).map_err(Error::Start)?;
    }
    // Half of the descriptors for those who come in, half for what goes out.
    let descriptors = server::descriptors() / 2;
    let bounds = Bounds {
        places: server::client_places(descriptors),
        coming: limits::COMING,
        egress: egress::Settings::new(descriptors),
    };
    runtime.block_on(run(control, guard, sockets, more, bounds))
}

/// Half of the processors, for agents need the others to have something to say.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |all| all.get() / 2).clamp(1, limits::THREADS)
}

/// What tests choose.
struct Bounds {
    /// Connections of clients.
    places: usize,
    /// How long an agent is waited for.
    coming: Duration,
    /// What goes out.
    egress: egress::Settings,
}

/// Serves, without locking down: for tests, and for [`main`] once it locked down. Ends when node closes, or half closes,
/// `control` or `sockets`, or at SIGTERM. Agents notice only that what goes out ends. `more` are the runtimes of other threads.
async fn run(
    control: UnixStream,
    guard: TcpListener,
    sockets: OwnedFd,
    more: Vec<Handle>,
    bounds: Bounds,
) -> Result<(), Error> {
    control.set_nonblocking(true).map_err(Error::Start)?;
    guard.set_nonblocking(true).map_err(Error::Start)?;
    let control = tokio::net::UnixStream::from_std(control).map_err(Error::Start)?;
    let guard = tokio::net::TcpListener::from_std(guard).map_err(Error::Start)?;
    let port = guard.local_addr().map_err(Error::Start)?.port();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;

    let (to_node, for_node) = mpsc::channel(256);
    let shared = state::Shared::new(to_node.clone(), bounds.coming);
    let egress =
        egress::Egress::new(sockets, to_node.clone(), more.clone(), bounds.egress).map_err(Error::Start)?;
    let hands = server::Hands::new(more);
    let (first, first_came) = oneshot::channel();
    let serve = async {
        // Until node spoke, nobody is known: clients wait in the kernel's queue.
        if first_came.await.is_ok() {
            let serving = server::serve(guard, api::router(shared.clone(), port), bounds.places, hands);
            let _ = to_node.send(FromGate::Ready).await;
            serving.await;
        }
        std::future::pending().await
    };
    let (reading, writing) = control.into_split();
    let over = CancellationToken::new();
    let mut speaking = pin!(control::speak(writing, for_node, over.clone()));
    let ended = tokio::select! {
        ended = control::listen(reading, &shared, &egress, first) => ended.map_err(Error::from),
        // Node closed its reading half: the same as the end.
        ended = &mut speaking => return Ok(ended?),
        ended = egress::follow(&egress) => ended.map_err(Error::from),
        () = serve => Ok(()),
        () = shared.report_activity() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let last_words = async {
        tokio::join!(
            async {
                egress.finish().await;
                over.cancel();
            },
            speaking
        )
    };
    // When node does not hear them any more, they are lost.
    let _ = tokio::time::timeout(limits::LAST_WORDS, last_words).await;
    ended
}
