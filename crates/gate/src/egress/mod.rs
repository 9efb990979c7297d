//! The way out of agents: nothing leaves unless policy says so.
//!
//! All TCP that leaves an agent comes to a listener in its network that node made and handed over ([`sockets`], [`listen`]),
//! and so do its questions of DNS ([`questions`]), which get an address that stands for the name ([`names`]). A connection to
//! it is decided on ([`connection`], [`flow`]), what it says first is compared with the name ([`first`], [`hello`], [`http`],
//! [`tls`]), and then node connects it to one of the name's addresses ([`upstream`], [`resolve`]), and bytes are passed on
//! ([`copy`]). Where a person is to decide, it waits ([`hold`]).
//!
//! What agents and servers say is hostile. Nothing is asked of anybody else before a connection was decided on, and no content
//! is written down ([`log`]).

mod agent;
mod connection;
mod copy;
pub mod dns;
mod first;
mod flow;
mod fold;
pub mod hello;
mod hold;
mod http;
mod listen;
mod log;
pub mod names;
mod ongoing;
mod questions;
mod resolve;
pub mod secrets;
mod share;
mod sockets;
mod tls;
mod upstream;
mod usage;
mod wire;
mod workers;

pub use sockets::{SocketsError, follow};

use crate::limits;
use agent::{Agent, Voices};
use model::AgentId;
use model::Resolver as ResolverAt;
use model::egress::Attention;
use model::gate_api::{Authority, Credential, FromGate, GateAgent};
use model::policy::{Policy, Table};
use resolve::Resolver;
use secrets::Credentials;
use share::Places;
use sockets::Dialer;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tls::Tls;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use workers::Workers;

/// What tests choose.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Connections out of all agents.
    pub flows: usize,
    /// Those of one agent.
    pub flows_per_agent: usize,
    /// How long a connection waits for somebody to decide on it.
    pub hold: Duration,
    /// How long equal refusals are one record.
    pub fold: Duration,
    /// Where a connection that came to a door wanted to go.
    pub original: fn(&TcpStream) -> io::Result<SocketAddr>,
}

impl Settings {
    /// What holds when there are so many descriptors for all of it.
    pub fn new(descriptors: usize) -> Self {
        Self {
            flows: (descriptors / crate::limits::FLOW_DESCRIPTORS).clamp(1, crate::limits::FLOWS),
            flows_per_agent: crate::limits::FLOWS_PER_AGENT,
            hold: crate::limits::HOLD,
            fold: crate::limits::FOLD,
            original: connection::original,
        }
    }
}

/// What all connections share.
struct Context {
    dialer: Arc<Dialer>,
    resolver: Arc<Resolver>,
    to_node: mpsc::Sender<FromGate>,
    workers: Workers,
    places: Arc<Places>,
    tls: Arc<Tls>,
    /// Of those, how many may be looked into.
    looked_into: Arc<Places>,
    /// Bodies of requests that may be held as a whole.
    bodies: Arc<Semaphore>,
    original: fn(&TcpStream) -> io::Result<SocketAddr>,
}

/// The ways out of all agents.
pub struct Egress {
    context: Arc<Context>,
    state: Mutex<State>,
    /// Ends all doors and connections with this.
    all: CancellationToken,
    tasks: Tasks,
}

/// What speaks with node.
struct Tasks {
    delivering: tokio::sync::Mutex<AbortOnDropHandle<()>>,
    /// Nothing is written down any more.
    over: CancellationToken,
    _asking: AbortOnDropHandle<()>,
}

struct State {
    voices: Voices,
    agents: HashMap<AgentId, Entry>,
    /// Who looks after agents.
    attention: HashMap<AgentId, Attention>,
    tools: BTreeMap<String, Vec<String>>,
    /// What was made last: many agents have the same policy.
    last: Option<(Policy, Arc<Table>)>,
}

struct Entry {
    agent: Arc<Agent>,
    /// Whether node told of it otherwise than by its doors.
    known: bool,
    policy: Option<Policy>,
    authority: Option<Authority>,
    /// Cancelled with the boundary, and with the doors.
    doors: Option<(CancellationToken, CancellationToken)>,
}

impl State {
    fn entry(&mut self, id: AgentId) -> &mut Entry {
        self.agents.entry(id).or_insert_with(|| {
            let agent = Agent::new(id, &self.voices);
            agent.holds.attend(self.attention.get(&id));
            Entry { agent, known: false, policy: None, authority: None, doors: None }
        })
    }

    fn set(&mut self, agent: &GateAgent, names: Option<Vec<String>>, always: bool) {
        let entry = self.entry(agent.id);
        let was_known = std::mem::replace(&mut entry.known, true);
        if !was_known && let Some(names) = names {
            entry.agent.restore(names);
        }
        if entry.authority != agent.authority {
            entry.authority.clone_from(&agent.authority);
            entry
                .agent
                .trusts(agent.authority.as_ref().and_then(|authority| authority_of(agent.id, authority)));
        }
        if !always && entry.policy == agent.policy {
            return;
        }
        entry.policy.clone_from(&agent.policy);
        let to_rule = entry.agent.clone();
        let table = match &agent.policy {
            None => Arc::default(),
            Some(policy) => match &self.last {
                Some((last, table)) if last == policy => table.clone(),
                _ => {
                    let table = Arc::new(Table::new(Some(policy), &self.tools));
                    self.last = Some((policy.clone(), table.clone()));
                    table
                }
            },
        };
        to_rule.rule(table);
    }

    /// Nothing may leave it any more, and its names stand for nothing.
    fn lose(&mut self, id: AgentId) {
        let Some(entry) = self.agents.get_mut(&id) else { return };
        entry.known = false;
        entry.policy = None;
        entry.authority = None;
        entry.agent.trusts(None);
        entry.agent.uses(None);
        entry.agent.rule(Arc::default());
        entry.agent.forget();
        if entry.doors.is_none() {
            self.agents.remove(&id);
        }
    }
}

/// What node made for an agent, if it can be used.
fn authority_of(agent: AgentId, authority: &Authority) -> Option<Arc<tls::Authority>> {
    let made = tls::Authority::new(authority);
    // Where it is needed, nothing passes without.
    made.inspect_err(|error| tracing::warn!(%error, %agent, "an agent's authority cannot be used"))
        .ok()
        .map(Arc::new)
}

impl Egress {
    /// With node's socket for sockets. Call it within the runtime that will [`follow`]; `more` serve, too.
    pub fn new(
        socket: OwnedFd,
        to_node: mpsc::Sender<FromGate>,
        more: Vec<Handle>,
        settings: Settings,
    ) -> io::Result<Self> {
        let dialer = Dialer::new(socket)?;
        let here = Handle::current();
        let (records, ready) = mpsc::unbounded_channel();
        let (questions, changed) = mpsc::unbounded_channel();
        let voices = Voices { records, questions, fold: settings.fold, hold: settings.hold };
        // Ten times for each window, so that what is told late is not much later.
        let over = CancellationToken::new();
        let delivering = log::deliver(ready, to_node.clone(), settings.fold / 10, over.clone());
        let tasks = Tasks {
            delivering: tokio::sync::Mutex::new(AbortOnDropHandle::new(here.spawn(delivering))),
            over,
            _asking: AbortOnDropHandle::new(here.spawn(hold::ask(changed, to_node.clone()))),
        };
        let state = State {
            voices,
            agents: HashMap::new(),
            attention: HashMap::new(),
            tools: BTreeMap::new(),
            last: None,
        };
        let tls = Arc::new(Tls::new());
        let context = Context {
            resolver: Resolver::new(dialer.clone(), here.clone(), tls.clone()),
            dialer,
            to_node,
            workers: Workers::new(here, more),
            places: Places::new(settings.flows, settings.flows_per_agent),
            tls,
            looked_into: Places::new(
                (settings.flows / limits::LOOKED_INTO_SHARE).max(1),
                limits::LOOKED_INTO_PER_AGENT,
            ),
            bodies: Arc::new(Semaphore::new(limits::PUT_BODIES)),
            original: settings.original,
        };
        let all = CancellationToken::new();
        Ok(Self { context: Arc::new(context), state: Mutex::new(state), all, tasks })
    }

    /// Ends all that is open, and tells node what there is to tell of it.
    pub async fn finish(&self) {
        self.all.cancel();
        self.context.workers.idle().await;
        self.tasks.over.cancel();
        let mut delivering = self.tasks.delivering.lock().await;
        if !delivering.is_finished() {
            let _ = (&mut *delivering).await;
        }
    }

    /// Takes over a new state.
    pub fn replace(
        &self,
        agents: &[GateAgent],
        tools: BTreeMap<String, Vec<String>>,
        mut names: BTreeMap<AgentId, Vec<String>>,
    ) {
        let mut state = self.state();
        let always = state.tools != tools;
        if always {
            (state.tools, state.last) = (tools, None);
        }
        let mut gone: Vec<_> = state.agents.keys().copied().collect();
        gone.retain(|id| agents.iter().all(|agent| agent.id != *id));
        for id in gone {
            state.lose(id);
        }
        for agent in agents {
            state.set(agent, names.remove(&agent.id), always);
        }
    }

    /// Takes over what changed.
    pub fn update(&self, set: &[GateAgent], gone: &[AgentId]) {
        let mut state = self.state();
        for agent in set {
            state.set(agent, None, false);
        }
        for id in gone {
            state.lose(*id);
        }
    }

    /// Takes over the authorities that servers are verified by.
    pub fn trust(&self, pem: &str) {
        self.context.tls.trust(pem);
    }

    /// Takes over how the resolver is asked that node connects to.
    pub fn resolve_by(&self, resolver: &ResolverAt) {
        self.context.resolver.ask_by(resolver);
    }

    /// Takes over what is put into an agent's requests.
    pub fn credentials(&self, agent: AgentId, credentials: Vec<Credential>) {
        let mut state = self.state();
        state.entry(agent).agent.uses(Some(Credentials::new(credentials)));
    }

    /// Takes over who looks after agents, and what they said.
    pub fn attend(&self, agents: Vec<Attention>) {
        let mut state = self.state();
        state.attention = agents.into_iter().map(|attention| (attention.agent, attention)).collect();
        for (id, entry) in &state.agents {
            entry.agent.holds.attend(state.attention.get(id));
        }
    }

    /// An agent has new doors.
    fn open(&self, id: AgentId, tcp: OwnedFd, udp: OwnedFd) {
        let mut state = self.state();
        let entry = state.entry(id);
        let (boundary, doors) = match entry.doors.take() {
            Some((boundary, doors)) => {
                doors.cancel();
                (boundary, CancellationToken::new())
            }
            None => (self.all.child_token(), CancellationToken::new()),
        };
        entry.doors = Some((boundary.clone(), doors.clone()));
        listen::open(&self.context, &entry.agent, [tcp, udp], doors, boundary);
    }

    /// An agent's boundary is gone, and with it who could have connected to what stood for its names.
    fn close(&self, id: AgentId) {
        let mut state = self.state();
        let Some(entry) = state.agents.get_mut(&id) else { return };
        entry.agent.forget();
        if let Some((boundary, _)) = entry.doors.take() {
            boundary.cancel();
        }
        if !entry.known {
            state.agents.remove(&id);
        }
    }

    fn dialer(&self) -> Arc<Dialer> {
        self.context.dialer.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.all.cancel();
    }
}
