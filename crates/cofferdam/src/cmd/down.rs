//! `down`: ends everything that `up` started; with `--purge` removes what it made.

use super::service;
use crate::cli::Global;
use crate::context::Contexts;
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::up::pidfile::{self, Held, Owner};
use crate::up::{neighbours, remains, setup, supervise, units};
use anyhow::Context as _;
use model::Code;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixDatagram, UnixStream};

/// Agents have ten seconds to end by themselves; many end side by side.
const AGENTS_WITHIN: Duration = Duration::from_secs(120);
const SUPERVISOR_WITHIN: Duration = Duration::from_secs(60);

const AFTER: &str = "\
Agents are ended and start again with the next `up`; their volumes and all other data stay.

--purge also removes the data, the configuration, the context `local` and the system users (these not where another \
installation runs, or COFFERDAM_ETC or COFFERDAM_RUN put this one elsewhere: they are shared). It asks for the word \
`purge` first; --yes answers for scripts.

Examples:
  cofferdam down
  cofferdam down --purge";

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
        // A supervisor from before the units were installed is still ended here.
        if pidfile::find(&paths.up_pid()).is_none() {
            let instead = match self.purge {
                true => "systemctl stop cofferdam; to remove it, apt-get purge cofferdam, or make uninstall",
                false => "systemctl stop cofferdam",
            };
            units::refuse(&paths, "down", instead)?;
        }
        if self.purge && !self.yes {
            confirm(&paths)?;
        }
        let cgroup = service::node_config(&paths)?.cgroup;
        let shared = neighbours::shared(&paths)?;
        let taken = |wanted: &[&str]| {
            shared.iter().find(|(_, keys)| keys.iter().any(|(key, _)| wanted.contains(key)))
        };
        if self.purge
            && let Some((neighbour, _)) = taken(&["data", "COFFERDAM_DATA", "COFFERDAM_ETC", "COFFERDAM_RUN"])
        {
            return Err(fail_with(
                Code::InUse,
                format!("{} is not removed: another installation uses it.", paths.data.display()),
                format!("end that first: process {}, {}", neighbour.pid, neighbour.paths.run.display()),
            ));
        }
        let (stopped, _held) = stop(&paths).await?;
        // What lives there or has such ids is the other one's: a node of ours would not have started beside it.
        let alone = taken(&["cgroup", "uid_first", "gate_uid_first"]).is_none();
        let mut remaining = if alone { remains::agents(&cgroup) } else { Vec::new() };
        if !remaining.is_empty() {
            // The node was dead, or died over it. Only a node may say whose process is an agent's: one of our own.
            if let Err(error) = end_with_a_node(&paths).await {
                eprintln!("cofferdam: {error:#}");
            }
            remaining = remains::agents(&cgroup);
        }
        if !remaining.is_empty() {
            let list = remaining
                .iter()
                .map(|agent| format!("bnd_{} ({} processes)", agent.boundary, agent.processes));
            return Err(fail_with(
                Code::InUse,
                format!("Agents still run: {}.", list.collect::<Vec<_>>().join(", ")),
                "the node did not end them: `cofferdam up --detach`, then `cofferdam down` again",
            ));
        }
        if alone {
            remains::remove_cgroups(&cgroup);
        }
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

/// Ends agents, then the services. `false` when nothing ran. Nobody can start anything while the lock is held.
async fn stop(paths: &Paths) -> anyhow::Result<(bool, Option<Held>)> {
    if !paths.run.is_dir() {
        return Ok((false, None));
    }
    let (held, supervisor) = match pidfile::take(&paths.up_pid())? {
        Owner::Us(held) => (Some(held), None),
        Owner::Running(supervisor) => (None, Some(supervisor)),
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
    progress.stage("ending control and node");
    if let Some(supervisor) = &supervisor
        && !supervisor.end(SUPERVISOR_WITHIN).await?
    {
        return Err(fail(
            Code::Timeout,
            format!("The supervisor (process {}) does not end.", supervisor.pid),
        ));
    }
    let held = match held {
        Some(held) => held,
        None => match pidfile::take(&paths.up_pid())? {
            Owner::Us(held) => held,
            Owner::Running(_) | Owner::Unclear => {
                return Err(fail(Code::InUse, "Another `cofferdam up` started meanwhile; try again."));
            }
        },
    };
    // A supervisor that was killed may have left them behind.
    for name in ["node", "control"] {
        supervise::take_over(name, &paths.service_pid(name)).await?;
    }
    progress.done();
    Ok((supervisor.is_some() || matches!(ended, Ok(true)), Some(held)))
}

/// Starts a node for nothing but to find the agents that are left, and to end them.
async fn end_with_a_node(paths: &Paths) -> anyhow::Result<()> {
    let progress = Progress::start("ending agents that no node watched");
    let notify = paths.run.join("notify-down.sock");
    let _ = std::fs::remove_file(&notify);
    let socket =
        UnixDatagram::bind(&notify).with_context(|| format!("cannot listen on {}", notify.display()))?;
    let log = paths.logs().join("node.log");
    let stderr = File::options().append(true).create(true).mode(0o640).open(&log);
    let setup::ServiceCommand { mut command, file: _program } = setup::service_command("node", paths, None)?;
    command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::null());
    command.stderr(stderr.with_context(|| format!("cannot write {}", log.display()))?);
    let mut node = tokio::process::Command::from(command).spawn().context("cannot start the node")?;
    let mut datagram = [0; 256];
    let work = async {
        tokio::select! {
            status = node.wait() => {
                anyhow::bail!("the node ended at once ({}); its log is {}", status?, log.display());
            }
            // It adopts what lives before it says that it is ready.
            ready = socket.recv(&mut datagram) => ready?,
        };
        end_agents(&paths.node_socket()).await?;
        node.wait().await?;
        Ok(())
    };
    let ended = tokio::time::timeout(AGENTS_WITHIN, work).await;
    if ended.is_err() {
        // SIGKILL: it did not even end its agents.
        let _ = node.kill().await;
    }
    progress.done();
    ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the node did not end its agents in time")))
}

/// Asks the node to end every boundary and itself. `false` when there is no node.
pub async fn end_agents(socket: &Path) -> anyhow::Result<bool> {
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
    // As the kernel's table names it, whatever links lead there.
    let path = &path.canonicalize().with_context(attempt)?;
    let is_own = |mount: &std::path::PathBuf| mount == path && remains::is_own_tmpfs(mount);
    let (own, mounts): (Vec<_>, Vec<_>) = remains::mounts_beneath(path).into_iter().partition(is_own);
    if let Some(mount) = mounts.first() {
        return Err(fail_with(
            Code::InUse,
            format!("{} is not removed: something is mounted on {}.", path.display(), mount.display()),
            format!("umount {}", mount.display()),
        ));
    }
    if own.is_empty() {
        return std::fs::remove_dir_all(path).with_context(attempt);
    }
    // What is on it goes; the mount is its owner's.
    for entry in std::fs::read_dir(path).with_context(attempt)? {
        let entry = entry.with_context(attempt)?;
        let is_dir = entry.file_type().with_context(attempt)?.is_dir();
        let remove = if is_dir { std::fs::remove_dir_all } else { std::fs::remove_file };
        remove(entry.path()).with_context(attempt)?;
    }
    Ok(())
}

fn confirm(paths: &Paths) -> anyhow::Result<()> {
    let lost = [&paths.data, &paths.etc, &paths.run].map(|path| format!("  {}", path.display()));
    let about = "This ends all agents and removes everything that they wrote:";
    crate::confirm::word("purge", &format!("{about}\n{}", lost.join("\n")))
}

fn purge(paths: &Paths) -> anyhow::Result<()> {
    let progress = Progress::start("removing data");
    let urls = [setup::local_url(paths), setup::control_url(paths)?];
    for path in [&paths.data, &paths.etc] {
        remove_tree(path)?;
    }
    // The users are the machine's: an installation that was put elsewhere shares them with it and with others.
    match neighbours::all(paths).first() {
        _ if !paths.is_the_machines() => {}
        Some(neighbour) => eprintln!(
            "cofferdam: the system users were kept: another installation runs (process {}, {})",
            neighbour.pid,
            neighbour.paths.run.display()
        ),
        None => {
            for user in [setup::CONTROL_USER, "cofferdam-image"] {
                remove_user(user)?;
            }
        }
    }
    let mut contexts = Contexts::load()?;
    for url in urls {
        let name = contexts.local(&url);
        if contexts.contexts.get(&name).is_some_and(|context| context.url == url) {
            contexts.forget(&name)?;
            contexts.save()?;
        }
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
