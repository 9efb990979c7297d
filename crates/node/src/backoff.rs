//! Waiting longer after each failure, never in step with others.

use std::time::Duration;

/// Doubles from a first delay up to a last one. Half of each delay is drawn by lot.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// For calls to control: it is found again soon after a restart, and an outage of any length costs a call every
    /// few seconds.
    pub(crate) fn to_control() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// Starts with the first delay.
    pub(crate) fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// Something worked: the next failure waits shortly again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now: between half of the delay and all of it.
    pub(crate) fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.last);
        // Without entropy all nodes wait the full delay, which is still right.
        let lot = getrandom::u32().unwrap_or(u32::MAX);
        delay / 2 + (delay / 2).mul_f64(f64::from(lot) / f64::from(u32::MAX))
    }
}
