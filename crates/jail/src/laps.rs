//! How long each step took, for whoever wants to make them shorter.

use std::time::Instant;

/// The name of a step, and its microseconds.
pub type Lap = (String, u32);

/// A stopwatch.
#[derive(Debug)]
pub struct Laps {
    since: Instant,
    done: Vec<Lap>,
}

impl Laps {
    /// Starts it.
    pub fn start() -> Self {
        Self { since: Instant::now(), done: Vec::new() }
    }

    /// What passed since the last step was nobody's work.
    pub fn skip(&mut self) {
        self.since = Instant::now();
    }

    /// A step is done.
    pub fn lap(&mut self, step: &str) {
        let now = Instant::now();
        let micros = now.duration_since(self.since).as_micros();
        self.done.push((step.to_owned(), u32::try_from(micros).unwrap_or(u32::MAX)));
        self.since = now;
    }

    /// Steps that somebody else measured, within the last one.
    pub fn within(&mut self, laps: Vec<Lap>) {
        self.done.extend(laps.into_iter().map(|(step, micros)| (format!("- {step}"), micros)));
    }

    /// All steps as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.done).unwrap_or_default()
    }

    /// All steps, in their order.
    pub fn into_vec(self) -> Vec<Lap> {
        self.done
    }
}
