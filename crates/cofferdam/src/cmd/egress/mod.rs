//! `egress …`: what leaves agents, what may, and what waits for a decision.

mod answer;
mod ask;
mod change;
mod learn;
mod log;
mod remembered;

use crate::cli::Global;
use clap::Subcommand;
use model::policy::Action;

/// What `egress` has.
#[derive(Subcommand)]
pub enum Command {
    /// Let an agent reach a host from now on
    ///
    /// A rule of its policy that denies more than just this host goes on to deny it, and is named.
    Allow(change::Args),
    /// Keep an agent from a host from now on; connections to it are cut
    Deny(change::Args),
    Log(log::Args),
    Ask(ask::Args),
    Answer(answer::Args),
    Remembered(remembered::Args),
    Learn(learn::Args),
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Allow(args) => args.run(Action::Allow, global).await,
            Self::Deny(args) => args.run(Action::Deny, global).await,
            Self::Log(args) => args.run(global).await,
            Self::Ask(args) => args.run(global).await,
            Self::Answer(args) => args.run(global).await,
            Self::Remembered(args) => args.run(global).await,
            Self::Learn(args) => args.run(global).await,
        }
    }
}
