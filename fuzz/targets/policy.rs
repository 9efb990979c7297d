//! Policy files, and what they decide on a host that somebody else names: the first line is that host.

#![no_main]

mod seeds;

use libfuzzer_sys::fuzz_target;
use model::policy::{Host, Policy, Protocol, Request, Table, Target, Verdict, explain, name};
use std::collections::BTreeMap;

fuzz_target!(
    init: seeds::plant("policy", [
        "api.example.com\nversion = 1\n[egress]\npreset = \"allowlist\"\nbundles = [\"common\", \"python\"]\nunknown = \"hold\"\n",
        "a.b.example.com\nversion = 1\n[[egress.rule]]\naction = \"deny\"\nhost = \"*.example.com\"\nports = [443, 22]\n\
            [[egress.rule]]\naction = \"allow\"\nhost = \"b\u{fc}cher.example\"\nprotocol = \"http\"\nmethods = [\"GET\"]\npaths = [\"/a/*/b\", \"/c/**\"]\n",
        "192.0.2.1\nversion = 1\negress = { preset = \"open\", rule = [{ action = \"deny\", host = \"192.0.2.0/24\" }, { action = \"deny\", host = \"2001:db8::/32\" }] }\n",
    ].map(|text| text.as_bytes().to_vec())),
    |data: &[u8]| {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let (host, file) = text.split_once('\n').unwrap_or((text, ""));
        let normal = name(host);
        if let Some(normal) = &normal {
            assert_eq!(name(normal).as_ref(), Some(normal));
            assert!(normal.len() <= 253 && normal.parse::<std::net::IpAddr>().is_err());
        }
        let policy = match Policy::parse(file) {
            Ok(policy) => policy,
            Err(fault) => return assert!(!fault.to_string().chars().any(char::is_control) && fault.message.len() < 2000),
        };
        assert_eq!(Policy::parse(&policy.to_toml()).expect("what was written is read"), policy);
        let faults = policy.faults(true);
        assert!(faults.len() <= 100 && faults.iter().all(|fault| !fault.remedy.is_empty()));
        let tools = BTreeMap::from([("python".to_owned(), vec![host.to_owned(), "mirror.example:8080".to_owned()])]);
        let table = Table::new(Some(&policy), &tools);
        let target = match (&normal, host.parse()) {
            (_, Ok(address)) => Host::Address(address),
            (Some(name), _) => Host::Name(name),
            _ => return,
        };
        let request = Request { method: "GET", path: "/a/x/b" };
        for port in [22, 80, 443, 8080] {
            for protocol in [None, Some(Protocol::Tls), Some(Protocol::Http), Some(Protocol::Tcp)] {
                for request in [None, Some(request)] {
                    let target = Target { host: target, port, protocol, request };
                    let verdict = table.decide(&target);
                    assert_eq!(explain(Some(&policy), &tools, &target).verdict, verdict);
                    let denied = matches!(verdict, Verdict::Deny { .. });
                    assert!(denied || faults.is_empty());
                    if let Host::Name(name) = target.host {
                        assert!(denied || table.resolves(name));
                    }
                }
            }
        }
    }
);
