//! The gates: one process per account that has agents here, what each should know, and the sockets that outlive
//! them.
//!
//! Node makes each gate's listening socket and keeps it: while a gate is being replaced, connections wait in its
//! queue. A gate is told all at first and then what changes, and is believed nothing but that an agent of its own
//! account was used.

mod attention;
mod credentials;
mod doors;
mod names;
mod process;
mod stale;

pub(crate) use credentials::read_roots;

use crate::config::{Egress, GATE_UIDS};
use crate::journal::{Journal, JournalError};
use crate::local::Phase;
use crate::outbox::Outbox;
use crate::report::Reporter;
use model::egress::Attention;
use model::gate_api::{Credential, GateAgent, MAX_LOGS, ToGate};
use model::token::VerifyingKey;
use model::{AccountId, AgentId, Network};
use sandbox::{Boundary, Doors, Sandbox};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Agents that went, and are remembered.
const GONE: usize = 1024;

/// The record of who has which uid and port.
const RECORD: &str = "gates.json";

/// What is needed to start a gate.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `RUN/gates`.
    pub directory: PathBuf,
    /// Where the first listens.
    pub guard: SocketAddr,
    /// First of their uids.
    pub uid_first: u32,
    /// The jail binary.
    pub jail: PathBuf,
    /// The binary whose `gate` is run.
    pub program: PathBuf,
    /// A gate without agents goes after this long; until then the next agent finds it running.
    pub linger: Duration,
    /// Whom node connects to for gates.
    pub egress: Egress,
    /// The hosts of bundles that are read from this machine's tools.
    pub tools: BTreeMap<String, Vec<String>>,
    /// Reads logs of agents that do not run; none where tests have none.
    pub sandbox: Option<Sandbox>,
}

/// All gates of this node.
pub(crate) struct Gates {
    settings: Settings,
    journal: Arc<Journal>,
    reporter: Arc<Reporter>,
    outbox: Arc<Outbox>,
    /// Of the settings, read.
    open: Vec<Network>,
    inner: Mutex<Inner>,
    /// Held while logs are read from a volume.
    reading: Mutex<()>,
}

struct Inner {
    installation: String,
    keys: Vec<VerifyingKey>,
    /// Who looks after agents' questions, and what they said.
    attention: BTreeMap<AgentId, Attention>,
    /// What gates put into requests. Of agents that are not here yet as well.
    credentials: BTreeMap<AgentId, Vec<Credential>>,
    /// Agents that went last: their gates may have yet to tell how their connections ended.
    gone: VecDeque<(AccountId, AgentId)>,
    /// The socket at the guard's address, when no gate has it.
    spare: Option<Arc<TcpListener>>,
    /// Who has which uid and port, also before its gate was started.
    places: BTreeMap<AccountId, Place>,
    running: BTreeMap<AccountId, Running>,
}

/// What an account's gate keeps across restarts: sockets of living agents belong to its gid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    uid: u32,
    /// None: the guard's own address, wherever that is configured to be today.
    port: Option<u16>,
}

struct Running {
    uid: u32,
    url: String,
    agents: BTreeMap<AgentId, Known>,
    /// What the gate was not told of yet.
    news: News,
    /// Nor of this, about agents of its own.
    attention_due: bool,
    /// Nor of what it puts into requests of these.
    credentials_due: BTreeSet<AgentId>,
    /// Raised with every change of what the gate should know.
    revision: watch::Sender<u64>,
}

/// What a gate was not told of yet.
enum News {
    /// It knows nothing, or what holds for all agents changed.
    Everything,
    /// These agents changed, or are gone.
    Of(BTreeSet<AgentId>),
}

impl Running {
    /// The gate is to be told.
    fn changed(&mut self, agent: AgentId) {
        if let News::Of(agents) = &mut self.news {
            agents.insert(agent);
        }
        self.revision.send_modify(|revision| *revision += 1);
    }
}

struct Known {
    agent: GateAgent,
    boundary: Option<Arc<Boundary>>,
    /// Where all arrives that leaves it.
    doors: Option<Arc<Doors>>,
    /// Names that it was given addresses for, as long as it has these doors: its next gate gives them the same ones.
    names: Vec<String>,
    /// Of all of these.
    names_bytes: usize,
}

impl Known {
    /// Whether these are the doors that it has.
    fn has(&self, doors: Option<&Arc<Doors>>) -> bool {
        match (&self.doors, doors) {
            (Some(own), Some(doors)) => Arc::ptr_eq(own, doors),
            (own, doors) => own.is_none() && doors.is_none(),
        }
    }
}

/// Where an account's agents meet their gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GateAddress {
    /// Group of the channels' sockets.
    pub gid: u32,
    /// Origin of the workspace API.
    pub url: String,
    /// Directory of the channels' sockets.
    pub directory: PathBuf,
}

/// Why an account has no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The address is taken.
    #[error("cannot listen on {address} for the gate; end what listens there, or set `guard` in node.toml")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No uid is free.
    #[error("all {GATE_UIDS} user ids for gates are in use")]
    NoUid,
    /// The directory for sockets.
    #[error("could not make {path} for the gate's sockets")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be remembered.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Gates {
    /// Ends gates that a dead node left, and takes the guard's address, so that a port that is taken is known at the
    /// start. No gate runs yet.
    pub(crate) fn open(
        settings: Settings,
        journal: Arc<Journal>,
        reporter: Arc<Reporter>,
        outbox: Arc<Outbox>,
    ) -> Result<Arc<Self>, GateError> {
        stale::end_all(settings.uid_first);
        let listener = listen(settings.guard)?;
        let guard = listener.local_addr().unwrap_or(settings.guard);
        let settings = Settings { guard, ..settings };
        let open = settings.egress.networks();
        let places = journal.read_own(RECORD)?.unwrap_or_default();
        make_directory(&settings.directory, 0o711, None)?;
        let inner = Inner {
            installation: String::new(),
            keys: Vec::new(),
            attention: BTreeMap::new(),
            credentials: BTreeMap::new(),
            gone: VecDeque::new(),
            spare: Some(Arc::new(listener)),
            places,
            running: BTreeMap::new(),
        };
        Ok(Arc::new(Self {
            settings,
            journal,
            reporter,
            outbox,
            open,
            inner: Mutex::new(inner),
            reading: Mutex::default(),
        }))
    }

    /// The account's gate; started if it does not run.
    pub(crate) fn ensure(self: &Arc<Self>, account: AccountId) -> Result<GateAddress, GateError> {
        let mut inner = self.lock();
        let directory = self.directory(account);
        if let Some(running) = inner.running.get(&account) {
            return Ok(GateAddress { gid: running.uid, url: running.url.clone(), directory });
        }
        let uid = match inner.places.get(&account) {
            Some(place) => place.uid,
            None => self.free_uid(&inner)?,
        };
        make_directory(&directory, 0o750, Some(uid))?;
        let known = inner.places.get(&account).copied();
        let listener = self.listener(&mut inner, known)?;
        let address = listener.local_addr().unwrap_or(self.settings.guard);
        let place = Place { uid, port: (address != self.settings.guard).then_some(address.port()) };
        if inner.places.insert(account, place) != Some(place) {
            self.journal.write_own(RECORD, &inner.places)?;
        }
        let url = format!("http://{address}");
        let (revision, changes) = watch::channel(0);
        let running = Running {
            uid,
            url: url.clone(),
            agents: BTreeMap::new(),
            news: News::Everything,
            attention_due: false,
            credentials_due: BTreeSet::new(),
            revision,
        };
        inner.running.insert(account, running);
        drop(inner);
        tokio::spawn(process::supervise(self.clone(), account, uid, listener, changes));
        Ok(GateAddress { gid: uid, url, directory })
    }

    /// Where the sockets of the account's agents are.
    pub(crate) fn directory(&self, account: AccountId) -> PathBuf {
        self.settings.directory.join(account.base32())
    }

    /// Tells the account's gate how an agent is, and hands it its doors.
    pub(crate) fn set(
        &self,
        account: AccountId,
        agent: GateAgent,
        boundary: Option<Arc<Boundary>>,
        doors: Option<Arc<Doors>>,
    ) {
        let mut inner = self.lock();
        let Inner { attention, credentials, running, .. } = &mut *inner;
        let Some(running) = running.get_mut(&account) else { return };
        let id = agent.id;
        let before = running.agents.remove(&id);
        let same = before.as_ref().is_some_and(|before| before.agent == agent);
        let (names, same_doors) = match before {
            Some(before) if before.has(doors.as_ref()) => (before.names, true),
            before => (Vec::new(), before.is_none() && doors.is_none()),
        };
        let names_bytes = names.iter().map(String::len).sum();
        let known = Known { agent, boundary, doors, names, names_bytes };
        if running.agents.insert(id, known).is_none() && credentials.contains_key(&id) {
            running.credentials_due.insert(id);
        }
        if !same {
            running.changed(id);
            running.attention_due |= attention.contains_key(&id);
        } else if !same_doors {
            running.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// The agent is gone. When it was the account's last, its gate goes too, in a while.
    pub(crate) fn remove(self: &Arc<Self>, account: AccountId, agent: AgentId) {
        let mut inner = self.lock();
        let Some(running) = inner.running.get_mut(&account) else { return };
        if running.agents.remove(&agent).is_none() {
            return;
        }
        self.outbox.ask(account, agent, Vec::new());
        running.credentials_due.remove(&agent);
        running.changed(agent);
        let revision = running.agents.is_empty().then(|| *running.revision.borrow());
        inner.credentials.remove(&agent);
        inner.gone.push_back((account, agent));
        if inner.gone.len() > GONE {
            inner.gone.pop_front();
        }
        if let Some(revision) = revision {
            let gates = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(gates.settings.linger).await;
                gates.release(account, revision);
            });
        }
    }

    /// What every gate should accept.
    pub(crate) fn set_keys(&self, installation: &str, keys: &[VerifyingKey]) {
        let mut inner = self.lock();
        if inner.installation == installation && inner.keys == keys {
            return;
        }
        inner.installation = installation.to_owned();
        inner.keys = keys.to_vec();
        for running in inner.running.values_mut() {
            running.news = News::Everything;
            running.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Ends a gate that nothing was asked of since the revision. Its task sees its channel close.
    fn release(&self, account: AccountId, revision: u64) {
        let mut inner = self.lock();
        let unused = |running: &Running| running.agents.is_empty() && *running.revision.borrow() == revision;
        if !inner.running.get(&account).is_some_and(unused) {
            return;
        }
        inner.running.remove(&account);
    }

    /// The gate's process is gone: its uid and its socket may be given to another account.
    fn released(&self, account: AccountId, listener: Arc<TcpListener>) {
        let mut inner = self.lock();
        if listener.local_addr().is_ok_and(|address| address == self.settings.guard) {
            inner.spare = Some(listener);
        }
        // The account came back meanwhile: the uid is its own again.
        if inner.running.contains_key(&account) {
            return;
        }
        inner.places.remove(&account);
        if let Err(error) = self.journal.write_own(RECORD, &inner.places) {
            tracing::error!(error = %crate::chain(&error), "could not forget a gate");
        }
        let _ = fs::remove_dir(self.directory(account));
    }

    /// All that the account's gate should know now; for one that knows nothing.
    fn state(&self, account: AccountId) -> ToGate {
        let mut inner = self.lock();
        let Inner { attention, credentials, running, .. } = &mut *inner;
        if let Some(running) = running.get_mut(&account) {
            let has = |agent: &&AgentId| credentials.contains_key(agent);
            running.credentials_due = running.agents.keys().filter(has).copied().collect();
            running.news = News::Everything;
            running.attention_due = running.agents.keys().any(|agent| attention.contains_key(agent));
        }
        drop(inner);
        self.news(account)
    }

    /// What the account's gate was not told of yet. It counts as told from here on.
    fn news(&self, account: AccountId) -> ToGate {
        let mut inner = self.lock();
        let Inner { installation, keys, running, .. } = &mut *inner;
        let Some(Running { agents, news, .. }) = running.get_mut(&account) else {
            return ToGate::Agents { set: Vec::new(), gone: Vec::new() };
        };
        match std::mem::replace(news, News::Of(BTreeSet::new())) {
            News::Everything => ToGate::State {
                installation: installation.clone(),
                account,
                keys: keys.clone(),
                agents: agents.values().map(|known| known.agent.clone()).collect(),
                tools: self.settings.tools.clone(),
                names: agents
                    .iter()
                    .filter(|(_, known)| !known.names.is_empty())
                    .map(|(agent, known)| (*agent, known.names.clone()))
                    .collect(),
            },
            News::Of(changed) => {
                let (known, gone) = changed.into_iter().partition(|agent| agents.contains_key(agent));
                let known: Vec<AgentId> = known;
                let set = known.iter().filter_map(|agent| Some(agents.get(agent)?.agent.clone())).collect();
                ToGate::Agents { set, gone }
            }
        }
    }

    /// The agent's boundary, if it is this account's and has one. The outer `None`: it is not this account's.
    fn boundary(&self, account: AccountId, agent: AgentId) -> Option<Option<Arc<Boundary>>> {
        self.lock().running.get(&account)?.agents.get(&agent).map(|known| known.boundary.clone())
    }

    /// What the main process of an agent that does not run wrote last.
    fn logs(&self, agent: AgentId, most: u64) -> Option<Vec<u8>> {
        // One at a time: for everybody else it is a moment, and whoever asks again and again keeps no start from its volume.
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.journal.agent(agent).ok()??;
        // One that is just being started needs its volume itself.
        if !matches!(record.phase, Phase::Ended | Phase::Parked) {
            return None;
        }
        let read = self.settings.sandbox.as_ref()?.logs(record.desired.spec.volume, most.min(MAX_LOGS));
        read.inspect_err(
            |error| tracing::warn!(%agent, error = %crate::chain(error), "its logs cannot be read"),
        )
        .ok()
    }

    fn free_uid(&self, inner: &Inner) -> Result<u32, GateError> {
        (self.settings.uid_first..self.settings.uid_first + GATE_UIDS)
            .find(|uid| !inner.places.values().any(|place| place.uid == *uid))
            .ok_or(GateError::NoUid)
    }

    /// The socket for one more gate: the one it had, else the guard's, else any that is free.
    fn listener(&self, inner: &mut Inner, known: Option<Place>) -> Result<Arc<TcpListener>, GateError> {
        let at = |port| listen(SocketAddr::new(self.settings.guard.ip(), port)).map(Arc::new);
        let reserved = inner.places.values().any(|place| place.port.is_none());
        let spare = match known {
            Some(Place { port: Some(port), .. }) => return at(port).or_else(|_| at(0)),
            Some(Place { port: None, .. }) => inner.spare.take(),
            None if reserved => None,
            None => inner.spare.take(),
        };
        spare.map_or_else(|| at(0), Ok)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, GateError> {
    TcpListener::bind(address).map_err(|source| GateError::Listen { address, source })
}

fn make_directory(path: &Path, mode: u32, gid: Option<u32>) -> Result<(), GateError> {
    let failed = |source| GateError::Directory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    if gid.is_some() {
        std::os::unix::fs::chown(path, None, gid).map_err(failed)?;
    }
    // Only when the group is right: before, the directory is root's alone.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}
