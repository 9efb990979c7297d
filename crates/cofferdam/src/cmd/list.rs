//! `ls`: the agents there are.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, resolve};
use client::AgentFilter;
use model::{AgentState, Name};

/// List agents
#[derive(clap::Args)]
pub struct Args {
    /// Those with this label; may be repeated
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = resolve::label)]
    labels: Vec<(String, String)>,
    /// Those in this state
    #[arg(long, value_name = "STATE")]
    state: Option<AgentState>,
    /// Those that are destroyed too
    #[arg(short = 'a', long)]
    all: bool,
    /// Ids only
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut filter = AgentFilter { labels, state: self.state };
        let mut agents = control.agents(&filter).await?;
        // The API lists those that are destroyed only when asked for.
        if self.all && filter.state.is_none() {
            filter.state = Some(AgentState::Destroyed);
            agents.extend(control.agents(&filter).await?);
        }
        if self.quiet && global.output == Format::Table {
            for agent in &agents {
                output::line(agent.id)?;
            }
            return Ok(0);
        }
        match global.output {
            Format::Json if self.quiet => {
                output::json(&agents.iter().map(|agent| agent.id).collect::<Vec<_>>())?;
            }
            Format::Json => output::json(&agents)?,
            Format::Table => {
                let rows = agents.iter().map(|agent| {
                    [
                        agent.name.to_string(),
                        agent.state.to_string(),
                        agent.level.to_string(),
                        agent.image_name.as_ref().map_or("-".to_owned(), Name::to_string),
                        agent.claim.to_string(),
                        output::age(agent.created_at),
                    ]
                });
                output::table(["NAME", "STATE", "LEVEL", "IMAGE", "CLAIM", "AGE"], rows)?;
                output::warnings(&agents);
            }
        }
        Ok(0)
    }
}
