//! The addresses of names, asked of this node's resolver by DNS over TCP, TLS or HTTPS, once a connection to them was decided on.
//! Where it is to be verified, nothing is asked before it was.
//!
//! Which of them may be connected to, node decides: they are only tried here.

mod https;

use super::dns::{self, Family, Unresolved};
use super::sockets::Dialer;
use super::tls::Tls;
use crate::limits;
use model::gate_api::Unconnected;
use model::{Resolver as ResolverAt, ResolvesBy};
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The resolver cannot be reached.
    #[error("the resolver cannot be reached")]
    Unconnected(Unconnected),
    /// It is not the one that is meant, as far as its certificate tells, or it does not speak as it should.
    #[error("the resolver {0}")]
    Unverified(&'static str),
    /// It closed the connection, twice.
    #[error("the resolver does not answer")]
    Broken,
    /// It took too long.
    #[error("the resolver did not answer in time")]
    Slow,
    /// What it said makes no sense, or is that it failed.
    #[error(transparent)]
    Failed(Unresolved),
}

/// Asks, and remembers for a while.
pub struct Resolver {
    dialer: Arc<Dialer>,
    tls: Arc<Tls>,
    /// How it is asked otherwise than in the clear.
    by: OnceLock<Secured>,
    /// Serves the connection.
    runtime: Handle,
    link: tokio::sync::Mutex<Option<Link>>,
    known: Mutex<HashMap<String, Arc<Known>>>,
    lookups: Semaphore,
}

/// What is known of one name. All who ask at the same time wait for one answer.
#[derive(Default)]
struct Known(OnceCell<(Arc<[IpAddr]>, Instant)>);

impl Known {
    fn good(&self) -> bool {
        self.0.get().is_none_or(|(_, until)| Instant::now() < *until)
    }
}

impl Resolver {
    /// Its connection is made by `dialer`, and served by `runtime`.
    pub fn new(dialer: Arc<Dialer>, runtime: Handle, tls: Arc<Tls>) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            tls,
            by: OnceLock::new(),
            runtime,
            link: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            lookups: Semaphore::new(limits::LOOKUPS),
        })
    }

    /// How it is asked, which is said once, before anything is.
    pub fn ask_by(&self, resolver: &ResolverAt) {
        let (name, https) = match &resolver.by {
            ResolvesBy::Tcp => return,
            ResolvesBy::Tls { name } => (name, None),
            ResolvesBy::Https { name, path } => {
                (name, Some(https::Place::new(resolver, name.as_deref(), path)))
            }
        };
        let verified = match name {
            Some(name) => ServerName::try_from(name.clone()).ok(),
            None => Some(ServerName::from(resolver.address.ip())),
        };
        let _ = self.by.set(Secured { name: verified, https });
    }

    /// The addresses of a name; none, if it has none.
    pub async fn lookup(&self, name: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        let known = self.entry(name);
        let asked = known.0.get_or_try_init(|| async {
            let _permit = self.lookups.acquire().await;
            let (addresses, ttl) = self.ask(name).await?;
            Ok((addresses.into(), Instant::now() + ttl))
        });
        let answer = asked.await.map(|(addresses, _)| addresses.clone());
        if answer.is_err() {
            // Who comes later asks anew, and nothing is kept for names that nobody could resolve.
            self.known().retain(|_, other| !Arc::ptr_eq(other, &known));
        }
        answer
    }

    fn entry(&self, name: &str) -> Arc<Known> {
        let mut all = self.known();
        if let Some(known) = all.get(name).filter(|known| known.good()) {
            return known.clone();
        }
        if all.len() >= limits::RESOLVED {
            all.retain(|_, known| known.good());
        }
        if all.len() >= limits::RESOLVED {
            all.clear();
        }
        let known = Arc::<Known>::default();
        all.insert(name.to_owned(), known.clone());
        known
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
        let (v4, v6) = tokio::join!(self.question(name, Family::V4), self.question(name, Family::V6));
        // One of them is enough.
        let found = match (v4, v6) {
            (Ok(v4), Ok(v6)) => [v4, v6].concat(),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.is_empty() => one,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let time = if found.is_empty() { limits::UNRESOLVED_TIME } else { limits::RESOLVED_TIME };
        Ok((found, time))
    }

    async fn question(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
        let asking = async {
            // Resolvers close connections that idle: the second time is on a new one.
            for _ in 0..2 {
                let link = self.link().await?;
                let (answer, answered) = oneshot::channel();
                let question = Question { name: name.to_owned(), family, answer };
                if link.questions.send(question).await.is_ok()
                    && let Ok(found) = answered.await
                {
                    return match found {
                        Ok(found) => Ok(found),
                        Err(Unresolved::NoSuchName) => Ok(Vec::new()),
                        Err(why) => Err(ResolveError::Failed(why)),
                    };
                }
            }
            Err(ResolveError::Broken)
        };
        match tokio::time::timeout(limits::RESOLVE_TIME, asking).await {
            Ok(answered) => answered,
            Err(_) => {
                // What lies between may have forgotten the connection, which nobody would tell.
                self.link.lock().await.take();
                Err(ResolveError::Slow)
            }
        }
    }

    /// The connection, or a new one.
    async fn link(&self) -> Result<Link, ResolveError> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.questions.is_closed()) {
            return Ok(link.clone());
        }
        let socket = self.dialer.resolver().await.map_err(ResolveError::Unconnected)?;
        let (questions, asked) = mpsc::channel(64);
        let socket = socket.into_std().map_err(|_| ResolveError::Broken)?;
        let (ready, is_ready) = oneshot::channel();
        let (tls, by) = (self.tls.clone(), self.by.get().cloned());
        self.runtime.spawn(async move {
            let Ok(socket) = TcpStream::from_std(socket) else { return };
            match by {
                None => {
                    let _ = ready.send(Ok(()));
                    converse(socket, asked).await;
                }
                Some(by) => by.converse(&tls, socket, asked, ready).await,
            }
        });
        is_ready.await.map_err(|_| ResolveError::Broken)?.map_err(ResolveError::Unverified)?;
        Ok(link.insert(Link { questions }).clone())
    }
}

/// How a resolver is asked that is verified.
#[derive(Clone)]
struct Secured {
    /// For whom its certificate has to be. Nobody has one that is for none.
    name: Option<ServerName<'static>>,
    https: Option<https::Place>,
}

impl Secured {
    /// Verifies it and says so, and asks and listens until either breaks.
    async fn converse(
        self,
        tls: &Tls,
        socket: TcpStream,
        asked: mpsc::Receiver<Question>,
        ready: oneshot::Sender<Result<(), &'static str>>,
    ) {
        let alpn = self.https.iter().map(|_| b"h2".to_vec()).collect();
        let verified = match self.name {
            Some(name) => tls.verified(name, alpn, socket).await,
            None => Err("has a name that no certificate is for"),
        };
        let socket = match verified {
            Ok(socket) => socket,
            Err(why) => {
                let _ = ready.send(Err(why));
                return;
            }
        };
        match self.https {
            None => {
                let _ = ready.send(Ok(()));
                converse(socket, asked).await;
            }
            Some(place) => https::converse(place, socket, asked, ready).await,
        }
    }
}

/// A connection to the resolver.
#[derive(Clone)]
struct Link {
    questions: mpsc::Sender<Question>,
}

struct Question {
    name: String,
    family: Family,
    answer: oneshot::Sender<Result<Vec<IpAddr>, Unresolved>>,
}

/// Asks and listens until either breaks. Who waits then hears that nobody will answer.
async fn converse(socket: impl AsyncRead + AsyncWrite, mut questions: mpsc::Receiver<Question>) {
    let (mut reading, mut writing) = tokio::io::split(socket);
    let waiting = Mutex::new(HashMap::<u16, Question>::new());
    let waits = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let ask = async {
        let mut last = 0_u16;
        while let Some(question) = questions.recv().await {
            let id = {
                let mut waits = waits();
                // Given up by who asked, and never answered.
                waits.retain(|_, question| !question.answer.is_closed());
                let free =
                    (1..=u16::MAX).map(|step| last.wrapping_add(step)).find(|id| !waits.contains_key(id));
                // There are far fewer under way.
                let Some(id) = free else { continue };
                last = id;
                id
            };
            let packet = dns::query(&question.name, question.family, id);
            waits().insert(id, question);
            let length = u16::try_from(packet.len()).unwrap_or(u16::MAX).to_be_bytes();
            let asked = writing.write_all(&[&length[..], &packet].concat()).await;
            if asked.is_err() || writing.flush().await.is_err() {
                return;
            }
        }
    };
    let listen = async {
        let mut reply = Vec::new();
        loop {
            let Ok(length) = reading.read_u16().await else { return };
            reply.resize(length.into(), 0);
            if reading.read_exact(&mut reply).await.is_err() {
                return;
            }
            let Some(id) = reply.first_chunk().copied().map(u16::from_be_bytes) else { return };
            let asked = waits().remove(&id);
            if let Some(Question { name, family, answer }) = asked {
                let _ = answer.send(dns::addresses(&reply, id, &name, family));
            }
            if reply.capacity() > 16 << 10 {
                reply = Vec::new();
            }
        }
    };
    tokio::select! {
        () = ask => {}
        () = listen => {}
    }
    // Before those who wait hear of it, so that none of them asks here again.
    questions.close();
}
