//! Policies as people write and name them: files, hosts with ports, and a policy in one line.
//!
//! What a policy lets pass is decided in `model::policy`, and whether it is valid too.

use crate::failure::{Failure, fail, fail_with};
use model::agent::Level;
use model::api::Agent;
use model::policy::{
    Action, By, Host, MAX_FILE, Policy, Preset, Rule, Table, Target, Unknown, Verdict, name,
};
use model::{Code, Driver, Problem};
use std::collections::BTreeMap;
use std::io::Read;
use std::iter;
use std::net::IpAddr;
use std::path::Path;

/// How many faults of a policy are named.
const SHOWN: usize = 8;

/// A host as a rule has it, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// A name, a pattern, an address or a network.
    pub host: String,
    /// Without one: 443 by TLS and 80 by HTTP.
    pub port: Option<u16>,
}

/// `HOST[:PORT]`, as a value parser. An address of IPv6 with a port stands in brackets.
pub fn destination(text: &str) -> Result<Destination, String> {
    let expected = || {
        "expected HOST or HOST:PORT, such as example.com, *.example.com:22 or [2001:db8::1]:443".to_owned()
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(expected)?;
            let port =
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(expected)?) };
            (host, port)
        }
        // An address of IPv6 has colons of its own.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    if host.is_empty() || host.contains(['/', '?', '#', '@']) && !is_network(host) {
        return Err(expected());
    }
    let port = match port.map(str::parse) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("expected a port from 1 to 65535 behind the colon".to_owned()),
    };
    Ok(Destination { host: host.to_owned(), port })
}

fn is_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        address.parse::<IpAddr>().is_ok() && bits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Destination {
    /// The rule that does this with it, and looks at nothing else.
    pub fn rule(&self, action: Action) -> Rule {
        Rule::of(action, &self.host, self.port)
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&with_port(&self.host, self.port))
    }
}

/// A host with its port, if it has one; an address of IPv6 in brackets then.
pub fn with_port(host: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Reads a policy file; `-` is stdin. What it says is not checked.
pub fn read(path: &Path) -> anyhow::Result<Policy> {
    let name = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
    let text = text(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fail(Code::NotFound, format!("There is no policy file {name}.")),
        std::io::ErrorKind::InvalidData => fail(Code::Validation, format!("{name} is not a text in UTF-8.")),
        std::io::ErrorKind::FileTooLarge => {
            fail(Code::TooLarge, format!("{name} has more than {MAX_FILE} bytes, and is no policy file."))
        }
        _ => anyhow::Error::new(error).context(format!("cannot read {name}")),
    })?;
    parse(&text, &name)
}

fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(path)?),
    };
    source.take(MAX_FILE as u64 + 1).read_to_string(&mut text)?;
    if text.len() > MAX_FILE {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

fn parse(text: &str, name: &str) -> anyhow::Result<Policy> {
    Policy::parse(text).map_err(|error| {
        let detail = format!("{name}, {} {}.", error.field, error.message);
        fail_with(Code::Validation, detail, "docs/guides/egress.md says what each key means")
    })
}

/// Refuses what control would refuse, with all that is wrong with it.
pub fn check(policy: &Policy, unrestricted: bool) -> anyhow::Result<()> {
    let faults = policy.faults(unrestricted);
    let Some(first) = faults.first() else { return Ok(()) };
    let said: Vec<String> =
        faults.iter().take(SHOWN).map(|fault| format!("{} {}", fault.field, fault.message)).collect();
    let more = match faults.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let detail = format!("The policy is not valid: {}{more}.", said.join("; "));
    let problem = Problem::invalid(first.field.clone(), detail).remedy(first.remedy.clone());
    Err(Failure::from(problem).into())
}

/// What may leave an agent, in one line.
pub fn line(agent: &Agent) -> String {
    let Some(policy) = &agent.policy else {
        return match agent.level {
            Level::Workspace => "none: it has the machine's network".to_owned(),
            _ => "none: nothing leaves it".to_owned(),
        };
    };
    let revision = agent.policy_revision;
    match agent.driver {
        Some(Driver::Runsc) => format!("{} (revision {revision}); by runsc nothing leaves it", words(policy)),
        _ => format!("{} (revision {revision})", words(policy)),
    }
}

/// A policy in words.
pub fn words(policy: &Policy) -> String {
    let egress = &policy.egress;
    let preset = match egress.preset {
        Preset::None => "nothing leaves it".to_owned(),
        Preset::Allowlist => {
            let hosts = match egress.bundles.is_empty() {
                true => "no bundle".to_owned(),
                false => egress.bundles.join(", "),
            };
            match egress.unknown {
                Unknown::Deny => format!("allowlist of {hosts}"),
                Unknown::Hold => format!("allowlist of {hosts}; other hosts are held"),
            }
        }
        Preset::Https => "every public host by HTTPS".to_owned(),
        Preset::Open => "every public host".to_owned(),
    };
    let rules = match egress.rules.len() {
        0 => preset,
        1 => format!("{preset}; 1 rule of its own"),
        count => format!("{preset}; {count} rules of its own"),
    };
    let mut secrets: Vec<&str> = egress.inject.iter().map(|inject| inject.secret.as_str()).collect();
    secrets.sort_unstable();
    secrets.dedup();
    let secrets = Some(secrets.join(", ")).filter(|names| !names.is_empty());
    let limits = [
        egress.limits.bytes_per_day.map(|most| format!("at most {most} a day")),
        egress.limits.sent_per_day.map(|most| format!("at most {most} a day out of it")),
    ];
    let more = secrets.map(|names| format!("with the secrets {names}")).into_iter();
    iter::once(rules).chain(more).chain(limits.into_iter().flatten()).collect::<Vec<_>>().join("; ")
}

/// Who denies whatever could be spoken at a destination, if anybody does. Of a pattern nothing is said.
pub fn denied(policy: &Policy, destination: &Destination) -> Option<By> {
    let name = name(&destination.host);
    let host = match (destination.host.parse(), &name) {
        (Ok(address), _) => Host::Address(address),
        (Err(_), name) => Host::Name(name.as_deref()?),
    };
    let table = Table::new(Some(policy), &BTreeMap::new());
    let decide = |port| table.decide(&Target { host, port, protocol: None, request: None });
    match decide(destination.port.unwrap_or(443)) {
        Verdict::Deny { by } => Some(by),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::bundle_names;

    #[test]
    fn destinations_are_hosts_with_ports() {
        let check = |text: &str, host: &str, port| {
            let expected = Destination { host: host.to_owned(), port };
            assert_eq!(destination(text), Ok(expected.clone()), "{text}");
            assert_eq!(destination(&expected.to_string()), Ok(expected), "{text}");
        };
        check("example.com", "example.com", None);
        check("*.example.com:22", "*.example.com", Some(22));
        check("203.0.113.0/24:5432", "203.0.113.0/24", Some(5432));
        check("2001:db8::1", "2001:db8::1", None);
        check("2001:db8::/32", "2001:db8::/32", None);
        check("[2001:db8::1]:443", "2001:db8::1", Some(443));
        check("[2001:db8::/32]:443", "2001:db8::/32", Some(443));
        for bad in [
            "",
            ":443",
            "a:",
            "a:0",
            "a:65536",
            "a:b",
            "https://a",
            "a/b",
            "a?b",
            "[::1",
            "[::1]x",
            "[]:1",
            "u@a",
        ] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_names_the_line() {
        let said = |text: &str| parse(text, "p.toml").unwrap_err().to_string();
        assert!(said("version = 1\n[egress\n").starts_with("p.toml, line 2 "));
        assert!(said("version = 1\n[egress]\npreset = \"most\"\n").starts_with("p.toml, line 3 "));
        assert!(said("version = 1\n[tools]\n").contains("tools"));
        let missing = read(Path::new("/nonexistent/p.toml")).unwrap_err();
        assert_eq!(crate::failure::problem_of(&missing).0, crate::failure::NOT_FOUND);
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let text = "version = 1\n[egress]\npreset = \"allowlist\"\nbundles = [\"common\"]\n\
            [[egress.rule]]\naction = \"allow\"\nhost = \"a.example\"\nports = [80]\nprotocol = \"http\"\n\
            methods = [\"GET\"]\npaths = [\"/a/**\"]\n[[egress.rule]]\naction = \"deny\"\nhost = \"*.a.example\"\n";
        let policy = parse(text, "p.toml").unwrap();
        assert_eq!(parse(&policy.to_toml(), "again").unwrap(), policy);
        assert_eq!(words(&policy), "allowlist of common; 2 rules of its own");
        for made in [Policy::nothing(), Policy::default_of(false), Policy::default_of(true)] {
            assert_eq!(parse(&made.to_toml(), "made").unwrap(), made);
        }
    }

    #[test]
    fn the_guide_is_right() {
        let guide = include_str!("../../../docs/guides/egress.md");
        let (_, rest) = guide.split_once("## A policy file\n\n```toml\n").unwrap();
        let policy = parse(rest.split_once("```").unwrap().0, "the guide").unwrap();
        assert_eq!(policy.faults(false), []);
        for bundle in bundle_names() {
            assert!(guide.contains(&format!("`{bundle}`")), "the guide lacks the bundle {bundle}");
        }
    }

    #[test]
    fn all_faults_are_named() {
        let text =
            "version = 2\n[egress]\npreset = \"open\"\n[[egress.rule]]\naction = \"allow\"\nhost = \"*\"\n";
        let error = check(&parse(text, "p.toml").unwrap(), false).unwrap_err();
        let (exit, problem) = crate::failure::problem_of(&error);
        assert_eq!((exit, problem.field.as_deref()), (crate::failure::USAGE, Some("version")));
        for field in ["version", "egress.preset", "egress.rule[0].host"] {
            assert!(problem.detail.contains(field), "{}", problem.detail);
        }
    }

    #[test]
    fn a_rule_in_front_takes_the_place_of_its_like() {
        let mut policy = Policy::nothing();
        let of = |text: &str| destination(text).unwrap();
        policy.put_in_front(of("a.example").rule(Action::Allow));
        policy.put_in_front(of("a.example:22").rule(Action::Allow));
        policy.put_in_front(of("*.a.example").rule(Action::Deny));
        let check = |policy: &Policy, expected: [(&str, Action); 3]| {
            let expected = expected.map(|(text, action)| of(text).rule(action));
            assert_eq!(policy.egress.rules, expected);
        };
        use Action::{Allow, Deny};
        check(&policy, [("*.a.example", Deny), ("a.example:22", Allow), ("a.example", Allow)]);
        assert_eq!(denied(&policy, &of("b.a.example:22")), Some(By::Rule(1)));
        assert_eq!((denied(&policy, &of("a.example")), denied(&policy, &of("*.a.example"))), (None, None));
        policy.put_in_front(of("A.example.").rule(Action::Deny));
        check(&policy, [("A.example.", Deny), ("*.a.example", Deny), ("a.example:22", Allow)]);
        policy.put_in_front(of("a.example").rule(Action::Deny));
        check(&policy, [("a.example", Deny), ("*.a.example", Deny), ("a.example:22", Allow)]);
        let before = policy.clone();
        policy.put_in_front(of("a.example").rule(Action::Deny));
        assert_eq!(policy, before, "said twice");
    }
}
