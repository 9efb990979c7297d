//! One connection out of an agent: who it is for, whether it may, and what becomes of it.

use super::agent::{Agent, Denied};
use super::first::{First, Opening};
use super::flow::{Destination, Flow, Way};
use super::names;
use super::upstream::{self, UpstreamError};
use super::{Context, copy, http, questions, tls};
use crate::limits;
use model::egress::Outcome;
use model::policy::Protocol;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

/// The alert that refuses a client of TLS: fatal, access_denied (RFC 8446, section 6).
const ACCESS_DENIED: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31];

/// Where DNS is spoken.
const DNS: u16 = 53;

/// Why a connection ended otherwise than by both sides having said all.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// Policy refuses it.
    #[error("refused by {0}")]
    Denied(Denied),
    /// It was refused by policy, or does not fit the name, and the client speaks TLS.
    #[error("refused by {0}")]
    Alert(String),
    /// It says who it is for, and that is not who its address stands for; or it cannot be understood.
    #[error("refused, because {0}")]
    Mismatch(&'static str),
    /// The client was told in its protocol what was wrong.
    #[error("{0}")]
    Told(String),
    /// There is no connection onwards.
    #[error("not connected: {0}")]
    Upstream(#[from] UpstreamError),
    /// One of the two connections broke.
    #[error("broken: {0}")]
    Broken(#[from] io::Error),
    /// Nothing moved for too long.
    #[error("idle")]
    Idle,
    /// The agent's boundary is gone.
    #[error("the agent is gone")]
    Gone,
}

impl From<Denied> for End {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// Serves a connection that came to the agent's door, to its end. `boundary` is cancelled when the agent's is gone.
pub async fn serve(
    context: Arc<Context>,
    agent: Arc<Agent>,
    mut client: TcpStream,
    boundary: CancellationToken,
) {
    let Ok(original) = (context.original)(&client) else { return };
    // Keystrokes should not wait for an acknowledgement. Without it they only are slower.
    let _ = client.set_nodelay(true);
    let (address, port) = (original.ip().to_canonical(), original.port());
    if address.is_loopback() || address.is_unspecified() || port == 0 {
        // To the door itself, where nothing was steered; or to a port that nobody has.
        return reset(&client);
    }
    let mut changes = agent.changes();
    if port == DNS {
        tokio::select! {
            () = Box::pin(questions::answer_stream(&context, &agent, &mut client)) => {}
            () = boundary.cancelled() => reset(&client),
        }
        return;
    }
    let client = Arc::new(client);
    let to = destination(&agent, address);
    let unknown = matches!(to, Destination::Address(address) if names::is_synthetic(address));
    let flow = Arc::new(Flow::new(agent, to, port, &client));
    if unknown {
        // It stands for a name that nobody asked for.
        flow.over(Outcome::Denied, "no name".to_owned(), None);
        return reset(&client);
    }
    let cut = async {
        while changes.changed().await.is_ok() {
            if let Err(denied) = flow.still() {
                return denied;
            }
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        // What cuts it comes first, so that nothing passes once it is known.
        biased;
        denied = cut => Err(denied.into()),
        () = boundary.cancelled() => Err(End::Gone),
        ended = pass(&context, &flow, &client) => ended,
        () = flow.idle(limits::FLOW_IDLE, limits::HALF_CLOSED_IDLE) => Err(End::Idle),
    };
    finish(&flow, &client, ended);
}

/// Sends a connection away for which there is no place.
pub fn send_away(context: &Context, agent: &Arc<Agent>, client: TcpStream) {
    reset(&client);
    let Ok(original) = (context.original)(&client) else { return };
    let to = destination(agent, original.ip().to_canonical());
    let flow = Flow::new(agent.clone(), to, original.port(), &Arc::new(client));
    flow.over(Outcome::Denied, "too many connections".to_owned(), None);
}

/// Where a connection to this address goes.
fn destination(agent: &Agent, address: IpAddr) -> Destination {
    agent.name_of(address).map_or(Destination::Address(address), Destination::Name)
}

/// Tells the client, as far as it can be told, and writes down what was.
fn finish(flow: &Flow, client: &TcpStream, ended: Result<(), End>) {
    match &ended {
        Ok(()) | Err(End::Told(_)) => {}
        Err(End::Alert(_)) => {
            // It is small, and the first that is sent.
            let _ = client.try_write(&ACCESS_DENIED);
        }
        Err(_) => reset(client),
    }
    let words = ended.as_ref().err().map_or_else(|| "closed".to_owned(), ToString::to_string);
    if flow.is_connected() {
        return flow.over(Outcome::Passed, flow.by(), Some(words));
    }
    match ended {
        Err(End::Denied(denied)) => flow.over(Outcome::Denied, denied.to_string(), None),
        Err(End::Alert(by) | End::Told(by)) => flow.over(Outcome::Denied, by, None),
        Err(End::Mismatch(why)) => flow.over(Outcome::Denied, why.to_owned(), None),
        _ if flow.by().is_empty() => flow.over(Outcome::Denied, words, None),
        _ => flow.over(Outcome::Failed, flow.by(), Some(words)),
    }
}

/// Has the kernel end the connection at once when it is closed, so that nobody waits.
fn reset(client: &TcpStream) {
    let _ = client.set_zero_linger();
}

async fn pass(context: &Arc<Context>, flow: &Arc<Flow>, client: &Arc<TcpStream>) -> Result<(), End> {
    flow.decide(None).await?;
    let mut first = First::default();
    let mut upstream = None;
    let mut opening = first.read(client, limits::SERVER_FIRST).await?;
    if opening == Opening::Silent && flow.could_be(Protocol::Tcp) {
        // Of some protocols the server speaks first. What the client says is looked at nevertheless.
        flow.decide(Some(Protocol::Tcp)).await?;
        let server = upstream::connect(context, flow).await?;
        tokio::select! {
            biased;
            said = first.read(client, limits::FLOW_IDLE) => opening = said?,
            ready = server.ready(Interest::READABLE) => {
                ready?;
                return server_spoke(flow, client, &server, first).await;
            }
        }
        upstream = Some(server);
    } else if opening == Opening::Silent {
        opening = first.read(client, limits::OPENING_TIME).await?;
    }
    if opening == Opening::Http {
        let prefix = first.into_bytes();
        return Box::pin(http::serve(context, flow, client, prefix, upstream)).await;
    }
    fits(flow, &opening).await?;
    if is_looked_into(flow, &opening) {
        flow.look_into();
        let prefix = first.into_bytes();
        return Box::pin(tls::serve(context, flow, client, prefix, upstream)).await;
    }
    let upstream = match upstream {
        Some(upstream) => upstream,
        None => upstream::connect(context, flow).await?,
    };
    pass_on(flow, &upstream, first).await?;
    Ok(copy::both(client, &upstream, flow).await?)
}

/// The server spoke before the client: what the client says first is looked at when it comes.
async fn server_spoke(
    flow: &Flow,
    client: &TcpStream,
    server: &TcpStream,
    mut first: First,
) -> Result<(), End> {
    let out = async {
        let opening = first.read(client, limits::FLOW_IDLE).await?;
        if opening == Opening::Http {
            // Its requests could not be told apart any more.
            return Err(End::Mismatch("a server that speaks first is not asked by HTTP"));
        }
        fits(flow, &opening).await?;
        if is_looked_into(flow, &opening) {
            return Err(End::Mismatch("a server that speaks first is not asked by TLS that is looked into"));
        }
        pass_on(flow, server, first).await?;
        Ok(copy::one_way(client, server, flow, Way::Out).await?)
    };
    let back = async { Ok(copy::one_way(server, client, flow, Way::In).await?) };
    tokio::try_join!(out, back).map(drop)
}

/// Whether what the client began with may be said to where it goes.
async fn fits(flow: &Flow, opening: &Opening) -> Result<(), End> {
    match opening {
        Opening::Tls { sni } => {
            // An address has no name that could be compared: only rules about addresses count.
            if let (Some(name), Some(sni)) = (flow.name(), sni)
                && name != sni.as_str()
            {
                return Err(End::Alert(format!("name {name:?}, which is not what the ClientHello asks for")));
            }
            let decided = flow.decide(Some(Protocol::Tls)).await;
            decided.map_err(|denied| End::Alert(denied.to_string()))
        }
        // A client that only wants to listen may go on where anything goes.
        Opening::Other | Opening::Closed => Ok(flow.decide(Some(Protocol::Tcp)).await?),
        // Where requests are not told apart, nothing of HTTP passes.
        Opening::Http => Err(End::Mismatch("requests of HTTP are looked at one by one")),
        Opening::Silent => Err(End::Mismatch("it said nothing for too long")),
        Opening::Bad => Err(End::Mismatch("what it said first is not whole, or makes no sense")),
    }
}

/// Whether what is said is inside of TLS, and the policy wants to know.
fn is_looked_into(flow: &Flow, opening: &Opening) -> bool {
    matches!(opening, Opening::Tls { .. }) && flow.wants_a_look()
}

/// Passes on what was looked at.
async fn pass_on(flow: &Flow, server: &TcpStream, first: First) -> io::Result<()> {
    let bytes = first.into_bytes();
    if flow.moved(Way::Out, bytes.len()) {
        yield_now().await;
    }
    copy::send(server, &bytes).await
}

/// Where the client wanted to go, as the kernel says that steered it here.
pub fn original(client: &TcpStream) -> io::Result<SocketAddr> {
    let address = client.local_addr()?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
