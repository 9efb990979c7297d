//! `run`: an agent for one command.

use super::cp;
use super::create::{self, Spec};
use super::exec::{self, Streams};
use crate::asking::Asker;
use crate::cli::Global;
use crate::output;
use crate::progress::Progress;
use crate::session::{End, Signals};
use crate::{confirm, context, failure, recipes, resolve};
use anyhow::Context as _;
use client::Control;
use model::agent::RunAs;
use model::api::Agent;
use model::token::Scope;
use model::{AgentState, Code, Verb};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

const AFTER: &str = "\
Creates an agent, runs the command in it, and destroys the agent when the command ends, whichever way: the \
exit code is the command's own (see `cofferdam --help` for 125, 126, 127). Ctrl-C is passed on to the command; \
a second one within two seconds, or SIGTERM, ends it and destroys the agent.

A recipe names a program that people know, with what it may reach and the secrets that it needs: `cofferdam recipe ls`. \
What is said here counts before what it says, and words behind `--` follow its command. With --folder the agent is kept: \
the work is in it.

Where the image has an entrypoint, the command is its arguments; without a command the image's own is run.

Output that goes to a terminal without -t has its control characters neutralised (all but newline, carriage \
return and tab); --raw turns that off. Output that goes to a file or a pipe is left as it is.

A host that the agent's policy does not name, and holds, is asked about here when stdin and stderr are a terminal; --no-ask turns that off, and such hosts are refused unless somebody runs `cofferdam egress ask`.

Examples:
  cofferdam run -- uname -a
  cofferdam run -it --image debian -- bash
  cofferdam run --no-network -- python3 -c 'print(1)'
  cofferdam run --memory 256MiB --cpus 0.5 -e SEED=1 -- python3 -c 'print(1)'
  cofferdam run python
  cofferdam run claude --folder ./project
  cofferdam run -d --name web --ttl 1h -- python3 -m http.server 8000";

/// Run a command in an agent of its own, and destroy it afterwards
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    streams: Streams,
    #[command(flatten)]
    spec: Spec,
    /// Make the command the agent's main process, print the agent's id and leave it running
    #[arg(short = 'd', long, conflicts_with_all = ["interactive", "tty", "keep"])]
    detach: bool,
    /// Keep the agent when the command ends
    #[arg(long)]
    keep: bool,
    /// Folder that is copied into its home, where the command starts
    #[arg(long, value_name = "DIR", conflicts_with_all = ["detach", "workdir"])]
    folder: Option<PathBuf>,
    /// Give a recipe of somebody else's the secrets that it asks for
    #[arg(long, requires = "recipe")]
    trust: bool,
    /// Recipe: a name, a file, or a folder that holds a recipe.toml
    recipe: Option<String>,
    /// Command and its arguments; by default the image's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.start(global).await.map_err(exec::as_shell)
    }

    async fn start(mut self, global: &Global) -> anyhow::Result<u8> {
        if let Some(recipe) = &self.recipe {
            let found = recipes::find(recipe)?;
            if let Some(asked) = found.asks_for().filter(|_| !self.trust) {
                confirm::word_or("trust", &asked, "--trust answers for scripts")?;
            }
            let recipe = found.recipe;
            self.spec.adopt(&recipe);
            let here = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
            if recipe.tty && here && !self.detach {
                (self.streams.interactive, self.streams.tty) = (true, true);
            }
            self.command = recipe.started_with(self.command);
        }
        let folder = self.folder.as_deref().map(Folder::of).transpose()?;
        if let Some(folder) = &folder {
            self.spec.workdir = Some(folder.inside.clone());
        }
        self.streams.check(exec::WITHOUT_TERMINAL)?;
        self.spec.confirm()?;
        let control = context::control(global.context.as_ref())?;
        if self.detach {
            let agent = control.create_agent(&self.spec.request(Some(self.command))?).await?;
            let agent = control.wait_agent(&agent.id.to_string(), "settled", resolve::SETTLE_SECONDS).await?;
            create::print(&agent, global)?;
            if agent.state == AgentState::Failed {
                resolve::running(&agent)?;
            }
            return Ok(0);
        }
        // Before anything exists that would have to be removed.
        let mut signals = Signals::listen()?;
        let progress = Progress::brief("creating the agent");
        let workdir = self.spec.workdir.clone();
        let agent = control.create_agent(&self.spec.request(None)?).await?;
        output::warnings([&agent]);
        let task = Task { argv: self.command, workdir, folder };
        let outcome = work(&control, &agent, self.streams, task, &mut signals, progress).await;
        if self.keep || self.folder.is_some() || matches!(outcome, Ok(End::Detached)) {
            eprintln!("cofferdam: agent {} was kept; `cofferdam rm {}` removes it", agent.name, agent.name);
            if let Some(folder) = self.folder.as_deref().and_then(|folder| Folder::of(folder).ok()) {
                eprintln!(
                    "cofferdam: `cofferdam cp {}:{} TARGET` fetches the work",
                    agent.name, folder.inside
                );
            }
            return Ok(outcome?.exit_code());
        }
        let destroyed = destroy(&control, &agent).await;
        let end = outcome?;
        if let Err(error) = destroyed {
            failure::report(&error, false);
            eprintln!(
                "cofferdam: agent {} may still be there; `cofferdam rm {}` removes it",
                agent.name, agent.name
            );
        }
        Ok(end.exit_code())
    }
}

async fn work(
    control: &Control,
    agent: &Agent,
    streams: Streams,
    task: Task,
    signals: &mut Signals,
    progress: Progress,
) -> anyhow::Result<End> {
    progress.stage(&format!("starting {}", agent.name));
    // Before anything runs that could ask.
    let asker = Asker::here(control, agent, streams.no_ask).await;
    let ready = async {
        let agent = control.wait_agent(&agent.id.to_string(), "running", resolve::SETTLE_SECONDS).await?;
        resolve::running(&agent)?;
        let workspace = resolve::workspace_of(control, &agent, &[Scope::Exec, Scope::Files]).await?;
        if let Some(folder) = &task.folder {
            progress.stage(&format!("copying {}", folder.here.display()));
            cp::folder_in(&workspace, &folder.here, &folder.inside, &progress).await?;
        }
        anyhow::Ok(workspace)
    };
    let workspace = tokio::select! {
        workspace = ready => workspace?,
        signal = signals.ending() => return Ok(End::Interrupted(signal)),
    };
    progress.done();
    let argv = agent.image_config.argv(&task.argv);
    if argv.is_empty() {
        return Err(failure::fail_with(
            Code::Validation,
            match &agent.image_name {
                Some(image) => format!("The image {image} names no command of its own, and none was given."),
                None => "No command was given.".to_owned(),
            },
            "give the command after `--`",
        ));
    }
    let mut create = streams.request(argv, Vec::new());
    create.cwd = task.workdir;
    create.user = (agent.run_as == RunAs::Root).then_some(RunAs::Root);
    let ended = exec::attached(&workspace, &create, streams, asker, signals).await;
    exec::explain(control, agent, &workspace, ended, "--memory gives it more").await
}

/// What is to be done in the agent.
struct Task {
    argv: Vec<String>,
    workdir: Option<String>,
    folder: Option<Folder>,
}

/// A folder that goes into the agent.
struct Folder {
    here: PathBuf,
    inside: String,
}

impl Folder {
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let here = folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))?;
        let name = here.file_name().and_then(|name| name.to_str()).filter(|_| here.is_dir());
        let Some(name) = name else {
            return Err(failure::fail(
                Code::Validation,
                format!("{} is no folder with a name.", here.display()),
            ));
        };
        let inside = format!("{}/{name}", cp::HOME);
        Ok(Self { here, inside })
    }
}

/// Removes the agent and waits until it is gone, so that what follows finds nothing of it.
async fn destroy(control: &Control, agent: &Agent) -> anyhow::Result<()> {
    let progress = Progress::brief(&format!("removing {}", agent.name));
    let id = agent.id.to_string();
    control.verb(&id, Verb::Destroy).await?;
    match control.wait_agent(&id, "destroyed", resolve::SETTLE_SECONDS).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    progress.done();
    Ok(())
}
