//! Children of this process that end: each is collected once, by whoever needs to know how it ended.
//!
//! The node is child subreaper, so whatever a dead zygote had begun becomes its child too. That is collected
//! here; what somebody watches is left to them.

use crate::procfs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many watch a pid. One table, because children belong to the process and not to a part of it.
static WATCHED: LazyLock<Mutex<HashMap<u32, usize>>> = LazyLock::new(Mutex::default);

fn watched() -> MutexGuard<'static, HashMap<u32, usize>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What OCI runtimes call themselves and what they start, until that is init; they execute themselves by `/proc/self/exe`, or
/// a copy of themselves in memory. And who guards one that is a kernel.
const RUNTIMES: &[&str] = &[
    "runc",
    "runsc",
    "guard",
    "exe",
    "memfd:runc_clon",
    "runc:[0:PARENT]",
    "runc:[1:CHILD]",
    "runc:[2:INIT]",
];

/// Who is executed by a descriptor has its number for a name, until it takes another.
fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// As long as it lives, the child is left for its holder to collect.
#[derive(Debug)]
pub(crate) struct Watch(u32);

impl Watch {
    pub(crate) fn new(pid: u32) -> Self {
        *watched().entry(pid).or_default() += 1;
        Self(pid)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = watched();
        if let Some(watchers) = watched.get_mut(&self.0) {
            *watchers -= 1;
            if *watchers == 0 {
                watched.remove(&self.0);
            }
        }
    }
}

/// Children of this process by their names, and whether they have ended.
fn named(is: impl Fn(&str) -> bool) -> Vec<(u32, bool)> {
    let us = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        let Ok(stat) = procfs::read(entry.path().join("stat")) else { continue };
        match procfs::identity(&stat) {
            Some((of, state, parent)) if parent == us && is(of) => found.push((pid, state == "Z")),
            _ => {}
        }
    }
    found
}

/// Collects ended children that nobody watches, and counts them. They are told by their name: that of the stored init
/// binary, and further on the way that of a blank, of a runtime, of init and of a probe. Children of other kinds belong to whoever started them.
pub(crate) fn reap_orphans(init_digest: &str) -> usize {
    // The kernel keeps 15 characters of a name.
    let name = init_digest.get(..15).unwrap_or(init_digest);
    let known = [&[name, "blank", "init", "probe"], RUNTIMES].concat();
    let ended = named(|of| known.contains(&of) || is_number(of)).into_iter().filter(|(_, ended)| *ended);
    let mut reaped = 0;
    for (pid, _) in ended.filter(|(pid, _)| !watched().contains_key(pid)) {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let collected = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            reaped += usize::from(matches!(collected, Ok(Some(_))));
        }
    }
    reaped
}

/// Ends children of this name that nobody watches, and collects each that ends within the limit: one that stays in an agent's
/// pid namespace, if only as a zombie, keeps the agent's init from ending.
pub(crate) fn end_orphans(name: &str, limit: Duration) {
    let end = Instant::now() + limit;
    for (pid, _) in named(|of| of == name).into_iter().filter(|(pid, _)| !watched().contains_key(pid)) {
        let Some(Ok(pidfd)) = Pid::from_raw(pid as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        else {
            continue;
        };
        // By now the number may be another's: somebody else may have collected the child.
        if !named(|of| of == name).iter().any(|(child, _)| *child == pid) {
            continue;
        }
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        if let Ok(true) = wait(pidfd.as_fd(), end) {
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// Processes by descriptors, of those that are still there.
pub(crate) fn open(pids: Vec<u32>) -> Vec<OwnedFd> {
    let pids = pids.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    pids.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect()
}

/// Collects those of these processes that are children of this one, and end within the limit.
pub(crate) fn collect(processes: Vec<OwnedFd>, limit: Duration) {
    let end = Instant::now() + limit;
    for process in processes {
        if let Ok(true) = wait(process.as_fd(), end) {
            let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// Waits until the descriptor can be read, or is at its end; `false` when time is up.
pub(crate) fn wait(fd: BorrowedFd<'_>, end: Instant) -> io::Result<bool> {
    wait_for_any([fd], end).map(|[ready]| ready)
}

/// Waits until one of the descriptors can be read, or is at its end, and says which; none when time is up.
pub(crate) fn wait_for_any<const N: usize>(fds: [BorrowedFd<'_>; N], end: Instant) -> io::Result<[bool; N]> {
    let mut polled = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
