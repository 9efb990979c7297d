//! How often the secrets of one agent are asked for. A node asks when they changed and when it starts: one that asks all the time is
//! broken or was taken over, and each answer costs a signature's check, a key exchange and a commit.

use model::AgentId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use time::{Duration, OffsetDateTime};

/// Answers within [`WINDOW`].
const MOST: usize = 30;
const WINDOW: Duration = Duration::minutes(1);
/// From so many agents on, those are forgotten that nobody asked for lately.
const SWEPT: usize = 1024;

/// When each agent's secrets were lately asked for.
#[derive(Default)]
pub(crate) struct Pace(Mutex<HashMap<AgentId, VecDeque<OffsetDateTime>>>);

impl Pace {
    /// Whether they may be asked for now; that counts as asked.
    pub(crate) fn admits(&self, agent: AgentId, now: OffsetDateTime) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes nobody wait for longer than the window.
        let recent = |at: &OffsetDateTime| *at <= now && now - *at < WINDOW;
        if asked.len() >= SWEPT {
            asked.retain(|_, times| times.back().is_some_and(recent));
        }
        let times = asked.entry(agent).or_default();
        times.retain(recent);
        let admitted = times.len() < MOST;
        if admitted {
            times.push_back(now);
        }
        admitted
    }
}
