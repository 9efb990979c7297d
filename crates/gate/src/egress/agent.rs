//! One agent's way out: what it may do, the names that it knows, and how much it uses.

use super::names::{Names, Synthetic};
use super::share::{Bucket, Place, Places};
use crate::limits;
use model::AgentId;
use model::policy::{By, Table, Target, Verdict};
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};

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
}

/// Why something may not pass: who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// As in [`Verdict::Deny`].
    pub by: By,
}

/// What becomes of a question for a name.
pub enum Resolved {
    /// Nothing at it could pass.
    Refused,
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
    pub fn new(id: AgentId) -> Arc<Self> {
        Arc::new(Self {
            id,
            table: watch::Sender::new(Arc::default()),
            names: Mutex::default(),
            open: Arc::default(),
            arrivals: Bucket::new(limits::ARRIVALS_PER_SECOND),
            questions: Bucket::new(limits::QUESTIONS_PER_SECOND),
            dials: Arc::new(Semaphore::new(limits::DIALS_PER_AGENT)),
        })
    }

    /// From now on this holds, also for what is open.
    pub fn rule(&self, table: Arc<Table>) {
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

    /// Decides; waits while somebody else has to.
    pub async fn decide(&self, target: &Target<'_>) -> Result<By, Denied> {
        let verdict = self.table().decide(target);
        match verdict {
            Verdict::Allow { by } => Ok(by),
            Verdict::Deny { by } => Err(Denied { by }),
            // The one place where a connection will wait until a person decided. Nobody can be asked yet.
            Verdict::Hold => Err(Denied { by: By::Unknown }),
        }
    }

    /// Whether what was allowed still is.
    pub fn still(&self, target: &Target<'_>) -> Result<(), Denied> {
        match self.table().decide(target) {
            Verdict::Allow { .. } => Ok(()),
            Verdict::Deny { by } => Err(Denied { by }),
            Verdict::Hold => Err(Denied { by: By::Unknown }),
        }
    }

    /// What stands for a name, if anything at it could pass, and whether nobody asked for it before: then node has to be told.
    pub fn resolve(&self, name: &str) -> Resolved {
        if !self.table().resolves(name) {
            return Resolved::Refused;
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

    /// Forgets all names.
    pub fn forget(&self) {
        *self.names() = Names::default();
    }

    /// A place for one more connection.
    pub fn place(&self, places: &Arc<Places>) -> Option<Place> {
        places.take(&self.open)
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
