//! Equal refusals within seconds are one record with a count, however often an agent tries.

use crate::limits;
use model::egress::Connection;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// What one agent was refused lately.
pub struct Folds {
    window: Duration,
    open: HashMap<Key, Window>,
}

/// What makes two refusals equal.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: Option<u16>,
    by: String,
}

struct Window {
    began: Instant,
    until: Instant,
    /// Those that came after the one that was told of.
    more: Option<Connection>,
}

impl Folds {
    /// Refusals within this time are folded.
    pub fn new(window: Duration) -> Self {
        Self { window, open: HashMap::new() }
    }

    /// Takes one more. It is given back when it is to be told of at once: the first of its kind, and each for which there is no
    /// room to be counted.
    pub fn add(&mut self, refused: Connection, now: Instant) -> Option<Connection> {
        let key = Key { host: refused.host.clone(), port: refused.port, by: refused.by.clone() };
        if let Some(window) = self.open.get_mut(&key) {
            let same = key.port.is_none() && now < window.began + limits::SAME_QUESTION;
            match &mut window.more {
                _ if same => {}
                Some(more) => more.count = more.count.saturating_add(refused.count),
                more => *more = Some(refused),
            }
            return None;
        }
        if self.open.len() < limits::FOLDS {
            self.open.insert(key, Window { began: now, until: now + self.window, more: None });
        }
        Some(refused)
    }

    /// What is to be told of those whose time is over. Where there was more, counting begins anew.
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
    use std::time::Duration;
    use time::OffsetDateTime;
    use tokio::time::Instant;

    const WINDOW: Duration = Duration::from_secs(10);

    fn refused(host: &str, port: Option<u16>, by: &str) -> Connection {
        Connection {
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
    fn the_first_is_told_at_once_and_the_rest_when_the_time_is_over() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        let one = || refused("a.example.com", Some(443), "unknown");
        assert_eq!(folds.add(one(), start), Some(one()));
        for second in 1..=4 {
            assert_eq!(folds.add(one(), start + Duration::from_secs(second)), None);
        }
        for other in [
            refused("b.example.com", Some(443), "unknown"),
            refused("a.example.com", Some(80), "unknown"),
            refused("a.example.com", Some(443), "rule 1"),
        ] {
            assert_eq!(folds.add(other.clone(), start), Some(other));
        }
        assert!(folds.over(start + Duration::from_secs(9)).is_empty());
        assert_eq!(folds.over(start + WINDOW), [Connection { count: 4, ..one() }]);
        // It goes on being counted for as long as it goes on.
        assert_eq!(folds.add(one(), start + WINDOW), None);
        assert_eq!(folds.over(start + 2 * WINDOW), [one()]);
        assert!(folds.over(start + 3 * WINDOW).is_empty() && folds.is_empty());
        assert_eq!(folds.add(one(), start + 3 * WINDOW), Some(one()));
    }

    #[test]
    fn a_name_that_is_asked_for_twice_at_once_is_asked_for_once() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        let one = || refused("a.example.com", None, "unknown");
        assert!(folds.add(one(), start).is_some());
        assert_eq!(folds.add(one(), start + Duration::from_millis(900)), None);
        assert!(folds.over(start + WINDOW).is_empty());
        assert!(folds.add(one(), start + WINDOW).is_some());
        assert_eq!(folds.add(one(), start + WINDOW + Duration::from_secs(2)), None);
        assert_eq!(folds.over(start + 2 * WINDOW), [one()]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut folds, start) = (Folds::new(WINDOW), Instant::now());
        for host in 0..2 * limits::FOLDS {
            assert!(folds.add(refused(&host.to_string(), None, "unknown"), start).is_some());
        }
        assert_eq!(folds.open.len(), limits::FOLDS);
    }
}
