//! One connection out of an agent, as everybody who works on it knows it.

use super::agent::{Agent, Denied};
use super::ongoing::{Ongoing, Requests};
use super::secrets::Credential;
use crate::limits;
use model::Name;
use model::egress::{Connection, Outcome};
use model::policy::{Action, By, Egress, Host, Policy, Protocol, Request, Rule, Table, Target, Verdict};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What it is, and how it goes.
pub struct Flow {
    /// Whose.
    pub agent: Arc<Agent>,
    /// Where to: an address that stands for a name was replaced by that.
    pub to: Destination,
    /// Which port.
    pub port: u16,
    /// To see that it goes away.
    client: Weak<TcpStream>,
    at: OffsetDateTime,
    began: Instant,
    now: Mutex<Now>,
    /// What a person let pass.
    granted: OnceLock<Table>,
    /// How much of it waits for a person.
    held: AtomicUsize,
    /// Whether it is TLS that is looked into.
    looked_into: AtomicBool,
    /// Requests under way.
    pub requests: Requests,
    /// What was put into its requests.
    credentials: Mutex<BTreeMap<Name, Used>>,
    /// Whether something of it was written down that says what became of it.
    told: AtomicBool,
    /// Whether the other side turned out to be none that anything is sent to.
    failed: AtomicBool,
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

/// A credential, and the last request that it was put into.
struct Used {
    credential: Arc<Credential>,
    request: (String, String),
}

#[derive(Default)]
struct Now {
    protocol: Option<Protocol>,
    request: Option<(String, String)>,
    by: Option<By>,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Flow {
    /// It begins.
    pub fn new(agent: Arc<Agent>, to: Destination, port: u16, client: &Arc<TcpStream>) -> Self {
        Self {
            agent,
            to,
            port,
            client: Arc::downgrade(client),
            at: OffsetDateTime::now_utc(),
            began: Instant::now(),
            now: Mutex::default(),
            granted: OnceLock::new(),
            held: AtomicUsize::new(0),
            looked_into: AtomicBool::new(false),
            requests: Requests::new(),
            credentials: Mutex::default(),
            told: AtomicBool::new(false),
            failed: AtomicBool::new(false),
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

    /// Decides on it, once more is known of it than before. Waits while a person is to decide.
    pub async fn decide(&self, protocol: Option<Protocol>) -> Result<(), Denied> {
        let target = Target { host: self.host(), port: self.port, protocol, request: None };
        let decided = self.decided(&target).await;
        self.note(protocol, None, decided)
    }

    /// Decides on a request of HTTP, in the clear or inside of TLS, in the same way. It is under way from then on.
    pub async fn decide_request(
        &self,
        protocol: Protocol,
        method: &str,
        path: &str,
    ) -> Result<Ongoing, Denied> {
        let (protocol, request) = (Some(protocol), Some(Request { method, path }));
        let target = Target { host: self.host(), port: self.port, protocol, request };
        let decided = self.decided(&target).await;
        self.note(protocol, Some((method.to_owned(), path.to_owned())), decided)?;
        let begun = self.requests.begin(method, path, &self.agent.requests, limits::REQUESTS_PER_AGENT);
        let ongoing = begun.ok_or(Denied::TooMany)?;
        // What changed before it was among those that a change is compared with.
        self.still_passes(protocol, request)?;
        Ok(ongoing)
    }

    /// Whether it could go on if it spoke this.
    pub fn could_be(&self, protocol: Protocol) -> bool {
        let target = Target { host: self.host(), port: self.port, protocol: Some(protocol), request: None };
        matches!(self.verdict(&target), Verdict::Allow { .. })
    }

    /// Whether what goes on may still, as far as it is known.
    pub fn still(&self) -> Result<(), Denied> {
        self.agent.has_left()?;
        let now = self.now();
        let passes = |request: Option<&(String, String)>| {
            let request = request.map(|(method, path)| Request { method, path });
            self.still_passes(now.protocol, request)
        };
        passes(now.request.as_ref())?;
        self.requests.each(|request| passes(Some(request)))?;
        self.still_has()
    }

    fn still_passes(&self, protocol: Option<Protocol>, request: Option<Request<'_>>) -> Result<(), Denied> {
        let target = Target { host: self.host(), port: self.port, protocol, request };
        match self.verdict(&target) {
            Verdict::Allow { .. } if self.has_to_be_looked_into(protocol) => Err(Denied::NotLookedInto),
            Verdict::Allow { .. } => Ok(()),
            Verdict::Deny { by } => Err(Denied::By(by)),
            Verdict::Hold if self.held.load(Ordering::Relaxed) > 0 => Ok(()),
            Verdict::Hold => Err(Denied::By(By::Unknown)),
        }
    }

    /// Whether all that was put into its requests would be put there again.
    fn still_has(&self) -> Result<(), Denied> {
        let used = self.credentials();
        if used.is_empty() {
            return Ok(());
        }
        let (table, known) = (self.agent.table(), self.agent.credentials());
        let same = |used: &Used| {
            let (method, path) = &used.request;
            let (secret, request) = (&used.credential.secret, Request { method, path });
            let mut bound = table.injections(self.name().unwrap_or_default(), self.port, &request);
            let now = known.as_ref().and_then(|known| known.get(secret).ok());
            now.is_some_and(|now| now.is_worth(&used.credential)) && bound.any(|own| own.secret == *secret)
        };
        if used.values().all(same) { Ok(()) } else { Err(Denied::TakenAway) }
    }

    /// Whether it is TLS that the policy wants to be looked into, and is not.
    fn has_to_be_looked_into(&self, protocol: Option<Protocol>) -> bool {
        protocol == Some(Protocol::Tls) && !self.looked_into.load(Ordering::Relaxed) && self.wants_a_look()
    }

    /// Whether the policy wants TLS to be looked into here.
    pub fn wants_a_look(&self) -> bool {
        self.name().is_some_and(|name| self.agent.table().terminates(name, self.port))
    }

    /// It is looked into from now on.
    pub fn look_into(&self) {
        self.looked_into.store(true, Ordering::Relaxed);
    }

    /// These are put into a request, if they still are what is put there.
    pub fn puts(&self, credentials: &[Arc<Credential>], request: &Request<'_>) -> Result<(), Denied> {
        if credentials.is_empty() {
            return Ok(());
        }
        for credential in credentials {
            let request = (request.method.to_owned(), request.path.to_owned());
            let used = Used { credential: credential.clone(), request };
            self.credentials().insert(credential.secret.clone(), used);
        }
        self.still_has()
    }

    fn credentials(&self) -> MutexGuard<'_, BTreeMap<Name, Used>> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, target: &Target<'_>) -> Verdict {
        self.agent.decide(target, self.granted.get())
    }

    async fn decided(&self, target: &Target<'_>) -> Result<By, Denied> {
        self.agent.has_left()?;
        match self.verdict(target) {
            Verdict::Allow { by } => Ok(by),
            Verdict::Deny { by } => Err(Denied::By(by)),
            Verdict::Hold if self.is_for_others(target) => Err(Denied::By(By::Unknown)),
            Verdict::Hold => {
                self.held.fetch_add(1, Ordering::Relaxed);
                let held = Counted(&self.held);
                let decided = Box::pin(self.hold(target)).await;
                drop(held);
                self.alive();
                decided
            }
        }
    }

    /// Whether a rule lets other requests pass than this one: it is refused, for an answer would let all of them.
    fn is_for_others(&self, target: &Target<'_>) -> bool {
        let any = Target { request: None, ..*target };
        target.request.is_some() && matches!(self.verdict(&any), Verdict::Allow { .. })
    }

    /// The one place where a connection waits until a person decided, or until the policy does.
    async fn hold(&self, target: &Target<'_>) -> Result<By, Denied> {
        let mut changes = self.agent.changes();
        let passes = |granted: &Table| matches!(granted.decide(target), Verdict::Allow { .. });
        if target.protocol.is_some() && !passes(&once(&self.to, self.port)) {
            // No answer would let it pass.
            return Err(Denied::By(By::Unknown));
        }
        let mut place = self.agent.holds.enter(self.to.to_string(), self.port).map_err(Denied::By)?;
        let mut gone = pin!(self.client_gone());
        loop {
            changes.mark_unchanged();
            match self.verdict(target) {
                Verdict::Allow { by } => return Ok(by),
                Verdict::Deny { by } => return Err(Denied::By(by)),
                Verdict::Hold => {}
            }
            tokio::select! {
                decided = place.decided() => {
                    decided.map_err(Denied::By)?;
                    // What the policy says now is looked at once more.
                    self.granted.get_or_init(|| once(&self.to, self.port));
                }
                _ = changes.changed() => {}
                () = gone.as_mut() => return Err(Denied::GaveUp),
            }
        }
    }

    /// Waits until the client closed its connection, without a look at what it says: that a client which only said all that it
    /// will is taken as gone, too, cannot be helped.
    async fn client_gone(&self) {
        let closed = async {
            // With a readiness of its own, so that what came is not forgotten by who reads it later.
            let client = self.client.upgrade()?.as_fd().try_clone_to_owned().ok()?;
            let client = TcpStream::from_std(client.into()).ok()?;
            while !client.ready(Interest::READABLE).await.ok()?.is_read_closed() {
                // The next event is waited for, not what came already.
                let _ = client.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Some(())
        };
        if closed.await.is_none() {
            // It cannot be seen: it waits for as long as any.
            std::future::pending().await
        }
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
                if !self.is_connected() {
                    now.protocol = protocol;
                }
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

    /// Bytes moved. Whether that is more than the agent may move: then this ends as soon as others have their turn.
    pub fn moved(&self, way: Way, bytes: usize) -> bool {
        let counter = match way {
            Way::Out => &self.sent,
            Way::In => &self.received,
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        counter.fetch_add(bytes, Ordering::Relaxed);
        self.alive();
        self.agent.moved(way, bytes)
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

    /// Writes down that it is over, if nothing was written down that says so.
    pub fn over(&self, outcome: Outcome, by: String, end: Option<String>) {
        let passed = outcome == Outcome::Passed && !self.failed.load(Ordering::Relaxed);
        if passed || !self.told.load(Ordering::Relaxed) {
            self.write(self.at, self.began.elapsed(), outcome, by, end);
        }
    }

    /// Writes down that one request was refused.
    pub fn request_refused(&self, by: String) {
        self.told.store(true, Ordering::Relaxed);
        self.write(OffsetDateTime::now_utc(), Duration::ZERO, Outcome::Denied, by, None);
    }

    /// Writes down that there is no connection for what was allowed.
    pub fn failed(&self, end: String) {
        self.told.store(true, Ordering::Relaxed);
        self.failed.store(true, Ordering::Relaxed);
        self.write(self.at, self.began.elapsed(), Outcome::Failed, self.by(), Some(end));
    }

    /// Who let it pass, if anybody did.
    pub fn by(&self) -> String {
        self.now().by.map_or_else(String::new, |by| by.to_string())
    }

    fn write(
        &self,
        at: OffsetDateTime,
        duration: Duration,
        outcome: Outcome,
        by: String,
        end: Option<String>,
    ) {
        let passed = outcome == Outcome::Passed;
        let moved = |counter: &AtomicU64| if passed { counter.load(Ordering::Relaxed) } else { 0 };
        let (sent, received) = (moved(&self.sent), moved(&self.received));
        let credentials = self.credentials().keys().filter(|_| passed).cloned().collect();
        self.agent.ledger.write(Connection {
            credentials,
            at,
            host: self.to.to_string(),
            port: Some(self.port),
            address: self.connected.get().copied().filter(|_| passed),
            protocol: self.now().protocol,
            outcome,
            by,
            sent,
            received,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            end,
            count: 1,
        });
    }
}

/// Something of a flow that waits.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a person lets pass who is asked for a host and a port: as much as a rule does that names both.
fn once(to: &Destination, port: u16) -> Table {
    let rule = Rule::of(Action::Allow, &to.to_string(), Some(port));
    let egress = Egress { rules: vec![rule], ..Egress::default() };
    Table::new(Some(&Policy { version: 1, egress }), &BTreeMap::new())
}
