use super::*;

const START: i64 = 1_700_000_000;

/// `passed|denied|failed HOST[:PORT] [tls|http|tcp] [BY]`
fn connection(at: usize, text: &str) -> Connection {
    let mut words = text.split(' ');
    let outcome = match words.next() {
        Some("passed") => Outcome::Passed,
        Some("denied") => Outcome::Denied,
        Some("failed") => Outcome::Failed,
        other => panic!("{other:?}"),
    };
    let to = crate::policies::destination(words.next().unwrap()).unwrap();
    let protocol = words.next().and_then(|word| match word {
        "tls" => Some(Protocol::Tls),
        "http" => Some(Protocol::Http),
        "tcp" => Some(Protocol::Tcp),
        _ => None,
    });
    Connection {
        credentials: Vec::new(),
        at: OffsetDateTime::from_unix_timestamp(START + at as i64).unwrap(),
        host: to.host,
        port: to.port,
        address: None,
        protocol,
        outcome,
        by: words.collect::<Vec<_>>().join(" "),
        sent: 1,
        received: 2,
        duration_ms: 3,
        end: (outcome == Outcome::Failed).then(|| "refused by the other side".to_owned()),
        count: if outcome == Outcome::Denied { 3 } else { 1 },
    }
}

fn log(lines: &[&str]) -> Vec<Connection> {
    lines.iter().enumerate().map(|(at, line)| connection(at, line)).collect()
}

/// What is learned, each rule as `HOST PORTS [PROTOCOL]`.
fn check(lines: &[&str], bundles: &[&str], rules: &[&str]) -> Learned {
    let learned = learn("worker", &Policy::nothing(), &log(lines));
    let egress = &learned.policy.egress;
    let of = |rule: &Rule| {
        let ports: Vec<String> = rule.ports.iter().map(u16::to_string).collect();
        let protocol = rule.protocol.map(|protocol| format!(" {protocol}")).unwrap_or_default();
        format!("{} {}{protocol}", rule.host, ports.join(","))
    };
    assert_eq!(egress.rules.iter().map(of).collect::<Vec<_>>(), rules, "{lines:?}");
    assert_eq!(egress.bundles, bundles, "{lines:?}");
    assert_eq!((egress.preset, egress.unknown), (Preset::Allowlist, Unknown::Deny));
    learned.policy.validate(false).unwrap();
    assert_eq!(Policy::parse(&learned.text).unwrap(), learned.policy, "{}", learned.text);
    // Everything that passed would again.
    let table = model::policy::Table::new(Some(&learned.policy), &BTreeMap::new());
    for passed in log(lines).iter().filter(|passed| passed.outcome == Outcome::Passed) {
        let Some(place) = Place::read(&passed.host) else { continue };
        let port = passed.port.unwrap();
        let target = Target { host: place.host(), port, protocol: passed.protocol, request: None };
        let verdict = table.decide(&target);
        assert!(matches!(verdict, model::policy::Verdict::Allow { .. }), "{passed:?}: {verdict:?}");
    }
    learned
}

#[test]
fn what_passed_is_allowed_by_host_port_and_protocol() {
    check(
        &[
            "passed b.example:443 tls",
            "passed a.example:443 tls",
            "passed a.example:80 http",
            "passed a.example:443 tls",
            "passed A.Example.:22 tcp",
            "passed c.example:8443 tls",
            "passed c.example:9000",
            "passed d.example:443 tcp",
            "passed d.example:443 tls",
            "passed e.example:80 tcp",
            "passed e.example:443 http",
            "passed 203.0.113.7:5432 tcp",
            "passed [2001:db8::1]:443 tls",
        ],
        &[],
        &[
            "a.example 22,80,443",
            "b.example 443",
            "c.example 9000",
            "c.example 8443 tls",
            "d.example 443",
            "d.example 443 tcp",
            "e.example 443 http",
            "e.example 80 tcp",
            "203.0.113.7 5432",
            "2001:db8::1 443",
        ],
    );
    check(&["passed a.example:80 http", "passed a.example:443 tls"], &[], &["a.example "]);
}

#[test]
fn a_bundle_is_named_when_all_of_it_passed() {
    // Which hosts a bundle has stands in the model.
    let whole = |bundle: &str| -> Vec<String> {
        let line = |text: String| {
            let (host, rest) = text.split_once(" at port ").unwrap();
            match rest.split_once(" by ") {
                Some((port, protocol)) => format!("passed {host}:{port} {protocol}"),
                None => format!("passed {host}:{rest} tcp"),
            }
        };
        bundle_contents(bundle, &BTreeMap::new()).into_iter().map(line).collect()
    };
    let mut lines = whole("codeberg");
    lines.extend(whole("together"));
    lines.push("passed a.example:443 tls".to_owned());
    let all: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert!(all.len() >= 5);
    check(&all, &["codeberg", "together"], &["a.example 443"]);
    // One is missing: what passed is named, and no more.
    let learned = check(&all[1..2], &[], &[&format!("{} 22", Place::read("codeberg.org").unwrap())]);
    assert!(learned.policy.egress.bundles.is_empty());
    // What a bundle does not have of its own host is a rule beside it.
    let mut lines = whole("codeberg");
    lines.push("passed codeberg.org:8443 tls".to_owned());
    let all: Vec<&str> = lines.iter().map(String::as_str).collect();
    check(&all, &["codeberg"], &["codeberg.org 8443 tls"]);
    // A pattern is never all of what it covers.
    let mut lines: Vec<String> =
        whole("huggingface").into_iter().map(|line| line.replace('*', "any")).collect();
    lines.sort();
    let learned =
        learn("worker", &Policy::nothing(), &log(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
    assert!(learned.policy.egress.bundles.is_empty());
}

#[test]
fn what_was_refused_is_said() {
    let lines = [
        "denied b.example:443 tls unknown",
        "denied b.example:443 tls once",
        "denied a.example - the name is not resolved",
        "denied c.example:443 tls unknown",
        "passed c.example:443 tls once",
        "failed d.example:25",
        "denied [2001:db8::1]:22 - preset none",
    ];
    let learned = check(&lines, &[], &["c.example 443"]);
    let comments: Vec<&str> = learned.text.lines().take_while(|line| line.starts_with('#')).collect();
    assert_eq!(
        comments,
        [
            "# What worker reached from 2023-11-14 22:13:20Z to 2023-11-14 22:13:26Z, and nothing else:",
            "# connections that passed: 1. Read it before you use it.",
            "# ",
            "# Refused, and not in here:",
            "#   a.example: 3 times (the name is not resolved)",
            "#   b.example:443: 6 times (once, unknown)",
            "#   [2001:db8::1]:22: 3 times (preset none)",
            "# ",
            "# Allowed, but there was no connection, so not in here:",
            "#   d.example:25: 1 times (refused by the other side)",
        ]
    );
}

#[test]
fn the_order_of_the_log_does_not_matter() {
    let mut connections = log(&[
        "passed b.example:443 tls",
        "denied x.example:443 tls unknown",
        "passed a.example:80 http",
        "passed 203.0.113.7:22 tcp",
        "denied x.example:443 tls rule 1",
    ]);
    let once = learn("worker", &Policy::nothing(), &connections).text;
    connections.reverse();
    assert_eq!(learn("worker", &Policy::nothing(), &connections).text, once);
}

#[test]
fn the_log_is_not_believed() {
    let mut connections = log(&["denied a.example:443 tls unknown", "passed b.example:443 tls"]);
    connections[0].by = "unknown\n[[egress.rule]]\naction = \"allow\"\u{202e}".to_owned();
    connections[1].host = "b.example\"\nports = []".to_owned();
    let learned = learn("worker", &Policy::nothing(), &connections);
    assert!(learned.policy.egress.rules.is_empty());
    assert_eq!(Policy::parse(&learned.text).unwrap(), learned.policy, "{}", learned.text);
    assert!(learned.text.contains("they name no host: 1"), "{}", learned.text);
    let nothing = learn("worker", &Policy::nothing(), &[]);
    assert_eq!(Policy::parse(&nothing.text).unwrap(), nothing.policy);
    let ports: Vec<String> = (1..=130).map(|port| format!("passed a.example:{port} tcp")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).filter(|line| !line.contains(":80 ")).collect();
    assert_eq!(learn("worker", &Policy::nothing(), &log(&ports)).policy.egress.rules.len(), 3);
}

#[test]
fn what_the_own_policy_narrows_stays_narrow() {
    let own = "version = 1\n[egress]\npreset = \"https\"\n\
        [[egress.rule]]\naction = \"allow\"\nhost = \"plain.example\"\n\
        [[egress.rule]]\naction = \"allow\"\nhost = \"some.example\"\nmethods = [\"GET\"]\n\
        [[egress.rule]]\naction = \"deny\"\nhost = \"*.bad.example\"\n\
        [[egress.inject]]\nsecret = \"key\"\nhost = \"some.example\"\nbearer = true\n\
        [egress.limits]\nsent_per_day = \"1GiB\"\n";
    let own = Policy::parse(own).unwrap();
    let log =
        log(&["passed some.example:443 tls", "passed plain.example:443 tls", "passed other.example:443 tls"]);
    let learned = learn("worker", &own, &log).policy;
    learned.validate(false).unwrap();
    let rules: Vec<(&str, bool)> =
        learned.egress.rules.iter().map(|rule| (rule.host.as_str(), rule.looks_at_requests())).collect();
    let expected = [
        ("some.example", true),
        ("*.bad.example", false),
        ("other.example", false),
        ("plain.example", false),
    ];
    assert_eq!(rules, expected);
    assert_eq!((&learned.egress.inject, learned.egress.limits), (&own.egress.inject, own.egress.limits));
}
