//! Equal records within seconds are one with a count: refusals always, however often an agent tries, and others when there are
//! too many to tell of each.

use crate::limits;
use model::Name;
use model::egress::{Connection, Outcome};
use model::policy::Protocol;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// What is counted of one agent.
pub struct Folds {
    window: Duration,
    open: HashMap<Key, Window>,
}

/// What makes two records equal.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: Option<u16>,
    by: String,
    outcome: Outcome,
    /// Refusals are equal whatever was spoken.
    protocol: Option<Protocol>,
    credentials: Vec<Name>,
}

impl Key {
    fn of(record: &Connection) -> Self {
        let Connection { host, port, by, outcome, protocol, credentials, .. } = record;
        let protocol = protocol.filter(|_| *outcome != Outcome::Denied);
        let (host, by, credentials) = (host.clone(), by.clone(), credentials.clone());
        Self { host, port: *port, by, outcome: *outcome, protocol, credentials }
    }
}

struct Window {
    began: Instant,
    until: Instant,
    /// Those that nobody was told of yet.
    more: Option<Connection>,
}

impl Folds {
    /// What comes within this time is one record.
    pub fn new(window: Duration) -> Self {
        Self { window, open: HashMap::new() }
    }

    /// Counts a record if equal ones are counted, and gives it back otherwise.
    pub fn add(&mut self, record: Connection, now: Instant) -> Option<Connection> {
        let Some(window) = self.open.get_mut(&Key::of(&record)) else { return Some(record) };
        let same_attempt = record.port.is_none() && now < window.began + limits::SAME_QUESTION;
        match &mut window.more {
            _ if same_attempt => {}
            Some(more) => {
                more.count = more.count.saturating_add(record.count);
                more.sent = more.sent.saturating_add(record.sent);
                more.received = more.received.saturating_add(record.received);
                more.duration_ms = more.duration_ms.max(record.duration_ms);
            }
            more => *more = Some(record),
        }
        None
    }

    /// Counts those that are equal to a record that was told from now on; whether there is room for that.
    pub fn after(&mut self, record: &Connection, now: Instant) -> bool {
        self.open(Key::of(record), None, now)
    }

    /// Counts a record that was not told, and those that are equal to it; whether there is room for that.
    pub fn from(&mut self, record: Connection, now: Instant) -> bool {
        self.open(Key::of(&record), Some(record), now)
    }

    fn open(&mut self, key: Key, more: Option<Connection>, now: Instant) -> bool {
        let room = self.open.len() < limits::FOLDS;
        if room {
            self.open.insert(key, Window { began: now, until: now + self.window, more });
        }
        room
    }

    /// What is to be told of those whose time is over. Where there was something, counting begins anew.
    pub fn over(&mut self, now: Instant) -> Vec<Connection> {
        let mut over = Vec::new();
        self.open.retain(|_, window| {
            if now < window.until {
                return true;
            }
            window.until = now + self.window;
            let more = window.more.take();
            let keep = more.is_some();
            over.extend(more);
            keep
        });
        over
    }

    /// What is to be told of all of them: nothing is counted any more.
    pub fn close(&mut self) -> Vec<Connection> {
        self.open.drain().filter_map(|(_, window)| window.more).collect()
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Folds;
    use crate::limits;
    use model::egress::{Connection, Outcome};
    use model::policy::Protocol;
    use std::time::Duration;
    use time::OffsetDateTime;
    use tokio::time::Instant;

    const WINDOW: Duration = Duration::from_secs(10);

    fn refused(host: &str, port: Option<u16>, by: &str) -> Connection {
        Connection {
            credentials: Vec::new(),
            at: OffsetDateTime::UNIX_EPOCH,
            host: host.to_owned(),
            port,
            address: None,
            protocol: None,
            outcome: Outcome::Denied,
            by: by.to_owned(),
            sent: 0,
            received: 0,
            duration_ms: 0,
            end: None,
            count: 1,
        }
    }

    #[test]
    fn equal_ones_are_counted_until_their_time_is_over() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        let one = || refused("a.example.com", Some(443), "unknown");
        assert_eq!(folds.add(one(), start), Some(one()));
        assert!(folds.after(&one(), start));
        for second in 1..=4 {
            let spoken = Connection { protocol: Some(Protocol::Tls), ..one() };
            assert_eq!(folds.add(spoken, start + Duration::from_secs(second)), None);
        }
        for other in [
            refused("b.example.com", Some(443), "unknown"),
            refused("a.example.com", Some(80), "unknown"),
            refused("a.example.com", Some(443), "rule 1"),
        ] {
            assert_eq!(folds.add(other.clone(), start), Some(other));
        }
        assert!(folds.over(start + Duration::from_secs(9)).is_empty());
        let told = folds.over(start + WINDOW);
        assert_eq!(told, [Connection { count: 4, protocol: Some(Protocol::Tls), ..one() }]);
        // It goes on being counted for as long as it goes on.
        assert_eq!(folds.add(one(), start + WINDOW), None);
        assert_eq!(folds.over(start + 2 * WINDOW), [one()]);
        assert!(folds.over(start + 3 * WINDOW).is_empty() && folds.is_empty());
        assert!(folds.from(one(), start) && folds.add(one(), start).is_none());
        assert_eq!(folds.close(), [Connection { count: 2, ..one() }]);
        assert!(folds.is_empty());
    }

    #[test]
    fn bytes_are_added_up() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        let passed = |sent, received, duration_ms| Connection {
            outcome: Outcome::Passed,
            protocol: Some(Protocol::Tls),
            sent,
            received,
            duration_ms,
            ..refused("a.example.com", Some(443), "rule 1")
        };
        assert!(folds.from(passed(1, 10, 7), start));
        assert_eq!(folds.add(passed(2, 20, 5), start), None);
        assert_eq!(folds.add(passed(3, u64::MAX, 9), start), None);
        let http = Connection { protocol: Some(Protocol::Http), ..passed(1, 1, 1) };
        assert!(folds.add(http, start).is_some());
        assert_eq!(folds.over(start + WINDOW), [Connection { count: 3, ..passed(6, u64::MAX, 9) }]);
    }

    #[test]
    fn a_name_that_is_asked_for_twice_at_once_is_asked_for_once() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        let one = || refused("a.example.com", None, "unknown");
        assert!(folds.after(&one(), start));
        assert_eq!(folds.add(one(), start + Duration::from_millis(900)), None);
        assert!(folds.over(start + WINDOW).is_empty());
        assert!(folds.after(&one(), start + WINDOW));
        assert_eq!(folds.add(one(), start + WINDOW + Duration::from_secs(2)), None);
        assert_eq!(folds.over(start + 2 * WINDOW), [one()]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        for host in 0..limits::FOLDS + 10 {
            let room = folds.from(refused(&host.to_string(), None, "unknown"), start);
            assert_eq!(room, host < limits::FOLDS);
        }
        assert_eq!(folds.over(start + WINDOW).len(), limits::FOLDS);
    }
}
