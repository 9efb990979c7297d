//! The probe: a process inside a boundary that tries to get out, one harmless attempt after the other.
//!
//! Every attempt is a child of its own, so that none can change what the next one meets. All are made so that they stop
//! short of harm wherever they succeed: bad descriptors behind a privilege check, files that are opened and not written
//! to, detached mounts that vanish with the child. Whoever runs `cofferdam-jail probe` as root of an unconfined machine is
//! told that much is open, and nothing has changed.
//!
//! It never executes and never loads anything that it finds inside, and takes nobody's word: what it says goes to its
//! standard output alone, which is node's pipe. What each attempt tries, and why that proves a control, is in
//! `model::probe`, by the same names in the same order: a table here would be memory of every init.

mod enter;
mod files;
mod kernel;
mod limits;
mod namespaces;
mod network;
mod processes;
mod system;
mod word;

pub use enter::{Order, OsUser};

use crate::sys::process;
use crate::sys::{self, check};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use word::call;

/// How long one attempt may take. They take microseconds.
const PATIENCE_MS: i32 = 3_000;

/// The longest detail, in bytes.
pub const DETAIL_MAX: usize = 200;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The boundary held.
    Held,
    /// It did not.
    Broken,
    /// This kernel or machine has nothing there that could be tried.
    Unsupported,
    /// It was not really tried: there were no descriptors, no memory, no time. It proves nothing.
    Unclear,
}

/// One line of the probe's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Which attempt.
    pub id: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What the kernel answered.
    pub detail: String,
}

/// What attempts are told of the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// Processes that live outside, by their numbers there.
    pub pids: Vec<i32>,
    /// What `/proc/self/ns` says outside: `ipc:[4026531839]` and so on.
    pub namespaces: Vec<String>,
    /// An abstract unix socket that listens outside, without its leading NUL.
    pub abstract_socket: String,
    /// The ABI of Landlock that is in force; 0 = none.
    pub landlock_abi: u32,
    /// Whether the agent is in the AppArmor profile.
    #[serde(default)]
    pub apparmor: bool,
    /// What `/tmp` is outside: device and inode.
    pub tmp: Option<(u64, u64)>,
    /// The attempts to make; without them all.
    #[serde(skip)]
    only: Option<Vec<String>>,
    /// An abstract unix socket in the same network namespace, made before Landlock. The probe's own business.
    #[serde(skip)]
    neighbour: String,
}

/// What one attempt saw.
struct Seen(Outcome, String);

impl Seen {
    fn held(detail: impl Into<String>) -> Self {
        Self(Outcome::Held, detail.into())
    }

    fn broken(detail: impl Into<String>) -> Self {
        Self(Outcome::Broken, detail.into())
    }

    fn unsupported(detail: impl Into<String>) -> Self {
        Self(Outcome::Unsupported, detail.into())
    }

    fn unclear(detail: impl Into<String>) -> Self {
        Self(Outcome::Unclear, detail.into())
    }

    /// Held if it is so.
    fn expect(held: bool, detail: impl Into<String>) -> Self {
        if held { Self::held(detail) } else { Self::broken(detail) }
    }
}

/// What the kernel says when it has run out of something: no answer to what was tried.
const WANTS: [i32; 6] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::ENOBUFS];

/// The call must be refused for want of privilege, or not be there. Any other error says that the kernel went on to look at
/// the arguments.
fn refused(result: io::Result<i64>) -> Seen {
    refused_or(&[], result)
}

/// The same, with further answers that hold.
fn refused_or(also: &[i32], result: io::Result<i64>) -> Seen {
    let error = match result {
        Ok(value) => return Seen::broken(format!("allowed, returned {value}")),
        Err(error) => error,
    };
    let number = error.raw_os_error().unwrap_or(0);
    match number {
        libc::EPERM | libc::EACCES | libc::ENOSYS => Seen::held(error.to_string()),
        _ if also.contains(&number) => Seen::held(error.to_string()),
        _ if WANTS.contains(&number) => Seen::unclear(error.to_string()),
        _ => Seen::broken(format!("not refused, but: {error}")),
    }
}

/// Where an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before Landlock is in force: what has to hold without it.
    Bare,
    /// As every process of the agent is.
    Whole,
}

/// Makes the attempts of one stage and says what came of them.
struct Prober<'a> {
    outside: &'a Outside,
    stage: Stage,
    output: BorrowedFd<'a>,
    failed: Option<io::Error>,
}

impl<'a> Prober<'a> {
    fn new(outside: &'a Outside, stage: Stage, output: BorrowedFd<'a>) -> io::Result<Self> {
        // For the children: what the kernel does to whoever breaks its rules ends them all the same, what other processes
        // send does not. Else they could answer for an attempt.
        process::ignore_signal(libc::SIGSYS)?;
        process::ignore_signal(libc::SIGSEGV)?;
        Ok(Self { outside, stage, output, failed: None })
    }

    /// Makes one attempt in a child.
    fn attempt(&mut self, id: &str, attempt: fn(&Outside) -> Seen) {
        let counts = self.outside.only.as_ref().is_none_or(|only| only.iter().any(|name| name == id));
        if self.failed.is_some() || !counts {
            return;
        }
        let Seen(outcome, detail) = self.in_child(id, attempt).unwrap_or_else(|error| {
            // No process, no pipe: the limits of the agent leave no room.
            Seen::unclear(format!("could not be tried: {error}"))
        });
        let line = Line { id: id.to_owned(), outcome, detail: cut(detail) };
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        if let Err(error) = sys::write_all(self.output, &text) {
            self.failed = Some(error);
        }
    }

    fn in_child(&self, id: &str, attempt: fn(&Outside) -> Seen) -> io::Result<Seen> {
        let (read, write) = sys::pipe()?;
        let prober = std::process::id();
        match fork()? {
            Forked::Child => {
                drop(read);
                let _ = process::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
                // Only the prober writes to the pipe that is believed.
                process::close(self.output.as_raw_fd());
                if std::os::unix::process::parent_id() == prober {
                    let Seen(outcome, detail) = attempt(self.outside);
                    let mut text = vec![outcome as u8];
                    text.extend_from_slice(detail.as_bytes());
                    let _ = sys::write_all(write.as_fd(), &text[..text.len().min(1024)]);
                }
                process::exit_now(0)
            }
            Forked::Parent(pid) => {
                drop(write);
                let answer = hear(&read);
                // SAFETY: the child was not waited for, so that the number is still its own.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                let status = wait_status(pid)?;
                Ok(match answer? {
                    Some(answer) if !answer.is_empty() => {
                        let detail = String::from_utf8_lossy(&answer[1..]).into_owned();
                        Seen(outcome(answer[0]), detail)
                    }
                    Some(_) => ended(id, status),
                    None => Seen::unclear("no answer in time"),
                })
            }
        }
    }
}

/// What it says that a child ended without an answer: something where its end is the kernel's answer.
fn ended(id: &str, status: i32) -> Seen {
    match libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)) {
        // The filter ends whoever speaks another table's calls.
        Some(libc::SIGSYS) if matches!(id, "seccomp-x32" | "seccomp-i386") => {
            Seen::held("the process was ended by SIGSYS")
        }
        // Where the kernel does not speak them, the instruction is a fault.
        Some(libc::SIGSEGV) if id == "seccomp-i386" => {
            Seen::unsupported("this kernel has no such table switched on")
        }
        _ => Seen::unclear(format!("the process ended with status {status:#x}")),
    }
}

/// A detail that is short enough.
fn cut(mut detail: String) -> String {
    let end = (0..=DETAIL_MAX.min(detail.len())).rev().find(|end| detail.is_char_boundary(*end));
    detail.truncate(end.unwrap_or(0));
    detail
}

fn outcome(byte: u8) -> Outcome {
    [Outcome::Held, Outcome::Broken, Outcome::Unsupported]
        .into_iter()
        .find(|outcome| *outcome as u8 == byte)
        .unwrap_or(Outcome::Unclear)
}

enum Forked {
    Parent(i32),
    Child,
}

/// By `clone`, as every process of an agent does: the filter leaves no `clone3`.
fn fork() -> io::Result<Forked> {
    Ok(match call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)? {
        0 => Forked::Child,
        pid => Forked::Parent(pid as i32),
    })
}

fn wait_status(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
            Ok(_) => return Ok(status),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a child says up to its end; `None` if that does not come in time.
fn hear(pipe: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let mut wait = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as stated.
        match check(unsafe { libc::poll(&raw mut wait, 1, PATIENCE_MS) }.into()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        match sys::read(pipe.as_fd(), &mut buffer)? {
            0 => return Ok(Some(answer)),
            count if answer.len() <= 1024 => answer.extend_from_slice(&buffer[..count]),
            _ => return Ok(None),
        }
    }
}

/// Makes all attempts of a stage.
fn attempts(stage: Stage, outside: &Outside, output: BorrowedFd<'_>) -> io::Result<()> {
    let mut prober = Prober::new(outside, stage, output)?;
    match prober.stage {
        Stage::Bare => processes::init(&mut prober),
        Stage::Whole => {
            namespaces::attempts(&mut prober);
            network::attempts(&mut prober);
            kernel::attempts(&mut prober);
            files::attempts(&mut prober);
            processes::attempts(&mut prober);
            limits::attempts(&mut prober);
            system::attempts(&mut prober);
        }
    }
    prober.failed.map_or(Ok(()), Err)
}

/// `cofferdam-jail probe [--enter]`; returns the exit code. Without `--enter` the attempts are made where it is.
pub fn run(mut args: impl Iterator<Item = std::ffi::OsString>) -> i32 {
    let done = match args.next().as_deref() {
        None => here(&mut Outside::default(), |_| Ok(())),
        Some(word) if word == OsStr::new("--enter") => enter::run(),
        Some(_) => Err(io::ErrorKind::InvalidInput.into()),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("cofferdam-jail: the probe could not go on: {error}");
            1
        }
    }
}

/// Makes all attempts as the process that this is; `restrict` is the last of what confines it.
fn here(outside: &mut Outside, restrict: impl FnOnce(&Outside) -> io::Result<()>) -> io::Result<()> {
    // SAFETY: standard output is open for as long as this process lives, and nobody else closes it here.
    let output = unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) };
    attempts(Stage::Bare, outside, output)?;
    let neighbour = processes::neighbour(outside)?;
    restrict(outside)?;
    attempts(Stage::Whole, outside, output)?;
    drop(neighbour);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another process can do to an attempt where nothing keeps signals from it.
    #[test]
    fn a_signal_is_no_answer() {
        let (_read, write) = sys::pipe().unwrap();
        let outside = Outside::default();
        let prober = Prober::new(&outside, Stage::Whole, write.as_fd()).unwrap();
        let check = |id: &str, attempt: fn(&Outside) -> Seen, expected: Outcome| {
            assert_eq!(prober.in_child(id, attempt).unwrap().0, expected, "{id}");
        };
        fn signalled(signal: i32) -> Seen {
            // SAFETY: takes no pointers.
            unsafe { libc::kill(libc::getpid(), signal) };
            Seen::broken("")
        }
        for id in ["seccomp-mode", "seccomp-i386"] {
            check(id, |_| signalled(libc::SIGSYS), Outcome::Broken);
            check(id, |_| signalled(libc::SIGSEGV), Outcome::Broken);
            check(id, |_| signalled(libc::SIGKILL), Outcome::Unclear);
        }
        let by_kernel = |id, signal, expected| assert_eq!(ended(id, signal).0, expected, "{id}");
        by_kernel("seccomp-i386", libc::SIGSYS, Outcome::Held);
        by_kernel("seccomp-x32", libc::SIGSYS, Outcome::Held);
        by_kernel("seccomp-i386", libc::SIGSEGV, Outcome::Unsupported);
        by_kernel("seccomp-mode", libc::SIGSYS, Outcome::Unclear);
    }

    #[test]
    fn details_are_cut_between_characters() {
        let long = format!("{}ä", "a".repeat(DETAIL_MAX - 1));
        assert_eq!(cut(long), "a".repeat(DETAIL_MAX - 1));
    }
}
