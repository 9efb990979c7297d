//! What holds for every policy, and against a reading of the rules' documentation that is as plain as can be.

use super::Tools;
use crate::policy::pattern::Pattern;
use crate::policy::*;
use proptest::prelude::*;
use std::net::IpAddr;

fn denies(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Deny { .. })
}

/// Names over few letters, so that they meet.
fn few_names() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]", 1..5).prop_map(|labels| labels.join("."))
}

fn hosts() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => few_names(),
        3 => few_names().prop_map(|name| format!("*.{name}")),
        1 => (0u8..4, 24u8..=32).prop_map(|(last, bits)| {
            let address = u32::from_be_bytes([192, 0, 2, last]) & (u32::MAX << (32 - bits));
            format!("{}/{bits}", std::net::Ipv4Addr::from_bits(address))
        }),
    ]
}

const PORTS: [u16; 4] = [22, 80, 443, 8080];

fn protocols() -> impl Strategy<Value = Option<Protocol>> {
    proptest::sample::select(vec![None, Some(Protocol::Tls), Some(Protocol::Http), Some(Protocol::Tcp)])
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let ports = proptest::sample::subsequence(PORTS.to_vec(), 0..=3);
    let few = |items: &[&'static str]| proptest::sample::subsequence(items.to_vec(), 0..=items.len());
    let requests = (few(&["GET", "PUT"]), few(&["/a", "/a/**", "/*/b"]));
    (any::<bool>(), hosts(), ports, protocols(), requests).prop_map(
        |(allows, host, ports, protocol, (methods, paths))| {
            let looks =
                protocol != Some(Protocol::Tcp) && !host.contains('/') || protocol == Some(Protocol::Http);
            let texts = |list: Vec<&str>| {
                let list = list.into_iter().filter(|_| looks);
                list.map(str::to_owned).collect()
            };
            let action = if allows { Action::Allow } else { Action::Deny };
            let ports =
                if allows && protocol == Some(Protocol::Tcp) && ports.is_empty() { vec![22] } else { ports };
            Rule { action, host, ports, protocol, methods: texts(methods), paths: texts(paths) }
        },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let presets = vec![Preset::None, Preset::Allowlist, Preset::Https, Preset::Open];
    let rules = proptest::collection::vec(any_rule(), 0..8);
    (proptest::sample::select(presets), any::<bool>(), rules).prop_map(|(preset, hold, rules)| {
        let lists = preset == Preset::Allowlist;
        let bundles = if lists { vec!["python".to_owned(), "node".to_owned()] } else { Vec::new() };
        let unknown = if lists && hold { Unknown::Hold } else { Unknown::Deny };
        Policy { version: 1, egress: Egress { preset, bundles, unknown, rules, ..Egress::default() } }
    })
}

fn letters() -> Tools {
    let list = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect();
    Tools::from([
        ("python".to_owned(), list(&["a.b", "*.b.a:8080"])),
        ("node".to_owned(), list(&["a.b:22", "b.b.a", "192.0.2.0"])),
    ])
}

#[derive(Debug, Clone)]
struct Asked {
    host: Result<String, IpAddr>,
    port: u16,
    protocol: Option<Protocol>,
    request: Option<(&'static str, &'static str)>,
}

impl Asked {
    fn target(&self) -> Target<'_> {
        let host = match &self.host {
            Ok(name) => Host::Name(name),
            Err(address) => Host::Address(*address),
        };
        let request = self.request.map(|(method, path)| Request { method, path });
        Target { host, port: self.port, protocol: self.protocol, request }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let address = (0u8..5).prop_map(|last| IpAddr::from([192, 0, 2, last]));
    let hosts = prop_oneof![4 => few_names().prop_map(Ok), 1 => address.prop_map(Err)];
    let requests = vec![None, Some(("GET", "/a")), Some(("PUT", "/a/b")), Some(("GET", "/a/../b"))];
    (hosts, proptest::sample::select(PORTS.to_vec()), protocols(), proptest::sample::select(requests))
        .prop_map(|(host, port, protocol, request)| {
            let request = request.filter(|_| protocol != Some(Protocol::Tcp));
            Asked { host, port, protocol, request }
        })
}

/// What the rules' documentation says, word by word, of one protocol.
fn naive(policy: &Policy, asked: &Asked, protocol: Protocol) -> Option<bool> {
    let is_for = |rule: &&Rule| {
        let host = match (&asked.host, rule.host.strip_prefix("*."), rule.host.split_once('/')) {
            (Ok(name), Some(base), _) => name.ends_with(&format!(".{base}")),
            (Ok(name), None, None) => *name == rule.host,
            (Err(IpAddr::V4(address)), _, Some((network, bits))) => {
                let network: std::net::Ipv4Addr = network.parse().unwrap();
                let bits: u32 = bits.parse().unwrap();
                (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
            }
            _ => false,
        };
        let allows = rule.action == Action::Allow;
        let port = if rule.ports.is_empty() {
            !allows || asked.port == 443 || asked.port == 80
        } else {
            rule.ports.contains(&asked.port)
        };
        let spoken = match rule.protocol {
            Some(Protocol::Tcp) => true,
            // At its own port, when no port is named.
            Some(own) if allows && rule.ports.is_empty() => {
                own == protocol && asked.port == if own == Protocol::Tls { 443 } else { 80 }
            }
            Some(own) => own == protocol,
            None if !allows => true,
            None if asked.port == 443 => protocol == Protocol::Tls,
            None if asked.port == 80 => protocol == Protocol::Http,
            None => true,
        };
        let carries = protocol != Protocol::Tcp;
        let request = match asked.request {
            _ if rule.methods.is_empty() && rule.paths.is_empty() => true,
            None => allows && carries,
            Some((method, path)) => {
                let paths = rule.paths.iter().any(|pattern| match (pattern.as_str(), path) {
                    (_, "/a/../b") => !allows,
                    ("/a", "/a") | ("/a/**", _) | ("/*/b", "/a/b") => true,
                    _ => false,
                });
                (rule.methods.is_empty() || rule.methods.iter().any(|own| own == method))
                    && (rule.paths.is_empty() || paths)
                    && carries
            }
        };
        host && port && spoken && request
    };
    let rules: Vec<&Rule> = policy.egress.rules.iter().filter(is_for).collect();
    if rules.iter().any(|rule| rule.action == Action::Deny) {
        Some(false)
    } else {
        (!rules.is_empty()).then_some(true)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn normal_names_stay_as_they_are(text in "\\PC{0,40}|[a-zA-Z0-9.üß_-]{0,40}|(xn--[a-z0-9-]{0,12}\\.){1,3}[a-z]{1,3}") {
        if let Some(first) = name(&text) {
            prop_assert_eq!(name(&first), Some(first.clone()));
            prop_assert!(first.len() <= 253 && first.is_ascii() && !first.ends_with('.'));
            prop_assert!(first.parse::<IpAddr>().is_err());
            prop_assert_eq!(name(&first.to_uppercase()), Some(first));
        }
    }

    #[test]
    fn patterns_cover_what_is_below(base in few_names(), asked in few_names()) {
        let exact = Pattern::parse(&base).unwrap();
        let below = Pattern::parse(&format!("*.{base}")).unwrap();
        prop_assert_eq!(exact.covers(Host::Name(&asked)), base == asked);
        let labels = |name: &str| name.split('.').rev().map(str::to_owned).collect::<Vec<_>>();
        let naive = labels(&asked).starts_with(&labels(&base)) && asked != base;
        prop_assert_eq!(below.covers(Host::Name(&asked)), naive);
    }

    #[test]
    fn the_table_decides_as_is_explained_and_documented(policy in any_policy(), asked in asked()) {
        let table = Table::new(Some(&policy), &letters());
        let verdict = table.decide(&asked.target());
        let explained = explain(Some(&policy), &letters(), &asked.target());
        prop_assert_eq!(verdict, explained.verdict);
        prop_assert!(explained.reasons.iter().any(|reason| reason.by == verdict.by() && reason.applies));
        let possible = match (asked.protocol, asked.request) {
            (Some(protocol), _) => vec![protocol],
            (None, Some(_)) => vec![Protocol::Http],
            (None, None) => vec![Protocol::Tls, Protocol::Http, Protocol::Tcp],
        };
        let naive: Vec<_> = possible.iter().map(|protocol| naive(&policy, &asked, *protocol)).collect();
        let by_rule = |verdict: Verdict| matches!(verdict.by(), By::Rule(_));
        prop_assert_eq!(naive.contains(&Some(true)), by_rule(verdict) && matches!(verdict, Verdict::Allow { .. }));
        if naive.iter().all(|each| *each == Some(false)) {
            prop_assert!(by_rule(verdict) && denies(verdict));
        }
    }

    #[test]
    fn order_changes_nothing_but_who_decided(policy in any_policy(), asked in asked(), turn in 0usize..8) {
        let kind = |policy: &Policy| std::mem::discriminant(&Table::new(Some(policy), &letters()).decide(&asked.target()));
        let mut turned = policy.clone();
        let count = turned.egress.rules.len().max(1);
        turned.egress.rules.rotate_left(turn % count);
        prop_assert_eq!(kind(&policy), kind(&turned));
        turned.egress.rules.reverse();
        prop_assert_eq!(kind(&policy), kind(&turned));
    }

    #[test]
    fn what_is_denied_stays_denied(policy in any_policy(), asked in asked(), denied in any_rule()) {
        let before = Table::new(Some(&policy), &letters()).decide(&asked.target());
        let mut more = policy;
        more.egress.rules.insert(0, Rule { action: Action::Deny, ..denied });
        let after = Table::new(Some(&more), &letters()).decide(&asked.target());
        if denies(before) {
            prop_assert!(denies(after), "{:?}", after);
        }
    }

    #[test]
    fn what_could_pass_resolves(policy in any_policy(), asked in asked()) {
        let table = Table::new(Some(&policy), &letters());
        if let (Ok(name), false) = (&asked.host, denies(table.decide(&asked.target()))) {
            prop_assert!(table.resolves(name));
        }
        // What passes as a request passes as a connection too.
        if asked.request.is_some() && matches!(table.decide(&asked.target()), Verdict::Allow { .. }) {
            let connection = Asked { request: None, ..asked };
            prop_assert!(!denies(table.decide(&connection.target())));
        }
    }

    #[test]
    fn files_go_round(policy in any_policy()) {
        prop_assert_eq!(policy.faults(true), []);
        prop_assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy);
    }
}
