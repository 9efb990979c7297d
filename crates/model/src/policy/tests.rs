mod properties;
mod requests;

use super::pattern::Pattern;
use super::*;
use std::collections::BTreeMap;

type Tools = BTreeMap<String, Vec<String>>;

fn tools() -> Tools {
    let hosts = |list: &[&str]| list.iter().map(|host| (*host).to_owned()).collect();
    let python =
        hosts(&["mirror.example.org", "other.example.org:8080", "http://no", "*.files.example.org", ""]);
    let debian = hosts(&["[2001:db8::5]:3142", "192.0.2.7", "plain.example.org:80"]);
    Tools::from([
        ("python".to_owned(), python),
        ("debian".to_owned(), debian),
        ("odd".to_owned(), hosts(&["odd.example"])),
    ])
}

/// A policy of the lines within `[egress]`.
fn policy(egress: &str) -> Policy {
    Policy::parse(&format!("version = 1\n[egress]\n{egress}")).unwrap()
}

/// A rule, as `deny *.example.com 443,80 tls GET,PUT /a,/b/**`, with `-` for what is not said.
fn rule(line: &str) -> Rule {
    let mut words = line.split(' ').map(|word| if word == "-" { "" } else { word });
    let action = if words.next() == Some("deny") { Action::Deny } else { Action::Allow };
    let host = words.next().unwrap_or_default().to_owned();
    let mut list = || {
        let list = words.next().unwrap_or_default().split(',').filter(|item| !item.is_empty());
        list.map(str::to_owned).collect::<Vec<String>>()
    };
    let ports = list().iter().map(|port| port.parse().unwrap()).collect();
    let protocol = match list().first().map(String::as_str) {
        Some("tls") => Some(Protocol::Tls),
        Some("http") => Some(Protocol::Http),
        Some("tcp") => Some(Protocol::Tcp),
        _ => None,
    };
    Rule { action, host, ports, protocol, methods: list(), paths: list() }
}

fn with_rules(egress: &str, rules: &[&str]) -> Policy {
    let mut policy = policy(egress);
    policy.egress.rules = rules.iter().map(|line| rule(line)).collect();
    policy
}

/// A target, as `example.com:443 tls GET /path`.
fn target(text: &str) -> Target<'_> {
    let mut words = text.split(' ');
    let (host, port) = words.next().unwrap().rsplit_once(':').unwrap();
    let host = match host.parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(host),
    };
    let protocol = words.next().and_then(|word| match word {
        "tls" => Some(Protocol::Tls),
        "http" => Some(Protocol::Http),
        "tcp" => Some(Protocol::Tcp),
        _ => None,
    });
    let request = words.next().map(|method| Request { method, path: words.next().unwrap_or("/") });
    Target { host, port: port.parse().unwrap(), protocol, request }
}

fn said(verdict: Verdict) -> String {
    match verdict {
        Verdict::Allow { by } => format!("allow: {by}"),
        Verdict::Deny { by } => format!("deny: {by}"),
        Verdict::Hold => "hold".to_owned(),
    }
}

/// Decides on each target, and explains it: both have to say the same.
fn check(policy: &Policy, expected: &[(&str, &str)]) {
    assert_eq!(policy.faults(true), []);
    let table = Table::new(Some(policy), &tools());
    for (text, expected) in expected {
        let target = target(text);
        assert_eq!(said(table.decide(&target)), *expected, "{text}");
        let explained = explain(Some(policy), &tools(), &target);
        assert_eq!(said(explained.verdict), *expected, "{text}: {explained:?}");
        let decides = |reason: &Reason| reason.by == explained.verdict.by() && reason.applies;
        assert!(explained.reasons.iter().any(decides), "{text}: {explained:?}");
    }
}

#[test]
fn names_are_normal_or_none() {
    let check = |text: &str, expected: Option<&str>| assert_eq!(name(text).as_deref(), expected, "{text:?}");
    for (text, expected) in [
        ("example.com", "example.com"),
        ("EXAMPLE.Com.", "example.com"),
        ("_acme.example.com", "_acme.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("例え。jp", "xn--r8jz45g.jp"),
        ("ｅｘａｍｐｌｅ．com", "example.com"),
        ("localhost", "localhost"),
        ("r3---sn-x.example", "r3---sn-x.example"),
        ("1.example", "1.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ] {
        check(text, Some(expected));
    }
    for text in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "a b",
        "a\0b",
        "a/b",
        "a:1",
        "a@b",
        "*.a",
        "-a.b",
        "a-.b",
        "a,b",
        "a%2eb",
        "xn--",
        "xn--a.example",
        "xn--zzzzzzz999.example",
        "1.2.3.4",
        "1.2.3.4.",
        "0x7f.0.0.1",
        "0X7F000001",
        "0177.0.0.1",
        "2130706433",
        "127.1",
        "[::1]",
        "::1",
        "fe80::1%lo",
        "0x",
        "1.0x",
        "１２７.０.０.１",
        "1。2。3。4",
        "a.1",
        "a.0xff",
        "\u{200d}",
        "a\u{ad}..b",
    ] {
        check(text, None);
    }
    let label = "a".repeat(63);
    let long = [label.as_str(), &label, &label, &"b".repeat(61)].join(".");
    check(&long, Some(&long));
    check(&format!("{long}."), Some(&long));
    check(&format!("{long}b"), None);
    check(&"a".repeat(64), None);
    check(&"ü".repeat(63), None);
    check(&"ü.".repeat(600), None);
}

#[test]
fn hosts_of_rules() {
    let check = |text: &str, expected: Result<&str, &str>| match (Pattern::parse(text), expected) {
        (Ok(pattern), Ok(expected)) => assert_eq!(pattern.to_string(), expected, "{text}"),
        (Err(fault), Err(expected)) => {
            assert!(fault.0.contains(expected) || fault.1.contains(expected), "{text}: {fault:?}")
        }
        (got, _) => panic!("{text}: {got:?}"),
    };
    check("Example.COM.", Ok("example.com"));
    check("*.Example.COM.", Ok("*.example.com"));
    check("*.bücher.example", Ok("*.xn--bcher-kva.example"));
    check("192.0.2.1", Ok("192.0.2.1"));
    check("192.0.2.1/32", Ok("192.0.2.1"));
    check("192.0.2.0/24", Ok("192.0.2.0/24"));
    check("0.0.0.0/0", Ok("0.0.0.0/0"));
    check("2001:DB8::/32", Ok("2001:db8::/32"));
    check("::/0", Ok("::/0"));
    check("*", Err("egress.preset"));
    check("*.", Err("no name after its star"));
    check("*.1.2.3.4", Err("no name after its star"));
    check("**.a.b", Err("beginning"));
    check("a*.b", Err("beginning"));
    check("a.*.b", Err("beginning"));
    check("https://Example.com/x", Err("`example.com`"));
    check("https://user@/", Err("is a URL"));
    check("example.com:443", Err("has a port"));
    check("[::1]:443", Err("brackets"));
    check("192.0.2.1/24", Err("`192.0.2.0/24`"));
    check("192.0.2.0/33", Err("length of a prefix"));
    check("192.0.2.0/+24", Err("length of a prefix"));
    check("192.0.2.0/", Err("length of a prefix"));
    check("::ffff:1.2.3.4", Err("disguise"));
    check("::ffff:0:0/96", Err("disguise"));
    check("0x7f.1", Err("neither"));
    check("", Err("neither"));
    check("example.com/path", Err("neither"));
}

#[test]
fn deny_beats_allow_beats_preset() {
    let rules =
        &["allow *.example.com", "deny bad.example.com", "allow bad.example.com", "allow example.com 22"];
    check(
        &with_rules("preset = \"https\"", rules),
        &[
            ("a.example.com:443", "allow: rule 1"),
            ("a.example.com:443 tls", "allow: rule 1"),
            ("a.example.com:443 http", "deny: preset https"),
            ("a.example.com:443 tcp", "deny: preset https"),
            ("a.example.com:80", "allow: rule 1"),
            ("a.example.com:80 http", "allow: rule 1"),
            ("a.example.com:80 tls", "deny: preset https"),
            ("a.b.c.example.com:443 tls", "allow: rule 1"),
            ("bad.example.com:443 tls", "deny: rule 2"),
            ("bad.example.com:1", "deny: rule 2"),
            ("sub.bad.example.com:443 tls", "allow: rule 1"),
            ("example.com:443 tls", "allow: preset https"),
            ("example.com:80", "deny: preset https"),
            ("example.com:22", "allow: rule 4"),
            ("example.com:22 tls", "allow: rule 4"),
            ("example.com:22 tcp", "allow: rule 4"),
            ("example.com:22 http", "allow: rule 4"),
            ("notexample.com:443 tls", "allow: preset https"),
            ("notexample.com:80", "deny: preset https"),
            ("192.0.2.1:443 tls", "deny: preset https"),
        ],
    );
}

#[test]
fn ports_and_protocols() {
    let rules = &[
        "allow a.example 443,80,8080",
        "allow b.example 443,80 tcp",
        "allow c.example - tls",
        "allow d.example - http",
        "allow e.example 8443 tls",
        "allow f.example 443,80,22",
        "deny f.example 443",
        "deny f.example - http",
        "allow g.example 22",
        "deny g.example - tcp",
    ];
    check(
        &with_rules("", rules),
        &[
            ("a.example:443 tls", "allow: rule 1"),
            ("a.example:443 http", "deny: preset none"),
            ("a.example:443 tcp", "deny: preset none"),
            ("a.example:80 http", "allow: rule 1"),
            ("a.example:80 tcp", "deny: preset none"),
            ("a.example:8080 tcp", "allow: rule 1"),
            ("a.example:8080 http", "allow: rule 1"),
            ("a.example:8081", "deny: preset none"),
            ("b.example:443 tcp", "allow: rule 2"),
            ("b.example:443 http", "allow: rule 2"),
            ("b.example:80 tls", "allow: rule 2"),
            ("c.example:443 tls", "allow: rule 3"),
            ("c.example:443 tcp", "deny: preset none"),
            ("c.example:80", "deny: preset none"),
            ("d.example:80 http", "allow: rule 4"),
            ("d.example:443", "deny: preset none"),
            ("e.example:8443", "allow: rule 5"),
            ("e.example:8443 tls", "allow: rule 5"),
            ("e.example:8443 tcp", "deny: preset none"),
            ("e.example:443", "deny: preset none"),
            ("f.example:443 tls", "deny: rule 7"),
            ("f.example:443", "deny: rule 7"),
            ("f.example:80", "deny: rule 8"),
            ("f.example:22 tcp", "allow: rule 6"),
            ("f.example:22 http", "deny: rule 8"),
            ("f.example:22", "allow: rule 6"),
            ("g.example:22", "deny: rule 10"),
        ],
    );
}

#[test]
fn networks_are_for_literal_addresses() {
    let rules = &[
        "allow 192.0.2.0/24",
        "deny 192.0.2.128/25",
        "allow 2001:db8::/32 22",
        "allow 0.0.0.0/0 25",
        "deny *.example",
    ];
    check(
        &with_rules("", rules),
        &[
            ("192.0.2.1:443 tls", "allow: rule 1"),
            ("::ffff:192.0.2.1:443 tls", "allow: rule 1"),
            ("192.0.2.129:443 tls", "deny: rule 2"),
            ("192.0.3.1:443", "deny: preset none"),
            ("192.0.3.1:25", "allow: rule 4"),
            ("192.0.2.200:25", "deny: rule 2"),
            ("2001:db8::1:22", "allow: rule 3"),
            ("2001:db9::1:22", "deny: preset none"),
            ("2001:db8::1:25", "deny: preset none"),
            ("a.test:443", "deny: preset none"),
        ],
    );
    let open = with_rules("preset = \"open\"", &["deny 10.0.0.0/8", "deny x.example 25"]);
    check(
        &open,
        &[
            ("10.1.2.3:1", "deny: rule 1"),
            ("192.0.2.1:7 tcp", "allow: preset open"),
            ("x.example:26", "allow: preset open"),
            ("x.example:25", "deny: rule 2"),
        ],
    );
}

#[test]
fn requests() {
    let rules = &[
        "allow a.example - http GET,HEAD /repos/**,/user",
        "deny a.example - http - /repos/*/secret/**",
        "allow a.example 8080 http POST",
    ];
    check(
        &with_rules("", rules),
        &[
            ("a.example:80", "allow: rule 1"),
            ("a.example:80 http", "allow: rule 1"),
            ("a.example:80 tcp", "deny: preset none"),
            ("a.example:443", "deny: preset none"),
            ("a.example:80 http GET /repos/x", "allow: rule 1"),
            ("a.example:80 - GET /repos", "allow: rule 1"),
            ("a.example:80 http GET /user", "allow: rule 1"),
            ("a.example:80 http GET /%75ser", "allow: rule 1"),
            ("a.example:80 http GET /User", "deny: preset none"),
            ("a.example:80 http GET /user/", "deny: preset none"),
            ("a.example:80 http POST /user", "deny: preset none"),
            ("a.example:80 http GET /", "deny: preset none"),
            ("a.example:80 http GET /repos/x/secret", "deny: rule 2"),
            ("a.example:80 http GET /repos/x/secret/y", "deny: rule 2"),
            ("a.example:80 http GET /repos/x/%73ecret/y", "deny: rule 2"),
            ("a.example:80 http GET /repos/x/y/secret", "allow: rule 1"),
            // What servers may read as something else.
            ("a.example:80 http GET /repos/../admin", "deny: rule 2"),
            ("a.example:80 http GET /repos/%2e%2E/admin", "deny: rule 2"),
            ("a.example:80 http GET /repos//x", "deny: rule 2"),
            ("a.example:80 http GET /repos/x%2fy", "deny: rule 2"),
            ("a.example:80 http GET /repos/x\\y", "deny: rule 2"),
            ("a.example:80 http GET /repos/%", "deny: rule 2"),
            ("a.example:80 http GET repos/x", "deny: rule 2"),
            ("a.example:8080 http POST /anything", "allow: rule 3"),
            ("a.example:8080 http GET /repos/x", "deny: preset none"),
        ],
    );
}

#[test]
fn bundles_and_the_unknown() {
    let some =
        with_rules("preset = \"allowlist\"\nbundles = [\"github\", \"python\"]", &["deny gist.github.com"]);
    check(
        &some,
        &[
            ("github.com:443 tls", "allow: bundle github"),
            ("github.com:22 tcp", "allow: bundle github"),
            ("ssh.github.com:443 tcp", "allow: bundle github"),
            ("github.com:443 tcp", "deny: unknown"),
            ("gist.github.com:443 tls", "deny: rule 1"),
            ("x.githubusercontent.com:443 tls", "allow: bundle github"),
            ("api.anthropic.com:443 tls", "deny: unknown"),
            ("mirror.example.org:443 tls", "allow: bundle python"),
            ("mirror.example.org:80 http", "allow: bundle python"),
            ("other.example.org:8080 http", "allow: bundle python"),
            ("other.example.org:443 tls", "deny: unknown"),
            ("a.files.example.org:443 tls", "allow: bundle python"),
            ("no:80 http", "deny: unknown"),
            ("odd.example:443 tls", "deny: unknown"),
        ],
    );
    let all = with_rules(
        "preset = \"allowlist\"\nbundles = [\"common\"]\nunknown = \"hold\"",
        &["deny *.evil.example"],
    );
    check(
        &all,
        &[
            ("api.anthropic.com:443 tls", "allow: bundle anthropic"),
            ("github.com:443", "allow: bundle github"),
            ("192.0.2.7:443", "allow: bundle debian"),
            ("2001:db8::5:3142 tcp", "allow: bundle debian"),
            ("plain.example.org:80 http", "allow: bundle debian"),
            ("a.evil.example:443", "deny: rule 1"),
            ("odd.example:443 tls", "hold"),
            ("api.anthropic.com:80 http", "hold"),
        ],
    );
    let table = Table::new(Some(&all), &tools());
    assert!(table.resolves("anything.example") && !table.resolves("a.evil.example"));
    // Where nobody is there to decide.
    assert!(
        table.passes("github.com") && !table.passes("anything.example") && !table.passes("a.evil.example")
    );
}

#[test]
fn without_a_policy_or_with_a_bad_one_nothing_passes() {
    let target = target("example.com:443 tls");
    let none = Table::new(None, &tools());
    assert_eq!(said(none.decide(&target)), "deny: preset none");
    assert_eq!(said(explain(None, &tools(), &target).verdict), "deny: preset none");
    let mut bad = policy("preset = \"open\"");
    bad.version = 2;
    let table = Table::new(Some(&bad), &tools());
    assert_eq!(said(table.decide(&target)), "deny: invalid policy");
    assert_eq!(said(explain(Some(&bad), &tools(), &target).verdict), "deny: invalid policy");
    assert!(!none.resolves("example.com") && !table.resolves("example.com"));
}

#[test]
fn what_resolves() {
    let check = |egress: &str, rules: &[&str], name: &str, expected: bool| {
        let table = Table::new(Some(&with_rules(egress, rules)), &tools());
        assert_eq!(table.resolves(name), expected, "{egress} {rules:?} {name}");
        assert_eq!(table.passes(name), expected, "{egress} {rules:?} {name}");
    };
    check("", &[], "a.example", false);
    check("", &["allow a.example 22"], "a.example", true);
    check("", &["allow a.example 22", "deny a.example 22"], "a.example", false);
    check("", &["allow a.example 22,23", "deny *.example 22"], "a.example", true);
    check("", &["allow *.example", "deny a.example"], "a.example", false);
    check("", &["allow *.example", "deny a.example"], "example", false);
    check("", &["allow a.example - http GET"], "a.example", true);
    check("preset = \"https\"", &[], "a.example", true);
    check("preset = \"https\"", &["deny a.example 443"], "a.example", false);
    check("preset = \"https\"", &["deny a.example - tls"], "a.example", false);
    check("preset = \"open\"", &["deny a.example 443"], "a.example", true);
    check("preset = \"open\"", &["deny a.example"], "a.example", false);
    check("preset = \"open\"", &["deny a.example - tls", "deny *.example - tcp"], "a.example", false);
    check("preset = \"allowlist\"\nbundles = [\"github\"]", &[], "github.com", true);
    check("preset = \"allowlist\"\nbundles = [\"github\"]", &[], "gitlab.com", false);
}

#[test]
fn faults_name_their_field() {
    let check = |policy: &Policy, unrestricted: bool, expected: &[(&str, &str)]| {
        let faults = policy.faults(unrestricted);
        let got: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(got, expected.iter().map(|(field, _)| *field).collect::<Vec<_>>(), "{faults:?}");
        for (fault, (_, words)) in faults.iter().zip(expected) {
            assert!(fault.to_string().contains(words) || fault.remedy.contains(words), "{fault:?}: {words}");
            assert!(!fault.remedy.is_empty());
        }
        assert_eq!(policy.validate(unrestricted), faults.first().cloned().map_or(Ok(()), Err));
    };
    check(&policy("preset = \"open\""), true, &[]);
    check(&policy("preset = \"open\""), false, &[("egress.preset", "unrestricted")]);
    check(
        &policy("bundles = [\"github\"]\nunknown = \"hold\""),
        false,
        &[("egress.bundles", "preset `none`"), ("egress.unknown", "allowlist")],
    );
    check(
        &policy("preset = \"allowlist\"\nbundles = [\"common\", \"nope\"]"),
        false,
        &[("egress.bundles[1]", "common, anthropic, bitbucket,")],
    );
    let rules = &[
        "allow good.example 22 tcp",
        "allow *",
        "allow good.example 0",
        "allow good.example - tcp",
        "deny good.example - tcp",
        "allow good.example 7 tcp GET /x",
        "allow 192.0.2.1 - tls - /x",
        "allow good.example - http get,GET, /a/**/b,/ok/*,x,/a*,/../b,/a?b,//",
    ];
    check(
        &with_rules("", rules),
        false,
        &[
            ("egress.rule[1].host", "https"),
            ("egress.rule[2].ports[0]", "0"),
            ("egress.rule[3].ports", "ports = [22]"),
            ("egress.rule[5].methods", "protocol = \"http\""),
            ("egress.rule[5].paths", "by TLS"),
            ("egress.rule[6].paths", "in the clear"),
            ("egress.rule[7].methods[0]", "capitals"),
            ("egress.rule[7].paths[0]", "before its end"),
            ("egress.rule[7].paths[2]", "slash"),
            ("egress.rule[7].paths[3]", "within a segment"),
            ("egress.rule[7].paths[4]", "%2f"),
            ("egress.rule[7].paths[5]", "query"),
            ("egress.rule[7].paths[6]", "empty segment"),
        ],
    );
    let mut large = policy("");
    large.version = 7;
    large.egress.rules = vec![rule("allow a.example"); MAX_RULES + 1];
    check(&large, false, &[("version", "1"), ("egress.rule", "10000")]);
    large.version = 1;
    large.egress.rules.pop();
    check(&large, false, &[]);
    large.egress.rules.truncate(2);
    large.egress.rules[0].ports = vec![1; MAX_OF_RULE + 1];
    large.egress.rules[1].host = "a".repeat(MAX_BYTES);
    check(&large, false, &[("egress.rule", "bytes")]);
    large.egress.rules.pop();
    check(&large, false, &[("egress.rule[0].ports", "64")]);
}

#[test]
fn files_are_read_and_written() {
    let text = "version = 1\n[egress]\npreset = \"allowlist\"\nbundles = [\"common\"]\nunknown = \"hold\"\n\n[[egress.rule]]\naction = \"allow\"\nhost = \"*.example.com\"\nports = [80]\nprotocol = \"http\"\nmethods = [\"GET\"]\npaths = [\"/repos/**\"]\n";
    let policy = Policy::parse(text).unwrap();
    assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy);
    assert_eq!(policy.egress.rules[0].ports, [80]);
    let empty = Policy { version: 1, egress: Egress::default() };
    assert_eq!(Policy::parse("version = 1").unwrap(), empty);
    assert_eq!(Policy::parse(&empty.to_toml()).unwrap(), empty);
    let check = |text: &str, field: &str, words: &str| {
        let fault = Policy::parse(text).unwrap_err();
        assert_eq!(fault.field, field, "{fault:?}");
        assert!(fault.message.contains(words) && !fault.message.contains('\n'), "{fault:?}");
    };
    check("version = 1\n[egress\n", "line 2", "cannot be read");
    check("version = 1\n[egress]\npresett = \"none\"\n", "line 3", "presett");
    check("version = 1\n[egress]\npreset = \"all\"\n", "line 3", "allowlist");
    check(
        "version = 1\n[[egress.rule]]\naction = \"allow\"\nhost = \"a\"\nports = [70000]\n",
        "line 5",
        "70000",
    );
    check(&"#".repeat(MAX_FILE + 1), "the policy file", "more than");
}

#[test]
fn every_entry_of_a_bundle_is_read() {
    let written: BTreeMap<String, BTreeMap<String, Vec<String>>> =
        toml::from_str(include_str!("bundles.toml")).unwrap();
    assert!(written.len() > 15);
    for (name, lists) in &written {
        let count: usize = lists.values().map(Vec::len).sum();
        assert!(lists.keys().all(|key| key == "tls" || key == "ssh"), "{name}");
        assert_eq!(bundle_contents(name, &Tools::new()).len(), count, "{name}");
        assert!(name != COMMON && !TOOLS.contains(&name.as_str()));
    }
    let names = bundle_names();
    assert_eq!(names.len(), written.len() + TOOLS.len() + 1);
    assert_eq!(names[0], COMMON);
    assert!(bundle_contents("github", &Tools::new()).contains(&"github.com at port 443 by tls".to_owned()));
    assert!(bundle_contents("github", &Tools::new()).contains(&"github.com at port 22".to_owned()));
    let python = bundle_contents("python", &tools());
    assert_eq!(
        python,
        [
            "mirror.example.org at port 443 by tls, at port 80 by http",
            "other.example.org at port 8080",
            "*.files.example.org at port 443 by tls, at port 80 by http",
        ]
    );
    assert!(bundle_contents("nope", &tools()).is_empty());
}

#[test]
fn explanations_say_what_comes_close() {
    let policy =
        with_rules("", &["allow example.com 443", "allow *.example.com", "deny example.com 80 http GET /x"]);
    let lines = |text: &str| {
        let explained = explain(Some(&policy), &Tools::new(), &target(text));
        explained.reasons.iter().map(Reason::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        lines("example.com:8443 tls"),
        [
            "rule 1 allows example.com at port 443 by tls, but not this",
            "rule 3 denies some requests to example.com at port 80 by http, but not this",
            "preset none lets nothing pass but what rules allow",
        ]
    );
    assert_eq!(
        lines("example.com:443 tls"),
        [
            "rule 1 allows example.com at port 443 by tls",
            "rule 3 denies some requests to example.com at port 80 by http, but not this",
        ]
    );
}
