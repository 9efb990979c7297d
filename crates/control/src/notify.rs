//! Wakes those who wait for a change: long polls of nodes, `wait` of clients, the reconciler of deadlines.
//!
//! A waiter subscribes first and reads the database second, so that no change falls in between.

use model::{AgentId, NodeId};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::Changed;
use tokio::sync::watch;

/// All that can be waited for.
#[derive(Clone, Default)]
pub(crate) struct Notify {
    agents: Hub<AgentId>,
    nodes: Hub<NodeId>,
    /// Any change at all.
    any: Hub<()>,
}

impl Notify {
    pub(crate) fn changed(&self, changed: Changed) {
        match changed {
            Changed::Agent(id) => self.agents.wake(&id),
            Changed::Node(id) => self.nodes.wake(&id),
        }
        self.any.wake(&());
    }

    pub(crate) fn agent(&self, id: AgentId) -> Subscription<AgentId> {
        self.agents.subscribe(id)
    }

    pub(crate) fn node(&self, id: NodeId) -> Subscription<NodeId> {
        self.nodes.subscribe(id)
    }

    pub(crate) fn any(&self) -> Subscription<()> {
        self.any.subscribe(())
    }
}

type Senders<K> = Arc<Mutex<HashMap<K, watch::Sender<()>>>>;

#[derive(Clone)]
struct Hub<K>(Senders<K>);

impl<K> Default for Hub<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

fn lock<K>(senders: &Senders<K>) -> MutexGuard<'_, HashMap<K, watch::Sender<()>>> {
    senders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone> Hub<K> {
    fn wake(&self, key: &K) {
        if let Some(sender) = lock(&self.0).get(key) {
            sender.send_replace(());
        }
    }

    fn subscribe(&self, key: K) -> Subscription<K> {
        let receiver = lock(&self.0).entry(key.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Subscription { receiver: Some(receiver), key, senders: self.0.clone() }
    }
}

/// A place in the queue; leaving it is dropping it.
pub(crate) struct Subscription<K: Eq + Hash> {
    receiver: Option<watch::Receiver<()>>,
    key: K,
    senders: Senders<K>,
}

impl<K: Eq + Hash> Subscription<K> {
    /// Returns at the first change since the subscription, or since this last returned.
    pub(crate) async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // The sender lives as long as there is a receiver: see `drop`.
            let _ = receiver.changed().await;
        }
    }
}

impl<K: Eq + Hash> Drop for Subscription<K> {
    fn drop(&mut self) {
        self.receiver = None;
        let mut senders = lock(&self.senders);
        if senders.get(&self.key).is_some_and(watch::Sender::is_closed) {
            senders.remove(&self.key);
        }
    }
}
