//! How many bytes an agent moved lately, and whether its policy lets it move more.
//!
//! It is kept in memory: a gate that begins anew counts anew.

use super::flow::Way;
use model::policy::{Limit, Limits};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A day, and the part of an hour that is not over: so no 24 hours have more than is allowed, wherever they begin.
const HOURS: usize = 25;
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Of one agent.
pub struct Usage {
    began: Instant,
    state: Mutex<State>,
}

struct State {
    limits: Limits,
    /// The hour of the last byte, since it began.
    hour: u64,
    /// Bytes out of it and into it, in each hour; the hours go round.
    hours: [[u64; 2]; HOURS],
    /// Whether it was told that a limit is passed.
    told: bool,
}

impl Usage {
    /// Of an agent that moved nothing yet, and may move whatever it likes.
    pub fn new() -> Self {
        let state = State { limits: Limits::default(), hour: 0, hours: [[0; 2]; HOURS], told: false };
        Self { began: Instant::now(), state: Mutex::new(state) }
    }

    /// From now on these hold, for what it moved before, too.
    pub fn limit(&self, limits: Limits) {
        let mut state = self.lock();
        state.limits = limits;
        state.told = false;
    }

    /// Bytes moved. Whether that is too much, and whether nobody was told so before.
    pub fn add(&self, way: Way, bytes: u64) -> (bool, bool) {
        self.add_at(Instant::now(), way, bytes)
    }

    fn add_at(&self, now: Instant, way: Way, bytes: u64) -> (bool, bool) {
        let mut state = self.lock();
        state.turn(self.hour(now));
        let now = state.now();
        let at = match way {
            Way::Out => &mut now[0],
            Way::In => &mut now[1],
        };
        *at = at.saturating_add(bytes);
        if state.limits.is_none() {
            return (false, false);
        }
        let spent = state.passed().is_some();
        let news = spent && !state.told;
        state.told = spent;
        (spent, news)
    }

    /// The limit that is passed, if any is.
    pub fn spent(&self) -> Option<Limit> {
        self.spent_at(Instant::now())
    }

    fn spent_at(&self, now: Instant) -> Option<Limit> {
        let mut state = self.lock();
        if state.limits.is_none() {
            return None;
        }
        state.turn(self.hour(now));
        state.passed()
    }

    fn hour(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / HOUR.as_secs()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets hours that are too long ago.
    fn turn(&mut self, hour: u64) {
        // Who came with an older one adds to the newest.
        let gone = hour.saturating_sub(self.hour).min(HOURS as u64);
        for _ in 0..gone {
            self.hour += 1;
            *self.now() = [0; 2];
        }
        self.hour = self.hour.max(hour);
    }

    fn now(&mut self) -> &mut [u64; 2] {
        &mut self.hours[(self.hour % HOURS as u64) as usize]
    }

    fn passed(&self) -> Option<Limit> {
        let sum = |way: usize| self.hours.iter().fold(0, |sum: u64, hour| sum.saturating_add(hour[way]));
        self.limits.passed(sum(0), sum(1))
    }
}

#[cfg(test)]
mod tests {
    use super::{HOUR, Usage};
    use crate::egress::flow::Way;
    use model::ByteSize;
    use model::policy::{Limit, Limits};
    use std::time::Duration;

    fn limited(bytes: u64) -> Usage {
        let usage = Usage::new();
        usage.limit(Limits { bytes_per_day: Some(ByteSize(bytes)), sent_per_day: None });
        usage
    }

    #[test]
    fn a_day_is_remembered_and_no_more() {
        let usage = limited(100);
        let at = |hours: u32| usage.began + HOUR * hours + Duration::from_secs(1);
        assert_eq!(usage.add_at(at(0), Way::Out, 60), (false, false));
        assert_eq!(usage.add_at(at(10), Way::In, 40), (false, false));
        assert_eq!(usage.add_at(at(10), Way::In, 1), (true, true));
        // It is told once.
        assert_eq!(usage.add_at(at(11), Way::In, 1), (true, false));
        assert_eq!(usage.spent_at(at(24)), Some(Limit::BytesPerDay));
        assert_eq!(usage.spent_at(at(25)), None);
        assert_eq!(usage.add_at(at(25), Way::Out, 58), (false, false));
        assert_eq!(usage.add_at(at(25), Way::Out, 1), (true, true));
        // However long nothing happens.
        for later in [60, 1000, 100_000] {
            assert_eq!(usage.spent_at(at(later)), None);
            assert_eq!(usage.add_at(at(later), Way::Out, 100), (false, false));
            assert_eq!(usage.add_at(at(later), Way::Out, 1), (true, true));
        }
    }

    #[test]
    fn what_was_moved_before_a_limit_counts() {
        let usage = Usage::new();
        assert_eq!(usage.add(Way::Out, u64::MAX), (false, false));
        assert_eq!(usage.add(Way::Out, u64::MAX), (false, false));
        assert_eq!(usage.spent(), None);
        usage.limit(Limits { sent_per_day: Some(ByteSize(5)), ..Limits::default() });
        assert_eq!(usage.spent(), Some(Limit::SentPerDay));
        usage.limit(Limits::default());
        assert_eq!(usage.spent(), None);
    }
}
