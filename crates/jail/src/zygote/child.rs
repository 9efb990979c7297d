//! From a fresh process to init behind a whole boundary, in the one order that works. Half way, when it has all that
//! needs neither image nor volume, it waits to be told of both.
//!
//! Until the user namespace is entered, this process is the host's root in new namespaces that the host's user
//! namespace owns: nothing inside can ever change them. One with the machine's own system enters none, and becomes an OS
//! user without any capability; its user namespace is there to map its volume's ids. Whatever fails ends the process, and with it go its
//! namespaces and every mount that was made.

use super::{Report, Shared, kernelfs, network, root, rootfs, system, userns::UserNamespace, volume};
use crate::laps::Laps;
use crate::layout::{
    CHANNEL_FD, CONFIG_FD, EXIT_RECORD_FD, HOSTNAME_FD, HOSTS_FD, INIT_CAPABILITY, LOG_A_FD, LOG_B_FD,
    READY_FD, ROOT_CAPABILITIES, SECCOMP_FD, WRITABLE,
};
use crate::spec::{Launch, Limits, Prepare, PrepareFds, Root};
use crate::step::{Step, StepError};
use crate::sys::{self, mount, process};
use crate::{apparmor, landlock, sabotage, wire};
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The host name of a boundary that is no agent's yet.
const NO_NAME: &str = "blank";
/// The host's root.
pub const ROOT: u32 = 0;
/// What is like `/tmp`; an image has its own `/var`.
pub const TEMPORARY: [&str; 2] = ["tmp", "var/tmp"];
/// What is done there, with what helps where it cannot be.
pub const APPARMOR: &str = "asking for the AppArmor profile (restart the node if somebody has unloaded it)";
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

/// Waits for the volume, and for the image or the machine's system. When the zygote is gone there will never be any.
fn hear(zygote: BorrowedFd<'_>) -> Result<(Launch, OwnedFd, OwnedFd), StepError> {
    let step = "waiting for an image and a volume";
    let Some((launch, fds)) = wire::receive::<Launch>(zygote).step(step)? else { process::exit_now(0) };
    let [volume, tree] =
        <[OwnedFd; 2]>::try_from(fds).map_err(|_| StepError::new(step, "descriptors are missing"))?;
    Ok((launch, volume, tree))
}

/// A boundary without image and volume.
struct Prepared {
    base_uid: u32,
    host_network: bool,
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
    let prepared = prepare(wanted, fds, shared.given, &mut laps)?;
    say(zygote, &Report::Prepared(laps.into_vec()));
    let (launch, volume, tree) = hear(zygote)?;
    let mut laps = Laps::start();
    let init = complete(prepared, &launch, volume, tree, shared, &mut laps)?;
    say(zygote, &Report::Ready(laps.into_vec()));
    if let Root::System { .. } = launch.root {
        let ready = process::duplicate_above(zygote, OUT_OF_THE_WAY);
        ready.and_then(|ready| process::place(ready, READY_FD)).step("keeping the socket for init")?;
    }
    Err(process::execute(init.as_fd(), &[c"init"])).step("starting init")
}

/// Makes what every boundary has, but for the namespaces that are `given`: who started the zygote made them for this boundary
/// alone. Afterwards this process is as before: the host's root.
fn prepare(
    wanted: &Prepare,
    fds: PrepareFds<OwnedFd>,
    given: i32,
    laps: &mut Laps,
) -> Result<Prepared, StepError> {
    if !sys::is_readable_by_all(fds.init.as_fd()).step("examining init's binary")? {
        return Err(StepError::new("examining init's binary", "it must be readable for all (mode 0755)"));
    }
    // Its command line is the zygote's until exec.
    process::set_name(c"blank").step("taking a name")?;
    process::reset_signals().step("resetting signals")?;
    process::new_session().step("making a session")?;

    // First of all, so that everything that follows is charged to the agent.
    for cgroup in &fds.cgroups {
        sys::write_all(cgroup.as_fd(), b"0").step("joining the cgroup")?;
    }
    laps.lap("join cgroups");
    #[cfg(feature = "sabotage")]
    sabotage::lift_limits()?;
    process::unshare(namespaces(wanted.host_network) & !given).step("making namespaces")?;
    if !sabotage::leaves_out("mount_namespace") {
        root::leave_images()?;
    }
    laps.lap("namespaces");
    // Whoever gives one lets nobody in it change the name; node does, from outside.
    if given & libc::CLONE_NEWUTS == 0 {
        process::set_host_name(NO_NAME, "").step("setting the host name")?;
    }

    // The user namespace takes over these limits as bounds of the sum of what all its processes have.
    limit(&wanted.limits)?;
    process::control(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP as u64)
        .step("keeping capabilities")?;
    act_as(wanted.base_uid)?;
    let proc = kernelfs::new_proc()?;
    let userns = UserNamespace::create(proc.as_fd(), wanted.base_uid, &wanted.limits)?;
    laps.lap("user namespace");
    // The host's is not ours to change.
    if !wanted.host_network && !sabotage::leaves_out("network_namespace") {
        network::prepare(proc.as_fd())?;
    }
    laps.lap("network");
    // The helper writes to /proc/sys, which is read-only once it is attached.
    let userns = userns.finish()?;
    laps.lap("user namespace's limits");
    act_as(ROOT)?;
    let (base_uid, terminals) = (wanted.base_uid, wanted.limits.terminals);
    Ok(Prepared { base_uid, host_network: wanted.host_network, terminals, fds, proc, userns })
}

/// What a boundary has of its own, beside the pid namespace that it was cloned into and the user namespace that comes last.
fn namespaces(host_network: bool) -> i32 {
    let kinds = [
        ("mount_namespace", libc::CLONE_NEWNS),
        ("network_namespace", if host_network { 0 } else { libc::CLONE_NEWNET }),
        ("ipc_namespace", libc::CLONE_NEWIPC),
        ("uts_namespace", libc::CLONE_NEWUTS),
        ("cgroup_namespace", libc::CLONE_NEWCGROUP),
    ];
    kinds.into_iter().filter(|(name, _)| !sabotage::leaves_out(name)).fold(0, |all, (_, kind)| all | kind)
}

/// Makes it whole: what is left is to start init, which is returned.
fn complete(
    prepared: Prepared,
    launch: &Launch,
    volume: OwnedFd,
    tree: OwnedFd,
    shared: &Shared,
    laps: &mut Laps,
) -> Result<OwnedFd, StepError> {
    let Prepared { base_uid, host_network, terminals, fds, proc, userns } = prepared;
    #[cfg(feature = "sabotage")]
    let volume = if sabotage::leaves_out("disk_limit") { sabotage::boundless_volume()? } else { volume };
    // As root on the disk, before ids are mapped.
    let keep_scratch = matches!(launch.root, Root::Image { keep_scratch: true, .. });
    volume::prepare(volume.as_fd(), keep_scratch, launch.owner)?;
    if let Root::System { .. } = launch.root {
        volume::mark_used(volume.as_fd())?;
    }
    laps.lap("volume's directories");

    act_as(base_uid)?;
    let (root, owner) = match launch.root {
        Root::Image { .. } => {
            let (image, volume) = (tree.as_fd(), volume.as_fd());
            (rootfs::mount_overlay(keep_scratch, image, volume, userns.as_fd())?, base_uid)
        }
        Root::System { .. } => {
            rootfs::mount_system(tree.as_fd(), volume.as_fd(), userns.as_fd())?;
            (tree.try_clone().step("keeping the root")?, ROOT)
        }
    };
    laps.lap("root");
    let logs = volume::open_logs(volume.as_fd())?;
    let names = match launch.root {
        Root::Image { .. } => {
            rootfs::furnish(root.as_fd(), owner, &TEMPORARY[..1], launch.tmp_bytes)?;
            rootfs::write_resolver(root.as_fd())?;
            None
        }
        Root::System { .. } => {
            let temporary = if sabotage::leaves_out("private_tmp") { &[] } else { &TEMPORARY[..] };
            let run = rootfs::furnish(root.as_fd(), owner, temporary, launch.tmp_bytes)?;
            system::own_run(run.as_fd(), system::os_user(base_uid))?;
            let work = root::open(root::LOWER).step("finding room")?;
            let resolver = host_network.then_some(&*shared.resolver);
            Some(system::own_etc(root.as_fd(), work.as_fd(), system::os_user(base_uid), resolver)?)
        }
    };
    laps.lap("home, /tmp, /run, /etc");
    kernelfs::attach_dev(root.as_fd(), owner, terminals, launch.shm_bytes)?;
    laps.lap("/dev");
    kernelfs::attach_proc(root.as_fd(), proc.as_fd())?;
    laps.lap("/proc");
    kernelfs::attach_sys(root.as_fd(), owner)?;
    laps.lap("/sys");
    #[cfg(feature = "sabotage")]
    if sabotage::leaves_out("root_filesystem") {
        sabotage::show_the_host(&root)?;
    }
    volume::set_spare_aside(volume.as_fd())?;
    mount::enter_root(root.as_fd()).step("entering the agent's root")?;
    laps.lap("enter the root");

    if launch.apparmor && !sabotage::leaves_out("apparmor") {
        apparmor::confine_next(proc.as_fd()).step(APPARMOR)?;
    }
    // As long as this is the host's root: the room for compiled filters cannot be used up for it.
    if !sabotage::leaves_out("no_new_privs") {
        process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    }
    let listener = match sabotage::leaves_out("seccomp") {
        false => shared.filter.load_with_listener().step("loading the seccomp filter")?,
        true => sys::open(c"/dev/null", libc::O_RDWR).step("having no filter")?,
    };
    laps.lap("seccomp");
    match launch.root {
        Root::Image { .. } if sabotage::leaves_out("user_namespace") => {}
        Root::Image { .. } => process::enter_namespace(userns.as_fd(), libc::CLONE_NEWUSER)
            .step("entering the user namespace")?,
        // As init does for its children where it may.
        Root::System { .. } => sys::write_file_at(proc.as_fd(), c"self/oom_score_adj", b"0")
            .step("resetting its share in want of memory")?,
    }
    // All that could lead back to the host, while the numbers are still theirs.
    drop((volume, tree, proc, userns, root));
    let init = place_descriptors(fds, logs, listener, names)?;
    let os_user = match launch.root {
        Root::Image { .. } => None,
        Root::System { rail } => Some(OsUser { base_uid, rail }),
    };
    restrict(shared.landlock_abi, init.as_fd(), os_user)?;
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
    process::take_no_preference().step("setting limits")?;
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
    names: Option<[OwnedFd; 2]>,
) -> Result<OwnedFd, StepError> {
    let step = "placing init's descriptors";
    let null = sys::open(c"/dev/null", libc::O_RDWR).step(step)?;
    let mut wanted = vec![
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
    if let Some([hostname, hosts]) = &names {
        wanted.push((take_above(hostname.as_fd())?, HOSTNAME_FD));
        wanted.push((take_above(hosts.as_fd())?, HOSTS_FD));
    }
    let last = SECCOMP_FD + if names.is_some() { 2 } else { 0 };
    let init = take_above(fds.init.as_fd())?;
    // While their numbers are still theirs: closed later, they would close what has been placed there.
    drop((fds, log_a, log_b, listener, null, names));
    for (fd, number) in wanted {
        process::place(fd, number).step(step)?;
    }
    process::close_on_exec_from(last as u32 + 1).step(step)?;
    Ok(init)
}

/// An agent that is no root of a user namespace.
pub struct OsUser {
    base_uid: u32,
    /// Whether it may change nothing but what is its own.
    rail: bool,
}

/// Gives up what init and the agent do not need. This process is in its user namespace already, if it is no OS user.
pub fn restrict(landlock_abi: u32, init: BorrowedFd<'_>, os_user: Option<OsUser>) -> Result<(), StepError> {
    // Without no_new_privs Landlock takes a capability that is dropped below.
    let early = os_user.is_some() || sabotage::leaves_out("no_new_privs");
    let writable = os_user.as_ref().and_then(|user| user.rail.then_some(&WRITABLE[..]));
    let rail = || landlock::restrict(landlock_abi, Some(init), writable).step("applying Landlock");
    if early {
        rail()?;
    }
    match os_user {
        None => {
            process::become_user(0, 0).step("becoming root inside")?;
            let mut keep = ROOT_CAPABILITIES.to_vec();
            if !sabotage::leaves_out("init_protection") {
                keep.push(INIT_CAPABILITY);
            }
            if !sabotage::leaves_out("capabilities") {
                process::bound_capabilities(&keep).step("bounding capabilities")?;
            }
            process::set_capabilities(&keep).step("dropping capabilities")?;
        }
        Some(OsUser { base_uid, .. }) => {
            // A user that the machine has.
            let base = if sabotage::leaves_out("os_user") { 0 } else { base_uid };
            process::become_os_user(system::os_user(base)).step("becoming the agent's OS user")?;
        }
    }
    if early { Ok(()) } else { rail() }
}
