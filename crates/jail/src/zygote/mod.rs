//! The one process that clones namespaces.
//!
//! It is started by node with one end of a `SOCK_SEQPACKET` pair as descriptor 3, lives in a mount namespace of its own
//! in which there is nothing but the images that it was given and a read-only copy of the machine's system, and makes one child for each boundary. The children are
//! siblings of the zygote, not its children (`CLONE_PARENT`): node reaps them, and those that became init outlive the
//! zygote. Many can be under way at once, for what takes long happens in them. A child waits half way, when it has all
//! that every boundary has, until it is told of which image and volume it is to be.
//!
//! It resolves no path that somebody gave it but those that node hides at its start, and ends when node closes the socket.

pub(crate) mod child;
pub(crate) mod kernelfs;
pub(crate) mod network;
pub(crate) mod root;
pub(crate) mod rootfs;
mod system;
pub mod unit;
pub(crate) mod userns;
pub(crate) mod volume;

use crate::laps::Lap;
use crate::layout::{ID_COUNT, ZYGOTE_FD};
use crate::seccomp::{Filter, Profile};
use crate::spec::{Launch, Prepare, PrepareFds, Reply, Request, Root};
use crate::step::{Step, StepError};
use crate::sys::process::{self, Cloned};
use crate::{landlock, sabotage, sys, wire};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a child says before it becomes init, which closes its end of the socket once it has protected itself.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// It waits for its [`Launch`]. With how long each step took.
    Prepared(Vec<Lap>),
    /// The next thing is exec. With how long each step took.
    Ready(Vec<Lap>),
    /// There will be no init.
    Failed(StepError),
}

/// The most of the machine's `resolv.conf` that is taken.
const RESOLVER_MAX: usize = 16 << 10;

/// What every boundary has in common, made once.
pub(crate) struct Shared {
    filter: Filter,
    landlock_abi: u32,
    /// Namespaces that this zygote was started in for its one boundary.
    given: i32,
    /// How the machine itself resolves names, for agents in its network.
    resolver: Vec<u8>,
    /// Whether the machine's system could be taken.
    system: Result<(), StepError>,
}

/// A child that has not become init yet.
struct Pending {
    request: u64,
    pid: i32,
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// What it said last.
    said: Option<Report>,
    /// Somebody waits for what it does.
    working: bool,
}

/// Runs the zygote until node closes the socket; returns the exit code. Its arguments are directories of the platform's,
/// which agents do not see.
pub fn run(hidden: impl Iterator<Item = OsString>) -> i32 {
    run_as(hidden, false)
}

fn run_as(hidden: impl Iterator<Item = OsString>, is_unit: bool) -> i32 {
    let hidden: Vec<CString> =
        hidden.filter_map(|path| CString::new(path.into_encoded_bytes()).ok()).collect();
    // SAFETY: descriptor 3 is the socket that node gives a zygote; nothing else in this process owns it. If there is
    // none, the first message fails with EBADF.
    let socket = unsafe { OwnedFd::from_raw_fd(ZYGOTE_FD) };
    match serve(socket.as_fd(), &hidden, is_unit) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("cofferdam-jail: the zygote cannot go on: {error}");
            1
        }
    }
}

fn serve(socket: BorrowedFd<'_>, hidden: &[CString], is_unit: bool) -> Result<(), StepError> {
    // Modes are said where something is made, and whoever started this process may have another mind.
    process::set_umask(0);
    // Nobody but root looks into what has descriptors of every boundary.
    process::control(libc::PR_SET_DUMPABLE, 0).step("hiding the zygote's memory")?;
    set_close_on_exec(socket).step("taking the zygote's socket")?;
    // What whoever started the platform had open is nobody's here, least of all a boundary's that waits.
    process::close_from(ZYGOTE_FD as u32 + 1).step("closing what was inherited")?;
    let systemd = is_unit.then(unit::Notify::connect).transpose()?;
    #[cfg(feature = "sabotage")]
    sabotage::keep_the_host()?;
    let mut resolver = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    resolver.truncate(RESOLVER_MAX);
    let system = root::enter(hidden)?;
    let landlock_abi = if sabotage::leaves_out("landlock") { 0 } else { landlock::abi() };
    let given = if is_unit { unit::GIVEN } else { 0 };
    let shared = Shared { filter: Filter::new(Profile::Agent), landlock_abi, given, resolver, system };
    let reply = |reply: &Reply, fds: &[BorrowedFd<'_>]| wire::send(socket, reply, fds).step("answering node");
    reply(&Reply::Ready { landlock_abi: shared.landlock_abi }, &[])?;

    let mut pending: Vec<Pending> = Vec::new();
    loop {
        let ready = wait(socket, &pending).step("waiting for messages")?;
        // From the back, so that removing one does not move those that are still to be looked at.
        for index in (0..pending.len()).rev().filter(|&index| ready[index + 1]) {
            let child = &mut pending[index];
            match hear(child) {
                Heard::More => {}
                Heard::Prepared(laps) => {
                    let (request, pid) = (child.request, child.pid);
                    reply(&Reply::Prepared { request, pid, laps }, &[child.pidfd.as_fd()])?;
                }
                Heard::End => {
                    let done = pending.swap_remove(index);
                    // One that ended while nobody wanted anything of it is seen by its pidfd.
                    if done.working {
                        reply(&verdict(&done, shared.landlock_abi), &[done.pidfd.as_fd()])?;
                    }
                    if is_unit {
                        return Ok(());
                    }
                }
            }
        }
        if !ready[0] {
            continue;
        }
        let failed = |request, StepError { step, errno, detail }| {
            reply(&Reply::Failed { request, step, errno, detail, pid: None }, &[])
        };
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
            Ok(Some((Request::Prepare(prepare), fds))) => match begin(&prepare, fds, &mut pending, &shared) {
                Ok(child) => {
                    if let Some(systemd) = &systemd {
                        systemd.main_process(child.pid)?;
                    }
                    pending.push(child);
                }
                Err(error) => failed(prepare.request, error)?,
            },
            Ok(Some((Request::Launch(launch), fds))) => {
                if let Err(error) = complete(&launch, fds, &mut pending, &shared) {
                    failed(launch.request, error)?;
                }
            }
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
    polls.extend(pending.iter().map(|child| watch(child.socket.as_raw_fd())));
    loop {
        // SAFETY: the pointer and the length are those of `polls`.
        match sys::check(unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as _, -1) }.into()) {
            Ok(_) => return Ok(polls.iter().map(|poll| poll.revents != 0).collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Begins a boundary.
fn begin(
    prepare: &Prepare,
    fds: Vec<OwnedFd>,
    pending: &mut Vec<Pending>,
    shared: &Shared,
) -> Result<Pending, StepError> {
    let refuse = |detail: &str| StepError::new("checking the boundary", detail);
    // The host's own users are below; the last ids are reserved for "no id".
    if prepare.base_uid < ID_COUNT || prepare.base_uid > u32::MAX - 2 * ID_COUNT {
        return Err(refuse(
            "the first uid must leave the host's first 65536 ids alone, and leave room for 65536",
        ));
    }
    let mut fds = PrepareFds::from_vec(fds).ok_or_else(|| refuse("descriptors are missing"))?;
    let place = fds.cgroups.iter().position(|cgroup| sys::is_directory(cgroup.as_fd()).unwrap_or(false));
    let place = place.map(|index| fds.cgroups.swap_remove(index));
    let (socket, theirs) = wire::pair().step("making a socket for the child")?;
    // The other namespaces are the child's own business, so that this process is free again at once, and so that
    // they are charged to the agent's cgroups.
    let pids = if sabotage::leaves_out("pid_namespace") { 0 } else { libc::CLONE_NEWPID };
    let flags = libc::CLONE_PARENT | pids;
    match process::clone_into(flags, place.as_ref().map(AsFd::as_fd)).step("cloning a pid namespace")? {
        Cloned::Parent(pid, pidfd) => {
            Ok(Pending { request: prepare.request, pid, pidfd, socket, said: None, working: true })
        }
        Cloned::Child => {
            // A child that waits must not keep the zygote's ends open: they close when the zygote ends, for node and for
            // the other children to see it.
            drop((socket, place));
            pending.clear();
            process::close(ZYGOTE_FD);
            child::run(prepare, fds, shared, theirs)
        }
    }
}

/// Hands a child what it waits for.
fn complete(
    launch: &Launch,
    fds: Vec<OwnedFd>,
    pending: &mut [Pending],
    shared: &Shared,
) -> Result<(), StepError> {
    let refuse = |detail: &str| StepError::new("checking the launch", detail);
    let [volume] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| refuse("it must come with the volume"))?;
    let child = pending.iter_mut().find(|child| child.request == launch.request && !child.working);
    let child = child.ok_or_else(|| refuse("its process has ended"))?;
    let tree = match &launch.root {
        Root::Image { digest, .. } => root::image(digest)?,
        Root::System { .. } => shared.system.clone().and_then(|()| root::system())?,
    };
    wire::send(child.socket.as_fd(), launch, &[volume.as_fd(), tree.as_fd()])
        .step("handing over the launch")?;
    child.working = true;
    Ok(())
}

/// What came of listening to a child.
enum Heard {
    /// Nothing that node is to know by now.
    More,
    /// It waits for its launch.
    Prepared(Vec<Lap>),
    /// It became init, or ended.
    End,
}

fn hear(child: &mut Pending) -> Heard {
    match wire::receive::<Report>(child.socket.as_fd()) {
        Ok(Some((Report::Prepared(laps), _))) => {
            child.working = false;
            Heard::Prepared(laps)
        }
        Ok(Some((report, _))) => {
            child.said = Some(report);
            Heard::More
        }
        Ok(None) | Err(_) => Heard::End,
    }
}

fn verdict(child: &Pending, landlock_abi: u32) -> Reply {
    let (request, pid) = (child.request, child.pid);
    let failed = |step: &str, errno, detail: &str| Reply::Failed {
        request,
        step: step.to_owned(),
        errno,
        detail: detail.to_owned(),
        pid: Some(pid),
    };
    match &child.said {
        Some(Report::Ready(laps)) => Reply::Launched { request, landlock_abi, laps: laps.clone() },
        Some(Report::Failed(StepError { step, errno, detail })) => failed(step, *errno, detail),
        Some(Report::Prepared(_)) | None => failed(
            "setting up the boundary",
            0,
            "the process ended without a word; its memory limit may be too small",
        ),
    }
}
