//! `exec` and `shell`: run a command in an agent.

use crate::asking::Asker;
use crate::cli::Global;
use crate::failure::{self, Failure, fail_with};
use crate::output::{self, Format};
use crate::session::{self, End, Options, Signals};
use crate::{context, resolve, terminal};
use client::{Control, Workspace};
use model::agent::RunAs;
use model::api::Agent;
use model::token::Scope;
use model::workspace::CreateExec;
use model::{AgentState, Code, ExitReason};
use std::io::IsTerminal;
use time::OffsetDateTime;

const SIGKILL: i32 = 9;

/// The flags of an exec that people know.
#[derive(clap::Args, Clone, Copy)]
pub struct Streams {
    /// Pass stdin on
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Do not neutralise control characters in output to a terminal
    #[arg(long)]
    pub raw: bool,
    /// Do not ask here about hosts that the agent's policy holds
    #[arg(long)]
    pub no_ask: bool,
}

impl Streams {
    /// Refuses a terminal where there is none to pass on, with what to type in its place.
    pub fn check(self, instead: &str) -> anyhow::Result<()> {
        if self.tty && !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Err(fail_with(Code::Validation, "There is no terminal here to pass on.", instead));
        }
        Ok(())
    }

    fn options(self) -> Options {
        Options { stdin: self.interactive, tty: self.tty, raw: self.raw }
    }

    /// Completes the request of an exec.
    pub fn request(self, argv: Vec<String>, env: Vec<(String, String)>) -> CreateExec {
        let mut env = resolve::map(env);
        if self.tty {
            // Only the terminal's type goes in; the rest of the person's environment is none of its business.
            let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
            env.entry("TERM".to_owned()).or_insert(term);
        }
        CreateExec {
            argv,
            env,
            cwd: None,
            user: None,
            tty: self.tty.then(terminal::size).flatten(),
            stdin: self.interactive,
            timeout_ms: None,
            output_limit: None,
        }
    }
}

/// Starts the exec and stays with it to its end.
pub async fn attached(
    workspace: &Workspace,
    create: &CreateExec,
    streams: Streams,
    asker: Option<Asker>,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    let (exec, attached) = workspace.exec_attached(create).await?;
    session::run(workspace, exec.id, attached, streams.options(), asker, signals).await
}

/// What to type where there is no terminal.
pub const WITHOUT_TERMINAL: &str = "leave out -t; -i alone passes stdin on";

/// Says what ended a command that did not end by itself, where the platform knows: beside its exit code, or in place of a
/// connection that was lost over it. `memory` is how to have more of it.
pub async fn explain(
    control: &Control,
    agent: &Agent,
    workspace: &Workspace,
    ended: anyhow::Result<End>,
    memory: &str,
) -> anyhow::Result<End> {
    let code = match &ended {
        Ok(End::Exited(exit)) if exit.cause.is_none() && exit.code > 128 => Some(exit.code),
        Ok(_) => return ended,
        Err(_) => None,
    };
    let limit = agent.resources.memory;
    let why = if code == Some(128 + SIGKILL) && workspace.stats().await.is_ok_and(|stats| stats.oom_kills > 0)
    {
        Some((format!("the kernel ended it for want of memory: the agent may have {limit}"), memory))
    } else {
        let now = control.agent(&agent.id.to_string()).await.ok();
        let over = agent.ttl.filter(|ttl| OffsetDateTime::now_utc() - agent.created_at >= ttl.duration());
        now.and_then(|now| match (now.state, over) {
            _ if now.reason == Some(ExitReason::OutOfMemory) => {
                Some((format!("the agent ran out of memory: it may have {limit}"), memory))
            }
            (AgentState::Destroying | AgentState::Destroyed, Some(ttl)) => {
                let why = format!("the agent's time to live ({ttl}) was over, and it was destroyed");
                Some((why, "--ttl gives it more"))
            }
            _ => None,
        })
    };
    match (ended, why) {
        (Err(_), Some((why, more))) => {
            Err(fail_with(Code::Timeout, format!("{}.", failure::sentence(&why)), more))
        }
        (ended, Some((why, more))) => {
            eprintln!("cofferdam: {why}; {more}");
            ended
        }
        (ended, None) => ended,
    }
}

/// The exit codes that shells use, in place of those of other commands.
pub fn as_shell(error: anyhow::Error) -> anyhow::Error {
    let (_, problem) = failure::problem_of(&error);
    // The reader of stdout left: that is said by its own code.
    if error.downcast_ref::<std::io::Error>().is_some() {
        return error;
    }
    let exit = match (problem.field.as_deref(), problem.code) {
        (Some("argv"), Code::NotFound) => failure::NO_COMMAND,
        (Some("argv"), Code::Forbidden) => failure::NOT_EXECUTABLE,
        _ => failure::PLATFORM,
    };
    Failure { exit, problem }.into()
}

const AFTER: &str = "\
The exit code is the command's own; 125, 126 and 127 are as shells have them (see `cofferdam --help`).

Output that goes to a terminal without -t has its control characters neutralised (all but newline, carriage \
return and tab), so that nothing inside can drive your terminal; --raw turns that off. Output that goes to a \
file or a pipe is left as it is. Ctrl-C is passed on; a second one within two seconds kills the command. With \
-it, ctrl-p ctrl-q leaves the command running; `cofferdam attach` comes back to it.

A host that the agent's policy does not name, and holds, is asked about here when stdin and stderr are a terminal. While a question is open the keyboard belongs to it, and the agent's output waits; Ctrl-C denies. --no-ask turns that off.

Examples:
  cofferdam exec worker -- ls -l
  cofferdam exec -it worker bash
  echo 'print(1)' | cofferdam exec -i worker python3
  cofferdam exec -u root -w /tmp -e A=1 worker -- env";

/// Run a command in an agent
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    streams: Streams,
    /// Leave it running, and print its id
    #[arg(short = 'd', long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Environment; KEY alone takes the value from here; may be repeated
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = resolve::env_setting)]
    env: Vec<(String, String)>,
    /// Working directory
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    workdir: Option<String>,
    /// User inside: agent or root
    #[arg(short = 'u', long, value_parser = resolve::user, value_name = "USER")]
    user: Option<RunAs>,
    /// Kill it after this long
    #[arg(long, value_name = "TIME")]
    timeout: Option<model::Span>,
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.start(global, WITHOUT_TERMINAL).await.map_err(as_shell)
    }

    async fn start(self, global: &Global, without_terminal: &str) -> anyhow::Result<u8> {
        self.streams.check(without_terminal)?;
        let control = context::control(global.context.as_ref())?;
        let (agent, workspace) = resolve::workspace(&control, &self.agent, &[Scope::Exec]).await?;
        let mut create = self.streams.request(self.command, self.env);
        create.cwd = self.workdir;
        create.user = self.user;
        create.timeout_ms = self.timeout.map(|span| span.0.saturating_mul(1000));
        if self.detach {
            let exec = workspace.exec(&create).await?;
            match global.output {
                Format::Json => output::json(&exec)?,
                Format::Table => output::line(exec.id)?,
            }
            return Ok(0);
        }
        let mut signals = Signals::listen()?;
        let asker = Asker::here(&control, &agent, self.streams.no_ask).await;
        let ended = attached(&workspace, &create, self.streams, asker, &mut signals).await;
        let memory = "its --memory, when it is created, sets that";
        Ok(explain(&control, &agent, &workspace, ended, memory).await?.exit_code())
    }
}

/// Open a shell in an agent
///
/// The same as `exec -it AGENT` with bash where the image has it, sh elsewhere. ctrl-p ctrl-q leaves it
/// running; `cofferdam attach` comes back to it.
#[derive(clap::Args)]
pub struct ShellArgs {
    /// Do not ask here about hosts that the agent's policy holds
    #[arg(long)]
    no_ask: bool,
    /// User inside: agent or root
    #[arg(short = 'u', long, value_parser = resolve::user, value_name = "USER")]
    user: Option<RunAs>,
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
}

/// `exec` of a missing program would end the shell: so it is looked for first.
const SHELL: &str = "command -v bash >/dev/null 2>&1 && exec bash -l; exec sh -l";

impl ShellArgs {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let streams = Streams { interactive: true, tty: true, raw: false, no_ask: self.no_ask };
        let instead = format!("`cofferdam exec {} -- COMMAND` needs none", self.agent);
        let exec = Args {
            streams,
            detach: false,
            env: Vec::new(),
            workdir: None,
            user: self.user,
            timeout: None,
            agent: self.agent,
            command: ["sh", "-c", SHELL].map(str::to_owned).to_vec(),
        };
        exec.start(global, &instead).await.map_err(as_shell)
    }
}
