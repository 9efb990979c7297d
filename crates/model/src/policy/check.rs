//! What a policy may say, and reading one.

use super::pattern::{NoPattern, Pattern};
use super::table::Protocol;
use super::{
    Action, Egress, Inject, Policy, PolicyError, Preset, Rule, Unknown, bundles, inject, limits, path,
};

/// Rules of one policy.
pub const MAX_RULES: usize = 10_000;
/// Ports, and also methods and paths, of one rule.
pub const MAX_OF_RULE: usize = 64;
/// Bundles of one policy.
pub const MAX_BUNDLES: usize = 64;
/// A path, in bytes.
pub const MAX_PATH: usize = 1024;
/// All rules together, in bytes of what is written in them.
pub const MAX_BYTES: usize = 1 << 20;
/// A policy file, in bytes.
pub const MAX_FILE: usize = 4 << 20;

/// Gathers faults.
pub(super) struct Faults(Vec<PolicyError>);

impl Faults {
    pub(super) fn add(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(PolicyError { field: field.into(), message: message.into(), remedy: remedy.into() });
    }
}

impl Policy {
    /// Reads a policy file. What a policy may say is not checked: see [`Policy::validate`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let fault = |field: String, message: String, remedy: &str| PolicyError {
            field,
            message,
            remedy: remedy.to_owned(),
        };
        if text.len() > MAX_FILE {
            let message = format!("has more than {MAX_FILE} bytes");
            return Err(fault("the policy file".to_owned(), message, "write fewer rules"));
        }
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
            // The parser's words go over several lines at times, and quote what was written.
            let words: Vec<&str> = error.message().split_whitespace().collect();
            let words: String = words.join(" ").chars().filter(|c| !c.is_control()).take(300).collect();
            fault(
                format!("line {line}"),
                format!("cannot be read: {words}"),
                "see the format of policy files",
            )
        })
    }

    /// As a policy file, which reads as the same policy.
    pub fn to_toml(&self) -> String {
        // Nothing in a policy is of a kind that TOML does not have.
        toml::to_string(self).unwrap_or_default()
    }

    /// Checks all that can be checked without an agent; `unrestricted` is whether the agent is. The first fault of several.
    pub fn validate(&self, unrestricted: bool) -> Result<(), PolicyError> {
        self.faults(unrestricted).into_iter().next().map_or(Ok(()), Err)
    }

    /// All faults; the first hundred of them.
    pub fn faults(&self, unrestricted: bool) -> Vec<PolicyError> {
        let mut faults = Faults(Vec::new());
        if self.version != 1 {
            faults.add("version", "is not one that is known here", "write `version = 1`");
        }
        let Egress { preset, bundles, unknown, limits, rules, inject } = &self.egress;
        if *preset == Preset::Open && !unrestricted {
            faults.add(
                "egress.preset",
                "is `open`, which is for unrestricted agents only",
                "take `https`, or make the agent unrestricted",
            );
        }
        limits::check(limits, &mut faults);
        check_allowlist(*preset, bundles, *unknown, &mut faults);
        if rules.len() > MAX_RULES {
            faults.add("egress.rule", format!("has more than {MAX_RULES} entries"), "write fewer rules");
            return faults.0;
        }
        if rules.iter().map(bytes).chain(inject.iter().map(Inject::bytes)).sum::<usize>() > MAX_BYTES {
            faults.add(
                "egress.rule",
                format!("has more than {MAX_BYTES} bytes"),
                "write fewer or shorter rules",
            );
            return faults.0;
        }
        for (index, rule) in rules.iter().enumerate() {
            if faults.0.len() >= 100 {
                break;
            }
            check_rule(&format!("egress.rule[{index}]"), rule, &mut faults);
        }
        inject::check_all(inject, &mut faults);
        faults.0.truncate(100);
        faults.0
    }
}

fn bytes(rule: &Rule) -> usize {
    let texts = rule.methods.iter().chain(&rule.paths).map(String::len).sum::<usize>();
    rule.host.len() + texts + 2 * rule.ports.len()
}

fn check_allowlist(preset: Preset, bundles: &[String], unknown: Unknown, faults: &mut Faults) {
    if preset != Preset::Allowlist && !bundles.is_empty() {
        let remedy = "write `preset = \"allowlist\"`, or no bundles";
        faults.add("egress.bundles", format!("mean nothing with the preset `{preset}`"), remedy);
    }
    if preset != Preset::Allowlist && unknown != Unknown::Deny {
        let remedy = "write `preset = \"allowlist\"`, or no `unknown`";
        faults.add("egress.unknown", format!("means nothing with the preset `{preset}`"), remedy);
    }
    if bundles.len() > MAX_BUNDLES {
        return faults.add(
            "egress.bundles",
            format!("has more than {MAX_BUNDLES} entries"),
            "name each once",
        );
    }
    let known = bundles::names();
    for (index, bundle) in bundles.iter().enumerate() {
        if !known.contains(&bundle.as_str()) {
            let remedy = format!("there are: {}", known.join(", "));
            faults.add(format!("egress.bundles[{index}]"), "is no bundle that is known here", remedy);
        }
    }
}

fn check_rule(field: &str, rule: &Rule, faults: &mut Faults) {
    let pattern = Pattern::parse(&rule.host);
    if let Err(NoPattern(message, remedy)) = &pattern {
        faults.add(format!("{field}.host"), message, remedy);
    }
    for (key, count) in
        [("ports", rule.ports.len()), ("methods", rule.methods.len()), ("paths", rule.paths.len())]
    {
        if count > MAX_OF_RULE {
            let message = format!("has more than {MAX_OF_RULE} entries");
            faults.add(format!("{field}.{key}"), message, "write several rules");
        }
    }
    if let Some(index) = rule.ports.iter().position(|port| *port == 0) {
        faults.add(format!("{field}.ports[{index}]"), "is 0, which is no port", "ports are 1 to 65535");
    }
    if rule.action == Action::Allow && rule.protocol == Some(Protocol::Tcp) && rule.ports.is_empty() {
        let remedy = "name the ports, such as `ports = [22]`";
        faults.add(format!("{field}.ports"), "is missing, which `protocol = \"tcp\"` needs", remedy);
    }
    for (key, missing) in [("methods", rule.methods.is_empty()), ("paths", rule.paths.is_empty())] {
        if missing {
            continue;
        }
        if rule.protocol == Some(Protocol::Tcp) {
            let remedy = "write `protocol = \"http\"` or `\"tls\"`, or none";
            faults.add(format!("{field}.{key}"), "needs HTTP, in the clear or by TLS", remedy);
        } else if matches!(pattern, Ok(Pattern::Network(..))) && rule.protocol != Some(Protocol::Http) {
            let remedy =
                "write `protocol = \"http\"`, or a name as the host: TLS to an address is not looked into";
            faults.add(format!("{field}.{key}"), "needs a rule for HTTP in the clear", remedy);
        }
    }
    check_requests(field, &rule.methods, &rule.paths, faults);
}

/// Methods and paths.
pub(super) fn check_requests(field: &str, methods: &[String], paths: &[String], faults: &mut Faults) {
    for (index, method) in methods.iter().enumerate().take(MAX_OF_RULE) {
        if method.is_empty()
            || method.len() > 32
            || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
        {
            let remedy = "write it in capitals, as in `GET`";
            faults.add(format!("{field}.methods[{index}]"), "is no method of HTTP", remedy);
        }
    }
    for (index, pattern) in paths.iter().enumerate().take(MAX_OF_RULE) {
        let fault = match pattern.len() {
            0..=MAX_PATH => path::fault(pattern),
            _ => Some(("is too long", "write a shorter pattern, with `**` at its end")),
        };
        if let Some((message, remedy)) = fault {
            faults.add(format!("{field}.paths[{index}]"), message, remedy);
        }
    }
}
