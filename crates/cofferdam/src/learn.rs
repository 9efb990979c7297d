//! A policy that allows what an agent did, made of its egress log.
//!
//! Pure, and the same for the same log whatever its order. It never allows more than what passed: a bundle is named only where all that it
//! allows did. What the agent's own policy denies, which requests alone it lets pass to a host, and where it puts credentials, stays so.

use crate::{clean, output, policies};
use model::egress::{Connection, Outcome};
use model::policy::{
    Action, By, COMMON, Egress, Host, MAX_OF_RULE, Policy, Preset, Protocol, Rule, TOOLS, Target, Unknown,
    bundle_contents, bundle_names, explain, name,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use time::OffsetDateTime;

/// Refused hosts that are named; of a run that scanned an internet the rest is a number.
const REFUSED: usize = 200;

/// A host as the log has it, in the form in which hosts are compared. Names stand before addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// By name.
    Name(String),
    /// By a literal address.
    Address(IpAddr),
}

impl Place {
    /// `None` for what is neither: the log is not believed.
    fn read(host: &str) -> Option<Self> {
        match host.parse() {
            Ok(address) => Some(Self::Address(address)),
            Err(_) => name(host).map(Self::Name),
        }
    }

    fn host(&self) -> Host<'_> {
        match self {
            Self::Name(name) => Host::Name(name),
            Self::Address(address) => Host::Address(*address),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Who refused something, and how often.
#[derive(Default)]
struct Refusals {
    count: u64,
    by: BTreeSet<String>,
}

/// What a log says, in order.
#[derive(Default)]
struct Seen {
    /// What passed, by the protocol that a rule would have to name.
    passed: BTreeMap<Place, BTreeMap<Option<Spoken>, BTreeSet<u16>>>,
    /// Everything that passed, for the bundles.
    spoken: BTreeSet<(Place, u16, Option<Spoken>)>,
    denied: BTreeMap<(Place, Option<u16>), Refusals>,
    failed: BTreeMap<(Place, Option<u16>), Refusals>,
    first: Option<OffsetDateTime>,
    last: Option<OffsetDateTime>,
    connections: u64,
    /// Records whose host is none.
    strange: u64,
}

/// A protocol, with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spoken {
    Tls,
    Http,
    Tcp,
}

impl From<Protocol> for Spoken {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tls => Self::Tls,
            Protocol::Http => Self::Http,
            Protocol::Tcp => Self::Tcp,
        }
    }
}

impl From<Spoken> for Protocol {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Tls => Self::Tls,
            Spoken::Http => Self::Http,
            Spoken::Tcp => Self::Tcp,
        }
    }
}

/// What a rule for this port has to name as its protocol, so that it allows no more than was spoken there.
fn to_name(port: u16, spoken: Option<Spoken>) -> Option<Spoken> {
    match (port, spoken) {
        // Without a protocol a rule allows just these.
        (443, Some(Spoken::Tls)) | (80, Some(Spoken::Http)) => None,
        // Whatever is spoken may be spoken there without one.
        (443 | 80, Some(Spoken::Tcp)) => Some(Spoken::Tcp),
        (_, Some(Spoken::Tcp)) => None,
        (_, spoken) => spoken,
    }
}

impl Seen {
    fn of<'a>(log: impl IntoIterator<Item = &'a Connection>) -> Self {
        let mut seen = Self::default();
        for connection in log {
            seen.add(connection);
        }
        let passed: BTreeSet<(Place, Option<u16>)> =
            seen.spoken.iter().map(|(place, port, _)| (place.clone(), Some(*port))).collect();
        seen.denied.retain(|to, _| !passed.contains(to));
        seen.failed.retain(|to, _| !passed.contains(to));
        seen
    }

    fn add(&mut self, connection: &Connection) {
        let Some(place) = Place::read(&connection.host) else {
            self.strange += 1;
            return;
        };
        let at = connection.at;
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        match (connection.outcome, connection.port) {
            (Outcome::Passed, Some(port)) => {
                self.connections += 1;
                let spoken = connection.protocol.map(Spoken::from);
                let named = to_name(port, spoken);
                self.passed.entry(place.clone()).or_default().entry(named).or_default().insert(port);
                self.spoken.insert((place, port, spoken));
            }
            (Outcome::Passed, None) => {}
            (Outcome::Denied, port) => note(&mut self.denied, (place, port), connection, &connection.by),
            (Outcome::Failed, port) => {
                let why = connection.end.as_deref().unwrap_or("no connection");
                note(&mut self.failed, (place, port), connection, why);
            }
        }
    }

    /// The bundles all of which passed. Tools' are not among them: what they hold, each machine knows for itself.
    fn bundles(&self) -> Vec<&'static str> {
        let all = Policy {
            version: 1,
            egress: Egress {
                preset: Preset::Allowlist,
                bundles: vec![COMMON.to_owned()],
                ..Egress::default()
            },
        };
        let tools = BTreeMap::new();
        let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (place, port, spoken) in &self.spoken {
            let target = Target {
                host: place.host(),
                port: *port,
                protocol: spoken.map(Protocol::from),
                request: None,
            };
            for reason in explain(Some(&all), &tools, &target).reasons {
                if let (By::Bundle(bundle), true) = (reason.by, reason.applies) {
                    used.entry(bundle).or_default().insert(reason.text);
                }
            }
        }
        let whole = |bundle: &&str| {
            let contents = bundle_contents(bundle, &tools);
            // A pattern allows more names than can have passed.
            !contents.is_empty()
                && contents.iter().all(|text| {
                    !text.starts_with('*')
                        && used.get(bundle).is_some_and(|used| used.contains(&format!("allows {text}")))
                })
        };
        bundle_names()
            .into_iter()
            .filter(|bundle| *bundle != COMMON && !TOOLS.contains(bundle))
            .filter(whole)
            .collect()
    }

    fn policy(&self, own: &Policy) -> Policy {
        let bundles = self.bundles();
        let carried = |rule: &&Rule| rule.action == Action::Deny || rule.looks_at_requests();
        let mut policy = Policy {
            version: 1,
            egress: Egress {
                preset: Preset::Allowlist,
                bundles: bundles.iter().map(|bundle| (*bundle).to_owned()).collect(),
                unknown: Unknown::Deny,
                ..Egress::default()
            },
        };
        let named = policy.clone();
        policy.egress.rules = own.egress.rules.iter().filter(carried).cloned().collect();
        policy.egress.inject = own.egress.inject.clone();
        policy.egress.limits = own.egress.limits;
        for (place, protocols) in &self.passed {
            for (protocol, ports) in protocols {
                let left: Vec<u16> = ports
                    .iter()
                    .copied()
                    .filter(|port| bundles.is_empty() || !self.is_of(&named, place, *port, *protocol))
                    .filter(|port| !allows_some(own, place, *port, *protocol))
                    .collect();
                for some in left.chunks(MAX_OF_RULE) {
                    // Both of them are what a rule without ports is for.
                    let ports = if protocol.is_none() && some == [80, 443] { &[][..] } else { some };
                    policy.egress.rules.push(Rule {
                        ports: ports.to_vec(),
                        protocol: protocol.map(Protocol::from),
                        ..Rule::of(Action::Allow, &place.to_string(), None)
                    });
                }
            }
        }
        policy
    }

    /// Whether the bundles let pass all that passed there, as far as this protocol was to be named.
    fn is_of(&self, bundles: &Policy, place: &Place, port: u16, named: Option<Spoken>) -> bool {
        let about = self
            .spoken
            .iter()
            .filter(|(own, at, spoken)| own == place && *at == port && to_name(port, *spoken) == named);
        let passes = |spoken: Option<Spoken>| {
            let protocol = spoken.map(Protocol::from);
            let target = Target { host: place.host(), port, protocol, request: None };
            let verdict = explain(Some(bundles), &BTreeMap::new(), &target).verdict;
            matches!(verdict, model::policy::Verdict::Allow { .. })
        };
        about.map(|(.., spoken)| *spoken).all(passes)
    }
}

/// Whether what passes there passes by a rule for some requests alone.
fn allows_some(own: &Policy, place: &Place, port: u16, named: Option<Spoken>) -> bool {
    let protocol = named.map(Protocol::from);
    let target = Target { host: place.host(), port, protocol, request: None };
    match explain(Some(own), &BTreeMap::new(), &target).verdict.by() {
        By::Rule(number) => own.egress.rules.get(number as usize - 1).is_some_and(Rule::looks_at_requests),
        _ => false,
    }
}

fn note(
    refusals: &mut BTreeMap<(Place, Option<u16>), Refusals>,
    to: (Place, Option<u16>),
    connection: &Connection,
    why: &str,
) {
    let known = refusals.entry(to).or_default();
    known.count += u64::from(connection.count.max(1));
    known.by.insert(why.to_owned());
}

/// A policy, and the file in which it is proposed.
#[derive(Debug)]
pub struct Learned {
    /// What passed.
    pub policy: Policy,
    /// The same as a file, with comments about what did not.
    pub text: String,
}

/// Learns from the log of the agent that is called so, and has this policy.
pub fn learn<'a>(agent: &str, own: &Policy, log: impl IntoIterator<Item = &'a Connection>) -> Learned {
    let seen = Seen::of(log);
    let policy = seen.policy(own);
    let mut text = String::new();
    let mut comment = |words: String| text.push_str(&format!("# {}\n", clean::text(&words)));
    match (seen.first, seen.last) {
        (Some(first), Some(last)) => {
            let (first, last) = (output::time(first), output::time(last));
            comment(format!("What {agent} reached from {first} to {last}, and nothing else:"));
            comment(format!("connections that passed: {}. Read it before you use it.", seen.connections));
        }
        _ => comment(format!("Nothing is known of what {agent} reached.")),
    }
    if seen.strange > 0 {
        comment(format!("records left out, because they name no host: {}", seen.strange));
    }
    list(&mut comment, "Refused, and not in here", &seen.denied);
    list(&mut comment, "Allowed, but there was no connection, so not in here", &seen.failed);
    text.push('\n');
    text.push_str(&policy.to_toml());
    Learned { policy, text }
}

fn list(comment: &mut impl FnMut(String), title: &str, refusals: &BTreeMap<(Place, Option<u16>), Refusals>) {
    if refusals.is_empty() {
        return;
    }
    comment(String::new());
    comment(format!("{title}:"));
    for ((place, port), Refusals { count, by }) in refusals.iter().take(REFUSED) {
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        comment(format!(
            "  {}: {count} times ({})",
            policies::with_port(&place.to_string(), *port),
            by.join(", ")
        ));
    }
    if let more @ 1.. = refusals.len().saturating_sub(REFUSED) {
        comment(format!("  and {more} more"));
    }
}

#[cfg(test)]
mod tests;
