//! The record of each connection, and of each attempt that was refused. Never of content.
//!
//! Nobody waits for it: what cannot be kept is counted. Each agent has its own ledger, and they are told to node in turn, so
//! that an agent that fills its own takes no record from another.

use super::fold::Folds;
use super::share::Bucket;
use crate::limits;
use model::AgentId;
use model::egress::{Connection, MAX_TEXT, Outcome};
use model::gate_api::FromGate;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// One agent's records that node was not told of yet.
pub struct Ledger {
    agent: AgentId,
    /// Where it says that it has something to tell.
    ready: mpsc::UnboundedSender<Arc<Ledger>>,
    connections: Bucket,
    refusals: Bucket,
    pages: Mutex<Pages>,
}

struct Pages {
    waiting: VecDeque<Connection>,
    folds: Folds,
    /// Attempts that no record is left of.
    lost: u64,
    /// Whether it is time to say so.
    tell_lost: bool,
    /// Whether [`deliver`] knows that there is something to tell.
    ready: bool,
    /// Whether [`deliver`] comes by from time to time.
    swept: bool,
}

/// What is told in one turn.
struct Turn {
    message: Option<FromGate>,
    /// Whether there is more.
    again: bool,
    /// Whether to come by from now on.
    sweep: bool,
}

impl Ledger {
    /// An empty one. Equal refusals within `fold` are one record.
    pub fn new(agent: AgentId, ready: mpsc::UnboundedSender<Arc<Self>>, fold: Duration) -> Arc<Self> {
        let pages = Pages {
            waiting: VecDeque::new(),
            folds: Folds::new(fold),
            lost: 0,
            tell_lost: false,
            ready: false,
            swept: false,
        };
        Arc::new(Self {
            agent,
            ready,
            connections: Bucket::with(limits::RECORDS_PER_SECOND, limits::RECORDS_AT_ONCE),
            refusals: Bucket::with(limits::REFUSALS_PER_SECOND, limits::REFUSALS_AT_ONCE),
            pages: Mutex::new(pages),
        })
    }

    /// Writes down what is over.
    pub fn write(self: &Arc<Self>, mut connection: Connection) {
        cut(&mut connection.by);
        connection.end.as_mut().map(cut);
        let mut pages = self.pages();
        if connection.outcome == Outcome::Denied {
            let Some(first) = pages.folds.add(connection, Instant::now()) else { return };
            connection = first;
        }
        self.keep(&mut pages, connection);
        self.is_ready(&mut pages);
    }

    /// Keeps it for node, if there is room.
    fn keep(&self, pages: &mut Pages, connection: Connection) {
        let (bucket, room) = match connection.outcome {
            Outcome::Passed => (&self.connections, limits::RECORDS_WAITING),
            Outcome::Denied | Outcome::Failed => (&self.refusals, limits::REFUSALS_WAITING),
        };
        if pages.waiting.len() < room && bucket.take().is_ok() {
            pages.waiting.push_back(connection);
        } else {
            pages.lost = pages.lost.saturating_add(connection.count.into());
        }
    }

    fn is_ready(self: &Arc<Self>, pages: &mut Pages) {
        if !std::mem::replace(&mut pages.ready, true) {
            // Nobody is there any more when the gate ends.
            let _ = self.ready.send(self.clone());
        }
    }

    fn turn(&self) -> Turn {
        let mut pages = self.pages();
        let agent = self.agent;
        let message = match pages.waiting.pop_front() {
            Some(connection) => Some(FromGate::Egress { agent, connection }),
            None if std::mem::take(&mut pages.tell_lost) => {
                Some(FromGate::EgressLost { agent, count: std::mem::take(&mut pages.lost) })
            }
            None => None,
        };
        pages.ready = !pages.waiting.is_empty() || pages.tell_lost;
        let sweep = !pages.swept && pages.needs_sweeping();
        pages.swept |= sweep;
        Turn { message, again: pages.ready, sweep }
    }

    /// Tells what was only counted so far. Whether to come by again.
    fn sweep(self: &Arc<Self>, now: Instant) -> bool {
        let mut pages = self.pages();
        for more in pages.folds.over(now) {
            self.keep(&mut pages, more);
        }
        pages.tell_lost = pages.lost > 0;
        if pages.tell_lost || !pages.waiting.is_empty() {
            self.is_ready(&mut pages);
        }
        pages.swept = pages.needs_sweeping();
        pages.swept
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn needs_sweeping(&self) -> bool {
        self.lost > 0 || !self.folds.is_empty()
    }
}

/// Tells node what the ledgers that are `ready` have, one record of each in turn, and comes by at those that count something
/// every `sweep`. Ends when node hears nothing any more.
pub async fn deliver(
    mut ready: mpsc::UnboundedReceiver<Arc<Ledger>>,
    to_node: mpsc::Sender<FromGate>,
    sweep: Duration,
) {
    let mut ticks = tokio::time::interval(sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each ledger is at most once in each of them.
    let (mut turns, mut swept) = (VecDeque::<Arc<Ledger>>::new(), Vec::<Arc<Ledger>>::new());
    loop {
        tokio::select! {
            biased;
            now = ticks.tick(), if !swept.is_empty() => {
                swept.retain(|ledger| ledger.sweep(now));
                continue;
            }
            ledger = ready.recv() => {
                let Some(ledger) = ledger else { return };
                turns.push_back(ledger);
                continue;
            }
            () = std::future::ready(()), if !turns.is_empty() => {}
        }
        let Some(ledger) = turns.pop_front() else { continue };
        let Turn { message, again, sweep } = ledger.turn();
        if sweep {
            if swept.is_empty() {
                ticks.reset();
            }
            swept.push(ledger.clone());
        }
        if again {
            turns.push_back(ledger);
        }
        if let Some(message) = message
            && to_node.send(message).await.is_err()
        {
            return;
        }
    }
}

/// Cuts a text to what is kept of one.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
}
