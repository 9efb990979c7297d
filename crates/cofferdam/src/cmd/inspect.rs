//! `inspect`: what an agent's boundary should be, and what was last observed of it.

use super::show::{mark, name};
use crate::cli::Global;
use crate::output::{self, Format};
use crate::{context, resolve};
use model::api::AgentEvidence;

/// Show what is demanded of an agent's boundary, and what was last observed of each control
///
/// Its node looks when it starts and every minute from then on. Works from anywhere, also for an agent that has ended, by
/// its id. `verify`, on the agent's machine, looks now and tries to get out.
#[derive(clap::Args)]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let evidence = control.evidence(&self.agent).await?;
        match global.output {
            Format::Json => output::json(&evidence)?,
            Format::Table => print(&evidence)?,
        }
        Ok(0)
    }
}

fn print(evidence: &AgentEvidence) -> anyhow::Result<()> {
    let mut fields = vec![
        ("agent", format!("{} ({})", evidence.name, evidence.agent)),
        ("state", evidence.state.to_string()),
        ("level", evidence.level.to_string()),
        ("claim", evidence.claim.to_string()),
    ];
    if evidence.claim_then != evidence.claim {
        fields.push(("claim then", evidence.claim_then.to_string()));
    }
    match &evidence.observation {
        Some(seen) => fields.extend([
            ("observed", output::time(seen.at)),
            ("kernel", seen.kernel.clone()),
            ("node", format!("cofferdam {}", seen.version)),
            ("init", format!("sha256:{}", seen.init)),
        ]),
        None => fields.push(("observed", "never, or by a node of an earlier version".to_owned())),
    }
    output::fields(&fields)?;
    output::line("")?;
    let rows = evidence.controls.iter().map(|found| {
        let name =
            if found.mandatory { name(found.control) } else { format!("{} (if any)", name(found.control)) };
        [mark(found.state).to_owned(), name, found.expected.clone(), found.observed.clone()]
    });
    output::table(["", "CONTROL", "WHAT IS DEMANDED", "WHAT THE KERNEL SAID"], rows)
}
