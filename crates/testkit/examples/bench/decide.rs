//! What it costs to decide whether a connection may leave an agent.

use crate::rows::{Rows, Target as Wish, median};
use model::policy::{Action, Egress, Host, Policy, Preset, Protocol, Rule, Table, Target};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

const RULES: u32 = 10_000;
/// Decisions that are timed together.
const BATCH: u32 = 1000;

/// A policy of as many rules as there may be: for names, for all below a name, and for networks.
fn policy() -> Policy {
    let rules = (0..RULES).map(|index| {
        let host = match index % 4 {
            0 | 1 => format!("host-{index}.example.com"),
            2 => format!("*.zone-{index}.example.org"),
            _ => format!("10.{}.{}.0/24", index >> 8, index & 0xff),
        };
        let action = if index % 10 == 0 { Action::Deny } else { Action::Allow };
        let (methods, paths) = (Vec::new(), Vec::new());
        Rule { action, host, ports: vec![443, 8443], protocol: None, methods, paths }
    });
    let egress = Egress { preset: Preset::Https, rules: rules.collect(), ..Egress::default() };
    Policy { version: 1, egress }
}

/// Takes the rows.
pub fn measure(rounds: usize, rows: &mut Rows) {
    let policy = policy();
    policy.validate(false).expect("a policy that could be in force");
    let made: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            black_box(Table::new(Some(black_box(&policy)), &BTreeMap::new()));
            start.elapsed()
        })
        .collect();
    rows.add("a table of 10,000 rules", "ms", median(&made), None, Wish::None);

    let table = Table::new(Some(&policy), &BTreeMap::new());
    let hosts = [
        ("a name that a rule has", Host::Name("host-9997.example.com")),
        ("a name far below one", Host::Name("a.b.c.zone-9998.example.org")),
        ("a name that no rule has", Host::Name("some.other.host.example.net")),
        ("a literal address", Host::Address([10, 39, 15, 7].into())),
    ];
    for (what, host) in hosts {
        let target = Target { host, port: 443, protocol: Some(Protocol::Tls), request: None };
        let batches: Vec<Duration> = (0..rounds.max(10))
            .map(|_| {
                let start = Instant::now();
                for _ in 0..BATCH {
                    black_box(table.decide(black_box(&target)));
                }
                start.elapsed()
            })
            .collect();
        // As many milliseconds for a thousand as microseconds for one.
        rows.add(
            format!("decide with 10,000 rules: {what}"),
            "µs",
            median(&batches),
            None,
            Wish::AtMost(2.0),
        );
    }
}
