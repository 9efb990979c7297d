//! One agent's way out: what it may do, the names that it knows, and how much it uses.

use super::flow::Way;
use super::hold::Holds;
use super::log::Ledger;
use super::names::{Names, Synthetic};
use super::secrets::Credentials;
use super::share::{Bucket, Place, Places};
use super::tls::Authority;
use super::usage::Usage;
use crate::limits;
use model::AgentId;
use model::policy::{By, Host, Limit, Table, Target, Verdict};
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// One agent, for as long as node knows it or it has doors.
pub struct Agent {
    /// Which.
    pub id: AgentId,
    /// What it may do. All that is open watches it.
    table: watch::Sender<Arc<Table>>,
    names: Mutex<Names>,
    open: Arc<AtomicUsize>,
    /// New connections.
    pub arrivals: Bucket,
    /// Questions of DNS.
    pub questions: Bucket,
    /// Requests to node under way.
    pub dials: Arc<Semaphore>,
    /// What is written down of it.
    pub ledger: Arc<Ledger>,
    /// What waits for a decision.
    pub holds: Arc<Holds>,
    /// Connections that are looked into.
    looked_into: Arc<AtomicUsize>,
    /// Requests under way.
    pub requests: Arc<AtomicUsize>,
    /// Bodies of requests that may be held as a whole.
    pub bodies: Arc<Semaphore>,
    /// What it moved lately.
    usage: Usage,
    /// Under what it is shown servers.
    authority: Mutex<Option<Arc<Authority>>>,
    /// What is put into its requests, once node told.
    credentials: Mutex<Option<Arc<Credentials>>>,
}

/// What agents need to be heard by node.
pub struct Voices {
    /// Ledgers that have records.
    pub records: mpsc::UnboundedSender<Arc<Ledger>>,
    /// Those whose questions changed.
    pub questions: mpsc::UnboundedSender<Arc<Holds>>,
    /// How long equal refusals are one record.
    pub fold: Duration,
    /// How long a question may wait.
    pub hold: Duration,
}

/// Why something may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Who decided, as in [`Verdict::Deny`].
    #[error("{0}")]
    By(By),
    /// Nobody did: it waited, and the client went away.
    #[error("the client, which gave up")]
    GaveUp,
    /// It would have to be looked into, and was not from its beginning on.
    #[error("a policy that looks into it")]
    NotLookedInto,
    /// Something was put into it that would not be put there now.
    #[error("a credential that was taken away")]
    TakenAway,
    /// So many requests of the agent are under way that there is no place for one more.
    #[error("too many requests at a time")]
    TooMany,
    /// It moved as many bytes as its policy lets it.
    #[error("{0}")]
    Spent(Limit),
}

/// What becomes of a question for a name.
pub enum Resolved {
    /// Nothing at it could pass.
    Refused {
        /// Who decided.
        by: By,
    },
    /// The agent asked for more names than are remembered.
    TooMany,
    /// It has an address.
    To {
        /// That.
        stands: Synthetic,
        /// Whether it is new.
        new: bool,
    },
}

impl Agent {
    /// Nothing may leave it yet.
    pub fn new(id: AgentId, voices: &Voices) -> Arc<Self> {
        Arc::new(Self {
            id,
            table: watch::Sender::new(Arc::default()),
            names: Mutex::default(),
            open: Arc::default(),
            arrivals: Bucket::new(limits::ARRIVALS_PER_SECOND),
            questions: Bucket::new(limits::QUESTIONS_PER_SECOND),
            dials: Arc::new(Semaphore::new(limits::DIALS_PER_AGENT)),
            ledger: Ledger::new(id, voices.records.clone(), voices.fold),
            holds: Holds::new(id, voices.questions.clone(), voices.hold),
            looked_into: Arc::default(),
            requests: Arc::default(),
            bodies: Arc::new(Semaphore::new(limits::PUT_BODIES_PER_AGENT)),
            usage: Usage::new(),
            authority: Mutex::default(),
            credentials: Mutex::default(),
        })
    }

    /// From now on this holds, also for what is open.
    pub fn rule(&self, table: Arc<Table>) {
        self.holds.forget();
        self.usage.limit(table.limits());
        self.table.send_replace(table);
    }

    /// Tells when what holds changes.
    pub fn changes(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// What holds now.
    pub fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Bytes moved. Whether that is more than may be: then whatever is open ends.
    pub fn moved(&self, way: Way, bytes: u64) -> bool {
        let (spent, news) = self.usage.add(way, bytes);
        if news {
            self.table.send_modify(|_| {});
        }
        spent
    }

    /// Whether it may move more.
    pub fn has_left(&self) -> Result<(), Denied> {
        self.usage.spent().map_or(Ok(()), |limit| Err(Denied::Spent(limit)))
    }

    /// Decides on a flow. What is held passes where somebody `granted` it, as that table says.
    pub fn decide(&self, target: &Target<'_>, granted: Option<&Table>) -> Verdict {
        match (self.table().decide(target), granted) {
            (Verdict::Hold, Some(granted)) => match granted.decide(target) {
                Verdict::Allow { .. } => Verdict::Allow { by: By::Once },
                _ => Verdict::Deny { by: By::Unknown },
            },
            (verdict, _) => verdict,
        }
    }

    /// What stands for a name, if anything at it could pass, and whether nobody asked for it before: then node has to be told.
    pub fn resolve(&self, name: &str) -> Resolved {
        let table = self.table();
        // Nothing could come of a name that is only held while nobody is there to decide.
        if !(table.passes(name) || table.resolves(name) && self.holds.is_watched()) {
            let target = Target { host: Host::Name(name), port: 443, protocol: None, request: None };
            return Resolved::Refused { by: table.decide(&target).by() };
        }
        self.names().give(name).map_or(Resolved::TooMany, |(stands, new)| Resolved::To { stands, new })
    }

    /// The name that an address stands for.
    pub fn name_of(&self, address: IpAddr) -> Option<Arc<str>> {
        self.names().name(address).cloned()
    }

    /// It was given addresses for these names before.
    pub fn restore(&self, names: Vec<String>) {
        *self.names() = Names::restore(names);
    }

    /// From now on it is shown servers under this authority.
    pub fn trusts(&self, authority: Option<Arc<Authority>>) {
        *lock(&self.authority) = authority;
    }

    /// Under what it is shown servers.
    pub fn authority(&self) -> Option<Arc<Authority>> {
        lock(&self.authority).clone()
    }

    /// From now on this is put into its requests. What is open with something else is looked at again.
    pub fn uses(&self, credentials: Option<Credentials>) {
        *lock(&self.credentials) = credentials.map(Arc::new);
        self.table.send_modify(|_| {});
    }

    /// What is put into its requests, once that is known.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        lock(&self.credentials).clone()
    }

    /// A place for one more connection that is looked into.
    pub fn look_into(&self, places: &Arc<Places>) -> Option<Place> {
        places.take(&self.looked_into)
    }

    /// Forgets all names.
    pub fn forget(&self) {
        *self.names() = Names::default();
    }

    /// A place for one more connection.
    pub fn place(&self, places: &Arc<Places>) -> Option<Place> {
        places.take(&self.open)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.names)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
