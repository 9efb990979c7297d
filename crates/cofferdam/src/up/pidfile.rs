//! Who supervises: `RUN/up.pid` holds a pid and its start time, and is locked (flock(2)) while that lives.
//!
//! The lock says whether; the start time says that the pid is still the same process.

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// The lock, held by this process.
pub struct Held(File);

/// A process that was written down, and still runs.
pub struct Process {
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
    Running(Process),
    /// Somebody who has not written down who they are yet, or is just ending.
    Unclear,
}

/// Takes the lock, or finds out who has it.
pub fn take(path: &Path) -> anyhow::Result<Owner> {
    let attempt = || format!("cannot use {}", path.display());
    let mut file = loop {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .with_context(attempt)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A `down` removes the file while it has the lock: what was opened before that locks nothing.
            Ok(()) if !is_at(&file, path) => {}
            Ok(()) => return Ok(Owner::Us(Held(file))),
            Err(Errno::WOULDBLOCK) => break file,
            Err(errno) => return Err(errno).with_context(attempt),
        }
    };
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(attempt)?;
    Ok(process(&text).map_or(Owner::Unclear, Owner::Running))
}

/// Whether this open file is the one that has the name.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Writes down which process a service is, for a supervisor or a `down` that comes after this one.
pub fn note(path: &Path, pid: i32) -> anyhow::Result<()> {
    // Gone already: then there is nothing to find.
    let Some(start) = start_time(pid) else { return Ok(()) };
    std::fs::write(path, format!("{pid} {start}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The process that was written down, if it still runs.
pub fn find(path: &Path) -> Option<Process> {
    process(&std::fs::read_to_string(path).ok()?)
}

fn process(text: &str) -> Option<Process> {
    let (pid, start) = text.trim().split_once(' ')?;
    let (pid, start) = (pid.parse::<i32>().ok()?, start.parse::<u64>().ok()?);
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Compared after the descriptor was opened: if it matches now, the descriptor is of that process.
    (start_time(pid)? == start).then_some(Process { pid, pidfd })
}

/// When a process was started, in clock ticks after boot: field 22 of proc_pid_stat(5).
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

impl Process {
    /// Asks it to end. Whether it has, within this time.
    pub async fn end(&self, within: Duration) -> anyhow::Result<bool> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno).with_context(|| format!("cannot end process {}", self.pid)),
        }
        self.ended(within).await
    }

    /// Ends it, and does not ask.
    pub async fn kill(&self, within: Duration) -> anyhow::Result<bool> {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.ended(within).await
    }

    async fn ended(&self, within: Duration) -> anyhow::Result<bool> {
        let pidfd = self.pidfd.try_clone()?;
        let ended = tokio::task::spawn_blocking(move || {
            // A pidfd becomes readable when its process has ended: pidfd_open(2).
            let limit = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: 0 };
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))
        });
        Ok(ended.await?? > 0)
    }
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

    /// Gives the lock up, and removes it with its directory, if nothing else is in there.
    pub fn abandon(self, path: &Path) {
        // Under the lock, as `down` does it.
        let _ = std::fs::remove_file(path);
        if let Some(directory) = path.parent() {
            let _ = std::fs::remove_dir(directory);
        }
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
        let Owner::Us(held) = take(&path).unwrap() else { panic!("nobody has it any more") };
        // Removed under the lock, as `down` does it: the next one locks a file of its own.
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&held.0, &path));
        assert!(matches!(take(&path).unwrap(), Owner::Us(_)));
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_the_supervisor() {
        let ours = std::process::id();
        assert!(process(&format!("{ours} 1\n")).is_none());
        assert!(process("x y").is_none());
        assert!(process("").is_none());
        assert!(process("-1 5").is_none());
    }
}
