//! `show`: one agent, and what was observed of its boundary.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, policies, resolve};
use model::agent::{Level, RunAs};
use model::api::Agent;
use model::evidence::{Control, Evidence, State};

/// Show an agent, and what was observed of its boundary
///
/// Each control is listed with what the kernel said of it. The claim is what this evidence allows to be said,
/// whatever was configured.
#[derive(clap::Args)]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let agent = control.agent(&self.agent).await?;
        match global.output {
            Format::Json => output::json(&agent)?,
            Format::Table => print(&agent)?,
        }
        Ok(0)
    }
}

fn print(agent: &Agent) -> anyhow::Result<()> {
    let resources = agent.resources;
    let mut fields = vec![
        ("name", agent.name.to_string()),
        ("id", agent.id.to_string()),
        (
            "state",
            format!("{}{}, for {}", agent.state, resolve::because(agent), output::age(agent.state_since)),
        ),
        ("level", format!("{} ({})", agent.level.number(), agent.level)),
        ("driver", agent.driver.map_or("the node's choice".to_owned(), |driver| driver.to_string())),
        (
            "image",
            match (&agent.image_name, &agent.image_digest) {
                (Some(name), Some(digest)) => format!("{name} (sha256:{digest})"),
                _ => "none: it sees the machine's own system".to_owned(),
            },
        ),
        (
            "limits",
            format!(
                "{} cpus, {} memory, {} disk, {} processes",
                resources.cpus, resources.memory, resources.disk, resources.pids
            ),
        ),
        (
            "runs as",
            match agent.run_as {
                RunAs::Agent if agent.level == Level::Workspace => {
                    "an OS user that the account's workspaces share".to_owned()
                }
                RunAs::Agent if agent.level == Level::Process => "an OS user of its own".to_owned(),
                RunAs::Agent => match agent.image_config.user.as_ref().filter(|user| user.uid != 0) {
                    Some(user) => format!(
                        "{} ({}:{})",
                        user.name.as_deref().unwrap_or("the image's user"),
                        user.uid,
                        user.gid
                    ),
                    None => "agent (1000)".to_owned(),
                },
                RunAs::Root => "root of its user namespace; nobody outside".to_owned(),
            },
        ),
        ("policy", policies::line(agent)),
        ("created", output::time(agent.created_at)),
    ];
    if let Some(main) = &agent.main {
        fields.push(("main", output::command(&main.argv)));
    }
    if !agent.labels.is_empty() {
        let labels: Vec<String> = agent.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        fields.push(("labels", labels.join(" ")));
    }
    if let Some(upgrade) = &agent.upgrade {
        fields.push((
            "upgrade",
            format!("{}: `{}`, with --diff to see what differs", upgrade.note, upgrade.command),
        ));
    }
    if let Some(origin) = &agent.origin {
        fields.push(("cloned from", origin.agent.to_string()));
    }
    if let Some(ttl) = agent.ttl {
        fields.push(("destroyed", format!("{ttl} after its creation")));
    }
    if let Some(idle) = agent.idle_timeout {
        fields.push(("stopped", format!("after {idle} without use")));
    }
    fields.push(("claim", agent.claim.to_string()));
    output::fields(&fields)?;
    output::warnings([agent]);
    if agent.evidence.is_empty() {
        return output::line("\nNothing is observed of its boundary now.");
    }
    output::line("\nWhat was observed of its boundary:")?;
    evidence(&agent.evidence)
}

/// Each control, and what is known of it.
pub fn evidence(evidence: &[Evidence]) -> anyhow::Result<()> {
    let rows = evidence
        .iter()
        .map(|evidence| [mark(evidence.state).to_owned(), name(evidence.control), evidence.detail.clone()]);
    output::table(["", "CONTROL", "WHAT THE KERNEL SAYS"], rows)
}

/// A control in words.
pub fn name(control: Control) -> String {
    let name = serde_json::to_value(control).ok();
    name.as_ref().and_then(|name| name.as_str()).unwrap_or("?").replace('_', " ")
}

/// What is known of a control, at a glance.
pub fn mark(state: State) -> &'static str {
    match state {
        State::Probed => "✓ probed",
        State::Observed => "✓",
        State::Unsupported => "- not here",
        State::Missing => "✗ missing",
    }
}
