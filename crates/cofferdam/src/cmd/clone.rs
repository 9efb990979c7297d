//! `agent clone`: another agent with the disk of one that is there.

use super::image;
use crate::cli::Global;
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::{context, resolve};
use model::clone::CloneAgent;
use model::{AgentState, Code, Name};

/// Make a copy of an agent
///
/// The copy has the disk of its source, and all that the source was made with; it is on the same node, and starts. A source that runs
/// stands still while its disk is copied. Tokens, the log, and the scratch layer with the machine id are not copied. With --image it has
/// that image: that is how an agent gets to newer content, for its own image stays the same for life.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam agent clone worker worker-2
  cofferdam agent clone worker worker-new --image debian --diff
  cofferdam agent clone worker worker-new --image debian")]
pub struct Args {
    /// Agent to copy, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// Name of the copy
    name: Name,
    /// Image of the copy, by name or id; the one that the agent has without
    #[arg(long, value_parser = resolve::reference)]
    image: Option<String>,
    /// Show what the image has installed other than the agent's, and make nothing
    #[arg(long, requires = "image")]
    diff: bool,
    /// Do not wait until it runs
    #[arg(long)]
    no_wait: bool,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let Self { agent, name, image, diff, no_wait } = self;
        let control = context::control(global.context.as_ref())?;
        if let (true, Some(image)) = (diff, &image) {
            let own = control.agent(&agent).await?.image;
            let none =
                || fail(Code::Validation, "This agent has no image: it sees the machine's own system.");
            let own = own.ok_or_else(none)?.to_string();
            image::differences(&control.diff_images(&own, image).await?, global)?;
            return Ok(0);
        }
        let progress = Progress::brief(&format!("cloning {agent}"));
        let mut clone = control.clone_agent(&agent, &CloneAgent { name, image }).await?;
        if !no_wait {
            clone = control.wait_agent(&clone.id.to_string(), "running", resolve::SETTLE_SECONDS).await?;
        }
        progress.done();
        if !no_wait && clone.state != AgentState::Running {
            let (name, why) = (&clone.name, resolve::because(&clone));
            let detail = format!("Agent {name} is {}{why}, not running.", clone.state);
            return Err(fail_with(
                Code::WrongState,
                detail,
                format!("`cofferdam show {name}` says how it is"),
            ));
        }
        match global.output {
            Format::Json => output::json(&clone)?,
            Format::Table => output::line(&clone.name)?,
        }
        Ok(0)
    }
}
