//! How many requests of one account, or of one node, are under way at once: nobody who has a key can take up all
//! of control by asking to wait.

use crate::problems::Fault;
use crate::server::Connection;
use axum::http::request::Parts;
use model::{AccountId, Code, NodeId, Problem, crowd};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Of one account. Most of them wait for an agent, each for a minute at most.
const OF_ACCOUNT: usize = 256;
/// Of one node: its long poll, reports, and what a node that was replaced had left.
const OF_NODE: usize = 32;

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    Account(AccountId),
    Node(NodeId),
}

/// All requests under way whose caller is known.
#[derive(Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<HashMap<Who, usize>>>);

/// One request under way. Its connection is not put out while this lives.
pub(crate) struct Seat {
    seats: Seats,
    who: Who,
    _connection: Option<crowd::Seat<CancellationToken>>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Seats {
    /// One more request of this caller, on the connection that it came with.
    pub(crate) fn take(&self, parts: &Parts, who: Who) -> Result<Seat, Fault> {
        let most = match who {
            Who::Account(_) => OF_ACCOUNT,
            Who::Node(_) => OF_NODE,
        };
        let mut taken = self.lock();
        let count = taken.entry(who).or_default();
        if *count >= most {
            let detail = format!("{most} requests are under way already, which is as many as there may be");
            return Err(Problem::new(Code::TooMany, detail).remedy("wait for some of them to end").into());
        }
        *count += 1;
        drop(taken);
        let connection = parts.extensions.get::<Connection>().map(|connection| connection.sit());
        Ok(Seat { seats: self.clone(), who, _connection: connection })
    }

    /// Requests under way whose caller is known.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Who, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}
