//! `egress log`: what left agents, and what did not.

use crate::cli::Global;
use crate::output::{self, Columns, Format};
use crate::{context, policies, resolve};
use client::{AgentFilter, Control, EgressFilter};
use model::AgentId;
use model::egress::{Connection, LogEntry, Outcome};
use std::collections::BTreeMap;

/// How long control waits for the next record in one call, in seconds.
const WAIT: u64 = 50;

/// Show connections that left agents, and attempts that were refused, newest last
///
/// A connection is in the log once it is over; equal attempts that were refused within seconds are one record. Never anything of
/// content. What a gate says is believed: see `docs/threat-model.md`.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  cofferdam egress log worker
  cofferdam egress log -f --denied
  cofferdam egress log worker -n 1000 -o json")]
pub struct Args {
    /// How many
    #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
    number: usize,
    /// Go on with what is over from now on; as JSON, a document a line
    #[arg(short = 'f', long)]
    follow: bool,
    /// What was refused, only
    #[arg(long)]
    denied: bool,
    /// Agent, by name or id; one that is gone by its id. Without it, all
    #[arg(value_parser = resolve::reference)]
    agent: Option<String>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let outcome = self.denied.then_some(Outcome::Denied);
        let filter = EgressFilter { agent: self.agent, outcome };
        // To follow, one has to be known even where none is to be shown.
        let wanted = if self.follow { self.number.max(1) } else { self.number };
        let mut entries = control.egress_log(&filter, wanted).await?;
        let mut last = entries.first().map_or(0, |entry| entry.id);
        entries.truncate(self.number);
        entries.reverse();
        if !self.follow && global.output == Format::Json {
            output::json(&entries)?;
            return Ok(0);
        }
        let mut printer = Printer::new(&control, global.output).await?;
        printer.print(&entries).await?;
        if !self.follow {
            return Ok(0);
        }
        loop {
            let more = control.egress_log_after(&filter, last, WAIT).await?;
            last = more.last().map_or(last, |entry| entry.id);
            printer.print(&more).await?;
        }
    }
}

const HEADINGS: [&str; 9] =
    ["AT", "AGENT", "HOST:PORT", "PROTOCOL", "OUTCOME", "BY", "SENT", "RECEIVED", "DURATION"];

/// Prints records as they come.
struct Printer<'a> {
    control: &'a Control,
    format: Format,
    columns: Columns<9>,
    /// Of agents that are there.
    names: BTreeMap<AgentId, String>,
}

impl<'a> Printer<'a> {
    async fn new(control: &'a Control, format: Format) -> anyhow::Result<Self> {
        let agents = match format {
            Format::Table => control.agents(&AgentFilter::default()).await?,
            Format::Json => Vec::new(),
        };
        let names = agents.into_iter().map(|agent| (agent.id, agent.name.to_string())).collect();
        Ok(Self { control, format, columns: Columns::new(HEADINGS), names })
    }

    async fn print(&mut self, entries: &[LogEntry]) -> anyhow::Result<()> {
        if self.format == Format::Json {
            return entries.iter().try_for_each(output::json_line);
        }
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            rows.push(row(self.name(entry.agent).await, &entry.connection));
        }
        self.columns.print(rows)
    }

    /// The agent's name; its id where it has none any more.
    async fn name(&mut self, agent: AgentId) -> String {
        if let Some(name) = self.names.get(&agent) {
            return name.clone();
        }
        let id = agent.to_string();
        let name = self.control.agent(&id).await.map_or(id, |agent| agent.name.to_string());
        self.names.insert(agent, name.clone());
        name
    }
}

fn row(agent: String, connection: &Connection) -> [String; 9] {
    let outcome = match (&connection.end, connection.count) {
        (Some(end), _) if connection.outcome == Outcome::Failed => format!("failed ({end})"),
        (_, count @ 2..) => format!("{} ({count} times)", connection.outcome),
        _ => connection.outcome.to_string(),
    };
    let secrets: Vec<&str> = connection.credentials.iter().map(|secret| secret.as_str()).collect();
    let by = match secrets.is_empty() {
        true => connection.by.clone(),
        false => format!("{}, with {}", connection.by, secrets.join(", ")),
    };
    let (sent, received, duration) = match connection.outcome {
        Outcome::Passed => (
            output::size(connection.sent),
            output::size(connection.received),
            output::duration(connection.duration_ms),
        ),
        Outcome::Denied | Outcome::Failed => Default::default(),
    };
    [
        output::time(connection.at),
        agent,
        policies::with_port(&connection.host, connection.port),
        connection.protocol.map(|protocol| protocol.to_string()).unwrap_or_default(),
        outcome,
        by,
        sent,
        received,
        duration,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::Protocol;
    use time::OffsetDateTime;

    #[test]
    fn rows_say_what_was_and_nothing_that_was_not() {
        let passed = Connection {
            credentials: Vec::new(),
            at: OffsetDateTime::UNIX_EPOCH,
            host: "2001:db8::1".to_owned(),
            port: Some(443),
            address: None,
            protocol: Some(Protocol::Tls),
            outcome: Outcome::Passed,
            by: "rule 3".to_owned(),
            sent: 2048,
            received: 10,
            duration_ms: 1500,
            end: Some("closed".to_owned()),
            count: 1,
        };
        let check = |connection: &Connection, expected: &str| {
            assert_eq!(row("worker".to_owned(), connection).join("|"), expected);
        };
        check(&passed, "1970-01-01 00:00:00Z|worker|[2001:db8::1]:443|tls|passed|rule 3|2.0 KiB|10 B|1.5s");
        let denied = Connection {
            host: "a.example".to_owned(),
            port: None,
            protocol: None,
            outcome: Outcome::Denied,
            count: 7,
            end: None,
            ..passed.clone()
        };
        check(&denied, "1970-01-01 00:00:00Z|worker|a.example||denied (7 times)|rule 3|||");
        let failed = Connection { outcome: Outcome::Failed, ..passed };
        check(&failed, "1970-01-01 00:00:00Z|worker|[2001:db8::1]:443|tls|failed (closed)|rule 3|||");
    }
}
