//! The addresses of names, asked of this node's resolver by DNS over TCP, once a connection to them was decided on.
//!
//! Which of them may be connected to, node decides: they are only tried here.

use super::dns::{self, Family, Unresolved};
use super::sockets::Dialer;
use crate::limits;
use model::gate_api::Unconnected;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
    pub fn new(dialer: Arc<Dialer>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            runtime,
            link: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            lookups: Semaphore::new(limits::LOOKUPS),
        })
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
        self.runtime.spawn(async move {
            if let Ok(socket) = TcpStream::from_std(socket) {
                converse(socket, asked).await;
            }
        });
        Ok(link.insert(Link { questions }).clone())
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
async fn converse(mut socket: TcpStream, mut questions: mpsc::Receiver<Question>) {
    let (mut reading, mut writing) = socket.split();
    let waiting = Mutex::new(HashMap::<u16, Question>::new());
    let waits = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let ask = async {
        let mut last = 0_u16;
        while let Some(question) = questions.recv().await {
            let id = {
                let mut waits = waits();
                // Given up by who asked, and never answered.
                waits.retain(|_, question| !question.answer.is_closed());
                let free = (1..=u16::MAX).map(|step| last.wrapping_add(step)).find(|id| !waits.contains_key(id));
                // There are far fewer under way.
                let Some(id) = free else { continue };
                last = id;
                id
            };
            let packet = dns::query(&question.name, question.family, id);
            waits().insert(id, question);
            let length = u16::try_from(packet.len()).unwrap_or(u16::MAX).to_be_bytes();
            if writing.write_all(&[&length[..], &packet].concat()).await.is_err() {
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
}
