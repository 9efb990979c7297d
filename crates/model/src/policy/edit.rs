//! Changing a policy by one rule.

use super::{Action, Host, Policy, Preset, Rule, Table, Target, Unknown, Verdict, name};
use std::collections::BTreeMap;

impl Rule {
    /// Does this with a host, and looks at nothing else; without ports as [`Rule::ports`] says.
    pub fn of(action: Action, host: &str, port: Option<u16>) -> Self {
        Self {
            action,
            host: host.to_owned(),
            ports: port.into_iter().collect(),
            protocol: None,
            methods: Vec::new(),
            paths: Vec::new(),
        }
    }
}

impl Policy {
    /// Puts a rule in front, in place of those that say something of just what it is about already. Rules that say it of more,
    /// or less, stay.
    pub fn put_in_front(&mut self, rule: Rule) {
        let of_normal = Rule { host: normal(&rule.host), ..rule.clone() };
        let same = |known: &Rule| {
            Rule { action: rule.action, host: normal(&known.host), ..known.clone() } == of_normal
        };
        self.egress.rules.retain(|known| !same(known));
        self.egress.rules.insert(0, rule);
    }

    /// Allows those of these hosts, each at its port, that somebody would be asked about otherwise, by rules in front. What the policy
    /// says of a host already holds on. Tells whether anything changed.
    pub fn allow_asked(&mut self, hosts: &[(&str, u16)]) -> bool {
        let asks = self.egress.preset == Preset::Allowlist && self.egress.unknown == Unknown::Hold;
        if !asks || hosts.is_empty() {
            return false;
        }
        let table = Table::new(Some(self), &BTreeMap::new());
        let is_held = |host: &str, port: u16| {
            let host = host.parse().map_or(Host::Name(host), Host::Address);
            table.decide(&Target { host, port, protocol: None, request: None }) == Verdict::Hold
        };
        let held = hosts.iter().filter(|(host, port)| is_held(host, *port));
        let rules: Vec<Rule> = held.map(|(host, port)| Rule::of(Action::Allow, host, Some(*port))).collect();
        let any = !rules.is_empty();
        self.egress.rules.splice(..0, rules);
        any
    }
}

/// A rule's host in the form in which hosts are compared.
fn normal(host: &str) -> String {
    match host.strip_prefix("*.") {
        Some(base) => format!("*.{}", name(base).unwrap_or_else(|| base.to_owned())),
        None => name(host).unwrap_or_else(|| host.to_owned()),
    }
}
