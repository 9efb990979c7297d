//! Changing a policy by one rule.

use super::{Action, Policy, Rule, name};

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
}

/// A rule's host in the form in which hosts are compared.
fn normal(host: &str) -> String {
    match host.strip_prefix("*.") {
        Some(base) => format!("*.{}", name(base).unwrap_or_else(|| base.to_owned())),
        None => name(host).unwrap_or_else(|| host.to_owned()),
    }
}
