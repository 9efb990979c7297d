//! `egress learn`: a policy that allows what an agent did.

use crate::cli::Global;
use crate::failure::fail_with;
use crate::learn::{Learned, learn};
use crate::output::{self, Format};
use crate::{context, policies, resolve};
use anyhow::Context as _;
use client::EgressFilter;
use model::Code;
use model::policy::Policy;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// More than control keeps of one agent.
const ALL: usize = 1_000_000;

/// Propose a policy that allows what an agent reached, and nothing else
///
/// Made of the egress log: hosts, ports and protocols of connections that passed, whatever let them pass. A bundle is named where all of it
/// was used. What was refused, or allowed but not there, stands in comments. Read it before you use it: it allows what the agent
/// did, whether that was right or not.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  cofferdam egress learn worker
  cofferdam egress learn worker --file worker.toml && cofferdam policy set worker worker.toml
  cofferdam create --name next --policy worker.toml")]
pub struct Args {
    /// Write it to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Agent, by name or id; one that is gone by its id
    #[arg(value_parser = resolve::reference)]
    agent: String,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let filter = EgressFilter { agent: Some(self.agent.clone()), outcome: None };
        let log = control.egress_log(&filter, ALL).await?;
        // One that is gone has none any more.
        let agent = control.agent(&self.agent).await;
        let own = match agent {
            Ok(agent) => agent.policy.unwrap_or_else(Policy::nothing),
            Err(error) if error.is_not_found() => Policy::nothing(),
            Err(error) => return Err(error.into()),
        };
        let learned = learn(&self.agent, &own, log.iter().map(|entry| &entry.connection));
        policies::check(&learned.policy, false)?;
        let egress = &learned.policy.egress;
        if egress.rules.is_empty() && egress.bundles.is_empty() {
            eprintln!("cofferdam: warning: nothing is known to have left {}", self.agent);
        }
        if let Some(file) = &self.file {
            write(file, &learned)?;
        }
        match (global.output, &self.file) {
            (Format::Json, _) => output::json(&learned.policy)?,
            (Format::Table, None) => output::line(learned.text.trim_end())?,
            (Format::Table, Some(file)) => {
                let words = policies::words(&learned.policy);
                output::line(format_args!("{}: {words}", file.display()))?;
            }
        }
        Ok(0)
    }
}

/// A file that is there is somebody's work.
fn write(path: &Path, learned: &Learned) -> anyhow::Result<()> {
    let attempt = || format!("cannot write {}", path.display());
    match File::options().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(learned.text.as_bytes()).with_context(attempt),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(fail_with(
            Code::NameTaken,
            format!("{} is there already.", path.display()),
            "name another file, or move that one away",
        )),
        Err(error) => Err(error).with_context(attempt),
    }
}
