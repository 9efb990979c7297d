//! From a fresh process to init behind a whole boundary, in the one order that works. Half way, when it has all that
//! needs neither image nor volume, it waits to be told of both.
//!
//! Until the user namespace is entered, this process is the host's root in new namespaces that the host's user
//! namespace owns: nothing inside can ever change them. Whatever fails ends the process, and with it go its
//! namespaces and every mount that was made.

use super::{Report, Shared, kernelfs, network, root, rootfs, userns::UserNamespace, volume};
use crate::laps::Laps;
use crate::layout::{
    CHANNEL_FD, CONFIG_FD, EXIT_RECORD_FD, INIT_CAPABILITY, LOG_A_FD, LOG_B_FD, ROOT_CAPABILITIES, SECCOMP_FD,
};
use crate::spec::{Launch, Limits, Prepare, PrepareFds};
use crate::step::{Step, StepError};
use crate::sys::{self, mount, process};
use crate::{landlock, wire};
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The host name of a boundary that is no agent's yet.
const NO_NAME: &str = "blank";
/// The host's root.
pub const ROOT: u32 = 0;
/// Above all numbers that init expects.
const OUT_OF_THE_WAY: i32 = 64;

/// Becomes init, or says why not and ends.
pub fn run(prepare: &Prepare, fds: PrepareFds<OwnedFd>, shared: &Shared, zygote: OwnedFd) -> ! {
    // Away from the numbers that init's descriptors get.
    let error = match process::duplicate_above(zygote.as_fd(), OUT_OF_THE_WAY).step("keeping the socket") {
        Ok(kept) => {
            drop(zygote);
            let Err(error) = become_init(prepare, fds, shared, kept.as_fd());
            say(kept.as_fd(), &Report::Failed(error));
            process::exit_now(1)
        }
        Err(error) => error,
    };
    say(zygote.as_fd(), &Report::Failed(error));
    process::exit_now(1)
}

/// Tells the zygote. When it is gone there will be nobody to tell node of this process: then it must not live.
fn say(zygote: BorrowedFd<'_>, what: &Report) {
    if wire::send(zygote, what, &[]).is_err() {
        process::exit_now(1);
    }
}

/// Waits for the image and the volume. When the zygote is gone there will never be any.
fn hear(zygote: BorrowedFd<'_>) -> Result<(Launch, OwnedFd, OwnedFd), StepError> {
    let step = "waiting for an image and a volume";
    let Some((launch, fds)) = wire::receive::<Launch>(zygote).step(step)? else { process::exit_now(0) };
    let [volume, image] =
        <[OwnedFd; 2]>::try_from(fds).map_err(|_| StepError::new(step, "descriptors are missing"))?;
    Ok((launch, volume, image))
}

/// A boundary without image and volume.
struct Prepared {
    base_uid: u32,
    terminals: u32,
    fds: PrepareFds<OwnedFd>,
    /// A procfs of its pid namespace, not attached yet.
    proc: OwnedFd,
    userns: OwnedFd,
}

fn become_init(
    wanted: &Prepare,
    fds: PrepareFds<OwnedFd>,
    shared: &Shared,
    zygote: BorrowedFd<'_>,
) -> Result<Infallible, StepError> {
    let mut laps = Laps::start();
    let prepared = prepare(wanted, fds, &mut laps)?;
    say(zygote, &Report::Prepared(laps.into_vec()));
    let (launch, volume, image) = hear(zygote)?;
    let mut laps = Laps::start();
    let init = complete(prepared, &launch, volume, image, shared, &mut laps)?;
    say(zygote, &Report::Ready(laps.into_vec()));
    Err(process::execute(init.as_fd(), &[c"init"])).step("starting init")
}

/// Makes what every boundary has. Afterwards this process is as before: the host's root.
fn prepare(wanted: &Prepare, fds: PrepareFds<OwnedFd>, laps: &mut Laps) -> Result<Prepared, StepError> {
    if !sys::is_readable_by_all(fds.init.as_fd()).step("examining init's binary")? {
        return Err(StepError::new("examining init's binary", "it must be readable for all (mode 0755)"));
    }
    // Its command line is the zygote's until exec.
    process::set_name(c"blank").step("taking a name")?;
    process::reset_signals().step("resetting signals")?;
    process::set_umask(0);
    process::new_session().step("making a session")?;

    // First of all, so that everything that follows is charged to the agent.
    for cgroup in &fds.cgroups {
        sys::write_all(cgroup.as_fd(), b"0").step("joining the cgroup")?;
    }
    laps.lap("join cgroups");
    process::unshare(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP,
    )
    .step("making namespaces")?;
    root::leave_images()?;
    laps.lap("namespaces");
    process::set_host_name(NO_NAME, "").step("setting the host name")?;

    // The user namespace takes over these limits as bounds of the sum of what all its processes have.
    limit(&wanted.limits)?;
    process::control(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP as u64)
        .step("keeping capabilities")?;
    act_as(wanted.base_uid)?;
    let proc = kernelfs::new_proc()?;
    let userns = UserNamespace::create(proc.as_fd(), wanted.base_uid, &wanted.limits)?;
    laps.lap("user namespace");
    network::prepare(proc.as_fd())?;
    laps.lap("network");
    // The helper writes to /proc/sys, which is read-only once it is attached.
    let userns = userns.finish()?;
    laps.lap("user namespace's limits");
    act_as(ROOT)?;
    let (base_uid, terminals) = (wanted.base_uid, wanted.limits.terminals);
    Ok(Prepared { base_uid, terminals, fds, proc, userns })
}

/// Makes it whole: what is left is to start init, which is returned.
fn complete(
    prepared: Prepared,
    launch: &Launch,
    volume: OwnedFd,
    image: OwnedFd,
    shared: &Shared,
    laps: &mut Laps,
) -> Result<OwnedFd, StepError> {
    let Prepared { base_uid, terminals, fds, proc, userns } = prepared;
    // As root on the disk, before ids are mapped.
    volume::prepare(volume.as_fd(), launch.keep_scratch, launch.owner)?;
    laps.lap("volume's directories");

    act_as(base_uid)?;
    let root = rootfs::mount_overlay(launch.keep_scratch, image.as_fd(), volume.as_fd(), userns.as_fd())?;
    laps.lap("overlay");
    let logs = volume::open_logs(volume.as_fd())?;
    rootfs::furnish(root.as_fd(), base_uid, launch.tmp_bytes)?;
    laps.lap("home, /tmp, /run, /etc");
    kernelfs::attach_dev(root.as_fd(), base_uid, terminals, launch.shm_bytes)?;
    laps.lap("/dev");
    kernelfs::attach_proc(root.as_fd(), proc.as_fd())?;
    laps.lap("/proc");
    kernelfs::attach_sys(root.as_fd(), base_uid)?;
    laps.lap("/sys");
    volume::set_spare_aside(volume.as_fd())?;
    mount::enter_root(root.as_fd()).step("entering the agent's root")?;
    laps.lap("enter the root");

    // As long as this is the host's root: the room for compiled filters cannot be used up for it.
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    let listener = shared.filter.load_with_listener().step("loading the seccomp filter")?;
    laps.lap("seccomp");
    process::enter_namespace(userns.as_fd(), libc::CLONE_NEWUSER).step("entering the user namespace")?;
    // All that could lead back to the host, while the numbers are still theirs.
    drop((volume, image, proc, userns, root));
    let init = place_descriptors(fds, logs, listener)?;
    restrict(shared.landlock_abi, init.as_fd())?;
    process::set_umask(0o022);
    laps.lap("ids, capabilities, Landlock");
    Ok(init)
}

/// Limits that no cgroup knows.
pub fn limit(limits: &Limits) -> Result<(), StepError> {
    let set = |resource, soft: u64, hard| process::limit(resource, soft, hard).step("setting limits");
    set(libc::RLIMIT_NOFILE, 1024, limits.open_files)?;
    set(libc::RLIMIT_SIGPENDING, limits.pending_signals, limits.pending_signals)?;
    set(libc::RLIMIT_MEMLOCK, limits.locked_memory, limits.locked_memory)?;
    set(libc::RLIMIT_MSGQUEUE, 0, 0)?;
    set(libc::RLIMIT_RTPRIO, 0, 0)?;
    set(libc::RLIMIT_NICE, 0, 0)?;
    // With 0 the kernel would still pipe cores into the host's `core_pattern` helper; with 1 it does neither (core(5)).
    set(libc::RLIMIT_CORE, 1, 1)
}

/// Takes the effective ids, and keeps all capabilities. User namespace, overlay and every file that is made as the
/// agent's first ids belong to them.
pub fn act_as(id: u32) -> Result<(), StepError> {
    process::set_ids([None, Some(id), None], false).step("taking the agent's ids")
}

/// A copy of a descriptor above all numbers that init expects.
pub fn take_above(fd: BorrowedFd<'_>) -> Result<OwnedFd, StepError> {
    process::duplicate_above(fd, OUT_OF_THE_WAY).step("placing init's descriptors")
}

/// Puts everything where init expects it, and marks the rest to be closed by exec. Returns init's binary.
fn place_descriptors(
    fds: PrepareFds<OwnedFd>,
    [log_a, log_b]: [OwnedFd; 2],
    listener: OwnedFd,
) -> Result<OwnedFd, StepError> {
    let step = "placing init's descriptors";
    let null = sys::open(c"/dev/null", libc::O_RDWR).step(step)?;
    let wanted = [
        (take_above(null.as_fd())?, 0),
        (take_above(null.as_fd())?, 1),
        (take_above(null.as_fd())?, 2),
        (take_above(fds.channel.as_fd())?, CHANNEL_FD),
        (take_above(fds.exit_record.as_fd())?, EXIT_RECORD_FD),
        (take_above(fds.config.as_fd())?, CONFIG_FD),
        (take_above(log_a.as_fd())?, LOG_A_FD),
        (take_above(log_b.as_fd())?, LOG_B_FD),
        (take_above(listener.as_fd())?, SECCOMP_FD),
    ];
    let init = take_above(fds.init.as_fd())?;
    // While their numbers are still theirs: closed later, they would close what has been placed there.
    drop((fds, log_a, log_b, listener, null));
    for (fd, number) in wanted {
        process::place(fd, number).step(step)?;
    }
    process::close_on_exec_from(SECCOMP_FD as u32 + 1).step(step)?;
    Ok(init)
}

/// Gives up what init and the agent do not need. This process is in its user namespace already.
pub fn restrict(landlock_abi: u32, init: BorrowedFd<'_>) -> Result<(), StepError> {
    process::become_user(0, 0).step("becoming root inside")?;
    let mut keep = ROOT_CAPABILITIES.to_vec();
    keep.push(INIT_CAPABILITY);
    process::bound_capabilities(&keep).step("bounding capabilities")?;
    process::set_capabilities(&keep).step("dropping capabilities")?;
    landlock::restrict(landlock_abi, Some(init)).step("applying Landlock")
}
