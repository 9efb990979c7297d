//! When connections are written to: what can be said together is, for each write wakes a client. And when one that says
//! nothing is given up.

use super::Init;
use super::conn::{Conn, State};
use super::errors::refuse;
use super::slab::Key;
use channel::ErrorKind;
use std::time::{Duration, Instant};

/// How long a client may take to say what it wants.
const GREETING: Duration = Duration::from_secs(10);

/// How long an answer about a new process waits for what the process has to say, so that all of a short one comes in one
/// piece. Nobody notices that a longer one began so much later.
pub const TOGETHER: Duration = Duration::from_millis(20);

impl Conn {
    /// When it has been waited for long enough: for its request, or for its process.
    fn late_at(&self) -> Option<Instant> {
        match self.state {
            State::Greeting { .. } => Some(self.since + GREETING),
            State::Starting { until } => until,
            _ => None,
        }
    }

    /// Whether the hello waits for the answer.
    pub fn holds(&self) -> bool {
        matches!(self.state, State::Starting { until: Some(_) })
    }
}

impl Init {
    /// Closes connections that do not come to the point, and says what waited for long enough.
    pub fn hurry(&mut self, now: Instant) {
        let late = |conn: &Conn| conn.late_at().is_some_and(|late| late <= now);
        let keys: Vec<Key> = self.conns.iter().filter(|(_, conn)| late(conn)).map(|(key, _)| key).collect();
        for key in keys {
            match self.conns.get_mut(key).map(|conn| &mut conn.state) {
                Some(State::Starting { until }) => {
                    *until = None;
                    self.watch_start(key);
                    self.drive(key, 0);
                }
                _ => self.fail(key, &refuse(ErrorKind::Invalid, "no request came within 10 seconds")),
            }
        }
    }

    /// When [`Self::hurry`] has something to do next.
    pub fn next_late(&self) -> Option<Instant> {
        self.conns.iter().filter_map(|(_, conn)| conn.late_at()).min()
    }

    /// The connection has something to say, which is said at the end of this round of events, together with what else
    /// comes up until then: each write wakes a client.
    pub fn stir(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && !std::mem::replace(&mut conn.stirred, true)
        {
            self.stirred.push(key);
        }
    }
}
