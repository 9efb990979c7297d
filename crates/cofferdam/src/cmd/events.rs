//! `events`: what happened, and who did it.

use crate::cli::Global;
use crate::context;
use crate::output::{self, Format};

/// Show the newest audit events, newest last
#[derive(clap::Args)]
pub struct Args {
    /// How many
    #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
    number: usize,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let mut events = control.events(self.number).await?;
        events.reverse();
        match global.output {
            Format::Json => output::json(&events)?,
            Format::Table => {
                let rows = events.into_iter().map(|event| {
                    let detail = match &event.detail {
                        serde_json::Value::Null => String::new(),
                        detail => detail.to_string(),
                    };
                    [output::time(event.at), event.kind, event.actor, event.subject, detail]
                });
                output::table(["AT", "WHAT", "WHO", "ON", "DETAIL"], rows)?;
            }
        }
        Ok(0)
    }
}
