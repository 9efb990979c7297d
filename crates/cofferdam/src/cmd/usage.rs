//! `usage`: what the account's agents used.

use crate::cli::Global;
use crate::context;
use crate::output::{self, Format};
use model::usage_api::{Day, UsageBy, Used};

/// Show what the account's agents used, also those that are destroyed
#[derive(clap::Args)]
pub struct Args {
    /// The first day (UTC), such as 2026-11-01; the first of the month unless told
    #[arg(long, value_name = "DAY")]
    from: Option<Day>,
    /// The first day that is not in it any more; tomorrow unless told
    #[arg(long, value_name = "DAY")]
    to: Option<Day>,
    /// What it is told by: day, agent, level or node
    #[arg(long, default_value = "day", value_name = "WHAT")]
    by: UsageBy,
}

/// Seconds as hours, to the hundredth.
fn hours(seconds: u64) -> String {
    let hundredths = seconds / 36;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn row(key: String, name: String, used: &Used) -> [String; 7] {
    [
        key,
        name,
        hours(used.running_seconds),
        hours(used.paused_seconds),
        hours(used.cpu_core_seconds),
        hours(used.memory_gib_seconds),
        hours(used.disk_gib_seconds),
    ]
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let told = control.usage(self.from, self.to, self.by).await?;
        match global.output {
            Format::Json => output::json(&told)?,
            Format::Table => {
                let mut rows: Vec<_> = told
                    .items
                    .iter()
                    .map(|item| {
                        let key = if item.open { format!("{} …", item.key) } else { item.key.clone() };
                        row(key, item.name.clone().unwrap_or_default(), &item.used)
                    })
                    .collect();
                rows.push(row("total".to_owned(), String::new(), &told.total));
                let first = match told.by {
                    UsageBy::Day => "DAY",
                    UsageBy::Agent => "AGENT",
                    UsageBy::Level => "LEVEL",
                    UsageBy::Node => "NODE",
                };
                output::table([first, "NAME", "RUNNING", "PAUSED", "CORES", "MEMORY", "DISK"], rows)?;
                output::line(format!(
                    "From {} to before {} (UTC). RUNNING and PAUSED in hours, CORES in core hours, MEMORY and DISK in GiB hours; … may still grow.",
                    told.from, told.to
                ))?;
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::hours;

    #[test]
    fn hours_have_two_digits() {
        assert_eq!([0, 35, 36, 3600, 5400].map(hours), ["0.00", "0.00", "0.01", "1.00", "1.50"]);
    }
}
