//! `attach`: come back to an exec that runs.

use crate::asking::Asker;
use crate::cli::Global;
use crate::failure::fail_with;
use crate::session::{self, Options, Signals};
use crate::{context, output, resolve};
use model::token::Scope;
use model::workspace::Exec;
use model::{Code, ExecId};
use std::io::IsTerminal;

/// Attach to an exec that runs
///
/// Without an exec, to the only one that runs. Output that was written since nobody was attached is shown, as
/// far as it was kept. ctrl-p ctrl-q leaves again.
#[derive(clap::Args)]
pub struct Args {
    /// Do not pass stdin on
    #[arg(long)]
    no_stdin: bool,
    /// Do not neutralise control characters in output to a terminal
    #[arg(long)]
    raw: bool,
    /// Do not ask here about hosts that the agent's policy holds
    #[arg(long)]
    no_ask: bool,
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// Exec, by id
    exec: Option<ExecId>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let (agent, workspace) = resolve::workspace(&control, &self.agent, &[Scope::Exec]).await?;
        let exec = match self.exec {
            Some(id) => workspace.exec_status(id).await?,
            None => only(workspace.execs().await?, agent.name.as_str())?,
        };
        let mut signals = Signals::listen()?;
        let asker = Asker::here(&control, &agent, self.no_ask).await;
        let attached = workspace.attach(exec.id).await?;
        // Only a terminal can answer a terminal; elsewhere its output is neutralised like any other.
        let tty = exec.tty && std::io::stdout().is_terminal();
        let options = Options { stdin: !self.no_stdin, tty, raw: self.raw };
        Ok(session::run(&workspace, exec.id, attached, options, asker, &mut signals).await?.exit_code())
    }
}

fn only(execs: Vec<Exec>, agent: &str) -> anyhow::Result<Exec> {
    let mut live: Vec<Exec> = execs.into_iter().filter(|exec| exec.exit.is_none()).collect();
    match live.len() {
        1 => Ok(live.remove(0)),
        0 => Err(fail_with(
            Code::NotFound,
            format!("No exec runs in {agent}."),
            format!(
                "`cofferdam exec -it {agent} COMMAND` starts one; `cofferdam logs {agent}` shows the main process"
            ),
        )),
        _ => {
            let list = live.iter().map(|exec| format!("{} ({})", exec.id, output::command(&exec.argv)));
            Err(fail_with(
                Code::Validation,
                format!("More than one exec runs in {agent}: {}.", list.collect::<Vec<_>>().join(", ")),
                format!("`cofferdam attach {agent} EXEC`"),
            ))
        }
    }
}
