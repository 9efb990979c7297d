//! Why something is decided as it is, for people.
//!
//! It goes through all rules one by one, as they are written, so it also says which come close. [`Table`](super::Table) decides the
//! same; a test holds them together.

use super::pattern::Pattern;
use super::scope::{Protocols, Scope};
use super::table::{By, Host, Protocol, Target, Verdict, preset_allows_host, requests_covered};
use super::{Action, Policy, Preset, Unknown, bundles};
use std::collections::BTreeMap;

/// What is decided, and all that has to do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What is decided.
    pub verdict: Verdict,
    /// Everything that is about the host, in the order in which it stands in the policy, the preset last.
    pub reasons: Vec<Reason>,
}

/// Something that is about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What it is.
    pub by: By,
    /// What it does, as in "denies *.example.com at every port".
    pub text: String,
    /// Whether it is about this very connection, or only about the host.
    pub applies: bool,
}

/// `rule 1 allows example.com at port 443 by tls`, with `, but not this` where it does not apply.
impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}{}", self.by, self.text, if self.applies { "" } else { ", but not this" })
    }
}

/// What is known of one protocol so far: who speaks first, and at which place.
#[derive(Clone, Copy, Default)]
struct Known {
    denied: Option<(usize, By)>,
    allowed: Option<(usize, By)>,
}

/// Decides, and says why.
pub fn explain(
    policy: Option<&Policy>,
    tools: &BTreeMap<String, Vec<String>>,
    target: &Target<'_>,
) -> Explanation {
    let denied = |by, text: &str| Explanation {
        verdict: Verdict::Deny { by },
        reasons: vec![Reason { by, text: text.to_owned(), applies: true }],
    };
    let Some(policy) = policy else {
        return denied(By::Preset(Preset::None), "lets nothing pass: the agent has no policy");
    };
    if policy.validate(true).is_err() {
        return denied(By::Invalid, "lets nothing pass: it cannot be in force as it is");
    }
    let asked = target.protocols();
    let mut known = [Known::default(); 3];
    let mut reasons = Vec::new();
    for (number, rule) in (1..).zip(&policy.egress.rules) {
        let Some(pattern) = Pattern::parse(&rule.host).ok().filter(|pattern| pattern.covers(target.host))
        else {
            continue;
        };
        let scope = Scope::of(rule);
        let looks = rule.looks_at_requests();
        let covered = match &target.request {
            _ if !looks => true,
            Some(request) => requests_covered(rule.action, &rule.methods, &rule.paths, request),
            // Some request could pass; and some request could not be denied.
            None => rule.action == Action::Allow,
        };
        let by = By::Rule(number);
        let applies =
            covered && note(&mut known, asked, &scope, target.port, rule.action, (reasons.len(), by));
        let (verb, some) = match rule.action {
            Action::Allow => ("allows", if looks { "some requests to " } else { "" }),
            Action::Deny => ("denies", if looks { "some requests to " } else { "" }),
        };
        reasons.push(Reason { by, text: format!("{verb} {some}{pattern} {scope}"), applies });
    }
    let chosen = match policy.egress.preset {
        Preset::Allowlist => bundles::chosen(&policy.egress.bundles, tools),
        _ => Vec::new(),
    };
    for bundles::Bundle { name, entries } in &chosen {
        for (pattern, scope) in entries.iter().filter(|(pattern, _)| pattern.covers(target.host)) {
            let by = By::Bundle(name);
            let applies = note(&mut known, asked, scope, target.port, Action::Allow, (reasons.len(), by));
            reasons.push(Reason { by, text: format!("allows {pattern} {scope}"), applies });
        }
    }
    let (verdict, rest) = conclude(policy, target, asked, &known);
    reasons.extend(rest);
    Explanation { verdict, reasons }
}

/// Notes what a rule says of the protocols that are asked about; whether it says anything.
fn note(
    known: &mut [Known; 3],
    asked: Protocols,
    scope: &Scope,
    port: u16,
    action: Action,
    by: (usize, By),
) -> bool {
    let mut applies = false;
    let Some(own) = scope.at(port) else { return false };
    for protocol in asked.iter().filter(|protocol| own.has(*protocol)) {
        applies = true;
        let Known { denied, allowed } = &mut known[protocol as usize];
        match action {
            Action::Deny => denied.get_or_insert(by),
            Action::Allow => allowed.get_or_insert(by),
        };
    }
    applies
}

/// What follows, and what the preset has to do with it.
fn conclude(
    policy: &Policy,
    target: &Target<'_>,
    asked: Protocols,
    known: &[Known; 3],
) -> (Verdict, Option<Reason>) {
    let of = |protocol: Protocol| known[protocol as usize];
    let left: Vec<Protocol> = asked.iter().filter(|protocol| of(*protocol).denied.is_none()).collect();
    if let Some((_, by)) = left.iter().filter_map(|protocol| of(*protocol).allowed).min_by_key(|(at, _)| *at)
    {
        return (Verdict::Allow { by }, None);
    }
    let preset = policy.egress.preset;
    let undecided = |by, text: &str| Some(Reason { by, text: text.to_owned(), applies: true });
    if left.iter().any(|protocol| preset_allows_host(preset, target, *protocol)) {
        let by = By::Preset(preset);
        let text = match preset {
            Preset::Https => "allows every public host at port 443 by tls",
            _ => "allows every public host at every port",
        };
        return (Verdict::Allow { by }, undecided(by, text));
    }
    if !left.is_empty() && preset == Preset::Allowlist && policy.egress.unknown == Unknown::Hold {
        return (Verdict::Hold, undecided(By::Unknown, "hosts wait until somebody decides"));
    }
    if let Some((_, by)) = asked.iter().filter_map(|protocol| of(protocol).denied).min_by_key(|(at, _)| *at) {
        return (Verdict::Deny { by }, None);
    }
    let (by, text) = match (preset, target.host) {
        (Preset::Allowlist, _) => (By::Unknown, "hosts are denied: nothing allows this"),
        (Preset::Https, Host::Address(_)) => {
            (By::Preset(preset), "allows hosts by name, and this is a literal address")
        }
        (Preset::Https, _) => (By::Preset(preset), "allows public hosts at port 443 by tls alone"),
        (preset, _) => (By::Preset(preset), "lets nothing pass but what rules allow"),
    };
    (Verdict::Deny { by }, undecided(by, text))
}
