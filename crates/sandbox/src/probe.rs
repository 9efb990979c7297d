//! Runs the probe inside a boundary, and believes complete answers only.
//!
//! It is started by this process, outside, with a pipe that nobody inside has, and goes in by itself (`jail::probe`): no
//! process of the agent has a part in it. Whatever an agent does to it can only make it unfinished.

use crate::cgroup::Group;
use crate::container::BoundaryRecord;
use crate::host::process::spawn_with_fd;
use jail::layout::ZYGOTE_FD;
use jail::probe::{self, Line, Order};
use jail::spec::{Agent, Identity, User};
use model::probe::{ATTEMPTS, Outcome, ProbeUser, Tried};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the attempts of one user may take. They take about a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest output: an id, a detail and the rest of a line for each attempt.
const OUTPUT_MAX: usize = ATTEMPTS.len() * (2 * probe::DETAIL_MAX + 128);

/// Why there is no result. An agent can bring that about, and so it is never taken for a good sign.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be started.
    #[error("the probe could not be started")]
    Start(#[source] io::Error),
    /// It did not come to its end.
    #[error("the probe ended after {made} of {all} attempts as {user:?}: {detail}", all = ATTEMPTS.len())]
    Incomplete {
        /// As whom it was.
        user: ProbeUser,
        /// How many attempts it made.
        made: usize,
        /// What is known of why.
        detail: String,
    },
}

/// Makes all attempts as the agent's user, then as root inside.
pub(crate) fn run(
    program: &Path,
    record: &BoundaryRecord,
    init: BorrowedFd<'_>,
    group: &Group,
    agent: &Agent,
) -> Result<Vec<Tried>, ProbeError> {
    let mut tried = Vec::with_capacity(2 * ATTEMPTS.len());
    let root = Identity { uid: 0, gid: 0 };
    for (user, order, ids) in
        [(ProbeUser::Agent, User::Agent, agent.ids), (ProbeUser::Root, User::Root, root)]
    {
        let order = Order { init: record.pid as i32, user: order, ids, landlock_abi: record.landlock_abi };
        let output = output(program, &order, init, group).map_err(ProbeError::Start)?;
        tried.extend(read(user, &output)?);
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
    let said = jail::wire::send(ours.as_fd(), order, &fds).and_then(|()| collect(&read, PATIENCE));
    // It ends by itself, unless time is up; what is inside ends with it.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let finished = said.is_ok() && wait(pidfd.as_fd(), Instant::now() + PATIENCE)?;
        if !finished {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
    child.wait()?;
    said
}

/// Waits until the descriptor can be read, or is at its end; `false` when time is up.
fn wait(fd: BorrowedFd<'_>, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn collect(pipe: &OwnedFd, limit: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + limit;
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while said.len() <= OUTPUT_MAX && wait(pipe.as_fd(), end)? {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return Ok(said),
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // What it said until then tells how far it came; without its end it is not complete.
    said.extend_from_slice(b"out of time\n");
    Ok(said)
}

/// Takes a complete list of results, in its order, for one.
fn read(user: ProbeUser, output: &[u8]) -> Result<Vec<Tried>, ProbeError> {
    let mut tried: Vec<Tried> = Vec::with_capacity(ATTEMPTS.len());
    let incomplete =
        |made, detail: &str| Err(ProbeError::Incomplete { user, made, detail: detail.to_owned() });
    for line in output.split_inclusive(|byte| *byte == b'\n') {
        let made = tried.len();
        let Ok(Line { id, outcome, detail }) = serde_json::from_slice(line) else {
            return incomplete(made, &String::from_utf8_lossy(&line[..line.len().min(200)]));
        };
        if ATTEMPTS.get(made).is_none_or(|attempt| attempt.id != id) {
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
        made if made < ATTEMPTS.len() => incomplete(made, "it said no more"),
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
        let read = |lines: &[String]| read(ProbeUser::Agent, lines.concat().as_bytes());
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
