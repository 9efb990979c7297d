//! A boundary that an OCI runtime makes, from both of its ends. runsc, which is a kernel besides, is in [`kernel`].
//!
//! The runtime is given what is the same whoever makes the boundary: a root that is mounted already, from image and volume,
//! and a network namespace, both of which the process has that becomes the runtime ([`outside`]). It makes the other
//! namespaces, joins the cgroups and mounts what belongs to the new pid namespace. All of that belongs to the host's user
//! namespace, as with the zygote, for the runtime makes no user namespace.
//!
//! What it starts ([`inside`]) has the agent's first uid and no capability, and is the owner of the user namespace that
//! waits among its descriptors: so it may enter that, has capabilities there and nowhere else, gives up what nobody needs,
//! and becomes init. Nothing of the image has run until then.

pub mod kernel;

use crate::layout::{CHANNEL_FD, CONFIG_FD, EXIT_RECORD_FD, LOG_A_FD, LOG_B_FD, SECCOMP_FD, ZYGOTE_FD};
use crate::seccomp::{Filter, Profile};
use crate::spec::{Launch, Limits, PrepareFds, Root};
use crate::step::{Step, StepError};
use crate::sys::mount::{self, Change};
use crate::sys::{self, process};
use crate::zygote::child::{APPARMOR, ROOT, TEMPORARY, act_as, limit, restrict, take_above};
use crate::zygote::userns::UserNamespace;
use crate::zygote::{kernelfs, network, root, rootfs, volume};
use crate::{apparmor, landlock, wire};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// The user namespace, until the seccomp filter's listener takes its place.
const USER_NAMESPACE_FD: i32 = SECCOMP_FD;
/// The binary that this is, and init.
const INIT_FD: i32 = 9;
/// Where a [`Word`] goes.
const WORD_FD: i32 = 10;

/// Descriptors from 3 up that the runtime has to pass on.
pub const PRESERVED: i32 = WORD_FD - 2;

/// What the runtime has to execute, by the agent's first ids, without capabilities, as process 1.
pub const ARGUMENTS: [&str; 2] = ["/proc/self/fd/9", "inside"];

/// Follows them where init is to begin in the AppArmor profile.
pub const CONFINED: &str = "confined";

/// From node to [`outside`]. Comes with the descriptors of image, volume and runtime, then those of [`PrepareFds`], of which
/// the cgroups are the runtime's own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// First id of the agent's range.
    pub base_uid: u32,
    /// What cgroups do not bound.
    pub limits: Limits,
    /// What is made of image and volume.
    pub launch: Launch,
    /// An empty directory of the host: where the runtime finds the agent's root. Nobody else does.
    pub root: String,
    /// The runtime's own arguments, its name first.
    pub args: Vec<String>,
    /// For a runtime that is a kernel. The cgroups are the agent's then.
    pub kernel: Option<kernel::Order>,
}

/// From either end to node. The last one counts, and the descriptor that it came by closes when there is nothing to follow.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// Where there is a kernel: this process holds everything together, and ends when the kernel does.
    Begun {
        /// Its pid, as the host counts.
        pid: i32,
    },
    /// The next thing is init.
    Ready {
        /// The ABI of Landlock that is in force around it; 0 = none.
        landlock_abi: u32,
        /// What it saw of the kernel that it is under, if that is not the host's.
        kernel: Option<kernel::Seen>,
    },
    /// There will be no init.
    Failed(StepError),
}

/// Prepares what the runtime is to find, and becomes the runtime.
pub fn outside() -> i32 {
    // SAFETY: descriptor 3 is the socket that node gives to who is started like this; nothing else here owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(ZYGOTE_FD) };
    let Err(error) = become_runtime(socket.as_fd());
    // Whoever does not hear it sees that this ended.
    let _ = wire::send(socket.as_fd(), &Word::Failed(error), &[]);
    1
}

fn become_runtime(socket: BorrowedFd<'_>) -> Result<Infallible, StepError> {
    process::close_from(ZYGOTE_FD as u32 + 1).step("closing what was inherited")?;
    let step = "receiving the order";
    let (order, mut fds) =
        wire::receive::<Order>(socket).step(step)?.ok_or(StepError::new(step, "none came"))?;
    let missing = || StepError::new(step, "descriptors are missing");
    if fds.len() < 3 {
        return Err(missing());
    }
    let rest = fds.split_off(3);
    let [image, volume, runtime] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| missing())?;
    let fds = PrepareFds::from_vec(rest).ok_or_else(missing)?;
    process::reset_signals().step("resetting signals")?;
    process::set_umask(0);
    process::new_session().step("making a session")?;
    for cgroup in &fds.cgroups {
        sys::write_all(cgroup.as_fd(), b"0").step("joining the cgroup")?;
    }
    if let Some(kernel) = &order.kernel {
        return kernel::outside(socket, &order, kernel, kernel::Given { image, volume, runtime, fds });
    }
    let host = sys::open(c"/proc/self/ns/mnt", libc::O_RDONLY).step("finding the host's mounts")?;
    let base = order.base_uid;
    let made = make(&order, image, volume, |root| {
        kernelfs::attach_dev(root, base, order.limits.terminals, order.launch.shm_bytes)?;
        // The runtime mounts the new pid namespace's there.
        rootfs::directory(root, "proc", 0o555)?;
        kernelfs::attach_sys(root, base)
    })?;
    let whole = root::open(root::NEW_ROOT).and_then(|at| mount::copy_tree(at.as_fd(), c"", true));
    let whole = whole.step("taking the agent's root")?;

    // Only here, and in what comes out of it, the root has a place: with the runtime it is gone.
    let step = "showing the runtime the agent's root";
    process::enter_namespace(host.as_fd(), libc::CLONE_NEWNS).step(step)?;
    process::unshare(libc::CLONE_NEWNS).step(step)?;
    let open = |path: &str| sys::open(&CString::new(path)?, libc::O_PATH | libc::O_DIRECTORY);
    let place = || {
        let here = open("/")?;
        mount::change(here.as_fd(), Change { private: true, recursive: true, ..Change::default() })?;
        mount::attach(whole.as_fd(), open(&order.root)?.as_fd())
    };
    place().step(step)?;

    let args: Result<Vec<CString>, _> = order.args.iter().map(|arg| CString::new(arg.as_str())).collect();
    let args = args.map_err(|error| StepError::new("reading the runtime's arguments", &error.to_string()))?;
    let PrepareFds { init, channel, exit_record, config, .. } = &fds;
    let [log_a, log_b] = &made.logs;
    let wanted = [
        (channel.as_fd(), CHANNEL_FD),
        (exit_record.as_fd(), EXIT_RECORD_FD),
        (config.as_fd(), CONFIG_FD),
        (log_a.as_fd(), LOG_A_FD),
        (log_b.as_fd(), LOG_B_FD),
        (made.userns.as_fd(), USER_NAMESPACE_FD),
        (init.as_fd(), INIT_FD),
        (socket, WORD_FD),
    ];
    let step = "placing init's descriptors";
    let above = wanted.map(|(fd, number)| take_above(fd).map(|fd| (fd, number)));
    let runtime = take_above(runtime.as_fd())?;
    let socket = take_above(socket)?;
    for placed in above {
        let (fd, number) = placed?;
        process::place(fd, number).step(step)?;
    }
    process::close_on_exec_from(WORD_FD as u32 + 1).step(step)?;
    let args: Vec<&std::ffi::CStr> = args.iter().map(CString::as_c_str).collect();
    let error = Err(process::execute(runtime.as_fd(), &args)).step("starting the runtime");
    // The numbers that were placed are nobody's who would close them.
    error.inspect_err(|error: &StepError| {
        let _ = wire::send(socket.as_fd(), &Word::Failed(error.clone()), &[]);
        process::exit_now(1)
    })
}

/// What the runtime and init are given, besides the agent's root at [`root::NEW_ROOT`].
struct Made {
    userns: OwnedFd,
    logs: [OwnedFd; 2],
}

/// Makes it as the zygote's children do, in mounts and a network of its own. What is the kernel's in the root comes last.
fn make(
    order: &Order,
    image: OwnedFd,
    disk: OwnedFd,
    furnish: impl FnOnce(BorrowedFd<'_>) -> Result<(), StepError>,
) -> Result<Made, StepError> {
    let base = order.base_uid;
    process::unshare(libc::CLONE_NEWNET).step("making a network namespace")?;
    // The machine's own system is for agents without an image.
    let _ = root::enter(&[])?;
    // The user namespace takes over these limits as bounds of the sum of what all its processes have.
    limit(&order.limits)?;
    let keep =
        |bits: i32| process::control(libc::PR_SET_SECUREBITS, bits as u64).step("keeping capabilities");
    keep(libc::SECBIT_NO_SETUID_FIXUP)?;
    act_as(base)?;
    let proc = kernelfs::new_proc()?;
    let userns = UserNamespace::create(proc.as_fd(), base, &order.limits)?;
    network::prepare(proc.as_fd())?;
    let userns = userns.finish()?;
    act_as(ROOT)?;
    // As root on the disk, before ids are mapped.
    let keep_scratch = matches!(order.launch.root, Root::Image { keep_scratch: true, .. });
    volume::prepare(disk.as_fd(), keep_scratch, order.launch.owner)?;
    act_as(base)?;
    let root = rootfs::mount_overlay(keep_scratch, image.as_fd(), disk.as_fd(), userns.as_fd())?;
    let logs = volume::open_logs(disk.as_fd())?;
    rootfs::furnish(root.as_fd(), base, &TEMPORARY[..1], order.launch.tmp_bytes)?;
    rootfs::write_resolver(root.as_fd())?;
    furnish(root.as_fd())?;
    volume::set_spare_aside(disk.as_fd())?;
    act_as(ROOT)?;
    keep(0)?;
    Ok(Made { userns, logs })
}

/// The process that the runtime started: enters the user namespace and becomes init.
pub fn inside(mut args: impl Iterator<Item = OsString>) -> i32 {
    let confined = args.next().is_some_and(|word| word == CONFINED);
    let inherited = |number| crate::init::sys::inherited(number).step("taking what was inherited");
    let word = match inherited(WORD_FD) {
        Ok(word) => word,
        Err(error) => {
            eprintln!("cofferdam-jail: {error}");
            return 1;
        }
    };
    let Err(error) = inherited(USER_NAMESPACE_FD)
        .and_then(|userns| inherited(INIT_FD).map(|init| (userns, init)))
        .and_then(|(userns, init)| become_init(&word, userns, init, confined));
    let _ = wire::send(word.as_fd(), &Word::Failed(error), &[]);
    1
}

fn become_init(
    word: &OwnedFd,
    userns: OwnedFd,
    init: OwnedFd,
    confined: bool,
) -> Result<Infallible, StepError> {
    // Its command line is the runtime's idea until exec.
    process::set_name(c"init").step("taking a name")?;
    if std::process::id() != 1 {
        return Err(StepError::new("starting init", "the runtime made no pid namespace"));
    }
    if confined {
        // The runtime's own mount of it; node sees from outside whether it was one.
        let proc = sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY);
        proc.and_then(|proc| apparmor::confine_next(proc.as_fd())).step(APPARMOR)?;
    }
    let landlock_abi = landlock::abi();
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    let listener = Filter::new(Profile::Agent).load_with_listener().step("loading the seccomp filter")?;
    process::enter_namespace(userns.as_fd(), libc::CLONE_NEWUSER).step("entering the user namespace")?;
    let step = "placing init's descriptors";
    let null = take_above(sys::open(c"/dev/null", libc::O_RDWR).step(step)?.as_fd())?;
    let listener = take_above(listener.as_fd())?;
    let init = take_above(init.as_fd())?;
    let word = take_above(word.as_fd())?;
    drop(userns);
    for number in 0..3 {
        let copy = take_above(null.as_fd())?;
        process::place(copy, number).step(step)?;
    }
    process::place(listener, SECCOMP_FD).step(step)?;
    process::close_on_exec_from(SECCOMP_FD as u32 + 1).step(step)?;
    restrict(landlock_abi, init.as_fd(), None)?;
    process::set_umask(0o022);
    wire::send(word.as_fd(), &Word::Ready { landlock_abi, kernel: None }, &[]).step("answering node")?;
    Err(process::execute(init.as_fd(), &[c"init"])).step("starting init")
}
