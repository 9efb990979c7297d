//! `down`: ends everything that `up` started; with `--purge` removes what it made.

use super::service;
use crate::cli::Global;
use crate::context::{Contexts, LOCAL};
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::up::pidfile::{self, Owner, Supervisor};
use crate::up::{remains, setup};
use anyhow::Context as _;
use model::{Code, Name};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::json;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Agents have ten seconds to end by themselves; many end side by side.
const AGENTS_WITHIN: Duration = Duration::from_secs(120);
const SUPERVISOR_WITHIN: Duration = Duration::from_secs(60);

const AFTER: &str = "\
Agents are ended and start again with the next `up`; their volumes and all other data stay.

--purge also removes the data, the configuration, the context `local` and the system users (these not for an
installation that COFFERDAM_ETC or COFFERDAM_RUN put elsewhere: it shares them). It asks for the word `purge`
first; --yes answers for scripts.";

/// Stop Cofferdam on this machine; data stays
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Remove the data and the users too
    #[arg(long)]
    purge: bool,
    /// Do not ask
    #[arg(long, requires = "purge")]
    yes: bool,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        setup::require_root("down")?;
        let paths = Paths::from_env()?;
        if self.purge && !self.yes {
            confirm(&paths)?;
        }
        let cgroup = service::node_config(&paths)?.cgroup;
        let stopped = stop(&paths).await?;
        let remaining = remains::agents(&cgroup);
        if !remaining.is_empty() {
            let list =
                remaining.iter().map(|agent| format!("agt_{} ({} processes)", agent.agent, agent.processes));
            return Err(fail_with(
                Code::InUse,
                format!("Agents still run: {}.", list.collect::<Vec<_>>().join(", ")),
                "the node did not end them: `cofferdam up --detach`, then `cofferdam down` again",
            ));
        }
        remains::remove_cgroups(&cgroup);
        clear_run(&paths)?;
        if self.purge {
            purge(&paths)?;
        }
        match global.output {
            Format::Json => output::json(&json!({ "was_up": stopped, "purged": self.purge }))?,
            Format::Table => output::line(match (self.purge, stopped) {
                (true, _) => "Cofferdam is down, and its data is removed.",
                (false, true) => "Cofferdam is down. Its data stays; `cofferdam up` starts it again.",
                (false, false) => "Cofferdam was not up.",
            })?,
        }
        Ok(0)
    }
}

/// Ends agents, then the services. `false` when nothing ran.
async fn stop(paths: &Paths) -> anyhow::Result<bool> {
    if !paths.run.is_dir() {
        return Ok(false);
    }
    let supervisor = match pidfile::take(&paths.up_pid())? {
        Owner::Us(_) => None,
        Owner::Running(supervisor) => Some(supervisor),
        Owner::Unclear => {
            return Err(fail(Code::InUse, "A `cofferdam up` is just starting or ending; try again."));
        }
    };
    let progress = Progress::start("ending agents");
    let ended = match tokio::time::timeout(AGENTS_WITHIN, end_agents(&paths.node_socket())).await {
        Ok(ended) => ended,
        Err(_) => Err(anyhow::anyhow!("the node did not end its agents in time")),
    };
    if let Err(error) = &ended {
        eprintln!("cofferdam: {error:#}");
    }
    if let Some(supervisor) = &supervisor {
        progress.stage("ending control and node");
        end_supervisor(supervisor).await?;
    }
    progress.done();
    Ok(supervisor.is_some() || matches!(ended, Ok(true)))
}

/// Asks the node to end every boundary and itself. `false` when there is no node.
async fn end_agents(socket: &Path) -> anyhow::Result<bool> {
    let mut stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error).context("cannot reach the node"),
    };
    stream.write_all(b"{\"op\":\"shutdown\"}\n").await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.context("the node did not answer")?;
    let answer: serde_json::Value =
        serde_json::from_str(&answer).context("the node ended before it answered")?;
    match answer.get("error").and_then(|error| error.as_str()) {
        Some(error) => anyhow::bail!("the node could not end its agents: {error}"),
        None => Ok(true),
    }
}

async fn end_supervisor(supervisor: &Supervisor) -> anyhow::Result<()> {
    match rustix::process::pidfd_send_signal(&supervisor.pidfd, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(errno).context("cannot end the supervisor"),
    }
    let pidfd = supervisor.pidfd.try_clone()?;
    let ended = tokio::task::spawn_blocking(move || -> rustix::io::Result<usize> {
        // A pidfd becomes readable when its process has ended: pidfd_open(2).
        let timeout = Timespec { tv_sec: SUPERVISOR_WITHIN.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))
    });
    if ended.await?? > 0 {
        return Ok(());
    }
    Err(fail(Code::Timeout, format!("The supervisor (process {}) does not end.", supervisor.pid)))
}

/// Removes the runtime directory, in which nothing lives any more.
fn clear_run(paths: &Paths) -> anyhow::Result<()> {
    remove_tree(&paths.run)
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    let attempt = || format!("cannot remove {}", path.display());
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(attempt),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(fail(
                Code::WrongState,
                format!("{} is not a directory; it is left alone.", path.display()),
            ));
        }
        Ok(_) => {}
    }
    // `/`, `/var`: never what an installation is.
    if path.components().count() < 3 {
        return Err(fail(
            Code::WrongState,
            format!("{} is not removed: it is not Cofferdam's own.", path.display()),
        ));
    }
    let mounts = remains::mounts_beneath(path);
    if let Some(mount) = mounts.first() {
        return Err(fail_with(
            Code::InUse,
            format!("{} is not removed: something is mounted on {}.", path.display(), mount.display()),
            format!("umount {}", mount.display()),
        ));
    }
    std::fs::remove_dir_all(path).with_context(attempt)
}

fn confirm(paths: &Paths) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(fail_with(
            Code::Validation,
            "Nobody is here to confirm the purge.",
            "--yes answers for scripts",
        ));
    }
    eprintln!("This ends all agents and removes everything that they wrote:");
    for path in [&paths.data, &paths.etc, &paths.run] {
        eprintln!("  {}", path.display());
    }
    eprint!("Type the word purge to go on: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "purge" { Ok(()) } else { Err(fail(Code::Validation, "Nothing was changed.")) }
}

fn purge(paths: &Paths) -> anyhow::Result<()> {
    let progress = Progress::start("removing data");
    let url = setup::control_url(paths)?;
    for path in [&paths.data, &paths.etc] {
        remove_tree(path)?;
    }
    // The users are the machine's: an installation that was put elsewhere shares them with it and with others.
    let users: &[&str] =
        if paths.is_the_machines() { &[setup::CONTROL_USER, "cofferdam-image"] } else { &[] };
    for user in users {
        remove_user(user)?;
    }
    let name: Name = LOCAL.parse()?;
    let mut contexts = Contexts::load()?;
    if contexts.contexts.get(&name).is_some_and(|context| context.url == url) {
        contexts.forget(&name)?;
        contexts.save()?;
    }
    progress.done();
    Ok(())
}

fn remove_user(user: &str) -> anyhow::Result<()> {
    if setup::find_user(user)?.is_none() {
        return Ok(());
    }
    let output = std::process::Command::new("userdel").arg(user).output().context("cannot run userdel")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("cofferdam: the user {user} was kept: {}", crate::clean::text(said.trim()));
    }
    Ok(())
}
