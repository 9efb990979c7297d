//! Requests inside of TLS: which are let pass, and which are given credentials.

use super::{check, said, target, tools, with_rules};
use crate::policy::*;

#[test]
fn requests_inside_of_tls() {
    let rules = &[
        "deny api.example - - DELETE",
        "allow api.example - tls GET,DELETE /v1/**",
        "allow *.open.example",
        "deny a.open.example - - - /admin/**",
        "allow some.example 8443 - GET",
        "allow clear.example 8080 http GET",
    ];
    let with = with_rules("", rules);
    check(
        &with,
        &[
            ("api.example:443 tls", "allow: rule 2"),
            ("api.example:443 tls GET /v1/x", "allow: rule 2"),
            ("api.example:443 tls GET /v2", "deny: preset none"),
            ("api.example:443 tls DELETE /v1/x", "deny: rule 1"),
            ("api.example:443 tls delete /v1/x", "deny: rule 1"),
            ("api.example:443 tls get /v1/x", "deny: preset none"),
            ("api.example:443 tcp", "deny: preset none"),
            ("api.example:80 http GET /v1/x", "deny: preset none"),
            ("a.open.example:443 tls", "allow: rule 3"),
            ("a.open.example:443 tls GET /x", "allow: rule 3"),
            ("a.open.example:443 tls GET /admin/x", "deny: rule 4"),
            ("a.open.example:443 tls GET /a/../admin/x", "deny: rule 4"),
            ("b.open.example:443 tls GET /admin/x", "allow: rule 3"),
            ("some.example:8443", "allow: rule 5"),
            ("some.example:8443 tls GET /", "allow: rule 5"),
            ("some.example:8443 http GET /", "allow: rule 5"),
            ("some.example:8443 tcp", "deny: preset none"),
        ],
    );
    let table = Table::new(Some(&with), &tools());
    for (name, port, expected) in [
        ("api.example", 443, true),
        ("api.example", 8443, true),
        ("a.open.example", 443, true),
        ("b.open.example", 443, false),
        ("some.example", 8443, true),
        ("some.example", 443, false),
        ("clear.example", 8080, false),
        ("other.example", 443, false),
    ] {
        assert_eq!(table.terminates(name, port), expected, "{name}:{port}");
    }
}

/// A policy with these entries of `[[egress.inject]]`, each the lines of one.
fn injecting(entries: &[&str]) -> Policy {
    let entries: Vec<String> = entries.iter().map(|lines| format!("[[egress.inject]]\n{lines}\n")).collect();
    Policy::parse(&format!("version = 1\n{}", entries.concat())).unwrap()
}

#[test]
fn credentials_are_put_where_a_policy_says() {
    let policy = injecting(&[
        "secret = \"a\"\nhost = \"api.example\"\nheader = \"X-Api-Key\"\nenv = \"A_KEY\"",
        "secret = \"b\"\nhost = \"*.git.example\"\nbasic = \"x\"\nmethods = [\"GET\"]\npaths = [\"/me/**\"]\nports = [443, 8443]",
        "secret = \"c\"\nhost = \"api.example\"\nbearer = true\npaths = [\"/b\"]",
    ]);
    assert_eq!(policy.faults(false), []);
    assert!(policy.terminates_anything());
    assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy);
    let (variable, secret) = policy.placeholders().into_iter().next().unwrap();
    assert_eq!((variable, secret.as_str()), ("A_KEY", "a"));
    let table = Table::new(Some(&policy), &tools());
    let put = |name, port, method, path| {
        let request = Request { method, path };
        let all = table.injections(name, port, &request);
        all.map(|inject| (inject.secret.as_str(), inject.place().unwrap())).collect::<Vec<_>>()
    };
    let header = |name, prefix| Place::Header { name, prefix };
    assert_eq!(put("api.example", 443, "POST", "/x"), [("a", header("X-Api-Key", ""))]);
    let both = [("a", header("X-Api-Key", "")), ("c", header("authorization", "Bearer "))];
    assert_eq!(put("api.example", 443, "POST", "/b"), both);
    assert_eq!(put("api.example", 8443, "POST", "/b"), []);
    assert_eq!(put("x.api.example", 443, "POST", "/b"), []);
    assert_eq!(put("x.git.example", 8443, "GET", "/me/y"), [("b", Place::Basic { user: "x" })]);
    assert_eq!(put("x.git.example", 8443, "POST", "/me/y"), []);
    assert_eq!(put("x.git.example", 8443, "GET", "/me/../y"), [], "it is read differently by servers");
    assert_eq!(put("git.example", 8443, "GET", "/me/y"), []);
    assert!(table.terminates("api.example", 443) && !table.terminates("api.example", 80));
    let verdict = table.decide(&target("api.example:443 tls"));
    assert_eq!(said(verdict), "deny: preset none", "it allows nothing");
    for (hosts, expected) in [
        (&[][..], [true, true]),
        (&["api.example"], [true, false]),
        (&["*.example"], [true, true]),
        (&["other.example", "*.git.example"], [false, true]),
        (&["*.x.git.example"], [false, false]),
        (&["git.example"], [false, false]),
    ] {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let within = [0, 1].map(|at| policy.egress.inject[at].is_within(&hosts));
        assert_eq!(within, expected, "{hosts:?}");
    }
}

#[test]
fn faults_of_credentials() {
    let policy = injecting(&[
        "secret = \"a\"\nhost = \"192.0.2.1\"\nbearer = true",
        "secret = \"a\"\nhost = \"a.example\"",
        "secret = \"a\"\nhost = \"a.example\"\nbearer = true\nheader = \"x\"",
        "secret = \"a\"\nhost = \"a.example\"\nheader = \"Transfer-Encoding\"",
        "secret = \"a\"\nhost = \"a.example\"\nheader = \"a b\"\nprefix = \"\\n\"",
        "secret = \"a\"\nhost = \"a.example\"\nbasic = \"a:b\"\nprefix = \"x\"\nenv = \"1A\"",
        "secret = \"a\"\nhost = \"a.example\"\nquery = \"\"\nports = [0]\nmethods = [\"get\"]\nenv = \"KEY\"",
        "secret = \"b\"\nhost = \"a.example\"\nbody = \"k\"\nenv = \"KEY\"",
    ]);
    let many: Vec<String> =
        (0..17).map(|at| format!("secret = \"s{at}\"\nhost = \"a.example\"\nbearer = true")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(injecting(&many[..16]).faults(false), []);
    assert_eq!(injecting(&many).faults(false)[0].field, "egress.inject");
    let faults = policy.faults(false);
    let fields: Vec<&str> =
        faults.iter().map(|fault| fault.field.strip_prefix("egress.inject").unwrap()).collect();
    let expected = [
        "[0].host",
        "[1]",
        "[2]",
        "[3].header",
        "[4].header",
        "[4].prefix",
        "[5].prefix",
        "[5].basic",
        "[5].env",
        "[6].ports[0]",
        "[6].methods[0]",
        "[6].query",
        "[7].env",
    ];
    assert_eq!(fields, expected, "{faults:?}");
}
