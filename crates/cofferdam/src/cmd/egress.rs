//! `egress allow|deny`: one rule more, without a file.

use super::policy;
use crate::cli::Global;
use crate::policies::{self, Destination};
use crate::{context, resolve};
use clap::Subcommand;
use client::Control;
use model::Code;
use model::policy::{Action, Policy};

/// How often a change is tried anew that somebody else's came before.
const TRIES: usize = 8;

/// What `egress` has.
#[derive(Subcommand)]
pub enum Command {
    /// Let an agent reach a host from now on
    ///
    /// A rule of its policy that denies more than just this host goes on to deny it, and is named.
    Allow(Args),
    /// Keep an agent from a host from now on; connections to it are cut
    Deny(Args),
}

/// What both take.
#[derive(clap::Args)]
#[command(after_long_help = "\
The rule is put in front of those that the agent's policy has, and takes the place of one for just that host and port.

Examples:
  cofferdam egress allow worker api.example.com
  cofferdam egress allow worker git.example.com:22
  cofferdam egress deny worker '*.example.com'")]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// Hosts: at 443 and 80, or every port where it is denied, unless one is named
    #[arg(required = true, value_name = "HOST[:PORT]", value_parser = policies::destination)]
    hosts: Vec<Destination>,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (args, action) = match self {
            Self::Allow(args) => (args, Action::Allow),
            Self::Deny(args) => (args, Action::Deny),
        };
        let control = context::control(global.context.as_ref())?;
        let (policy, revision) = change(&control, &args.agent, &args.hosts, action).await?;
        if action == Action::Allow {
            for (host, by) in
                args.hosts.iter().filter_map(|host| Some((host, policies::denied(&policy, host)?)))
            {
                eprintln!("cofferdam: warning: {host} is still denied, by {by}");
            }
        }
        policy::changed(&args.agent, &policy, revision, global)?;
        Ok(0)
    }
}

/// Changes the policy that the agent has then, whoever else changes it.
async fn change(
    control: &Control,
    agent: &str,
    hosts: &[Destination],
    action: Action,
) -> Result<(Policy, u64), client::Error> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let (mut policy, revision) = control.policy(agent).await?;
        // The first that was named is in front in the end.
        hosts.iter().rev().for_each(|host| policy.put_in_front(host.rule(action)));
        match control.set_policy(agent, &policy, Some(revision)).await {
            Err(error) if error.code() == Some(Code::PreconditionFailed) && tries > 0 => {}
            answer => return answer,
        }
    }
}
