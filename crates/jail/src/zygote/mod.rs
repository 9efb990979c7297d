//! The one process that clones namespaces.
//!
//! It is started by node with one end of a `SOCK_SEQPACKET` pair as descriptor 3, lives in a mount namespace of its own
//! in which there is nothing but the images that it was given, and makes one child for each launch. The children are
//! siblings of the zygote, not its children (`CLONE_PARENT`): node reaps them, and they outlive the zygote. Many can be
//! under way at once, for what takes long happens in them.
//!
//! It never resolves a path that somebody gave it, and ends when node closes the socket.

mod child;
mod kernelfs;
mod network;
mod root;
mod rootfs;
mod userns;
mod volume;

use crate::laps::Lap;
use crate::layout::{ID_COUNT, ZYGOTE_FD};
use crate::seccomp::{Filter, Profile};
use crate::spec::{LAUNCH_FDS_FIXED, LAUNCH_FDS_MAX, Launch, LaunchFds, Reply, Request};
use crate::step::{Step, StepError};
use crate::sys::process::{self, Cloned};
use crate::{landlock, sys, wire};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a child says before it becomes init, one JSON line each; then it closes the pipe by exec.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The next thing is exec. It comes with how long each step took.
    Ready(Vec<Lap>),
    /// There will be no init.
    Failed(StepError),
}

/// What every launch has in common, made once.
struct Shared {
    filter: Filter,
    landlock_abi: u32,
}

/// A child that has not become init yet.
struct Pending {
    request: u64,
    pid: i32,
    pidfd: OwnedFd,
    report: OwnedFd,
    said: Vec<u8>,
}

/// Runs the zygote until node closes the socket; returns the exit code.
pub fn run() -> i32 {
    // SAFETY: descriptor 3 is the socket that node gives a zygote; nothing else in this process owns it. If there is
    // none, the first message fails with EBADF.
    let socket = unsafe { OwnedFd::from_raw_fd(ZYGOTE_FD) };
    match serve(socket.as_fd()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("cofferdam-jail: the zygote cannot go on: {error}");
            1
        }
    }
}

fn serve(socket: BorrowedFd<'_>) -> Result<(), StepError> {
    // Nobody but root looks into what has descriptors of every boundary.
    process::control(libc::PR_SET_DUMPABLE, 0).step("hiding the zygote's memory")?;
    set_close_on_exec(socket).step("taking the zygote's socket")?;
    root::enter()?;
    let shared = Shared { filter: Filter::new(Profile::Agent), landlock_abi: landlock::abi() };
    let reply = |reply: &Reply, fds: &[BorrowedFd<'_>]| wire::send(socket, reply, fds).step("answering node");
    reply(&Reply::Ready { landlock_abi: shared.landlock_abi }, &[])?;

    let mut pending: Vec<Pending> = Vec::new();
    loop {
        let ready = wait(socket, &pending).step("waiting for messages")?;
        // From the back, so that removing one does not move those that are still to be looked at.
        for index in (0..pending.len()).rev().filter(|&index| ready[index + 1]) {
            if !hear(&mut pending[index]) {
                continue;
            }
            let done = pending.swap_remove(index);
            reply(&verdict(&done, shared.landlock_abi), &[done.pidfd.as_fd()])?;
        }
        if !ready[0] {
            continue;
        }
        match wire::receive::<Request>(socket) {
            Ok(None) => return Ok(()),
            Ok(Some((Request::AddImage { digest }, fds))) => {
                let answer = match root::add_image(&digest, fds) {
                    Ok(()) => Reply::ImageAdded { digest },
                    Err(error) => Reply::ImageFailed { digest, step: error.step, errno: error.errno },
                };
                reply(&answer, &[])?;
            }
            Ok(Some((Request::RemoveImage { digest }, _))) => root::remove_image(&digest),
            Ok(Some((Request::Launch(launch), fds))) => match start(&launch, fds, &shared) {
                Ok(child) => pending.push(child),
                Err(StepError { step, errno, detail }) => {
                    let request = launch.request;
                    reply(&Reply::Failed { request, step, errno, detail, pid: None }, &[])?;
                }
            },
            // Node is of the same version; a message that is none is a bug, and no reason to lose the images.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => eprintln!("cofferdam-jail: {error}"),
            Err(error) => return Err(error).step("receiving from node"),
        }
    }
}

fn set_close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    sys::check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }.into()).map(drop)
}

/// Waits until something can be read; element 0 is the socket, then the pending children in their order.
fn wait(socket: BorrowedFd<'_>, pending: &[Pending]) -> io::Result<Vec<bool>> {
    let watch = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polls = vec![watch(socket.as_raw_fd())];
    polls.extend(pending.iter().map(|child| watch(child.report.as_raw_fd())));
    loop {
        // SAFETY: the pointer and the length are those of `polls`.
        match sys::check(unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as _, -1) }.into()) {
            Ok(_) => return Ok(polls.iter().map(|poll| poll.revents != 0).collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Refuses what would make a boundary that is none.
fn check(launch: &Launch) -> Result<(), StepError> {
    let refuse = |detail: &str| Err(StepError::new("checking the launch", detail));
    if !root::is_digest(&launch.image) {
        return refuse("the image's digest must be 64 hex digits");
    }
    // The host's own users are below; the last ids are reserved for "no id".
    if launch.base_uid < ID_COUNT || launch.base_uid > u32::MAX - 2 * ID_COUNT {
        return refuse("the first uid must leave the host's first 65536 ids alone, and leave room for 65536");
    }
    Ok(())
}

fn start(launch: &Launch, fds: Vec<OwnedFd>, shared: &Shared) -> Result<Pending, StepError> {
    check(launch)?;
    if !(LAUNCH_FDS_FIXED..=LAUNCH_FDS_MAX).contains(&fds.len()) {
        return Err(StepError::new("checking the launch", "descriptors are missing"));
    }
    let Some(fds) = LaunchFds::from_vec(fds) else {
        return Err(StepError::new("checking the launch", "descriptors are missing"));
    };
    let (report, write_end) = sys::pipe().step("making a pipe for the report")?;
    // The other namespaces are the child's own business, so that this process is free again at once, and so that
    // they are charged to the agent's cgroups.
    match process::clone(libc::CLONE_PARENT | libc::CLONE_NEWPID).step("cloning a pid namespace")? {
        Cloned::Parent(pid, pidfd) => {
            Ok(Pending { request: launch.request, pid, pidfd, report, said: Vec::new() })
        }
        Cloned::Child => {
            drop(report);
            child::run(launch, fds, shared, write_end)
        }
    }
}

/// Reads what a child has to say; `true` when that was all.
fn hear(child: &mut Pending) -> bool {
    let mut buffer = [0u8; 4096];
    match sys::read(child.report.as_fd(), &mut buffer) {
        Ok(0) | Err(_) => true,
        Ok(length) => {
            child.said.extend_from_slice(&buffer[..length]);
            false
        }
    }
}

fn verdict(child: &Pending, landlock_abi: u32) -> Reply {
    let (request, pid) = (child.request, child.pid);
    let mut reply = Reply::Failed {
        request,
        step: "setting up the boundary".into(),
        errno: 0,
        detail: "the process ended without a word; its memory limit may be too small".into(),
        pid: Some(pid),
    };
    for line in child.said.split(|&byte| byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Report::Ready(laps)) => reply = Reply::Launched { request, pid, landlock_abi, laps },
            Ok(Report::Failed(StepError { step, errno, detail })) => {
                reply = Reply::Failed { request, step, errno, detail, pid: Some(pid) };
            }
            Err(_) => {}
        }
    }
    reply
}
