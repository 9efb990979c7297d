//! Goes where an agent's processes are, and becomes one of them in everything that confines, by the code that confines init
//! and its children.
//!
//! Two processes: one stays outside, answers what the filter asks and is what node ends when time is up; the other goes
//! inside. That one was executed outside, so that its memory belongs to the host's user namespace: whatever
//! capabilities somebody has inside, they cannot trace it, read it or open its descriptors. Landlock's own domain keeps
//! signals away from it where the kernel scopes them. Where it does not, a probe that somebody ends is a probe that was
//! not made: node believes complete lists only.

use super::{DETAIL_MAX, Line, Outcome, Outside};
use crate::init::{child, sys as questions};
use crate::layout::{INIT_CAPABILITY, ROOT_CAPABILITIES, ZYGOTE_FD};
use crate::seccomp::{Filter, Profile};
use crate::spec::{Identity, User};
use crate::step::{Step, StepError};
use crate::sys::process::{self, Cloned};
use crate::sys::{self, check};
use crate::{landlock, wire};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// A saved gid that no process of the agent has: it keeps the agent's root from changing the probe's limits, as it does
/// for init.
const SAVED_GID: u32 = 65_534;

/// Where to go and as whom. Comes as one message on descriptor 3, with init's pidfd and the `cgroup.procs` files of the
/// agent's cgroups, open for writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Init, as the sender's pid namespace counts.
    pub init: i32,
    /// As whom.
    pub user: User,
    /// And which ids that is.
    pub ids: Identity,
    /// The ABI of Landlock that is in force around the agent.
    pub landlock_abi: u32,
}

pub fn run() -> io::Result<()> {
    process::control(libc::PR_SET_DUMPABLE, 0)?;
    // SAFETY: descriptor 3 is the socket that node gives a probe; nothing else in this process owns it. If there is none,
    // the first message fails with EBADF.
    let socket = unsafe { OwnedFd::from_raw_fd(ZYGOTE_FD) };
    let Some((order, fds)) = wire::receive::<Order>(socket.as_fd())? else { return Ok(()) };
    drop(socket);
    let mut fds = fds.into_iter();
    let init = fds.next().ok_or(io::ErrorKind::InvalidInput)?;
    let cgroups: Vec<OwnedFd> = fds.collect();
    match go(&order, init, cgroups) {
        Ok(()) => Ok(()),
        Err(error) => {
            say(&error);
            Err(io::Error::other(error.detail))
        }
    }
}

/// In place of an attempt: why there are none, or no more.
fn say(error: &StepError) {
    let mut detail =
        format!("{}: {} {}", error.step, io::Error::from_raw_os_error(error.errno), error.detail);
    detail.truncate(DETAIL_MAX);
    let line = Line { id: "failed".to_owned(), outcome: Outcome::Unclear, detail };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    // SAFETY: standard output is open as long as this process lives.
    let _ = sys::write_all(unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) }, &text);
}

fn go(order: &Order, init: OwnedFd, cgroups: Vec<OwnedFd>) -> Result<(), StepError> {
    // Before the namespaces are others.
    let (mut outside, listening) = describe(order).step("describing the outside")?;
    copy_limits(order.init).step("taking over init's limits")?;
    process::enter_namespace(init.as_fd(), libc::CLONE_NEWPID).step("entering the pid namespace")?;
    let (ours, theirs) = wire::pair().step("making a socket")?;
    match super::clone_outside().step("starting the process that goes inside")? {
        Cloned::Child => {
            drop((ours, listening));
            let code = match inside(order, &mut outside, init, cgroups, theirs) {
                Ok(()) => 0,
                Err(error) => {
                    say(&error);
                    1
                }
            };
            process::exit_now(code)
        }
        Cloned::Parent(pid, pidfd) => {
            drop((theirs, init, cgroups));
            // So that the end of the output is the end of whoever is inside.
            process::close(libc::STDOUT_FILENO);
            let answered = answer(ours.as_fd(), pidfd.as_fd()).step("answering the filter");
            let _ = process::wait_for(pid);
            drop(listening);
            answered
        }
    }
}

fn describe(order: &Order) -> io::Result<(Outside, UnixListener)> {
    let link = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}"));
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let namespaces = kinds
        .into_iter()
        .map(|kind| Ok(link(kind)?.to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    let mut random = [0u8; 16];
    // SAFETY: the pointer and the length are those of `random`.
    check(unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) } as libc::c_long)?;
    let name = format!("cofferdam-probe-{:032x}", u128::from_ne_bytes(random));
    let listening = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let pids = vec![std::process::id() as i32, std::os::unix::process::parent_id() as i32, order.init];
    let outside = Outside {
        pids,
        namespaces,
        abstract_socket: name,
        landlock_abi: order.landlock_abi,
        ..Default::default()
    };
    Ok((outside, listening))
}

/// What limits init is what limits everything in the agent. Its table has a heading and then a line for each limit in the
/// order of their numbers: a name of 25 columns, soft and hard limit (proc_pid_limits(5)). Asking by prlimit(2) takes a
/// capability that not every host's root has.
fn copy_limits(init: i32) -> io::Result<()> {
    let table = std::fs::read_to_string(format!("/proc/{init}/limits"))?;
    let number = |text: Option<&str>| match text {
        Some("unlimited") => Ok(libc::RLIM_INFINITY),
        text => text.and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData),
    };
    for (resource, line) in table.lines().skip(1).enumerate() {
        let mut numbers = line.get(25..).unwrap_or_default().split_whitespace();
        process::limit(resource as u32, number(numbers.next())?, number(numbers.next())?)?;
    }
    Ok(())
}

/// Lets go on what the filter asks about, as init does as long as there are not too many, up to the end of the other process.
fn answer(socket: BorrowedFd<'_>, inside: BorrowedFd<'_>) -> io::Result<()> {
    let Some(((), fds)) = wire::receive::<()>(socket)? else { return Ok(()) };
    let listener = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
    loop {
        let watch = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polls = [watch(inside.as_raw_fd()), watch(listener.as_raw_fd())];
        // SAFETY: the pointer and the length are those of `polls`.
        match check(unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        if polls[0].revents != 0 {
            return Ok(());
        }
        if polls[1].revents & libc::POLLIN != 0
            && let Some((question, _)) = questions::next_question(listener.as_fd())
        {
            questions::answer_question(listener.as_fd(), question, None);
        }
    }
}

/// Becomes a process of the agent, and tries.
fn inside(
    order: &Order,
    outside: &mut Outside,
    init: OwnedFd,
    cgroups: Vec<OwnedFd>,
    supervisor: OwnedFd,
) -> Result<(), StepError> {
    process::set_name(c"probe").step("taking a name")?;
    process::reset_signals().step("resetting signals")?;
    process::new_session().step("making a session")?;
    process::set_umask(0o022);
    // What it uses is the agent's.
    for cgroup in &cgroups {
        sys::write_all(cgroup.as_fd(), b"0").step("joining the cgroup")?;
    }
    drop(cgroups);
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    process::enter_namespace(init.as_fd(), namespaces).step("entering the namespaces")?;

    // In the order of a boundary's making.
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    let step = "loading the seccomp filter";
    let listener = Filter::new(Profile::Agent).load_with_listener().step(step)?;
    wire::send(supervisor.as_fd(), &(), &[listener.as_fd()]).step(step)?;
    process::enter_namespace(init.as_fd(), libc::CLONE_NEWUSER).step("entering the user namespace")?;
    drop((listener, supervisor, init));
    process::become_user(0, 0).step("becoming root inside")?;
    let mut keep = ROOT_CAPABILITIES.to_vec();
    keep.push(INIT_CAPABILITY);
    process::bound_capabilities(&keep).step("bounding capabilities")?;
    process::set_capabilities(&keep).step("dropping capabilities")?;
    child::become_user_saving(order.user, order.ids, SAVED_GID).step("becoming the agent's user")?;
    // Changing ids has undone both.
    process::control(libc::PR_SET_DUMPABLE, 0).step("hiding its memory")?;
    process::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).step("ending with its supervisor")?;
    super::here(outside, |outside| landlock::restrict(outside.landlock_abi, None)).step("making attempts")
}
