//! Who supervises: `RUN/up.pid` holds a pid and its start time, and is locked (flock(2)) while that lives.
//!
//! The lock says whether; the start time says that the pid is still the same process.

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The lock, held by this process.
pub struct Held(File);

/// Another process holds the lock.
pub struct Supervisor {
    /// Its pid.
    pub pid: i32,
    /// A descriptor that cannot come to mean another process.
    pub pidfd: OwnedFd,
}

/// Who has the lock.
pub enum Owner {
    /// This process, from now on.
    Us(Held),
    /// A supervisor that runs.
    Running(Supervisor),
    /// Somebody who has not written down who they are yet, or is just ending.
    Unclear,
}

/// Takes the lock, or finds out who has it.
pub fn take(path: &Path) -> anyhow::Result<Owner> {
    let attempt = || format!("cannot use {}", path.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .with_context(attempt)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(Owner::Us(Held(file))),
        Err(Errno::WOULDBLOCK) => {}
        Err(errno) => return Err(errno).with_context(attempt),
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(attempt)?;
    Ok(supervisor(&text).map_or(Owner::Unclear, Owner::Running))
}

fn supervisor(text: &str) -> Option<Supervisor> {
    let (pid, start) = text.trim().split_once(' ')?;
    let (pid, start) = (pid.parse::<i32>().ok()?, start.parse::<u64>().ok()?);
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Compared after the descriptor was opened: if it matches now, the descriptor is of that process.
    (start_time(pid)? == start).then_some(Supervisor { pid, pidfd })
}

/// When a process was started, in clock ticks after boot: field 22 of proc_pid_stat(5).
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

impl Held {
    /// The lock as the stdin of a process that takes it over: it belongs to the open file, not to the process.
    pub fn into_stdin(self) -> std::process::Stdio {
        self.0.into()
    }

    /// The lock that came as this process's stdin.
    pub fn from_stdin() -> anyhow::Result<Self> {
        use std::os::fd::AsFd;
        let stdin = std::io::stdin();
        let file = stdin.as_fd().try_clone_to_owned().context("cannot take over the lock")?;
        Ok(Self(file.into()))
    }

    /// Writes down that this process is the supervisor.
    pub fn claim(&mut self) -> anyhow::Result<()> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let start = start_time(pid).context("cannot read this process's start time")?;
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{pid} {start}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("up.pid");
        let Owner::Us(mut held) = take(&path).unwrap() else { panic!("nobody has it") };
        assert!(matches!(take(&path).unwrap(), Owner::Unclear));
        held.claim().unwrap();
        let Owner::Running(supervisor) = take(&path).unwrap() else { panic!("we have it") };
        assert_eq!(supervisor.pid, std::process::id() as i32);
        drop(held);
        assert!(matches!(take(&path).unwrap(), Owner::Us(_)));
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_the_supervisor() {
        let ours = std::process::id();
        assert!(supervisor(&format!("{ours} 1\n")).is_none());
        assert!(supervisor("x y").is_none());
        assert!(supervisor("").is_none());
        assert!(supervisor("-1 5").is_none());
    }
}
