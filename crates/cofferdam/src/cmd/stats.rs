//! `stats`: what agents use.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, resolve};
use client::AgentFilter;
use model::AgentState;
use model::api::Agent;
use model::token::Scope;
use model::workspace::Stats;
use serde::Serialize;

/// Show what agents use, read from their cgroups
#[derive(clap::Args)]
pub struct Args {
    /// Agents, by name or id; all that run when absent
    #[arg(value_parser = resolve::reference)]
    agents: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    #[serde(flatten)]
    stats: Stats,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let agents: Vec<Agent> = if self.agents.is_empty() {
            let filter = AgentFilter { labels: Vec::new(), state: Some(AgentState::Running) };
            control.agents(&filter).await?
        } else {
            let mut agents = Vec::new();
            for reference in &self.agents {
                agents.push(control.agent(reference).await?);
            }
            agents
        };
        let mut rows = Vec::new();
        for agent in agents {
            let workspace = resolve::workspace_of(&control, &agent, &[Scope::Exec]).await?;
            let stats = workspace.stats().await?;
            rows.push(Row { id: agent.id.to_string(), name: agent.name.to_string(), stats });
        }
        match global.output {
            Format::Json => output::json(&rows)?,
            Format::Table => {
                let of = |used: u64, limit: u64| format!("{} / {}", output::size(used), output::size(limit));
                let rows = rows.into_iter().map(|Row { name, stats, .. }| {
                    [
                        name,
                        format!("{:.2}s", stats.cpu_usec as f64 / 1e6),
                        of(stats.memory, stats.memory_limit),
                        format!("{} / {}", stats.pids, stats.pids_limit),
                        of(stats.disk, stats.disk_limit),
                    ]
                });
                output::table(["NAME", "CPU TIME", "MEMORY", "PROCESSES", "DISK"], rows)?;
            }
        }
        Ok(0)
    }
}
