//! One connection out of an agent, as everybody who works on it knows it.

use super::agent::{Agent, Denied};
use super::log::{Denial, Record};
use model::policy::{By, Host, Protocol, Request, Target};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What it is, and how it goes.
pub struct Flow {
    /// Whose.
    pub agent: Arc<Agent>,
    /// Where to: an address that stands for a name was replaced by that.
    pub to: Destination,
    /// Which port.
    pub port: u16,
    began: Instant,
    now: Mutex<Now>,
    connected: OnceLock<SocketAddr>,
    sent: AtomicU64,
    received: AtomicU64,
    /// When bytes moved last, in milliseconds since it began.
    moved: AtomicU64,
    half_closed: AtomicBool,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// By name.
    Name(Arc<str>),
    /// By a literal address.
    Address(IpAddr),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Out of the agent.
    Out,
    /// Into it.
    In,
}

#[derive(Default)]
struct Now {
    protocol: Option<Protocol>,
    request: Option<(String, String)>,
    by: Option<By>,
}

impl Flow {
    /// It begins.
    pub fn new(agent: Arc<Agent>, to: Destination, port: u16) -> Self {
        Self {
            agent,
            to,
            port,
            began: Instant::now(),
            now: Mutex::default(),
            connected: OnceLock::new(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            half_closed: AtomicBool::new(false),
        }
    }

    /// The name that it is made to.
    pub fn name(&self) -> Option<&str> {
        match &self.to {
            Destination::Name(name) => Some(name),
            Destination::Address(_) => None,
        }
    }

    /// Decides on it, once more is known of it than before.
    pub async fn decide(&self, protocol: Option<Protocol>) -> Result<(), Denied> {
        let target = Target { host: self.host(), port: self.port, protocol, request: None };
        let decided = self.agent.decide(&target).await;
        self.note(protocol, None, decided)
    }

    /// Decides on a request of HTTP.
    pub async fn decide_request(&self, method: &str, path: &str) -> Result<(), Denied> {
        let (protocol, request) = (Some(Protocol::Http), Some(Request { method, path }));
        let target = Target { host: self.host(), port: self.port, protocol, request };
        let decided = self.agent.decide(&target).await;
        self.note(protocol, Some((method.to_owned(), path.to_owned())), decided)
    }

    /// Whether it could go on if it spoke this.
    pub fn could_be(&self, protocol: Protocol) -> bool {
        let protocol = Some(protocol);
        self.agent.still(&Target { host: self.host(), port: self.port, protocol, request: None }).is_ok()
    }

    /// Whether what goes on may still, as far as it is known.
    pub fn still(&self) -> Result<(), Denied> {
        let now = self.now();
        let request = now.request.as_ref().map(|(method, path)| Request { method, path });
        self.agent.still(&Target { host: self.host(), port: self.port, protocol: now.protocol, request })
    }

    fn note(
        &self,
        protocol: Option<Protocol>,
        request: Option<(String, String)>,
        decided: Result<By, Denied>,
    ) -> Result<(), Denied> {
        let mut now = self.now();
        // What was refused is not what goes on: a later request may be.
        match decided {
            Ok(by) => *now = Now { protocol, request, by: Some(by) },
            Err(denied) => {
                now.protocol = protocol;
                return Err(denied);
            }
        }
        Ok(())
    }

    fn host(&self) -> Host<'_> {
        match &self.to {
            Destination::Name(name) => Host::Name(name),
            Destination::Address(address) => Host::Address(*address),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was connected.
    pub fn connected(&self, address: SocketAddr) {
        let _ = self.connected.set(address);
    }

    /// Whether it was.
    pub fn is_connected(&self) -> bool {
        self.connected.get().is_some()
    }

    /// Bytes moved.
    pub fn moved(&self, way: Way, bytes: usize) {
        let counter = match way {
            Way::Out => &self.sent,
            Way::In => &self.received,
        };
        counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.alive();
    }

    /// It does something.
    pub fn alive(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// One side said all that it will.
    pub fn half_closed(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing moved for `idle`, or for `half_closed` once one side said all.
    pub async fn idle(&self, idle: Duration, half_closed: Duration) {
        loop {
            let bound = if self.half_closed.load(Ordering::Relaxed) { half_closed } else { idle };
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let left = (moved + bound).saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return;
            }
            // It may be half closed meanwhile, which nothing here wakes for.
            tokio::time::sleep(left.min(half_closed)).await;
        }
    }

    /// What is written down when it is over.
    pub fn record(&self, end: &str) -> Record {
        let now = self.now();
        Record {
            agent: self.agent.id,
            name: self.name().map(str::to_owned),
            address: self.connected.get().copied(),
            port: self.port,
            protocol: now.protocol,
            by: now.by,
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            duration: self.began.elapsed(),
            end: end.to_owned(),
        }
    }

    /// What is written down when it is refused.
    pub fn denial(&self, by: &str) -> Denial {
        let host = match &self.to {
            Destination::Name(name) => name.to_string(),
            Destination::Address(address) => address.to_string(),
        };
        let (agent, protocol) = (self.agent.id, self.now().protocol);
        Denial { agent, host, port: Some(self.port), protocol, by: by.to_owned() }
    }
}
