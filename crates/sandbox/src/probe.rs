//! Runs the probe inside a boundary, and believes complete answers only.
//!
//! It is started by this process, outside, with a pipe that nobody inside has, and goes in by itself (`jail::probe`): no
//! process of the agent has a part in it. Whatever an agent does to it can only make it unfinished.

use crate::apparmor;
use crate::cgroup::Group;
use crate::children::{self, Watch, wait_for_any};
use crate::container::BoundaryRecord;
use crate::host::process::spawn_with_fd;
use jail::layout::{SAVED_GID, ZYGOTE_FD};
use jail::probe::{self, Line, Order, OsUser};
use jail::spec::{Identity, User};
use model::agent::Level;
use model::probe::{ATTEMPTS, Outcome, ProbeUser, Tried, attempts_of};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How much longer than the probe itself this process waits for it to end what is inside, and itself.
const MARGIN: Duration = Duration::from_secs(5);

/// The longest output: an id, a detail and the rest of a line for each attempt.
const OUTPUT_MAX: usize = ATTEMPTS.len() * (2 * probe::DETAIL_MAX + 128);

/// Why there is no result. An agent can bring that about, and so it is never taken for a good sign.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be started.
    #[error("the probe could not be started")]
    Start(#[source] io::Error),
    /// It did not come to its end.
    #[error("the probe ended after {made} of {all} attempts as {user:?}: {detail}")]
    Incomplete {
        /// As whom it was.
        user: ProbeUser,
        /// How many attempts it made.
        made: usize,
        /// Of how many.
        all: usize,
        /// What is known of why.
        detail: String,
    },
}

/// Makes all attempts that count at its level, as the agent's user, then as root inside if there is one.
pub(crate) fn run(
    program: &Path,
    record: &BoundaryRecord,
    init: BorrowedFd<'_>,
    group: &Group,
    ids: Identity,
    patience: Duration,
) -> Result<Vec<Tried>, ProbeError> {
    let mut tried = Vec::new();
    let users = [(ProbeUser::Agent, User::Agent, ids), (ProbeUser::Root, User::Root, Identity::ROOT)];
    let level = record.level;
    let os_user = (level < Level::Container)
        .then(|| OsUser { saved_gid: record.base_uid + SAVED_GID, rail: level == Level::Workspace });
    let attempts: Vec<&str> = attempts_of(level).map(|attempt| attempt.id).collect();
    for (user, order, ids) in users.into_iter().take(if os_user.is_some() { 1 } else { 2 }) {
        let order = Order {
            init: record.pid as i32,
            user: order,
            ids,
            os_user: os_user.clone(),
            only: Some(attempts.iter().map(|&id| id.to_owned()).collect()),
            landlock_abi: record.landlock_abi,
            apparmor: level.has_image() && apparmor::confines(record.pid),
            patience,
        };
        let output = output(program, &order, init, group).map_err(ProbeError::Start)?;
        tried.extend(read(user, &attempts, &output)?);
    }
    Ok(tried)
}

/// Starts one probe, and takes what it says until it ends or time is up.
fn output(program: &Path, order: &Order, init: BorrowedFd<'_>, group: &Group) -> io::Result<Vec<u8>> {
    let cgroups = group.procs().map_err(io::Error::other)?;
    let (ours, theirs) = jail::wire::pair()?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = Command::new(program);
    // Its command line can be read inside; where the program lies is nobody's business there.
    command.arg0("cofferdam-jail").args(["probe", "--enter"]).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(write).stderr(Stdio::null());
    let mut child = spawn_with_fd(command, theirs, ZYGOTE_FD)?;
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(init).chain(cgroups.iter().map(AsFd::as_fd)).collect();
    // Nobody else collects it.
    let _watch = Watch::new(child.id());
    let mut said = Vec::new();
    let collected = open_child(&child).and_then(|pidfd| {
        jail::wire::send(ours.as_fd(), order, &fds)?;
        collect(&read, pidfd.as_fd(), Instant::now() + order.patience + MARGIN, &mut said)
    });
    // It ends what is inside when time is up, and then itself. One that does not cannot be helped.
    if !matches!(collected, Ok(true)) {
        let _ = child.kill();
    }
    if !child.wait()?.success() {
        children::end_orphans("probe", MARGIN);
    }
    collected.map(|_| said)
}

fn open_child(child: &Child) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Takes what is said until its end or that of the process; `false` when neither came in time. An attempt that was frozen
/// with the agent, just after its start, keeps the pipe open for as long as that lasts.
fn collect(pipe: &OwnedFd, process: BorrowedFd<'_>, end: Instant, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while said.len() <= OUTPUT_MAX {
        match wait_for_any([pipe.as_fd(), process], end)? {
            [true, _] => {}
            [false, true] => return Ok(true),
            [false, false] => break,
        }
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // What it said until then tells how far it came; without its end it is not complete.
    said.extend_from_slice(b"out of time\n");
    Ok(false)
}

/// Takes a complete list of results, in its order, for one.
fn read(user: ProbeUser, attempts: &[&str], output: &[u8]) -> Result<Vec<Tried>, ProbeError> {
    let all = attempts.len();
    let mut tried: Vec<Tried> = Vec::with_capacity(all);
    let incomplete =
        |made, detail: &str| Err(ProbeError::Incomplete { user, made, all, detail: detail.to_owned() });
    for line in output.split_inclusive(|byte| *byte == b'\n') {
        let made = tried.len();
        let Ok(Line { id, outcome, detail }) = serde_json::from_slice(line) else {
            return incomplete(made, &String::from_utf8_lossy(&line[..line.len().min(200)]));
        };
        if attempts.get(made).is_none_or(|attempt| *attempt != id) {
            return incomplete(made, &detail);
        }
        let outcome = match outcome {
            probe::Outcome::Held => Outcome::Held,
            probe::Outcome::Broken => Outcome::Broken,
            probe::Outcome::Unsupported => Outcome::Unsupported,
            probe::Outcome::Unclear => Outcome::Unclear,
        };
        // Paths and names of the agent's own may stand in it.
        let detail = super::container::printable(&detail);
        tried.push(Tried { id, user, outcome, detail });
    }
    match tried.len() {
        made if made < all => incomplete(made, "it said no more"),
        _ => Ok(tried),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> String {
        format!("{{\"id\":\"{id}\",\"outcome\":\"held\",\"detail\":\"\"}}\n")
    }

    #[test]
    fn only_a_complete_list_counts() {
        let lines: Vec<String> = ATTEMPTS.iter().map(|attempt| line(attempt.id)).collect();
        let attempts: Vec<&str> = ATTEMPTS.iter().map(|attempt| attempt.id).collect();
        let read = |lines: &[String]| read(ProbeUser::Agent, &attempts, lines.concat().as_bytes());
        assert_eq!(read(&lines).map(|tried| tried.len()).ok(), Some(ATTEMPTS.len()));
        assert!(read(&lines[1..]).is_err(), "without the first");
        assert!(read(&lines[..lines.len() - 1]).is_err(), "without the last");
        assert!(read(&[]).is_err());
        let check = |index: usize, text: &str, why: &str| {
            let mut lines = lines.clone();
            lines[index] = text.to_owned();
            assert!(read(&lines).is_err(), "{why}");
        };
        check(7, &lines[8], "one twice, another not at all");
        check(7, "{}\n", "a line that is no result");
        check(lines.len() - 1, lines[lines.len() - 1].trim_end_matches("}\n"), "a line that is cut short");
        let more = [lines.clone(), vec![lines[0].clone()]].concat();
        assert!(read(&more).is_err(), "more than there are");
    }
}
