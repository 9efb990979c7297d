//! `timeline`: what an agent was, and for how long.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, resolve};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Show what an agent was, for how long, and what moved it there
#[derive(clap::Args)]
pub struct Args {
    /// Agent, by name or id; one that was destroyed by its id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// How many periods, the newest
    #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
    number: usize,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let mut periods = control.timeline(&self.agent, self.number).await?;
        periods.reverse();
        match global.output {
            Format::Json => output::json(&periods)?,
            Format::Table => {
                let now = OffsetDateTime::now_utc();
                let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
                let rows = periods.iter().map(|period| {
                    let seconds = (period.until.unwrap_or(now) - period.from).whole_seconds().max(0);
                    *sums.entry(period.state.as_str()).or_default() += seconds;
                    let text = |text: &Option<String>| text.clone().unwrap_or_default();
                    [
                        output::time(period.from),
                        period.state.to_string(),
                        output::span(seconds),
                        text(&period.actor),
                        text(&period.cause),
                    ]
                });
                let rows: Vec<_> = rows.collect();
                output::table(["FROM", "STATE", "FOR", "WHO", "WHY"], rows)?;
                let sums = sums.into_iter().filter(|(state, _)| *state != "destroyed");
                let sums: Vec<_> =
                    sums.map(|(state, seconds)| format!("{state} {}", output::span(seconds))).collect();
                output::line(sums.join(", "))?;
            }
        }
        Ok(0)
    }
}
