//! Gates of a node that is dead. An honest gate ends with its node; one that was taken over may hold the guard's
//! address for ever. Their uids are nobody else's, so whoever runs under one of them is such a gate.

use super::GATE_UIDS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// What one may take to be gone after SIGKILL, in seconds.
const PATIENCE: i64 = 2;

/// Ends every process under a gate's uid and waits until it is gone. Only for a node that runs alone and has
/// started no gate yet.
pub(super) fn end_all(uid_first: u32) {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    for pid in pids.filter(|pid| is_gate(*pid, uid_first)) {
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Again, with the process held: the pid may be another's by now.
        if is_gate(pid, uid_first) {
            tracing::warn!(pid = pid.as_raw_nonzero(), "ending a gate that outlived its node");
            end(&pidfd);
        }
    }
}

/// The owner of a process's directory in /proc is its effective uid, or root for one that cannot be dumped: then
/// its status says the uid.
fn is_gate(pid: Pid, uid_first: u32) -> bool {
    let gates = uid_first..uid_first + GATE_UIDS;
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let status = fs::read_to_string(format!("{directory}/status")).unwrap_or_default();
    // One that ended and waits to be collected holds nothing any more.
    if status.lines().any(|line| line.starts_with("State:\tZ")) {
        return false;
    }
    if fs::metadata(&directory).is_ok_and(|found| gates.contains(&found.uid())) {
        return true;
    }
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok());
    uid.is_some_and(|uid: u32| gates.contains(&uid))
}

fn end(pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let limit = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit));
}
