//! Where the time of a create goes: medians of what the node's log says of each step. Writing that log takes time too, so it
//! is done by another process of this program, with installations of its own.

use crate::lone;
use crate::rows::{Rows, Target};
use crate::session::{Blanks, Session};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use testkit::World;

/// The section that the other process runs.
pub const SECTION: &str = "steps";

/// Creates of each kind.
const ROUNDS: usize = 15;

/// Adds a row for each step, as another process measures them.
pub fn ask(rows: &mut Rows) {
    let own = std::env::current_exe().expect("this program knows its own path");
    let mut command = Command::new(own);
    command.arg(SECTION).env("RUST_LOG", "info,node=debug,sandbox=debug").env("COFFERDAM_LOG", "json");
    let output = command.stderr(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "measuring steps: {}", output.status);
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).expect("its rows");
    for row in found {
        let (Some(name), Some(micros)) = (row["name"].as_str(), row["micros"].as_f64()) else { continue };
        rows.add(name, "µs", micros, None, Target::None);
    }
}

/// Measures them, and prints them as JSON.
pub fn answer() {
    let mut found = Vec::new();
    for blanks in [Blanks::None, Blanks::Bare, Blanks::Ready] {
        let session = Session::start(blanks);
        lone::rounds(&session, ROUNDS, || {});
        let rows = steps(&session.world).into_iter();
        let named =
            |(name, micros)| json!({"name": format!("  {}, {name}", blanks.name()), "micros": micros});
        found.extend(rows.map(named));
    }
    println!("{}", Value::from(found));
}

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

/// The median of each step of the creates so far.
fn steps(world: &World) -> Vec<(String, f64)> {
    let text = fs::read_to_string(world.dir().join("data/log/node.log")).unwrap_or_default();
    let mut steps = Steps::default();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let fields = &line["fields"];
        let laps =
            fields["laps"].as_str().and_then(|laps| serde_json::from_str::<Vec<(String, f64)>>(laps).ok());
        for (step, micros) in laps.into_iter().flatten() {
            steps.add(format!("  {step}"), micros);
        }
        if let (Some(step), Some(micros)) = (fields["step"].as_str(), fields["took_us"].as_f64()) {
            steps.add(format!("node: {step}"), micros);
        }
    }
    let median = |(name, mut samples): (String, Vec<f64>)| {
        samples.sort_by(f64::total_cmp);
        let middle = samples[samples.len() / 2];
        (name, middle)
    };
    steps.0.into_iter().map(median).collect()
}
