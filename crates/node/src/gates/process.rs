//! One gate's process: started confined, spoken to by lines of JSON, started again when it ends.
//!
//! What a gate says is hostile once it was taken over: lines are bounded, and an agent of another account is
//! none of its business.

use super::{Gates, Settings, doors};
use crate::backoff::Backoff;
use command_fds::{CommandFdExt, FdMapping};
use model::gate_api::{FromGate, ToGate};
use model::workspace::Captured;
use model::{AccountId, ResolvesBy};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

/// The longest line of a gate.
const MAX_LINE: u64 = 64 << 10;
/// Questions of a gate that are answered at once.
const QUESTIONS: usize = 8;
/// A gate that ran this long is started again at once.
const STEADY: Duration = Duration::from_secs(2);
/// What a gate may take to end after its socket was closed.
const GRACE: Duration = Duration::from_secs(3);

/// Keeps the account's gate running until it is released.
pub(super) async fn supervise(
    gates: Arc<Gates>,
    account: AccountId,
    uid: u32,
    listener: Arc<TcpListener>,
    mut changes: watch::Receiver<u64>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let started = Instant::now();
        match start(&gates.settings, account, uid, &listener) {
            Ok(gate) => {
                tracing::info!(%account, uid, pid = gate.child.id(), "gate started");
                let ended = serve(&gates, account, gate, changes.clone()).await;
                // One that was taken over may have opened them again before it was gone.
                gates.shut_doors(account);
                match ended {
                    Ended::Released => break,
                    Ended::Died(how) => tracing::warn!(%account, how, "the gate ended; it is started again"),
                }
            }
            Err(error) => tracing::error!(%account, %error, "the gate could not be started"),
        }
        if started.elapsed() >= STEADY {
            backoff.reset();
        }
        // Closed: the account has no gate any more. A change alone does not cut the wait short.
        let wait = tokio::time::sleep(backoff.delay());
        let released = async { while changes.changed().await.is_ok() {} };
        tokio::select! {
            () = wait => {}
            () = released => break,
        }
    }
    tracing::info!(%account, "gate released");
    gates.released(account, listener);
}

enum Ended {
    Released,
    Died(String),
}

/// A gate's process, and node's ends of its wires.
struct Gate {
    child: Child,
    /// State one way, questions the other.
    stream: UnixStream,
    /// Sockets.
    sockets: UnixStream,
}

/// Starts the process, confined: its own uid, no capability, a network of its own with nothing in it, and in sight
/// nothing but libraries, itself and the directory of its account's sockets. The listener that it inherits belongs to
/// the host's network whoever holds it.
fn start(settings: &Settings, account: AccountId, uid: u32, listener: &TcpListener) -> io::Result<Gate> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (sockets, their_sockets) = jail::wire::pair()?;
    // What keeps the bounds of packets is read and written as such; waiting for it is the same.
    let sockets_ours = StdUnixStream::from(sockets);
    sockets_ours.set_nonblocking(true)?;
    let sockets = settings.directory.join(account.base32());
    let mut command = std::process::Command::new(&settings.jail);
    command.arg("confine").args(["--uid", &uid.to_string(), "--gid", &uid.to_string()]);
    for library in ["/usr", "/lib", "/lib64"] {
        if Path::new(library).exists() {
            command.args(["--ro", library]);
        }
    }
    command.arg("--ro").arg(&settings.program).arg("--ro").arg(&sockets);
    command.args(["--keep-fds", "3", "--"]).arg(&settings.program);
    command.arg("gate").arg("--sockets").arg(&sockets);
    // Nothing of node's environment but how much to log.
    command.env_clear();
    for name in ["RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: theirs.into(), child_fd: 3 },
            FdMapping { parent_fd: listener.try_clone()?.into(), child_fd: 4 },
            FdMapping { parent_fd: their_sockets, child_fd: 5 },
        ])
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    Ok(Gate { child, stream: UnixStream::from_std(ours)?, sockets: UnixStream::from_std(sockets_ours)? })
}

async fn serve(
    gates: &Arc<Gates>,
    account: AccountId,
    Gate { mut child, stream, sockets }: Gate,
    changes: watch::Receiver<u64>,
) -> Ended {
    let (reading, writing) = stream.into_split();
    let mut sockets = Box::pin(doors::serve(gates, account, sockets, changes.clone()));
    let (answers, queue) = mpsc::channel(QUESTIONS);
    let mut reader = Box::pin(read(gates, account, reading, answers));
    let mut writer = tokio::spawn(write(gates.clone(), account, writing, changes, queue));
    let mut ended = false;
    let said = tokio::select! {
        status = child.wait() => Some(match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }),
        error = &mut reader => {
            ended = true;
            Some(error.to_string())
        }
        error = &mut sockets => Some(format!("about sockets: {error}")),
        released = &mut writer => match released {
            Ok(Wrote::Released) => None,
            _ => Some("it does not read".to_owned()),
        },
    };
    // Nobody hands it any door from here on, and those that it has lead nowhere.
    drop(sockets);
    gates.shut_doors(account);
    // Our half is closed now, or with this: a gate ends at end of file, and before tells what it has yet to tell.
    if !writer.is_finished() {
        writer.abort();
        let _ = writer.await;
    }
    let end = async {
        if !ended {
            reader.as_mut().await;
        }
        drop(reader);
        child.wait().await
    };
    if tokio::time::timeout(GRACE, end).await.is_err() {
        let _ = child.kill().await;
    }
    gates.forget_questions(account);
    said.map_or(Ended::Released, Ended::Died)
}

enum Wrote {
    Released,
    Broken,
}

/// Sends the state at first and whenever it changed, and answers.
async fn write(
    gates: Arc<Gates>,
    account: AccountId,
    mut stream: OwnedWriteHalf,
    mut changes: watch::Receiver<u64>,
    mut answers: mpsc::Receiver<ToGate>,
) -> Wrote {
    // In this order: what changes in between is told again rather than not at all.
    changes.mark_unchanged();
    let reader = gates.clone();
    let roots = tokio::task::spawn_blocking(move || reader.roots()).await.unwrap_or_default();
    let resolver = Some(&gates.settings.egress.resolver).filter(|resolver| resolver.by != ResolvesBy::Tcp);
    let resolver = resolver.map(|resolver| ToGate::Resolver { resolver: resolver.clone() });
    let mut messages: Vec<ToGate> = roots.into_iter().chain(resolver).chain([gates.state(account)]).collect();
    messages.extend(gates.news_of_attention(account));
    messages.extend(gates.news_of_credentials(account));
    loop {
        for message in messages.drain(..) {
            let Ok(line) = sandbox::wiped_json(&message) else { return Wrote::Broken };
            if stream.write_all(&line).await.is_err() || stream.write_all(b"\n").await.is_err() {
                return Wrote::Broken;
            }
        }
        messages = tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => news(&gates, account),
                Err(_) => return Wrote::Released,
            },
            Some(answer) = answers.recv() => vec![answer],
        };
    }
}

/// What changed, but for what goes by the other wire.
fn news(gates: &Gates, account: AccountId) -> Vec<ToGate> {
    let empty =
        |news: &ToGate| matches!(news, ToGate::Agents { set, gone } if set.is_empty() && gone.is_empty());
    let agents = Some(gates.news(account)).filter(|news| !empty(news));
    let attention = gates.news_of_attention(account);
    agents.into_iter().chain(attention).chain(gates.news_of_credentials(account)).collect()
}

/// Reads what the gate says, until it says something wrong or nothing more.
async fn read(
    gates: &Arc<Gates>,
    account: AccountId,
    stream: OwnedReadHalf,
    answers: mpsc::Sender<ToGate>,
) -> io::Error {
    let questions = Arc::new(Semaphore::new(QUESTIONS));
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Err(error) => return error,
            Ok(_) if line.last() != Some(&b'\n') => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
        }
        match serde_json::from_slice(&line) {
            Ok(FromGate::Ready) => tracing::debug!(%account, "gate serves"),
            Ok(FromGate::Activity { agent }) => {
                if gates.boundary(account, agent).is_some() {
                    gates.reporter.touch(agent, OffsetDateTime::now_utc());
                }
            }
            Ok(FromGate::Named { agent, name }) => {
                if let Err(error) = gates.named(account, agent, name) {
                    return error;
                }
            }
            Ok(FromGate::Egress { agent, connection }) => {
                if let Err(error) = gates.egress(account, agent, connection) {
                    return error;
                }
            }
            Ok(FromGate::EgressLost { agent, count }) => gates.egress_lost(account, agent, count),
            Ok(FromGate::Asks { agent, questions }) => {
                if let Err(error) = gates.asks(account, agent, questions) {
                    return error;
                }
            }
            Ok(FromGate::StatsWanted { request, agent }) => {
                // More questions at once than this: the gate waits, and so do those behind it.
                let Ok(permit) = questions.clone().acquire_owned().await else { continue };
                let boundary = gates.boundary(account, agent).flatten();
                let answers = answers.clone();
                tokio::spawn(async move {
                    let stats = match boundary {
                        Some(boundary) => tokio::task::spawn_blocking(move || boundary.stats()).await.ok(),
                        None => None,
                    };
                    let _ = answers.send(ToGate::Stats { request, stats }).await;
                    drop(permit);
                });
            }
            Ok(FromGate::LogsWanted { request, agent, most }) => {
                let Ok(permit) = questions.clone().acquire_owned().await else { continue };
                // Its own account's, and without a boundary.
                let may = matches!(gates.boundary(account, agent), Some(None));
                let (gates, answers) = (gates.clone(), answers.clone());
                tokio::spawn(async move {
                    let read =
                        tokio::task::spawn_blocking(move || may.then(|| gates.logs(agent, most)).flatten());
                    let logs = read.await.ok().flatten().map(Captured::from);
                    let _ = answers.send(ToGate::Logs { request, logs }).await;
                    drop(permit);
                });
            }
            Err(error) => return io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}
