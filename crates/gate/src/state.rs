//! What node told the gate last, and what is open right now.
//!
//! Calls that began before a change go on, unless their agent is gone or its token epoch was raised: those are cut.

use crate::limits;
use jsonwebtoken::DecodingKey;
use model::gate_api::{Condition, FromGate, GateAgent};
use model::token::{VerifyingKey, WorkspaceClaims};
use model::workspace::{Captured, Stats};
use model::{AccountId, AgentId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// All that node said, in a form that is quick to ask.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// `iss` of the tokens that are accepted.
    pub installation: String,
    /// The one account.
    pub account: Option<AccountId>,
    /// What verifies tokens.
    pub keys: Arc<Keys>,
    /// The account's agents on this node.
    pub agents: BTreeMap<AgentId, Arc<Agent>>,
    /// Some that were here and are not any more: nobody waits for them to come.
    pub gone: BTreeSet<AgentId>,
}

/// Keys that verify tokens, and the tokens that they verified.
#[derive(Default)]
pub struct Keys {
    given: Vec<VerifyingKey>,
    /// By `kid`.
    pub decoded: HashMap<String, DecodingKey>,
    /// What tokens with a good signature carry. It is looked at anew with each call: only the signature stays good.
    verified: Mutex<HashMap<String, Arc<WorkspaceClaims>>>,
}

impl Keys {
    fn new(given: Vec<VerifyingKey>) -> Arc<Self> {
        let decoded = given.iter().filter_map(|key| {
            let decoded = DecodingKey::from_ed_components(&key.x).ok();
            if decoded.is_none() {
                tracing::error!(kid = %key.kid, "a verifying key from node is not base64url and is ignored");
            }
            Some((key.kid.to_string(), decoded?))
        });
        let decoded = decoded.collect();
        Arc::new(Self { given, decoded, verified: Mutex::default() })
    }

    /// The claims of a token whose signature was found good before.
    pub fn remembered(&self, token: &str) -> Option<Arc<WorkspaceClaims>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// The signature of this token is good.
    pub fn remember(&self, token: &str, claims: &Arc<WorkspaceClaims>) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= limits::VERIFIED_TOKENS {
            verified.clear();
        }
        verified.insert(token.to_owned(), claims.clone());
    }
}

impl Snapshot {
    /// An agent is as node says, and was as `known` before. Calls go on unless its epoch was raised.
    fn set(&mut self, agent: GateAgent, known: Option<Arc<Agent>>) {
        let GateAgent { id, channel, token_epoch, condition, .. } = agent;
        let life = match known {
            Some(known) if known.epoch == token_epoch => known.life.clone(),
            known => {
                if let Some(known) = known {
                    known.life.revoked.cancel();
                }
                Life::new()
            }
        };
        let agent = Agent { id, channel: channel.into(), epoch: token_epoch, condition, life };
        self.agents.insert(id, Arc::new(agent));
        self.gone.remove(&id);
    }

    /// An agent is not here any more: what is open on it is cut.
    fn lose(&mut self, agent: &Agent) {
        agent.life.revoked.cancel();
        if self.gone.len() >= limits::GONE {
            self.gone.clear();
        }
        self.gone.insert(agent.id);
    }
}

/// One agent as node described it, and what is open on it.
pub struct Agent {
    /// Which.
    pub id: AgentId,
    /// Its channel's socket.
    pub channel: PathBuf,
    /// Tokens of an older epoch are refused.
    pub epoch: u64,
    /// Whether it can answer.
    pub condition: Condition,
    /// What is open on it.
    pub life: Arc<Life>,
}

/// What outlives a new state that changes nothing about who may use the agent.
pub struct Life {
    /// Bounds the connections to its channel.
    pub connections: Arc<Semaphore>,
    /// Cut when the agent goes away or its tokens are revoked.
    pub revoked: CancellationToken,
    open: AtomicUsize,
    touched: AtomicBool,
}

impl Life {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_PER_AGENT)),
            revoked: CancellationToken::new(),
            open: AtomicUsize::new(0),
            touched: AtomicBool::new(false),
        })
    }

    /// Calls and conversations under way.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Calls that wait for agents.
#[derive(Default)]
pub struct Ahead(Mutex<HashMap<AgentId, usize>>);

/// One of them.
pub struct Waiting(Arc<Ahead>, AgentId);

impl Ahead {
    /// One more for this agent, unless there are too many.
    pub fn enter(self: &Arc<Self>, agent: AgentId) -> Option<Waiting> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (calls.values().sum::<usize>(), calls.get(&agent).copied().unwrap_or(0));
        if all >= limits::CALLS_AHEAD || own >= limits::CALLS_AHEAD_OF_ONE {
            return None;
        }
        calls.insert(agent, own + 1);
        Some(Waiting(self.clone(), agent))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut calls = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = calls.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                calls.remove(&self.1);
            }
        }
    }
}

/// Shared by all that the gate does.
pub struct Shared {
    snapshot: RwLock<Arc<Snapshot>>,
    to_node: mpsc::Sender<FromGate>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_request: AtomicU64,
    used: Notify,
    /// Raised with everything that node says.
    told: watch::Sender<u64>,
    /// KiB of output that may be held for answers.
    pub captured: Arc<Semaphore>,
    /// Calls that may wait for an agent that node did not tell of yet.
    pub ahead: Arc<Ahead>,
    /// And for how long.
    pub coming: Duration,
}

impl Shared {
    /// Knows nothing yet. What is for node goes to `to_node`.
    pub fn new(to_node: mpsc::Sender<FromGate>, coming: Duration) -> Arc<Self> {
        Arc::new(Self {
            snapshot: RwLock::default(),
            to_node,
            asked: Mutex::default(),
            next_request: AtomicU64::new(1),
            used: Notify::new(),
            told: watch::Sender::new(0),
            captured: Arc::new(Semaphore::new(limits::ALL_CAPTURED_KIB)),
            ahead: Arc::default(),
            coming,
        })
    }

    /// What node said last.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a new state.
    pub fn replace(
        &self,
        installation: String,
        account: AccountId,
        keys: Vec<VerifyingKey>,
        agents: Vec<GateAgent>,
    ) {
        self.change(|now| {
            if now.keys.given != keys {
                now.keys = Keys::new(keys);
            }
            (now.installation, now.account) = (installation, Some(account));
            let mut before = std::mem::take(&mut now.agents);
            for agent in agents {
                let known = before.remove(&agent.id);
                now.set(agent, known);
            }
            before.into_values().for_each(|gone| now.lose(&gone));
        });
    }

    /// Takes over what changed.
    pub fn update(&self, set: Vec<GateAgent>, gone: Vec<AgentId>) {
        self.change(|now| {
            for agent in set {
                let known = now.agents.remove(&agent.id);
                now.set(agent, known);
            }
            for gone in gone {
                if let Some(gone) = now.agents.remove(&gone) {
                    now.lose(&gone);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(Arc::make_mut(&mut self.snapshot.write().unwrap_or_else(PoisonError::into_inner)));
        self.told.send_modify(|told| *told += 1);
    }

    /// Told of everything that node says.
    pub fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Notes that a call on the agent begins; it lasts until the answer is dropped.
    pub fn open(&self, agent: &Agent) -> InUse {
        agent.life.open.fetch_add(1, Ordering::Relaxed);
        agent.life.touched.store(true, Ordering::Relaxed);
        self.used.notify_one();
        InUse(agent.life.clone())
    }

    /// Tells node which agents are used, at most once a second for each, for as long as anything is open.
    pub async fn report_activity(&self) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut any = false;
            for agent in self.snapshot().agents.values() {
                let touched = agent.life.touched.swap(false, Ordering::Relaxed);
                if touched || agent.life.open.load(Ordering::Relaxed) > 0 {
                    any = true;
                    // When node does not keep up, the next second says the same again.
                    let _ = self.to_node.try_send(FromGate::Activity { agent: agent.id });
                }
            }
            if !any {
                self.used.notified().await;
            }
        }
    }

    /// Asks node what the agent uses. `None` when node does not answer, or the agent does not run.
    pub async fn stats(&self, agent: AgentId) -> Option<Stats> {
        match self.ask(limits::NODE_TIME, |request| FromGate::StatsWanted { request, agent }).await? {
            Answer::Stats(stats) => stats,
            Answer::Logs(_) => None,
        }
    }

    /// Asks node what the main process of an agent that does not run wrote. `None` when node does not answer, or cannot read
    /// it now.
    pub async fn logs(&self, agent: AgentId, most: u64) -> Option<Captured> {
        match self.ask(limits::LOGS_TIME, |request| FromGate::LogsWanted { request, agent, most }).await? {
            Answer::Logs(logs) => logs,
            Answer::Stats(_) => None,
        }
    }

    async fn ask(&self, time: Duration, question: impl FnOnce(u64) -> FromGate) -> Option<Answer> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.pending().insert(request, answer);
        // Forgets the question also when the client goes away in between.
        let _forget = Forget { shared: self, request };
        tokio::time::timeout(time, async {
            self.to_node.send(question(request)).await.ok()?;
            answered.await.ok()
        })
        .await
        .ok()
        .flatten()
    }

    /// Node answered.
    pub fn came(&self, request: u64, answer: Answer) {
        if let Some(asked) = self.pending().remove(&request) {
            let _ = asked.send(answer);
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What node said to a question.
pub enum Answer {
    /// To [`FromGate::StatsWanted`].
    Stats(Option<Stats>),
    /// To [`FromGate::LogsWanted`].
    Logs(Option<Captured>),
}

struct Forget<'a> {
    shared: &'a Shared,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.request);
    }
}

/// Something is open on an agent for as long as this lives.
pub struct InUse(Arc<Life>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
