//! `agent …`, and the short forms of the same at the top level.

use super::{attach, clone, cp, create, exec, forward, list, logs, processes, show, stats, transfer, verbs};
use crate::cli::Global;
use clap::Subcommand;

/// What `agent` has.
#[derive(Subcommand)]
pub enum Command {
    Ls(list::Args),
    #[command(visible_alias = "top")]
    Ps(processes::Args),
    Transfer(transfer::Args),
    Clone(clone::Args),
    #[command(flatten)]
    Common(Common),
}

/// What `agent` and the top level share.
#[derive(Subcommand)]
pub enum Common {
    Create(Box<create::Args>),
    Show(show::Args),
    Exec(exec::Args),
    Shell(exec::ShellArgs),
    Attach(attach::Args),
    Logs(logs::Args),
    Cp(cp::Args),
    Forward(forward::Args),
    Stats(stats::Args),
    Pause(verbs::Pause),
    Resume(verbs::Resume),
    Stop(verbs::Stop),
    Start(verbs::Start),
    Rm(verbs::Rm),
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Ls(args) => args.run(global).await,
            Self::Ps(args) => args.run(global).await,
            Self::Transfer(args) => args.run(global).await,
            Self::Clone(args) => args.run(global).await,
            Self::Common(command) => command.run(global).await,
        }
    }
}

impl Common {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Create(args) => args.run(global).await,
            Self::Show(args) => args.run(global).await,
            Self::Exec(args) => args.run(global).await,
            Self::Shell(args) => args.run(global).await,
            Self::Attach(args) => args.run(global).await,
            Self::Logs(args) => args.run(global).await,
            Self::Cp(args) => args.run(global).await,
            Self::Forward(args) => args.run(global).await,
            Self::Stats(args) => args.run(global).await,
            Self::Pause(args) => args.run(global).await,
            Self::Resume(args) => args.run(global).await,
            Self::Stop(args) => args.run(global).await,
            Self::Start(args) => args.run(global).await,
            Self::Rm(args) => args.run(global).await,
        }
    }
}
