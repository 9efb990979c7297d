//! `logs`: what the main process wrote.

use crate::cli::Global;
use crate::session::{Options, Sink, neutralises};
use crate::{context, resolve};
use client::LogOptions;
use model::ByteSize;
use model::token::Scope;
use std::io::IsTerminal;

/// Show what an agent's main process wrote
///
/// The newest part is kept, in a bounded amount: of an agent that has ended, the last 1 MiB is shown. Output to a terminal
/// is neutralised as with `exec`.
#[derive(clap::Args)]
pub struct Args {
    /// Go on with what is written from now on
    #[arg(short = 'f', long)]
    follow: bool,
    /// Start at most this far from the end (64KiB)
    #[arg(long, value_name = "SIZE")]
    tail: Option<ByteSize>,
    /// Do not neutralise control characters in output to a terminal
    #[arg(long)]
    raw: bool,
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let (_, workspace) = resolve::workspace(&control, &self.agent, &[Scope::Logs]).await?;
        let options = LogOptions { follow: self.follow, tail: self.tail.map(|size| size.0) };
        let mut logs = workspace.logs(options).await?;
        let options = Options { stdin: false, tty: false, raw: self.raw };
        let neutralise = neutralises(std::io::stdout().is_terminal(), options);
        let mut stdout = Sink::new(std::io::stdout(), neutralise);
        while let Some(piece) = logs.next().await? {
            stdout.write(&piece).await?;
        }
        stdout.finish().await?;
        Ok(0)
    }
}
