//! Goes where an agent's processes are, and becomes one of them in everything that confines, by the code that confines init
//! and its children.
//!
//! Two processes: one stays outside, answers what the filter asks, and ends the other when time is up; the other is
//! inside. That one was executed outside, so that its memory belongs to the host's user namespace: whatever
//! capabilities somebody has inside, they cannot trace it, read it or open its descriptors. Landlock's own domain keeps
//! signals away from it where the kernel scopes them. Where it does not, a probe that somebody ends is a probe that was
//! not made: node believes complete lists only.
//!
//! Between them there is a third for a moment. Whoever is in a pid namespace is looked at through its `/proc`: anybody may
//! read the mount table, the connections and the cgroups of any process there. So a helper takes all other namespaces
//! before it starts the one that is inside, and ends: nobody is there who has anything of the host's.

use super::{Line, Outcome, Outside};
use crate::init::{child, sys as questions};
use crate::layout::{INIT_CAPABILITY, ROOT_CAPABILITIES, SAVED_GID, WRITABLE, ZYGOTE_FD};
use crate::seccomp::{Filter, Profile};
use crate::spec::{Identity, User};
use crate::step::{Step, StepError};
use crate::sys::process::{self, Cloned};
use crate::sys::{self, check};
use crate::{apparmor, landlock, wire};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

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
    /// Where the agent is an OS user of its machine.
    #[serde(default)]
    pub os_user: Option<OsUser>,
    /// The attempts that count at the agent's level; without them all.
    #[serde(default)]
    pub only: Option<Vec<String>>,
    /// The ABI of Landlock that is in force around the agent.
    pub landlock_abi: u32,
    /// Whether the agent is in the AppArmor profile.
    #[serde(default)]
    pub apparmor: bool,
    /// How long it may take.
    pub patience: Duration,
}

/// An agent without a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsUser {
    /// A saved gid that no process of the agent has.
    pub saved_gid: u32,
    /// Whether Landlock lets it write to places of its own alone.
    pub rail: bool,
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
    let detail = format!("{}: {} {}", error.step, io::Error::from_raw_os_error(error.errno), error.detail);
    let detail = super::cut(detail);
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
    let end = Instant::now() + order.patience;
    let (ours, theirs) = wire::pair().step("making a socket")?;
    match process::clone(0).step("starting a helper")? {
        Cloned::Child => {
            drop((ours, listening));
            leave(enter(order, &mut outside, init, cgroups, theirs))
        }
        Cloned::Parent(_, helper) => {
            drop((theirs, init, cgroups));
            let supervised = supervise(ours, helper.as_fd(), end);
            drop(listening);
            supervised.step("trying (is it paused, or short of processor time?)")
        }
    }
}

/// The end of a process that has nothing but a result.
fn leave(done: Result<(), StepError>) -> ! {
    let code = match done {
        Ok(()) => 0,
        Err(error) => {
            say(&error);
            1
        }
    };
    process::exit_now(code)
}

/// Sees the helper and whoever is inside to their ends, and brings those about when time is up: what nobody waits for would
/// keep the agent's pid namespace from ending.
fn supervise(socket: OwnedFd, helper: BorrowedFd<'_>, end: Instant) -> io::Result<()> {
    let helped = ready([helper, helper], end);
    let _ = process::kill(helper);
    let waited = process::wait_for(-1).and(helped);
    // Its word on the other may be there although its time was up.
    let inside = match ready([socket.as_fd(), socket.as_fd()], Instant::now()) {
        Ok(_) => {
            wire::receive::<()>(socket.as_fd()).unwrap_or(None).and_then(|(_, fds)| fds.into_iter().next())
        }
        Err(_) => None,
    };
    let answered = match (waited, &inside) {
        (Ok(_), Some(inside)) => {
            wire::send(socket.as_fd(), &(), &[]).and_then(|()| answer(socket.as_fd(), inside.as_fd(), end))
        }
        // The helper has said why there is none.
        (waited, _) => waited.map(drop),
    };
    // Whoever is inside without being known waits for a word, and goes; frozen, it cannot, and is left to node.
    drop(socket);
    if let Some(inside) = inside {
        let _ = process::kill(inside.as_fd());
        while process::wait_for(-1).is_ok() {}
    }
    answered
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
        apparmor: order.apparmor,
        only: order.only.clone(),
        tmp: super::files::identity("/tmp").ok(),
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

/// Waits until the first has something to say, be it its end, or the second can be read; says which.
fn ready(fds: [BorrowedFd<'_>; 2], end: Instant) -> io::Result<[bool; 2]> {
    let mut polls = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_millis().min(i32::MAX as u128);
        // SAFETY: the pointer and the length are those of `polls`.
        match check(unsafe { libc::poll(polls.as_mut_ptr(), 2, left as i32) }.into()) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ETIME)),
            Ok(_) => return Ok([polls[0].revents != 0, polls[1].revents & libc::POLLIN != 0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets go on what the filter asks about, as init does as long as there are not too many, up to the end of the other process.
fn answer(socket: BorrowedFd<'_>, inside: BorrowedFd<'_>, end: Instant) -> io::Result<()> {
    if let [true, _] = ready([inside, socket], end)? {
        return Ok(());
    }
    let Some(((), fds)) = wire::receive::<()>(socket)? else { return Ok(()) };
    let listener = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
    loop {
        match ready([inside, listener.as_fd()], end)? {
            [true, _] => return Ok(()),
            [false, false] => {}
            [false, true] => {
                if let Some((question, _)) = questions::next_question(listener.as_fd()) {
                    questions::answer_question(listener.as_fd(), question, None);
                }
            }
        }
    }
}

/// Takes what the agent has, and starts the process that is inside: as the supervisor's child, which is to wait for it.
fn enter(
    order: &Order,
    outside: &mut Outside,
    init: OwnedFd,
    cgroups: Vec<OwnedFd>,
    supervisor: OwnedFd,
) -> Result<(), StepError> {
    end_with_supervisor()?;
    process::set_name(c"probe").step("taking a name")?;
    process::reset_signals().step("resetting signals")?;
    process::set_umask(0o022);
    // What it uses is the agent's.
    for cgroup in &cgroups {
        sys::write_all(cgroup.as_fd(), b"0").step("joining the cgroup")?;
    }
    drop(cgroups);
    // The pid namespace is for children; this process stays out of it.
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWPID;
    process::enter_namespace(init.as_fd(), namespaces).step("entering the namespaces")?;
    match process::clone(libc::CLONE_PARENT).step("starting the process inside")? {
        Cloned::Child => leave(inside(order, outside, init, supervisor)),
        Cloned::Parent(_, inside) => {
            wire::send(supervisor.as_fd(), &(), &[inside.as_fd()]).step("handing over the process inside")
        }
    }
}

fn end_with_supervisor() -> Result<(), StepError> {
    let done = process::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    done.map(drop).step("ending with its supervisor")
}

/// Becomes a process of the agent, and tries.
fn inside(order: &Order, outside: &mut Outside, init: OwnedFd, supervisor: OwnedFd) -> Result<(), StepError> {
    end_with_supervisor()?;
    // One that is not known to a supervisor would be nobody's to end.
    if wire::receive::<()>(supervisor.as_fd()).step("waiting for the supervisor")?.is_none() {
        return Ok(());
    }
    process::new_session().step("making a session")?;

    // In the order of a boundary's making.
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    let step = "loading the seccomp filter";
    let listener = Filter::new(Profile::Agent).load_with_listener().step(step)?;
    wire::send(supervisor.as_fd(), &(), &[listener.as_fd()]).step(step)?;
    drop(listener);
    if order.os_user.is_none() {
        process::enter_namespace(init.as_fd(), libc::CLONE_NEWUSER).step("entering the user namespace")?;
        process::become_user_saving(0, 0, SAVED_GID).step("becoming root inside")?;
        let mut keep = ROOT_CAPABILITIES.to_vec();
        keep.push(INIT_CAPABILITY);
        process::bound_capabilities(&keep).step("bounding capabilities")?;
        process::set_capabilities(&keep).step("dropping capabilities")?;
    }
    drop(init);
    // It keeps the agent's root, or its user where there is none, from changing the probe's limits, as it does for init.
    let saved = order.os_user.as_ref().map_or(SAVED_GID, |user| user.saved_gid);
    child::become_user_saving(order.user, order.ids, saved).step("becoming the agent's user")?;
    // Changing ids has undone both.
    process::control(libc::PR_SET_DUMPABLE, 0).step("hiding its memory")?;
    end_with_supervisor()?;
    // Fails if it ended in between.
    wire::send(supervisor.as_fd(), &(), &[]).step("ending with its supervisor")?;
    drop(supervisor);
    let writable = order.os_user.as_ref().is_some_and(|user| user.rail).then_some(&WRITABLE[..]);
    let confine = |outside: &Outside| {
        if outside.apparmor {
            apparmor::confine_now(sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY)?.as_fd())?;
        }
        landlock::restrict(outside.landlock_abi, None, writable)
    };
    super::here(outside, confine).step("making attempts")
}
