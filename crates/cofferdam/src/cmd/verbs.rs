//! `pause`, `resume`, `stop`, `start`, `rm`: what is asked of agents by name.

use crate::cli::Global;
use crate::failure::{self, fail_with};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::{context, resolve};
use client::Control;
use model::api::Agent;
use model::{AgentState, Code, Verb};

/// What all of these take.
#[derive(clap::Args)]
pub struct Targets {
    /// Agents, by name or id
    #[arg(required = true, value_parser = resolve::reference)]
    agents: Vec<String>,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
}

/// Freeze agents: nothing in them runs, their memory stays
#[derive(clap::Args)]
pub struct Pause {
    #[command(flatten)]
    targets: Targets,
}

/// Thaw agents
#[derive(clap::Args)]
pub struct Resume {
    #[command(flatten)]
    targets: Targets,
}

/// End agents' processes; their volumes stay
#[derive(clap::Args)]
pub struct Stop {
    #[command(flatten)]
    targets: Targets,
}

/// Start agents again on their volumes
#[derive(clap::Args)]
pub struct Start {
    #[command(flatten)]
    targets: Targets,
}

/// Destroy agents with all that is in them
#[derive(clap::Args)]
pub struct Rm {
    #[command(flatten)]
    targets: Targets,
    /// An agent that is not there is no error
    #[arg(short = 'f', long)]
    force: bool,
}

impl Pause {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        all(self.targets, Verb::Pause, false, global).await
    }
}

impl Resume {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        all(self.targets, Verb::Resume, false, global).await
    }
}

impl Stop {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        all(self.targets, Verb::Stop, false, global).await
    }
}

impl Start {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        all(self.targets, Verb::Start, false, global).await
    }
}

impl Rm {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        all(self.targets, Verb::Destroy, self.force, global).await
    }
}

/// Asks it of each on its own: one that fails does not keep the others from it. The exit code is the first
/// failure's.
async fn all(targets: Targets, verb: Verb, missing_is_fine: bool, global: &Global) -> anyhow::Result<u8> {
    let control = context::control(global.context.as_ref())?;
    let mut first_failure = 0;
    let mut done = Vec::new();
    for reference in &targets.agents {
        match one(&control, reference, verb, !targets.no_wait).await {
            Ok(agent) => done.push(agent),
            Err(error) => {
                let (exit, problem) = failure::problem_of(&error);
                if missing_is_fine && problem.code == Code::NotFound {
                    continue;
                }
                failure::report(&error, global.output == Format::Json);
                if first_failure == 0 {
                    first_failure = exit;
                }
            }
        }
    }
    match global.output {
        Format::Json => output::json(&done)?,
        Format::Table => {
            for agent in &done {
                output::line(&agent.name)?;
            }
        }
    }
    Ok(first_failure)
}

async fn one(control: &Control, reference: &str, verb: Verb, wait: bool) -> anyhow::Result<Agent> {
    let (goal, doing) = match verb {
        Verb::Pause => (AgentState::Paused, "pausing"),
        Verb::Resume => (AgentState::Running, "resuming"),
        Verb::Stop => (AgentState::Stopped, "stopping"),
        Verb::Start => (AgentState::Running, "starting"),
        Verb::Destroy => (AgentState::Destroyed, "removing"),
    };
    let progress = Progress::brief(&format!("{doing} {reference}"));
    let agent = control.verb(reference, verb).await?;
    if !wait || agent.state == goal && !matches!(verb, Verb::Pause | Verb::Resume) {
        return Ok(agent);
    }
    let settled =
        match control.wait_agent(&agent.id.to_string(), goal.as_str(), resolve::SETTLE_SECONDS).await {
            Ok(settled) => settled,
            Err(error) if verb == Verb::Destroy && error.is_not_found() => agent,
            Err(error) => return Err(error.into()),
        };
    progress.done();
    if settled.state == goal || verb == Verb::Destroy {
        return Ok(settled);
    }
    let name = &settled.name;
    let remedy = match settled.state {
        AgentState::Stopped => format!("`cofferdam logs {name}` shows what it wrote"),
        _ => format!("`cofferdam show {name}` says how it is"),
    };
    let why = resolve::because(&settled);
    Err(fail_with(Code::WrongState, format!("Agent {name} is {}{why}, not {goal}.", settled.state), remedy))
}
