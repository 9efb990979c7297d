//! `verify`: one agent's boundary, read from the kernel and probed now.

use crate::cli::Global;
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::{context, resolve};
use anyhow::Context as _;
use client::AgentFilter;
use model::api::Agent;
use model::evidence::{Claim, State};
use model::probe::{Outcome, Tried, attempt};
use model::{AgentState, Code};
use node::{Signed, Verification};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Prove an agent's boundary: read it from the kernel now, and try to get out of it
///
/// Some four hundred attempts are made inside, as the agent's user and as its root, by a process that the agent can
/// neither forge nor stop unnoticed. None of them does any harm. `-o json` lists each with where it is known from and
/// what its failure proves, and holds all that was found once more in a form that the node signed. Runs on the agent's machine, as root. The exit code is 0 when every control was seen, and all
/// that could be tried was stopped.
#[derive(clap::Args)]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference, required_unless_present = "all")]
    agent: Option<String>,
    /// All agents that run
    #[arg(long, conflicts_with = "agent")]
    all: bool,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let agents = match &self.agent {
            Some(agent) => vec![control.agent(agent).await?],
            None => {
                let running = AgentFilter { labels: Vec::new(), state: Some(AgentState::Running) };
                control.agents(&running).await?
            }
        };
        let (mut reports, mut proved) = (Vec::new(), true);
        for agent in &agents {
            let answer = ask(&serde_json::json!({"op": "verify", "agent": agent.id})).await?;
            proved &= shown(&answer.found);
            match global.output {
                Format::Json => reports.push(report(&answer)?),
                Format::Table => print(agent, &answer.found)?,
            }
        }
        match global.output {
            Format::Json if self.all => output::json(&reports)?,
            Format::Json => reports.iter().try_for_each(output::json)?,
            Format::Table => {}
        }
        Ok(u8::from(!proved))
    }
}

/// Whether all that the claim says is shown.
fn shown(found: &Verification) -> bool {
    let missing = found.evidence.iter().any(|evidence| evidence.state == State::Missing);
    let open = found.attempts.iter().any(|tried| matches!(tried.outcome, Outcome::Broken | Outcome::Unclear));
    found.claim != Claim::None && found.not_probed.is_none() && !missing && !open
}

async fn ask(question: &serde_json::Value) -> anyhow::Result<Signed> {
    let socket = Paths::from_env()?.node_socket();
    let mut stream = UnixStream::connect(&socket).await.map_err(|error| {
        fail_with(
            Code::Unavailable,
            format!("The node cannot be asked at {} ({error}).", socket.display()),
            "run this on the agent's machine, as root",
        )
    })?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("the node did not answer")?;
    let answer: serde_json::Value =
        serde_json::from_slice(&answer).context("the node ended before it answered")?;
    match answer.get("error").and_then(|error| error.as_str()) {
        Some(error) => Err(fail(Code::WrongState, format!("The node could not verify it: {error}."))),
        None => serde_json::from_value(answer).context("the node is of another version"),
    }
}

/// The whole of it, with what there is to say of each attempt.
fn report(found: &Signed) -> anyhow::Result<serde_json::Value> {
    let mut report = serde_json::to_value(found)?;
    let explained = found.found.attempts.iter().map(|tried| {
        let mut entry = serde_json::to_value(tried)?;
        if let Some(known) = attempt(&tried.id) {
            entry["control"] = serde_json::to_value(known.control)?;
            entry["tries"] = known.tries.into();
            entry["source"] = known.source.into();
            entry["proves"] = known.proves.into();
        }
        Ok(entry)
    });
    report["attempts"] = explained.collect::<anyhow::Result<Vec<_>>>()?.into();
    Ok(report)
}

fn print(agent: &Agent, found: &Verification) -> anyhow::Result<()> {
    let count = |outcome| found.attempts.iter().filter(|tried| tried.outcome == outcome).count();
    let attempts = match &found.not_probed {
        Some(why) => format!("none: {why}"),
        None => format!("{}, of which {} were stopped", found.attempts.len(), count(Outcome::Held)),
    };
    output::fields(&[
        ("agent", format!("{} ({})", agent.name, agent.id)),
        ("level", found.level.to_string()),
        ("claim", found.claim.to_string()),
        ("at", output::time(found.at)),
        ("kernel", found.kernel.clone()),
        ("attempts", attempts),
    ])?;
    output::line("")?;
    super::show::evidence(&found.evidence)?;
    let not_held: Vec<&Tried> =
        found.attempts.iter().filter(|tried| tried.outcome != Outcome::Held).collect();
    if not_held.is_empty() {
        return Ok(());
    }
    output::line("\nAttempts that were not stopped, or could not be made:")?;
    let rows = not_held.into_iter().map(|tried| {
        let what = attempt(&tried.id).map_or(tried.id.as_str(), |known| known.tries);
        let outcome = match tried.outcome {
            Outcome::Broken => "✗ got through",
            Outcome::Unclear => "? unclear",
            Outcome::Unsupported | Outcome::Held => "- not here",
        };
        let user = if tried.user == model::probe::ProbeUser::Root { "root" } else { "agent" };
        [outcome.to_owned(), tried.id.clone(), user.to_owned(), format!("{what}: {}", tried.detail)]
    });
    output::table(["", "ATTEMPT", "AS", "WHAT HAPPENED"], rows)
}
