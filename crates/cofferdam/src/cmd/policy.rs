//! `policy show|set|check|explain`: what may leave an agent.

use crate::cli::Global;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::policies::{self, Destination};
use crate::{context, resolve};
use clap::Subcommand;
use model::Code;
use model::address::refused;
use model::policy::{Host, Policy, Protocol, Request, Table, Target, Verdict};
use serde_json::json;
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
    let named = |protocol: &Protocol| output::word(protocol) == text;
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
                        output::line(policies::toml(&policy)?.trim_end())?;
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
            Format::Json => output::json(&json!({
                "verdict": found.verdict, "by": found.by, "rule": found.rule, "note": found.note,
            })),
            Format::Table => {
                let mut fields = vec![("verdict", found.verdict.to_owned()), ("by", found.by)];
                fields.extend(found.rule.map(|rule| ("rule", rule)));
                fields.extend(found.note.map(|note| ("but", note)));
                output::fields(&fields)
            }
        }
    }
}

/// What a policy does with a destination.
struct Explained {
    verdict: &'static str,
    by: String,
    /// The rule that decided, in words.
    rule: Option<String>,
    /// What is decided elsewhere.
    note: Option<String>,
}

fn explain(policy: &Policy, asked: &Explain) -> anyhow::Result<Explained> {
    let address = asked.to.host.parse::<IpAddr>().ok();
    let name = name(&asked.to.host);
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
    let protocol = asked.protocol.or(request.map(|_| Protocol::Http));
    let target = Target { host, port: asked.to.port.unwrap_or(443), protocol, request };
    // Which hosts the tools of the agent's machine use is known there alone.
    let verdict = Table::new(Some(policy), &BTreeMap::new()).decide(&target);
    let (verdict, by) = match verdict {
        Verdict::Allow { by } => ("allow", by.to_string()),
        Verdict::Deny { by } => ("deny", by.to_string()),
        Verdict::Hold => ("hold", "unknown".to_owned()),
    };
    let number = by.strip_prefix("rule ").and_then(|number| number.parse::<usize>().ok());
    let rule = number.and_then(|number| policy.egress.rules.get(number.checked_sub(1)?)).map(policies::rule);
    let note = match (verdict, address.and_then(refused)) {
        ("allow", Some(why)) => {
            Some(format!("the address is {why}: refused, unless the node's operator opened it"))
        }
        ("hold", _) => Some("nobody can be asked yet: it is refused".to_owned()),
        _ => None,
    };
    Ok(Explained { verdict, by, rule, note })
}

/// The name of one host, in the form in which rules are compared with it.
fn name(host: &str) -> Option<String> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!name.is_empty() && !name.contains(['*', '/', ':'])).then_some(name)
}
