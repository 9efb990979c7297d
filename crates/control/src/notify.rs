//! Wakes those who wait for a change: long polls of nodes, `wait` of clients, those who follow a log, the reconciler of deadlines. Who waits for
//! an agent is handed the agent, or told to read it if another process changed it.
//!
//! A waiter subscribes first and reads the database second, so that no change falls in between.

use model::{AccountId, AgentId, NodeId};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Agent, Changed};
use tokio::sync::watch;

/// All that can be waited for.
#[derive(Clone, Default)]
pub(crate) struct Notify {
    agents: Hub<AgentId, Option<Arc<Agent>>>,
    nodes: Hub<NodeId, ()>,
    /// A change of any agent that has a deadline.
    deadlines: Hub<(), ()>,
    /// What waits for an account's people.
    questions: Hub<AccountId, ()>,
    /// What left an account's agents.
    egress_log: Hub<AccountId, ()>,
    /// Events that are to be chained.
    events: Hub<(), ()>,
    /// Chains, of accounts and of the installation.
    ledger: Hub<Option<AccountId>, ()>,
}

impl Notify {
    /// The changes of one commit come with its number.
    pub(crate) fn changed(&self, number: u64, changed: Changed) {
        match changed {
            Changed::Agent(agent) => {
                let has_deadline = agent.spec.ttl.is_some() || agent.spec.idle_timeout.is_some();
                let id = agent.spec.id;
                self.agents.wake(&id, number, Some(agent));
                if has_deadline {
                    self.deadlines.wake(&(), number, ());
                }
            }
            Changed::Node(id) => self.nodes.wake(&id, number, ()),
            Changed::Questions(account) => self.questions.wake(&account, number, ()),
            Changed::EgressLog(account) => self.egress_log.wake(&account, number, ()),
            Changed::Events => self.events.wake(&(), number, ()),
            Changed::Ledger(account) => self.ledger.wake(&account, number, ()),
            Changed::Keys => {}
            Changed::AgentElsewhere { agent, deadline } => {
                self.agents.wake(&agent, number, None);
                if deadline {
                    self.deadlines.wake(&(), number, ());
                }
            }
            Changed::Anything => {
                self.agents.wake_all();
                self.nodes.wake_all();
                self.deadlines.wake_all();
                self.questions.wake_all();
                self.egress_log.wake_all();
                self.events.wake_all();
                self.ledger.wake_all();
            }
        }
    }

    pub(crate) fn agent(&self, id: AgentId) -> Subscription<AgentId, Option<Arc<Agent>>> {
        self.agents.subscribe(id)
    }

    pub(crate) fn node(&self, id: NodeId) -> Subscription<NodeId, ()> {
        self.nodes.subscribe(id)
    }

    pub(crate) fn questions(&self, account: AccountId) -> Subscription<AccountId, ()> {
        self.questions.subscribe(account)
    }

    pub(crate) fn egress_log(&self, account: AccountId) -> Subscription<AccountId, ()> {
        self.egress_log.subscribe(account)
    }

    pub(crate) fn events(&self) -> Subscription<(), ()> {
        self.events.subscribe(())
    }

    pub(crate) fn ledger(&self, account: Option<AccountId>) -> Subscription<Option<AccountId>, ()> {
        self.ledger.subscribe(account)
    }

    pub(crate) fn deadlines(&self) -> Subscription<(), ()> {
        self.deadlines.subscribe(())
    }
}

/// The newest value of each key that is waited for, with the number of its commit.
type Senders<K, V> = Arc<Mutex<HashMap<K, watch::Sender<(u64, V)>>>>;

#[derive(Clone)]
struct Hub<K, V>(Senders<K, V>);

impl<K, V> Default for Hub<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

fn lock<K, V>(senders: &Senders<K, V>) -> MutexGuard<'_, HashMap<K, watch::Sender<(u64, V)>>> {
    senders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone, V: Default> Hub<K, V> {
    fn wake(&self, key: &K, number: u64, value: V) {
        if let Some(sender) = lock(&self.0).get(key) {
            sender.send_if_modified(|newest| {
                let newer = number >= newest.0;
                if newer {
                    *newest = (number, value);
                }
                newer
            });
        }
    }

    /// Everybody looks for themselves.
    fn wake_all(&self) {
        for sender in lock(&self.0).values() {
            sender.send_modify(|newest| newest.1 = V::default());
        }
    }

    fn subscribe(&self, key: K) -> Subscription<K, V> {
        let mut senders = lock(&self.0);
        let sender = senders.entry(key.clone()).or_insert_with(|| watch::channel((0, V::default())).0);
        Subscription { receiver: Some(sender.subscribe()), key, senders: self.0.clone() }
    }
}

/// A place in the queue; leaving it is dropping it.
pub(crate) struct Subscription<K: Eq + Hash, V> {
    receiver: Option<watch::Receiver<(u64, V)>>,
    key: K,
    senders: Senders<K, V>,
}

impl<K: Eq + Hash, V: Clone + Default> Subscription<K, V> {
    /// Returns at the first change since the subscription, or since this last returned.
    pub(crate) async fn changed(&mut self) -> V {
        let Some(receiver) = &mut self.receiver else { return V::default() };
        // The sender lives as long as there is a receiver: see `drop`.
        let _ = receiver.changed().await;
        receiver.borrow_and_update().1.clone()
    }
}

impl<K: Eq + Hash, V> Drop for Subscription<K, V> {
    fn drop(&mut self) {
        self.receiver = None;
        let mut senders = lock(&self.senders);
        if senders.get(&self.key).is_some_and(watch::Sender::is_closed) {
            senders.remove(&self.key);
        }
    }
}
