//! The table, and `target/bench/results.json`.

use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What is wished for.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At most this ratio to the peer.
    RatioAtMost(f64),
    /// At least this ratio to the peer.
    RatioAtLeast(f64),
    /// At most this value.
    AtMost(f64),
    /// At least this value.
    AtLeast(f64),
    /// To be seen beside the others.
    None,
}

/// One figure.
struct Row {
    name: String,
    unit: &'static str,
    value: f64,
    peer: Option<(&'static str, f64)>,
    target: Target,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|(_, value)| self.value / value)
    }

    fn holds(&self) -> Option<bool> {
        match self.target {
            Target::RatioAtMost(most) => self.ratio().map(|ratio| ratio <= most),
            Target::RatioAtLeast(least) => self.ratio().map(|ratio| ratio >= least),
            Target::AtMost(most) => Some(self.value <= most),
            Target::AtLeast(least) => Some(self.value >= least),
            Target::None => None,
        }
    }

    fn target(&self) -> String {
        match self.target {
            Target::RatioAtMost(most) => format!("≤ {most} ×"),
            Target::RatioAtLeast(least) => format!("≥ {least} ×"),
            Target::AtMost(most) => format!("≤ {most}"),
            Target::AtLeast(least) => format!("≥ {least}"),
            Target::None => String::new(),
        }
    }
}

/// All figures, in the order in which they were taken.
#[derive(Default)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// Adds a figure.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        peer: Option<(&'static str, f64)>,
        target: Target,
    ) {
        let row = Row { name: name.into(), unit, value, peer, target };
        eprintln!("    {}: {:.2} {}", row.name, row.value, row.unit);
        self.0.push(row);
    }

    /// Prints the table.
    pub fn print(&self) {
        let header = ["", "value", "", "peer", "", "ratio", "target", "holds"];
        println!(
            "\n{:<58} {:>9} {:<8} {:>9} {:<10} {:>6} {:>9} {}",
            header[0], header[1], header[2], header[3], header[4], header[5], header[6], header[7]
        );
        for row in &self.0 {
            let (peer, peer_value) = match row.peer {
                Some((peer, value)) => (peer, format!("{value:.2}")),
                None => ("", String::new()),
            };
            let ratio = row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let holds = match row.holds() {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            println!(
                "{:<58} {:>9.2} {:<8} {:>9} {:<10} {:>6} {:>9} {}",
                row.name,
                row.value,
                row.unit,
                peer_value,
                peer,
                ratio,
                row.target(),
                holds
            );
        }
    }

    /// Writes `target/bench/results.json`, beneath the directory that it is run from.
    pub fn write(&self) {
        let rows: Vec<Value> = self
            .0
            .iter()
            .map(|row| {
                json!({"name": row.name, "unit": row.unit, "value": row.value,
                    "peer": row.peer.map(|(peer, _)| peer), "peer_value": row.peer.map(|(_, value)| value),
                    "ratio": row.ratio(), "target": row.target(), "holds": row.holds()})
            })
            .collect();
        let dir = Path::new("target/bench");
        std::fs::create_dir_all(dir).expect("target/bench");
        let text = serde_json::to_string_pretty(&rows).expect("plain values");
        std::fs::write(dir.join("results.json"), text).expect("results.json");
    }
}

/// The value that this share of the samples stayed within, in milliseconds.
pub fn quantile(samples: &[Duration], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let index = ((sorted.len().max(1) - 1) as f64 * share).round() as usize;
    sorted.get(index).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
}

/// The median in milliseconds.
pub fn median(samples: &[Duration]) -> f64 {
    quantile(samples, 0.5)
}
