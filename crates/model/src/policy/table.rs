//! Deciding.

use super::bundles;
use super::path::{self, Covers};
use super::pattern::{Pattern, masked};
use super::scope::{Protocols, Scope};
use super::{Action, Inject, Limits, Policy, Preset, Rule, Unknown};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// It begins with a ClientHello.
    Tls,
    /// It begins with an HTTP/1 request.
    Http,
    /// Anything.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Tcp => "tcp",
        })
    }
}

/// Where somebody wants to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// By name: normal, as of [`super::name`].
    Name(&'a str),
    /// By a literal address.
    Address(IpAddr),
}

/// An HTTP request, in the clear or inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
}

/// What is to be decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Where to.
    pub host: Host<'a>,
    /// Which port.
    pub port: u16,
    /// What it speaks, once that is known: without it the question is whether any protocol could pass.
    pub protocol: Option<Protocol>,
    /// Which request, once that is known: without it the question is whether any request could pass.
    pub request: Option<Request<'a>>,
}

impl Target<'_> {
    /// The protocols that are asked about.
    pub(super) fn protocols(&self) -> Protocols {
        match (self.protocol, self.request) {
            (Some(protocol), _) => Protocols::only(protocol),
            (None, Some(_)) => Protocols::only(Protocol::Http),
            (None, None) => Protocols::ALL,
        }
    }
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The rule of this number, from 1 on.
    Rule(u32),
    /// The bundle of this name.
    Bundle(&'static str),
    /// The preset.
    Preset(Preset),
    /// What the policy says of hosts that nothing names.
    Unknown,
    /// A person, for this once.
    Once,
    /// The policy is not one that could be in force, so it lets nothing pass.
    Invalid,
}

/// `rule 3`, `bundle github`, `preset https`, `unknown`, `once`.
impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(number) => write!(f, "rule {number}"),
            Self::Bundle(name) => write!(f, "bundle {name}"),
            Self::Preset(preset) => write!(f, "preset {preset}"),
            Self::Unknown => f.write_str("unknown"),
            Self::Once => f.write_str("once"),
            Self::Invalid => f.write_str("invalid policy"),
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow {
        /// Who decided.
        by: By,
    },
    /// It does not.
    Deny {
        /// Who decided.
        by: By,
    },
    /// Somebody is to decide.
    Hold,
}

impl Verdict {
    /// Who decided; [`By::Unknown`] of what is held.
    pub fn by(self) -> By {
        match self {
            Self::Allow { by } | Self::Deny { by } => by,
            Self::Hold => By::Unknown,
        }
    }
}

/// The number of a rule, from 0 on, or of a bundle behind all rules. Of several the smallest decides.
type Source = u32;
const NOBODY: Source = Source::MAX;

/// Who speaks first on each protocol at a port.
#[derive(Debug, Clone, Copy)]
struct Says {
    deny: [Source; 3],
    allow: [Source; 3],
    /// Allows some requests.
    allow_some: [Source; 3],
}

impl Default for Says {
    fn default() -> Self {
        Self { deny: [NOBODY; 3], allow: [NOBODY; 3], allow_some: [NOBODY; 3] }
    }
}

impl Says {
    fn add(&mut self, other: &Self) {
        for at in 0..3 {
            self.deny[at] = self.deny[at].min(other.deny[at]);
            self.allow[at] = self.allow[at].min(other.allow[at]);
            self.allow_some[at] = self.allow_some[at].min(other.allow_some[at]);
        }
    }
}

/// All that is said of one pattern.
#[derive(Debug, Default)]
struct Node {
    every: Says,
    /// In the order of the ports, each once.
    ports: Box<[(u16, Says)]>,
    /// Rules that look at requests, in their order.
    requests: Box<[Source]>,
}

/// A node while rules are added.
#[derive(Default)]
struct Draft {
    every: Says,
    ports: Vec<(u16, Says)>,
    requests: Vec<Source>,
}

impl Draft {
    fn add(&mut self, scope: &Scope, source: Source, set: impl Fn(&mut Says, Protocols, Source)) {
        match scope {
            Scope::Every(protocols) => set(&mut self.every, *protocols, source),
            Scope::At(ports) => self.ports.extend(ports.iter().map(|(port, protocols)| {
                let mut says = Says::default();
                set(&mut says, *protocols, source);
                (*port, says)
            })),
        }
    }

    fn finish(mut self) -> Node {
        self.ports.sort_by_key(|(port, _)| *port);
        self.ports.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1.add(&next.1);
            }
            same
        });
        Node { every: self.every, ports: self.ports.into(), requests: self.requests.into() }
    }
}

/// A rule that looks at requests.
#[derive(Debug)]
struct OfRequests {
    action: Action,
    scope: Scope,
    methods: Box<[String]>,
    paths: Box<[String]>,
}

impl OfRequests {
    fn covers(&self, request: &Request<'_>) -> bool {
        requests_covered(self.action, &self.methods, &self.paths, request)
    }
}

/// Whether a rule with these methods and paths is for a request. What is unclear is denied, and never allowed.
pub(super) fn requests_covered(
    action: Action,
    methods: &[String],
    paths: &[String],
    request: &Request<'_>,
) -> bool {
    let covers = |pattern: &String| match path::covers(pattern, request.path) {
        Covers::Yes => true,
        Covers::No => false,
        Covers::Unclear => action == Action::Deny,
    };
    // Servers differ in whether the case of a method counts.
    let is_method = |method: &String| match action {
        Action::Allow => method == request.method,
        Action::Deny => method.eq_ignore_ascii_case(request.method),
    };
    (methods.is_empty() || methods.iter().any(is_method)) && (paths.is_empty() || paths.iter().any(covers))
}

/// A policy in the form in which it decides.
#[derive(Debug, Default)]
pub struct Table {
    preset: Preset,
    unknown: Unknown,
    limits: Limits,
    invalid: bool,
    /// How many rules there are: what has a higher number is a bundle.
    rules: Source,
    bundles: Box<[&'static str]>,
    exact: HashMap<Box<str>, Node>,
    below: HashMap<Box<str>, Node>,
    networks: HashMap<(IpAddr, u8), Node>,
    /// Lengths of prefixes that there are, of IPv4 and of IPv6.
    lengths: [Box<[u8]>; 2],
    /// By the number of the rule.
    of_requests: HashMap<Source, OfRequests>,
    inject: Box<[(Pattern, Inject)]>,
}

impl Table {
    /// Of a policy, or of none, which lets nothing pass; nor does one that is not valid. `tools` has the hosts of the bundles that
    /// are read from this machine's tools, each with or without a port; what is not valid in it is left out.
    pub fn new(policy: Option<&Policy>, tools: &BTreeMap<String, Vec<String>>) -> Self {
        let Some(policy) = policy else { return Self::default() };
        // Whether it may be open was decided by who knows the agent.
        let read = policy.validate(true).ok().and_then(|()| {
            policy.egress.rules.iter().map(|rule| Pattern::parse(&rule.host).ok()).collect::<Option<Vec<_>>>()
        });
        let Some(patterns) = read else { return Self { invalid: true, ..Self::default() } };
        let egress = &policy.egress;
        let chosen = match egress.preset {
            Preset::Allowlist => bundles::chosen(&egress.bundles, tools),
            _ => Vec::new(),
        };
        let mut table = Self {
            preset: egress.preset,
            unknown: egress.unknown,
            limits: egress.limits,
            // Bounded by the check.
            rules: egress.rules.len() as Source,
            bundles: chosen.iter().map(|bundle| bundle.name).collect(),
            ..Self::default()
        };
        let mut drafts = Drafts::default();
        for ((source, rule), pattern) in (0..).zip(&egress.rules).zip(&patterns) {
            table.add_rule(rule, source, drafts.of(pattern));
        }
        for (source, bundle) in (table.rules..).zip(&chosen) {
            for (pattern, scope) in bundle.entries.iter() {
                drafts.of(pattern).add(scope, source, allow);
            }
        }
        drafts.finish(&mut table);
        let injected = egress.inject.iter();
        table.inject =
            injected.filter_map(|each| Some((Pattern::parse(&each.host).ok()?, each.clone()))).collect();
        table
    }

    fn add_rule(&mut self, rule: &Rule, source: Source, draft: &mut Draft) {
        let scope = Scope::of(rule);
        if !rule.looks_at_requests() {
            return draft.add(&scope, source, if rule.action == Action::Deny { deny } else { allow });
        }
        if rule.action == Action::Allow {
            draft.add(&scope, source, allow_some);
        }
        draft.requests.push(source);
        let (methods, paths) = (rule.methods.clone().into(), rule.paths.clone().into());
        self.of_requests.insert(source, OfRequests { action: rule.action, scope, methods, paths });
    }

    /// How much may be moved.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether anything at this name could pass or be held: only then does it have an address.
    pub fn resolves(&self, name: &str) -> bool {
        self.reaches(name, true)
    }

    /// The same where nobody is there to decide on what is held.
    pub fn passes(&self, name: &str) -> bool {
        self.reaches(name, false)
    }

    fn reaches(&self, name: &str, watched: bool) -> bool {
        let passes = |port| {
            let target = Target { host: Host::Name(name), port, protocol: None, request: None };
            match self.decide(&target) {
                Verdict::Allow { .. } => true,
                Verdict::Hold => watched,
                Verdict::Deny { .. } => false,
            }
        };
        let mut every = Says::default();
        self.each(Host::Name(name), |node| every.add(&node.every));
        if every.deny.iter().all(|source| *source != NOBODY) {
            return false;
        }
        if self.is_open_at_most_ports(watched) || passes(443) || passes(80) {
            return true;
        }
        let mut ports = Vec::new();
        self.each(Host::Name(name), |node| {
            let allowing =
                |says: &Says| says.allow.iter().chain(&says.allow_some).any(|source| *source != NOBODY);
            ports.extend(node.ports.iter().filter(|(_, says)| allowing(says)).map(|(port, _)| *port));
        });
        ports.into_iter().any(passes)
    }

    fn is_open_at_most_ports(&self, watched: bool) -> bool {
        match self.preset {
            Preset::None | Preset::Https => false,
            Preset::Allowlist => watched && self.unknown == Unknown::Hold,
            Preset::Open => true,
        }
    }

    /// Whether a connection passes.
    pub fn decide(&self, target: &Target<'_>) -> Verdict {
        let mut says = Says::default();
        self.each(target.host, |node| self.ask(node, target, &mut says));
        let asked = target.protocols();
        let (mut allowed, mut denied, mut held) = (NOBODY, NOBODY, false);
        let mut preset_allows = false;
        for protocol in asked.iter() {
            let at = protocol as usize;
            denied = denied.min(says.deny[at]);
            if says.deny[at] != NOBODY {
                continue;
            }
            allowed = allowed.min(says.allow[at]);
            match says.allow[at] == NOBODY {
                false => {}
                true if preset_allows_host(self.preset, target, protocol) => preset_allows = true,
                true => held |= self.preset == Preset::Allowlist && self.unknown == Unknown::Hold,
            }
        }
        if allowed != NOBODY {
            Verdict::Allow { by: self.name_of(allowed) }
        } else if preset_allows {
            Verdict::Allow { by: By::Preset(self.preset) }
        } else if held {
            Verdict::Hold
        } else if denied != NOBODY {
            Verdict::Deny { by: self.name_of(denied) }
        } else {
            Verdict::Deny { by: self.remaining() }
        }
    }

    /// Who denies what nobody else decides on.
    fn remaining(&self) -> By {
        match self.preset {
            _ if self.invalid => By::Invalid,
            Preset::Allowlist => By::Unknown,
            preset => By::Preset(preset),
        }
    }

    fn name_of(&self, source: Source) -> By {
        match source.checked_sub(self.rules).and_then(|at| self.bundles.get(at as usize)) {
            Some(bundle) => By::Bundle(bundle),
            None => By::Rule(source + 1),
        }
    }

    /// Whether TLS to this name at this port is looked into: some of its requests are decided on by themselves, or are given
    /// credentials.
    pub fn terminates(&self, name: &str, port: u16) -> bool {
        let mut looks = self.inject_at(name, port).next().is_some();
        self.each(Host::Name(name), |node| {
            let rules = node.requests.iter().filter_map(|source| self.of_requests.get(source));
            let tls = |rule: &OfRequests| rule.scope.at(port).is_some_and(|own| own.has(Protocol::Tls));
            looks |= rules.into_iter().any(tls);
        });
        looks
    }

    /// The credentials that are put into a request by TLS, in the order of the policy.
    pub fn injections(&self, name: &str, port: u16, request: &Request<'_>) -> impl Iterator<Item = &Inject> {
        self.inject_at(name, port).filter(|inject| inject.covers(request))
    }

    /// The credentials that are put into some requests by TLS there.
    pub fn inject_at(&self, name: &str, port: u16) -> impl Iterator<Item = &Inject> {
        let at = move |(pattern, inject): &&(Pattern, Inject)| {
            inject.is_at(port) && pattern.covers(Host::Name(name))
        };
        self.inject.iter().filter(at).map(|(_, inject)| inject)
    }

    /// All that is said of patterns which cover the host.
    fn each<'t>(&'t self, host: Host<'_>, mut then: impl FnMut(&'t Node)) {
        match host {
            Host::Name(name) => {
                if let Some(node) = self.exact.get(name) {
                    then(node);
                }
                if self.below.is_empty() {
                    return;
                }
                let mut rest = name;
                while let Some((_, base)) = rest.split_once('.') {
                    if let Some(node) = self.below.get(base) {
                        then(node);
                    }
                    rest = base;
                }
            }
            Host::Address(address) => {
                let address = address.to_canonical();
                let lengths = &self.lengths[usize::from(address.is_ipv6())];
                for bits in lengths {
                    let network = masked(address, *bits).map(|network| (network, *bits));
                    if let Some(node) = network.and_then(|network| self.networks.get(&network)) {
                        then(node);
                    }
                }
            }
        }
    }

    /// Adds what a node says of the target.
    fn ask(&self, node: &Node, target: &Target<'_>, says: &mut Says) {
        says.add(&node.every);
        if let Ok(at) = node.ports.binary_search_by_key(&target.port, |(port, _)| *port) {
            says.add(&node.ports[at].1);
            if target.request.is_none() {
                for (allow, some) in says.allow.iter_mut().zip(node.ports[at].1.allow_some) {
                    *allow = (*allow).min(some);
                }
            }
        }
        let Some(request) = &target.request else { return };
        for source in &node.requests {
            let Some(rule) = self.of_requests.get(source) else { continue };
            let Some(protocols) = rule.scope.at(target.port) else { continue };
            if rule.covers(request) {
                match rule.action {
                    Action::Deny => deny(says, protocols, *source),
                    Action::Allow => allow(says, protocols, *source),
                }
            }
        }
    }
}

/// Whether a preset lets a host pass that neither a rule nor a bundle names. None does so with literal addresses but `open`.
pub(super) fn preset_allows_host(preset: Preset, target: &Target<'_>, protocol: Protocol) -> bool {
    match preset {
        Preset::None | Preset::Allowlist => false,
        Preset::Https => {
            matches!(target.host, Host::Name(_)) && target.port == 443 && protocol == Protocol::Tls
        }
        Preset::Open => true,
    }
}

fn deny(says: &mut Says, protocols: Protocols, source: Source) {
    for protocol in protocols.iter() {
        let own = &mut says.deny[protocol as usize];
        *own = (*own).min(source);
    }
}

fn allow_some(says: &mut Says, protocols: Protocols, source: Source) {
    for protocol in protocols.iter() {
        let own = &mut says.allow_some[protocol as usize];
        *own = (*own).min(source);
    }
}

fn allow(says: &mut Says, protocols: Protocols, source: Source) {
    for protocol in protocols.iter() {
        let own = &mut says.allow[protocol as usize];
        *own = (*own).min(source);
    }
}

/// All nodes while rules are added.
#[derive(Default)]
struct Drafts {
    exact: HashMap<Box<str>, Draft>,
    below: HashMap<Box<str>, Draft>,
    networks: HashMap<(IpAddr, u8), Draft>,
}

impl Drafts {
    fn of(&mut self, pattern: &Pattern) -> &mut Draft {
        match pattern {
            Pattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
            Pattern::Below(base) => self.below.entry(base.as_str().into()).or_default(),
            Pattern::Network(address, bits) => self.networks.entry((*address, *bits)).or_default(),
        }
    }

    fn finish(self, table: &mut Table) {
        let lengths = |v6: bool| {
            let all = self.networks.keys().filter(|(address, _)| address.is_ipv6() == v6);
            let mut lengths: Vec<u8> = all.map(|(_, bits)| *bits).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths.into_boxed_slice()
        };
        table.lengths = [lengths(false), lengths(true)];
        table.exact = self.exact.into_iter().map(|(name, draft)| (name, draft.finish())).collect();
        table.below = self.below.into_iter().map(|(name, draft)| (name, draft.finish())).collect();
        table.networks =
            self.networks.into_iter().map(|(network, draft)| (network, draft.finish())).collect();
    }
}
