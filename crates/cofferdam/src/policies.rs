//! Policies as people write and name them: files, hosts with ports, and a policy in one line.
//!
//! What a policy lets pass is decided in `model::policy`, and whether it is valid too.

use crate::failure::{fail, fail_with};
use crate::output;
use model::agent::Level;
use model::api::Agent;
use model::policy::{Action, Policy, Preset, Rule, Unknown};
use model::{Code, Driver, Problem};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

/// As much as control takes in one request.
const MAX_FILE: u64 = 1 << 20;

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
        Rule {
            action,
            host: self.host.clone(),
            ports: self.port.into_iter().collect(),
            protocol: None,
            methods: Vec::new(),
            paths: Vec::new(),
        }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// Reads a policy file; `-` is stdin. What it says is not checked.
pub fn read(path: &Path) -> anyhow::Result<Policy> {
    let name = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
    let text = text(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fail(Code::NotFound, format!("There is no policy file {name}.")),
        std::io::ErrorKind::InvalidData => fail(Code::Validation, format!("{name} is not a text in UTF-8.")),
        std::io::ErrorKind::FileTooLarge => {
            fail(Code::TooLarge, format!("{name} is larger than 1 MiB, and no policy file."))
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
    source.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

fn parse(text: &str, name: &str) -> anyhow::Result<Policy> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
        let said = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        fail_with(
            Code::Validation,
            format!("{name}{place}: {said}."),
            "docs/guides/egress.md says what each key means",
        )
    })
}

/// Refuses what control would refuse.
pub fn check(policy: &Policy, unrestricted: bool) -> anyhow::Result<()> {
    policy.validate(unrestricted).map_err(|error| {
        let problem = Problem::invalid(error.field.clone(), format!("{} {}.", error.field, error.message));
        crate::failure::Failure::from(problem.remedy(error.remedy)).into()
    })
}

/// As a file.
pub fn toml(policy: &Policy) -> anyhow::Result<String> {
    Ok(toml::to_string_pretty(policy)?)
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
    match egress.rules.len() {
        0 => preset,
        1 => format!("{preset}; 1 rule of its own"),
        count => format!("{preset}; {count} rules of its own"),
    }
}

/// A rule in words, without what it leaves out.
pub fn rule(rule: &Rule) -> String {
    let mut words = vec![
        match rule.action {
            Action::Allow => "allow".to_owned(),
            Action::Deny => "deny".to_owned(),
        },
        rule.host.clone(),
    ];
    let mut list = |what: &str, items: Vec<String>| {
        if !items.is_empty() {
            words.push(format!("{what} {}", items.join(", ")));
        }
    };
    list("at", rule.ports.iter().map(u16::to_string).collect());
    list("by", rule.protocol.iter().map(output::word).collect());
    list("for", rule.methods.clone());
    list("of", rule.paths.clone());
    words.join(" ")
}

/// Puts a rule for a destination in front, in place of those that say something of just that already. Rules that say it of more,
/// or less, stay.
pub fn put_in_front(policy: &mut Policy, destination: &Destination, action: Action) {
    let rule = destination.rule(action);
    let same = |known: &Rule| Rule { action, ..known.clone() } == rule;
    policy.egress.rules.retain(|known| !same(known));
    policy.egress.rules.insert(0, rule);
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(said("version = 1\n[egress\n").starts_with("p.toml, line 2: "));
        assert!(said("version = 1\n[egress]\npreset = \"most\"\n").starts_with("p.toml, line 3: "));
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
        assert_eq!(parse(&toml(&policy).unwrap(), "again").unwrap(), policy);
        assert_eq!(rule(&policy.egress.rules[0]), "allow a.example at 80 by http for GET of /a/**");
        assert_eq!(words(&policy), "allowlist of common; 2 rules of its own");
        for made in [Policy::nothing(), Policy::default_of(false), Policy::default_of(true)] {
            assert_eq!(parse(&toml(&made).unwrap(), "made").unwrap(), made);
        }
    }

    #[test]
    fn a_rule_in_front_takes_the_place_of_its_like() {
        let mut policy = Policy::nothing();
        let of = |text: &str| destination(text).unwrap();
        put_in_front(&mut policy, &of("a.example"), Action::Allow);
        put_in_front(&mut policy, &of("a.example:22"), Action::Allow);
        put_in_front(&mut policy, &of("*.a.example"), Action::Deny);
        let rules = |policy: &Policy| policy.egress.rules.iter().map(rule).collect::<Vec<_>>();
        assert_eq!(rules(&policy), ["deny *.a.example", "allow a.example at 22", "allow a.example"]);
        put_in_front(&mut policy, &of("a.example"), Action::Deny);
        assert_eq!(rules(&policy), ["deny a.example", "deny *.a.example", "allow a.example at 22"]);
        let before = policy.clone();
        put_in_front(&mut policy, &of("a.example"), Action::Deny);
        assert_eq!(policy, before, "said twice");
    }
}
