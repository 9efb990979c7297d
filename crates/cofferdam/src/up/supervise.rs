//! Keeps control and node running: starts them, waits until they are ready, starts them again when they end,
//! ends them when asked. Agents are node's; they outlive all of this.
//!
//! However cleanly a service ended, nobody but the supervisor ends it for good: a stray SIGTERM is like any other
//! death. The one exception is a node that was told to shut down (`cofferdam down`): that ends everything.

use super::pidfile::{self, Held};
use super::setup::{self, User};
use super::socket;
use crate::cmd::service::SHUT_DOWN;
use crate::failure::{self, Failure};
use crate::paths::Paths;
use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use model::Problem;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long a service may take until it says that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a service may take to end.
const END_WITHIN: Duration = Duration::from_secs(20);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A service that ran this long did not die of its start, and is started again at once.
const STEADY: Duration = Duration::from_secs(2);
/// A log longer than this is put aside when its service starts; one older log is kept.
const LOG_SIZE: u64 = 16 << 20;

/// What the supervisor says while it starts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What is being done.
    Stage {
        /// In words.
        text: String,
    },
    /// Everything runs.
    Ready,
    /// It will not run, and the supervisor ends.
    Failed {
        /// Why.
        problem: Problem,
    },
}

/// The hidden command: stdin is the lock, stdout goes to the `up` that waits.
pub fn detached() -> anyhow::Result<u8> {
    let held = Held::from_stdin()?;
    rustix::process::setsid().context("cannot leave the session")?;
    let paths = Paths::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tell = |event: Event| {
        if let Ok(mut line) = serde_json::to_string(&event) {
            line.push('\n');
            // Whoever waited may have left; that is no reason to stop.
            let _ = std::io::stdout().write_all(line.as_bytes());
        }
    };
    match runtime.block_on(run(&paths, held, true, tell)) {
        Ok(()) => Ok(0),
        Err(error) => {
            let (exit, problem) = failure::problem_of(&error);
            tell(Event::Failed { problem });
            failure::report(&error, false);
            Ok(exit)
        }
    }
}

/// Supervises until SIGTERM or SIGINT, or until the node was shut down. `log` sends what services say to files.
pub async fn run(paths: &Paths, mut held: Held, log: bool, tell: impl Fn(Event)) -> anyhow::Result<()> {
    held.claim()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let user = setup::find_user(setup::CONTROL_USER)?.context("the control user is gone")?;
    take_over("control", &paths.service_pid("control")).await?;
    // It is kept here: while control starts again, whoever connects waits.
    let socket = socket::listen(&paths.control_socket(), user)?;
    let control = Service { socket: Some(socket), ..Service::new("control", paths, Some(user), log) };
    let node = Service::new("node", paths, None, log);

    let (stop, stopping) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    let work = async {
        for (service, doing) in [(control, "starting control"), (node, "starting node")] {
            tell(Event::Stage { text: doing.to_owned() });
            let (ready, mut readiness) = mpsc::channel(1);
            tasks.spawn(service.keep(stopping.clone(), ready));
            // The task tells once: that it is ready, or why it never will be.
            match readiness.recv().await {
                Some(Ok(())) => {}
                Some(Err(problem)) => return Err(Failure::from(problem).into()),
                None => anyhow::bail!("a service ended before it was ready"),
            }
        }
        tell(Event::Ready);
        // A service that was ready once is kept for good, unless the node was shut down.
        tasks.join_next().await;
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    stop.send_replace(true);
    while tasks.join_next().await.is_some() {}
    outcome
}

/// One service.
struct Service {
    name: &'static str,
    paths: Paths,
    user: Option<User>,
    log: Option<PathBuf>,
    /// What it listens on from its start: `LISTEN_FDS` of sd_listen_fds(3).
    socket: Option<UnixListener>,
}

/// How one life of a service ended.
enum Ended {
    /// We told it to, or it was the node and had been told to end everything.
    Done,
    /// It died, or somebody else ended it.
    Died(ExitStatus),
    /// It never said that it was ready.
    Silent,
}

impl Service {
    fn new(name: &'static str, paths: &Paths, user: Option<User>, log: bool) -> Self {
        let log = log.then(|| paths.logs().join(format!("{name}.log")));
        Self { name, paths: paths.clone(), user, log, socket: None }
    }

    /// Starts it, again and again, until it is told to stop, or was shut down. Before it was ready once, dying is
    /// final.
    async fn keep(self, mut stopping: watch::Receiver<bool>, ready: mpsc::Sender<Result<(), Problem>>) {
        let mut first = Some(ready);
        let mut delay = FIRST_DELAY;
        loop {
            let started = Instant::now();
            let outcome = self.live(&mut stopping, &mut first).await;
            if *stopping.borrow() {
                return;
            }
            let how = match outcome {
                Ok((Ended::Done, _)) => return,
                Ok((Ended::Died(status), said)) => (format!("ended ({status})"), said),
                Ok((Ended::Silent, said)) => {
                    (format!("was not ready within {} seconds", READY_WITHIN.as_secs()), said)
                }
                Err(error) => (format!("could not be started: {error:#}"), Vec::new()),
            };
            let problem = setup::service_failed(self.name, &how.0, self.log.as_deref(), &how.1);
            if let Some(ready) = first.take() {
                let _ = ready.send(Err(problem)).await;
                return;
            }
            eprintln!("cofferdam: {problem}; starting it again in {delay:?}");
            if started.elapsed() > STEADY {
                delay = FIRST_DELAY;
            }
            tokio::select! {
                () = told(&mut stopping) => return,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    /// One life. Says when it is ready; returns how it ended, with what it said last.
    async fn live(
        &self,
        stopping: &mut watch::Receiver<bool>,
        ready: &mut Option<mpsc::Sender<Result<(), Problem>>>,
    ) -> anyhow::Result<(Ended, Vec<u8>)> {
        let pid = self.paths.service_pid(self.name);
        take_over(self.name, &pid).await?;
        let notify = self.paths.run.join(format!("notify-{}.sock", self.name));
        let _ = std::fs::remove_file(&notify);
        let socket =
            UnixDatagram::bind(&notify).with_context(|| format!("cannot listen on {}", notify.display()))?;
        if let Some(user) = self.user {
            chown(&notify, Some(user.uid), Some(user.gid))?;
        }
        let mut service = setup::service_command(self.name, &self.paths, self.user)?;
        let command = &mut service.command;
        command.env("NOTIFY_SOCKET", &notify).env("COFFERDAM_SUPERVISOR", std::process::id().to_string());
        // Ctrl-C in a terminal is for the supervisor, which ends them in order.
        command.stdout(Stdio::null()).process_group(0);
        if let Some(socket) = &self.socket {
            let socket = FdMapping { parent_fd: socket.try_clone()?.into(), child_fd: 3 };
            command.fd_mappings(vec![socket]).context("cannot pass a socket on")?.env("LISTEN_FDS", "1");
        }
        let mut log = self.open_log()?;
        if let Some(log) = &log {
            command.stderr(log.try_clone()?);
        }
        let before = log.as_ref().map(File::metadata).transpose()?.map_or(0, |metadata| metadata.len());
        let setup::ServiceCommand { command, file: _program } = service;
        let mut starting = tokio::process::Command::from(command);
        let mut child = starting.spawn().context("cannot execute this program")?;
        if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
            pidfile::note(&pid, id)?;
        }
        let deadline = tokio::time::sleep(READY_WITHIN);
        tokio::pin!(deadline);
        let mut waiting = true;
        let mut datagram = [0; 256];
        let ended = loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status?;
                    // Only the node may say so: a control that was taken over ends nothing but itself.
                    let shut_down =
                        self.name == "node" && status.code() == Some(SHUT_DOWN.into()) && ready.is_none();
                    break if shut_down { Ended::Done } else { Ended::Died(status) };
                }
                () = told(stopping) => {
                    end(&mut child).await;
                    break Ended::Done;
                }
                Ok(length) = socket.recv(&mut datagram) => {
                    if datagram[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                        waiting = false;
                        if let Some(ready) = ready.take() {
                            let _ = ready.send(Ok(())).await;
                        }
                    }
                }
                () = &mut deadline, if waiting => {
                    end(&mut child).await;
                    break Ended::Silent;
                }
            }
        };
        let _ = std::fs::remove_file(&notify);
        let said = log.as_mut().map(|log| last_words(log, before)).transpose()?.unwrap_or_default();
        Ok((ended, said))
    }

    /// The log, for appending, at its end.
    fn open_log(&self) -> anyhow::Result<Option<File>> {
        let Some(path) = &self.log else { return Ok(None) };
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_SIZE) {
            let _ = std::fs::rename(path, path.with_extension("log.1"));
        }
        let file = File::options().read(true).append(true).create(true).mode(0o640).open(path);
        Ok(Some(file.with_context(|| format!("cannot write {}", path.display()))?))
    }
}

/// Waits for the service of a supervisor that was killed: the kernel told it to end when that died, and until it
/// has ended its port and its journal are taken.
pub async fn take_over(name: &str, pid: &Path) -> anyhow::Result<()> {
    let Some(predecessor) = pidfile::find(pid) else { return Ok(()) };
    eprintln!("cofferdam: waiting for the {name} (process {}) of a supervisor that died", predecessor.pid);
    if predecessor.end(END_WITHIN).await? || predecessor.kill(END_WITHIN).await? {
        return Ok(());
    }
    anyhow::bail!("the {name} of a supervisor that died (process {}) does not end", predecessor.pid)
}

/// Waits until the services are told to stop.
async fn told(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The end of a log, from where this life of the service began.
fn last_words(log: &mut File, before: u64) -> std::io::Result<Vec<u8>> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(4096).max(before)))?;
    let mut said = Vec::new();
    log.take(4096).read_to_end(&mut said)?;
    Ok(said)
}

/// Asks a child to end, and ends it when it does not. It is not reaped before that, so the pid is its own.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
