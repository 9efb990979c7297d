//! TLS that is looked into: the agent speaks with this gate under the authority that it alone trusts ([`leaf`]), the gate with the
//! server, which it verifies ([`server`]), and requests pass from one to the other as HTTP in the clear does ([`http`]).
//!
//! Only what goes to a name is looked into, for only a name can be shown and verified. Both sides speak the same version of HTTP, so
//! none is ever translated into another.

mod leaf;
mod server;

pub use leaf::Authority;

use super::Context;
use super::connection::End;
use super::flow::Flow;
use super::http::{self, Ends, Link, Proxy};
use super::wire::Wire;
use crate::limits;
use hyper_util::rt::TokioIo;
use model::Problem;
use model::policy::Protocol;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use server::Verifying;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, client, server::TlsStream};

/// What all connections that are looked into share.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    /// The key of all leaves, made for the first.
    key: OnceLock<leaf::Key>,
    verifying: Mutex<Option<Arc<Verifying>>>,
}

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// Its name in ALPN (RFC 7301).
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::One => b"http/1.1",
            Self::Two => b"h2",
        }
    }
}

impl Tls {
    /// No server can be verified yet.
    pub fn new() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self { provider, key: OnceLock::new(), verifying: Mutex::default() }
    }

    /// From now on servers are verified by these authorities.
    pub fn trust(&self, pem: &str) {
        let verifying = Verifying::new(&self.provider, pem);
        *self.verifying.lock().unwrap_or_else(PoisonError::into_inner) = verifying.map(Arc::new);
    }

    /// Begins TLS with a server that shows a certificate for this name or address, and offers it these protocols; or why it is not
    /// that server, as in "the server …".
    pub async fn verified(
        &self,
        name: ServerName<'static>,
        alpn: Vec<Vec<u8>>,
        stream: TcpStream,
    ) -> Result<client::TlsStream<TcpStream>, &'static str> {
        let verifying = self.verifying().ok_or("cannot be verified: no authorities are known")?;
        let shaking = verifying.shake(name, alpn, stream);
        match timeout(limits::HANDSHAKE_TIME, shaking).await {
            Ok(shaken) => shaken.map_err(|error| server::words(&error)),
            Err(_) => Err("did not answer to TLS in time"),
        }
    }

    fn verifying(&self) -> Option<Arc<Verifying>> {
        self.verifying.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves a client that speaks TLS, of which `prefix` was read: its whole ClientHello, which was decided on. `upstream` is the
/// connection onwards, if there is one already.
pub async fn serve(
    context: &Arc<Context>,
    flow: &Arc<Flow>,
    client: &Arc<TcpStream>,
    prefix: Vec<u8>,
    upstream: Option<TcpStream>,
) -> Result<(), End> {
    let Some(name) = flow.name() else {
        return Err(End::Mismatch("only what goes to a name is looked into"));
    };
    let Some(authority) = flow.agent.authority() else {
        return Err(End::Alert("no authority to look into TLS under".to_owned()));
    };
    let Some(_place) = flow.agent.look_into(&context.looked_into) else {
        return Err(End::Alert("too many connections that are looked into".to_owned()));
    };
    let wire = Wire::client(prefix, client.clone(), flow.clone());
    let hello = timeout(limits::HANDSHAKE_TIME, LazyConfigAcceptor::new(Acceptor::default(), wire)).await;
    let hello = hello.map_err(|_| End::Idle)?.map_err(|error| refused(&error))?;
    let offered = server::offered(hello.client_hello().alpn());
    let ends = Ends::default();
    let (version, link) = match server::connect(context, flow, name, &offered, upstream, &ends).await {
        Ok(connected) => connected,
        Err(problem) => (offered.first().copied().unwrap_or(Version::One), Link::Nobody(problem)),
    };
    let config = authority.config(&context.tls, name, version).map_err(|error| {
        tracing::warn!(%error, agent = %flow.agent.id, "cannot show an agent a certificate");
        End::Alert("no certificate could be made".to_owned())
    })?;
    let accepted = timeout(limits::HANDSHAKE_TIME, hello.into_stream(config)).await;
    let accepted = accepted.map_err(|_| End::Idle)?.map_err(|error| refused(&error))?;
    let proxy = Proxy::new(context, flow, Protocol::Tls, link, ends);
    speak(&proxy, version, accepted).await
}

async fn speak(proxy: &Arc<Proxy>, version: Version, client: TlsStream<Wire>) -> Result<(), End> {
    match version {
        Version::One => http::serve_one(proxy, TokioIo::new(client)).await,
        Version::Two => http::serve_two(proxy, TokioIo::new(client)).await,
    }
}

/// The client did not go on. It has been told, or told so itself: most of those do not trust the agent's authority.
fn refused(error: &std::io::Error) -> End {
    End::Told(format!("no TLS with the agent: {error}"))
}

/// What clients are told of a server that could not be verified.
fn unverified(name: &str, why: &str) -> Problem {
    http::bad_gateway(format!("The server at {name} {why}, so nothing was sent to it."))
        .remedy("If that server is meant, its operator can give it a certificate that is valid for its name.")
}
