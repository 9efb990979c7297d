//! At which ports and for which protocols a rule holds.

use super::table::Protocol;
use super::{Action, Rule};

/// Some of the protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocols(u8);

impl Protocols {
    pub(super) const ALL: Self = Self(0b111);

    pub(super) fn only(protocol: Protocol) -> Self {
        Self(1 << protocol as u8)
    }

    /// What a rule for a protocol is for: `tcp` is whatever is spoken.
    fn of_rule(protocol: Protocol) -> Self {
        if protocol == Protocol::Tcp { Self::ALL } else { Self::only(protocol) }
    }

    /// Those of them that carry requests of HTTP.
    fn with_requests(self) -> Self {
        Self(self.0 & (Self::only(Protocol::Tls).0 | Self::only(Protocol::Http).0))
    }

    pub(super) fn has(self, protocol: Protocol) -> bool {
        self.0 & Self::only(protocol).0 != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Protocol> {
        [Protocol::Tls, Protocol::Http, Protocol::Tcp].into_iter().filter(move |each| self.has(*each))
    }
}

/// At which ports, and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// At every port.
    Every(Protocols),
    /// At these.
    At(Vec<(u16, Protocols)>),
}

impl Scope {
    /// Of a rule. One that looks at requests is for what carries requests.
    pub(super) fn of(rule: &Rule) -> Self {
        let whole = Self::whole(rule);
        match whole {
            _ if !rule.looks_at_requests() => whole,
            Self::Every(protocols) => Self::Every(protocols.with_requests()),
            Self::At(ports) => {
                Self::At(ports.into_iter().map(|(port, own)| (port, own.with_requests())).collect())
            }
        }
    }

    fn whole(rule: &Rule) -> Self {
        let named = rule.protocol.map(Protocols::of_rule);
        match rule.action {
            Action::Deny if rule.ports.is_empty() => Self::Every(named.unwrap_or(Protocols::ALL)),
            Action::Deny => {
                Self::At(rule.ports.iter().map(|port| (*port, named.unwrap_or(Protocols::ALL))).collect())
            }
            Action::Allow => Self::allowed(&rule.ports, rule.protocol),
        }
    }

    /// Of what allows.
    pub(super) fn allowed(ports: &[u16], protocol: Option<Protocol>) -> Self {
        if !ports.is_empty() {
            let named = protocol.map(Protocols::of_rule);
            return Self::At(ports.iter().map(|port| (*port, named.unwrap_or(usual(*port)))).collect());
        }
        let (tls, http) = ((443, usual(443)), (80, usual(80)));
        Self::At(match protocol {
            None => vec![tls, http],
            Some(Protocol::Tls) => vec![tls],
            Some(Protocol::Http) => vec![http],
            // Refused by the check of a policy: it has to name its ports.
            Some(Protocol::Tcp) => Vec::new(),
        })
    }

    /// What may be spoken at a port.
    pub(super) fn at(&self, port: u16) -> Option<Protocols> {
        match self {
            Self::Every(protocols) => Some(*protocols),
            Self::At(ports) => ports.iter().find(|(own, _)| *own == port).map(|(_, protocols)| *protocols),
        }
    }
}

impl Rule {
    /// Whether it is for some requests alone.
    pub fn looks_at_requests(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }

    /// Whether it is for some requests inside of TLS.
    pub(super) fn looks_into_tls(&self) -> bool {
        let tls = |protocols: &Protocols| protocols.has(Protocol::Tls);
        self.looks_at_requests()
            && match Scope::of(self) {
                Scope::Every(protocols) => tls(&protocols),
                Scope::At(ports) => ports.iter().any(|(_, protocols)| tls(protocols)),
            }
    }
}

/// What is spoken at a port when nothing else is said.
fn usual(port: u16) -> Protocols {
    match port {
        443 => Protocols::only(Protocol::Tls),
        80 => Protocols::only(Protocol::Http),
        _ => Protocols::ALL,
    }
}

/// As in "at port 443 by tls".
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = |protocols: Protocols| match protocols {
            Protocols::ALL => String::new(),
            some => {
                let names: Vec<String> = some.iter().map(|protocol| protocol.to_string()).collect();
                format!(" by {}", names.join(" and "))
            }
        };
        match self {
            Self::Every(protocols) => write!(f, "at every port{}", by(*protocols)),
            Self::At(ports) => {
                for (index, (port, protocols)) in ports.iter().enumerate() {
                    let between = if index > 0 { ", " } else { "" };
                    write!(f, "{between}at port {port}{}", by(*protocols))?;
                }
                Ok(())
            }
        }
    }
}
