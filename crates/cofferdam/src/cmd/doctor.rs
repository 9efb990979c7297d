//! `doctor`: what this machine can enforce, and what helps where it cannot.

use super::service;
use crate::cli::Global;
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::up::setup;
use crate::{context, failure};
use sandbox::doctor::{Check, Need, certificates, checks, passes};
use serde::Serialize;

/// Say what this machine can enforce, level by level, with the remedy for each gap
///
/// Everything is tried, not looked up. Leaves with 1 when boundaries of level 2 cannot be made.
#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Report {
    control_url: String,
    levels: Vec<Level>,
    checks: Vec<Check>,
    advice: &'static str,
}

/// What no check can see.
const ADVICE: &str = "High-risk profile: an unrestricted agent (`create --unrestricted`) belongs on a machine that holds nothing \
                      else, with secrets that can be lost.";

#[derive(Serialize)]
struct Level {
    level: u8,
    name: &'static str,
    available: bool,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let paths = Paths::from_env()?;
        let control_url = match context::choose(global.context.as_ref()) {
            Ok(context) if context.url != setup::local_url(&paths) => context.url,
            _ => setup::control_url(&paths)?,
        };
        let progress = Progress::brief("trying what this machine can do");
        let node = service::node_config(&paths)?;
        let config = service::sandbox_config(&node)?;
        let mut checks = tokio::task::spawn_blocking(move || checks(&config)).await?;
        checks.push(certificates(&node.egress.roots));
        progress.done();
        let available = passes(&checks, 2);
        let level = |level: model::agent::Level| {
            let (number, name) = (level.number(), level.as_str());
            Level { level: number, name, available: passes(&checks, number) }
        };
        let levels = model::agent::Level::ALL.map(level).into();
        let report = Report { control_url, levels, checks, advice: ADVICE };
        match global.output {
            Format::Json => output::json(&report)?,
            Format::Table => print(&report)?,
        }
        Ok(if available { 0 } else { failure::FAILURE })
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    let rows = report.checks.iter().map(|check| {
        let mark = match (check.ok, check.need) {
            (true, _) => "✓",
            (false, Need::Required) => "✗",
            (false, Need::Optional) => "–",
        };
        [mark.to_owned(), check.level.to_string(), check.control.clone(), check.detail.clone()]
    });
    output::table(["", "LEVEL", "CONTROL", "WHAT WAS SEEN"], rows)?;
    let mut remedies: Vec<String> = report
        .checks
        .iter()
        .filter(|check| !check.ok)
        .filter_map(|check| Some(format!("  {}: {}", check.control, check.remedy.as_deref()?)))
        .collect();
    remedies.dedup();
    if !remedies.is_empty() {
        output::line("\nWhat helps:")?;
        for remedy in remedies {
            output::line(crate::clean::text(&remedy))?;
        }
    }
    output::line("")?;
    for level in &report.levels {
        let can = if level.available { "can be made here" } else { "cannot be made here" };
        output::line(format_args!("Level {} ({}) {can}.", level.level, level.name))?;
    }
    output::line(format_args!("\n{}", report.advice))
}
