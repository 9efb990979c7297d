//! How often something is done for one thing or one person within a minute: the secrets of an agent are asked for, an address tries to log
//! in. Whoever does it all the time is broken, or up to something.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use time::{Duration, OffsetDateTime};

const WINDOW: Duration = Duration::minutes(1);
/// From so many on, those are forgotten that nothing was done for lately.
const SWEPT: usize = 1024;

/// When it was lately done, for each.
pub(crate) struct Pace<K> {
    /// Times within [`WINDOW`].
    most: usize,
    times: Mutex<HashMap<K, VecDeque<OffsetDateTime>>>,
}

impl<K: Eq + Hash> Pace<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, times: Mutex::default() }
    }

    /// Whether it may be done now; that counts as done.
    pub(crate) fn admits(&self, key: K, now: OffsetDateTime) -> bool {
        let mut all = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes nobody wait for longer than the window.
        let recent = |at: &OffsetDateTime| *at <= now && now - *at < WINDOW;
        if all.len() >= SWEPT {
            all.retain(|_, times| times.back().is_some_and(recent));
        }
        let times = all.entry(key).or_default();
        times.retain(recent);
        let admitted = times.len() < self.most;
        if admitted {
            times.push_back(now);
        }
        admitted
    }
}
