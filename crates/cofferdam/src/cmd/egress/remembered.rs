//! `egress remembered`: what was decided for good.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, policies};
use model::RememberedId;

/// List hosts that were allowed always: agents that are made from now on and whose policy asks may reach them
#[derive(clap::Args)]
pub struct Args {
    /// Forget this one, by id: new agents have to ask again; policies that have the rule keep it
    #[arg(long, value_name = "ID")]
    forget: Option<RememberedId>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        if let Some(id) = self.forget {
            control.forget_remembered(id).await?;
            if global.output == Format::Table {
                output::line(format_args!("{id} is forgotten; policies that have the rule keep it"))?;
            }
            return Ok(0);
        }
        let remembered = control.remembered().await?;
        match global.output {
            Format::Json => output::json(&remembered)?,
            Format::Table => {
                let rows = remembered.into_iter().map(|host| {
                    let to = policies::with_port(&host.host, Some(host.port));
                    [host.id.to_string(), to, output::time(host.at), host.actor]
                });
                output::table(["ID", "HOST:PORT", "SINCE", "BY"], rows)?;
            }
        }
        Ok(0)
    }
}
