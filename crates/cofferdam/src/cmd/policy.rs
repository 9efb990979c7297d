//! `policy show|set|check|explain`: what may leave an agent.

use crate::cli::Global;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::policies::{self, Destination};
use crate::{context, resolve};
use clap::Subcommand;
use model::Code;
use model::address::refused;
use model::policy::{By, COMMON, Host, Policy, Protocol, Request, TOOLS, Table, Target, Verdict};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What `policy` has.
#[derive(Subcommand)]
pub enum Command {
    /// Show an agent's policy, as a file that `policy set` takes
    Show {
        /// Agent, by name or id
        #[arg(value_parser = resolve::reference)]
        agent: String,
    },
    /// Give an agent another policy, in force at once
    ///
    /// It takes the place of the whole policy. Connections that it denies are cut.
    Set {
        /// Agent, by name or id
        #[arg(value_parser = resolve::reference)]
        agent: String,
        /// Policy file; - is stdin
        file: PathBuf,
        /// Only if the agent's policy still is of this revision
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Say whether a policy file is valid
    Check {
        /// Policy file; - is stdin
        file: PathBuf,
        /// For an unrestricted agent
        #[arg(long)]
        unrestricted: bool,
    },
    Explain(Explain),
}

/// Say what a policy does with a destination, and which rule decides
///
/// Asks nobody but the policy: whether the host is there, and to which address its name leads, shows when an agent connects.
#[derive(clap::Args)]
#[command(after_long_help = "\
What has a dot or a slash in it, and -, is a file; anything else is an agent.

Examples:
  cofferdam policy explain policy.toml api.example.com
  cofferdam policy explain worker git.example.com:22
  cofferdam policy explain ./policy example.com:80 --method POST --path /upload")]
pub struct Explain {
    /// Policy file, or agent by name or id
    #[arg(value_name = "FILE|AGENT")]
    of: String,
    /// Where to; port 443 unless told
    #[arg(value_name = "HOST[:PORT]", value_parser = policies::destination)]
    to: Destination,
    /// What is spoken there; without it, whether anything could pass
    #[arg(long, value_parser = protocol, value_name = "tls|http|tcp")]
    protocol: Option<Protocol>,
    /// Method of an HTTP request in the clear
    #[arg(long, requires = "path")]
    method: Option<String>,
    /// Its path
    #[arg(long, requires = "method")]
    path: Option<String>,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let all = [Protocol::Tls, Protocol::Http, Protocol::Tcp];
    let named = |protocol: &Protocol| protocol.to_string() == text;
    all.into_iter().find(named).ok_or_else(|| "expected tls, http or tcp".to_owned())
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Show { agent } => {
                let (policy, revision) = context::control(global.context.as_ref())?.policy(&agent).await?;
                match global.output {
                    Format::Json => output::json(&policy)?,
                    Format::Table => {
                        output::line(format_args!("# {agent}, revision {revision}"))?;
                        output::line(policy.to_toml().trim_end())?;
                    }
                }
            }
            Self::Set { agent, file, revision } => {
                let policy = policies::read(&file)?;
                let control = context::control(global.context.as_ref())?;
                let (policy, revision) = control.set_policy(&agent, &policy, revision).await?;
                changed(&agent, &policy, revision, global)?;
            }
            Self::Check { file, unrestricted } => {
                let policy = policies::read(&file)?;
                policies::check(&policy, unrestricted)?;
                match global.output {
                    Format::Json => output::json(&policy)?,
                    Format::Table => {
                        output::line(format_args!("{}: {}", file.display(), policies::words(&policy)))?
                    }
                }
            }
            Self::Explain(args) => args.run(global).await?,
        }
        Ok(0)
    }
}

/// Prints what an agent's policy is now.
pub fn changed(agent: &str, policy: &Policy, revision: u64, global: &Global) -> anyhow::Result<()> {
    match global.output {
        Format::Json => output::json(policy),
        Format::Table => {
            output::line(format_args!("{agent}: {} (revision {revision})", policies::words(policy)))
        }
    }
}

impl Explain {
    async fn run(self, global: &Global) -> anyhow::Result<()> {
        let policy = if self.of == "-" || self.of.contains(['.', '/']) {
            let policy = policies::read(Path::new(&self.of))?;
            policies::check(&policy, true)?;
            policy
        } else {
            let agent = resolve::reference(&self.of).map_err(|expected| {
                fail_with(
                    Code::Validation,
                    format!("{:?} is neither a policy file nor an agent: {expected}.", self.of),
                    "write ./FILE for a file without a dot in its name",
                )
            })?;
            context::control(global.context.as_ref())?.policy(&agent).await?.0
        };
        let found = explain(&policy, &self)?;
        match global.output {
            Format::Json => output::json(&found),
            Format::Table => {
                let mut fields = vec![("verdict", format!("{} ({})", found.verdict, found.by))];
                fields.extend(found.notes.into_iter().map(|note| ("but", note)));
                output::fields(&fields)?;
                output::line("")?;
                let rows = found.reasons.into_iter().map(|reason| {
                    let applies = if reason.applies { "" } else { "but not this" };
                    [reason.by, reason.does, applies.to_owned()]
                });
                output::table(["BY", "WHAT IT DOES", ""], rows)
            }
        }
    }
}

/// What a policy does with a destination.
#[derive(serde::Serialize)]
struct Explained {
    verdict: &'static str,
    by: String,
    /// All that is about the host.
    reasons: Vec<Reason>,
    /// What is decided elsewhere.
    notes: Vec<String>,
}

#[derive(serde::Serialize)]
struct Reason {
    by: String,
    does: String,
    /// Whether it is about this very connection.
    applies: bool,
}

fn explain(policy: &Policy, asked: &Explain) -> anyhow::Result<Explained> {
    let address = asked.to.host.parse::<IpAddr>().ok();
    let name = model::policy::name(&asked.to.host);
    let host = match (address, &name) {
        (Some(address), _) => Host::Address(address),
        (None, Some(name)) => Host::Name(name),
        (None, None) => {
            let detail = format!("{:?} is neither the name of one host nor an address.", asked.to.host);
            return Err(fail_with(Code::Validation, detail, "name a host such as api.example.com"));
        }
    };
    let request = match (&asked.method, &asked.path) {
        (Some(method), Some(path)) => Some(Request { method, path }),
        _ => None,
    };
    let target = Target { host, port: asked.to.port.unwrap_or(443), protocol: asked.protocol, request };
    // Which hosts the tools of the agent's machine use is known there alone.
    let found = model::policy::explain(Some(policy), &BTreeMap::new(), &target);
    let verdict = match found.verdict {
        Verdict::Allow { .. } => "allow",
        Verdict::Deny { .. } => "deny",
        Verdict::Hold => "hold",
    };
    let by = found.verdict.by();
    let mut notes = Vec::new();
    let egress = &policy.egress;
    let reads = |bundle: &&str| egress.bundles.iter().any(|named| named == *bundle || named == COMMON);
    let read: Vec<&str> = TOOLS.into_iter().filter(reads).collect();
    if by == By::Unknown && !read.is_empty() {
        let read = read.join(", ");
        notes.push(format!("the bundles read from the tools of the agent's machine ({read}) may name it"));
    }
    match (found.verdict, address.and_then(refused)) {
        (Verdict::Allow { .. }, Some(why)) => {
            notes.push(format!("the address is {why}: refused, unless the machine's operator opened it"));
        }
        (Verdict::Hold, _) => notes.push("it is refused while nobody looks after questions".to_owned()),
        _ => {}
    }
    if let (Verdict::Allow { .. } | Verdict::Hold, Some(name)) = (found.verdict, &name) {
        notes.extend(looked_into(policy, name, &target));
    }
    let reasons = found.reasons.into_iter().map(|reason| Reason {
        by: reason.by.to_string(),
        does: reason.text,
        applies: reason.applies,
    });
    Ok(Explained { verdict, by: by.to_string(), reasons: reasons.collect(), notes })
}

/// What the gate does with TLS to this name.
fn looked_into(policy: &Policy, name: &str, target: &Target<'_>) -> Vec<String> {
    let table = Table::new(Some(policy), &BTreeMap::new());
    if !table.terminates(name, target.port) || !matches!(target.protocol, None | Some(Protocol::Tls)) {
        return Vec::new();
    }
    let mut notes = vec!["gate looks at each request inside of TLS there".to_owned()];
    let Some(request) = &target.request else { return notes };
    let put = table.injections(name, target.port, request);
    notes.extend(put.map(|inject| format!("the secret {} is put into this request by TLS", inject.secret)));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_is_named() {
        let policy = Policy::parse(
            "version = 1\n[egress]\npreset = \"allowlist\"\nbundles = [\"github\", \"python\"]\n\
             [[egress.rule]]\naction = \"deny\"\nhost = \"*.example.com\"\n\
             [[egress.rule]]\naction = \"allow\"\nhost = \"10.0.0.0/8\"\nports = [22]\n\
             [[egress.rule]]\naction = \"allow\"\nhost = \"web.example\"\nprotocol = \"http\"\nmethods = [\"GET\"]\n",
        )
        .unwrap();
        let check = |to: &str, request: Option<(&str, &str)>, verdict: &str, by: &str, notes: usize| {
            let asked = Explain {
                of: String::new(),
                to: policies::destination(to).unwrap(),
                protocol: None,
                method: request.map(|(method, _)| method.to_owned()),
                path: request.map(|(_, path)| path.to_owned()),
            };
            let found = explain(&policy, &asked).unwrap();
            assert_eq!((found.verdict, &*found.by, found.notes.len()), (verdict, by, notes), "{to}");
        };
        check("github.com", None, "allow", "bundle github", 0);
        check("GitHub.com.:22", None, "allow", "bundle github", 0);
        check("a.example.com:8080", None, "deny", "rule 1", 0);
        check("elsewhere.example", None, "deny", "unknown", 1);
        check("10.1.2.3:22", None, "allow", "rule 2", 1);
        check("web.example:80", Some(("GET", "/")), "allow", "rule 3", 0);
        check("web.example:80", Some(("POST", "/")), "deny", "unknown", 1);
        let pattern = Explain {
            of: String::new(),
            to: policies::destination("*.example.com").unwrap(),
            protocol: None,
            method: None,
            path: None,
        };
        assert!(explain(&policy, &pattern).is_err(), "a pattern is no destination");
    }
}
