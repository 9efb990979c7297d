//! Where the time of a create goes: medians of what the node's log says of each step. It is there when the log was asked
//! for (`RUST_LOG=info,node=debug,sandbox=debug COFFERDAM_LOG=json`).

use crate::rows::{Rows, Target};
use serde_json::Value;
use std::fs;
use testkit::World;

/// Samples of each step, in the order in which steps were first seen.
#[derive(Default)]
struct Steps(Vec<(String, Vec<f64>)>);

impl Steps {
    fn add(&mut self, name: String, micros: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push(micros),
            None => self.0.push((name, vec![micros])),
        }
    }
}

/// Adds a row for each step of the creates so far.
pub fn steps(world: &World, rows: &mut Rows) {
    let text = fs::read_to_string(world.dir().join("data/log/node.log")).unwrap_or_default();
    let mut steps = Steps::default();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let fields = &line["fields"];
        let laps =
            fields["laps"].as_str().and_then(|laps| serde_json::from_str::<Vec<(String, f64)>>(laps).ok());
        for (step, micros) in laps.into_iter().flatten() {
            steps.add(format!("    {step}"), micros);
        }
        if let (Some(step), Some(micros)) = (fields["step"].as_str(), fields["took_us"].as_f64()) {
            steps.add(format!("  node: {step}"), micros);
        }
    }
    for (name, mut samples) in steps.0 {
        samples.sort_by(f64::total_cmp);
        let median = samples[samples.len() / 2];
        rows.add(name, "µs", median, None, Target::None);
    }
}
