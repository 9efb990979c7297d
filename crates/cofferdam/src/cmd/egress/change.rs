//! `egress allow|deny`: one rule more, without a file.

use crate::cli::Global;
use crate::cmd::policy;
use crate::policies::{self, Destination};
use crate::{context, resolve};
use client::Control;
use model::Code;
use model::policy::{Action, Policy};

/// How often a change is tried anew that somebody else's came before.
const TRIES: usize = 8;

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

impl Args {
    /// Does this with the hosts.
    pub async fn run(self, action: Action, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let (policy, revision) = change(&control, &self.agent, &self.hosts, action).await?;
        if action == Action::Allow {
            for (host, by) in
                self.hosts.iter().filter_map(|host| Some((host, policies::denied(&policy, host)?)))
            {
                eprintln!("cofferdam: warning: {host} is still denied, by {by}");
            }
        }
        policy::changed(&self.agent, &policy, revision, global)?;
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
