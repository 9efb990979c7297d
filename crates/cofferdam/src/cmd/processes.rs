//! `agent ps` and `top`: what runs inside an agent.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, resolve};
use model::token::Scope;

/// List what runs inside an agent
#[derive(clap::Args)]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let (_, workspace) = resolve::workspace(&control, &self.agent, &[Scope::Exec]).await?;
        let processes = workspace.processes().await?;
        match global.output {
            Format::Json => output::json(&processes)?,
            Format::Table => {
                let rows = processes.into_iter().map(|process| {
                    [
                        process.pid.to_string(),
                        process.ppid.to_string(),
                        process.uid.to_string(),
                        process.state,
                        format!("{:.2}s", process.cpu_ms as f64 / 1e3),
                        output::size(process.rss),
                        process.command,
                    ]
                });
                output::table(["PID", "PPID", "UID", "STATE", "CPU TIME", "MEMORY", "COMMAND"], rows)?;
            }
        }
        Ok(0)
    }
}
