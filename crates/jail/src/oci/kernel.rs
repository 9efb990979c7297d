//! A runtime that is a kernel (runsc), from both of its ends.
//!
//! It is not the host's root: all that it needs of that is made for it before it starts ([`outside`]). A *guard* is cloned into a
//! pid namespace and makes the other namespaces, the user namespace, and the agent's root, all as for every boundary and
//! all the host's. What becomes the runtime enters the user namespace, in mounts that hold nothing but what it needs: so it
//! is root of the agent's ids and of nothing else, and whatever it starts stays in the guard's namespaces or in some of its own.
//! Then the guard gives up everything too. It is what node takes for init: it ends with the kernel, and ends everything.
//!
//! Such a kernel passes no descriptors on. What the agent's init ([`inside`]) needs besides its standard ones is in a directory
//! of the host's that is mounted inside: there it binds its channel, and opens its record and logs. Node takes the channel away
//! and removes the directory before anything of the agent runs; nothing can be made in a directory that is removed.

use super::Word;
use crate::init::{self, sys::inherited};
use crate::layout::{
    CHANNEL_FD, CONFIG_FD, EXIT_RECORD_FD, INIT_CAPABILITY, LOG_A_FD, LOG_B_FD, ROOT_CAPABILITIES,
};
use crate::seccomp::{Filter, Profile};
use crate::spec::PrepareFds;
use crate::step::{Step, StepError};
use crate::sys;
use crate::sys::mount::{self, Change, MOUNT_ATTR_RDONLY, PLAIN};
use crate::sys::process::{self, Cloned};
use crate::wire;
use crate::zygote::child::take_above;
use crate::zygote::{kernelfs, root, rootfs};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Where the exchange is mounted inside.
pub const EXCHANGE: &str = "/run/exchange";
/// Names in it. All but the channel are there before, as empty files.
pub const CHANNEL: &str = "channel";
/// The exit record.
pub const RECORD: &str = "exit";
/// Both halves of the log.
pub const LOGS: [&str; 2] = ["log.0", "log.1"];
/// This binary.
pub const INIT: &str = "init";

/// What the kernel has to execute, as its root with [`CAPABILITIES`].
pub const ARGUMENTS: [&str; 2] = ["/run/exchange/init", "guest"];

/// `CAP_SYS_ADMIN` of the other kernel, for letting go of the exchange. Init gives it up before anything of the agent runs.
const UNMOUNT: u8 = 21;

/// Capabilities that the first process has there.
pub fn capabilities() -> impl Iterator<Item = u8> {
    ROOT_CAPABILITIES.into_iter().chain([INIT_CAPABILITY, UNMOUNT])
}

/// Paths as the runtime sees them.
pub mod paths {
    /// The bundle.
    pub const BUNDLE: &str = "/bundle";
    /// What the runtime keeps of it.
    pub const STATE: &str = "/state";
    /// Where it writes the pid of the kernel.
    pub const PID: &str = "/state/pid";
    /// The agent's root.
    pub const ROOT: &str = "/root";
    /// The exchange.
    pub const EXCHANGE: &str = "/exchange";
}

/// Names of the runtime's own root, besides `/proc` and `/dev`.
const PLACES: [&CStr; 5] = [c"bundle", c"state", c"root", c"exchange", c"tmp"];
/// Where that is mounted until it is entered.
const WORKSHOP: &CStr = c"/w";

/// Lines of its log that are repeated.
const LOG_LINES: usize = 2;
/// The longest report.
const REPORT_MAX: usize = 4096;

/// What a runtime that is a kernel needs besides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its `config.json`.
    pub bundle: String,
    /// The exchange: a directory of the host, with its files.
    pub exchange: String,
}

/// What init saw of the kernel that answers it, before anything of the agent ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// What it says that it is (uname(2)).
    pub version: String,
    /// How its log begins (syslog(2)).
    pub log: String,
}

/// Descriptors that came with the order.
pub(super) struct Given {
    pub image: OwnedFd,
    pub volume: OwnedFd,
    pub runtime: OwnedFd,
    pub fds: PrepareFds<OwnedFd>,
}

/// Starts the guard, and ends.
pub(super) fn outside(
    socket: BorrowedFd<'_>,
    order: &super::Order,
    kernel: &Order,
    given: Given,
) -> Result<Infallible, StepError> {
    let step = "taking what the runtime is to find";
    // As long as these are the host's mounts.
    let exchange = CString::new(kernel.exchange.as_str())
        .map_err(io::Error::from)
        .and_then(|path| sys::open(&path, libc::O_PATH | libc::O_DIRECTORY))
        .and_then(|path| mount::copy_tree(path.as_fd(), c"", false))
        .step(step)?;
    let init = mount::copy_tree(given.fds.init.as_fd(), c"", false).step(step)?;
    match process::clone(libc::CLONE_NEWPID).step("cloning a pid namespace")? {
        Cloned::Parent(pid, _) => {
            wire::send(socket, &Word::Begun { pid }, &[]).step("answering node")?;
            process::exit_now(0)
        }
        Cloned::Child => guard(socket, order, kernel, given, [exchange, init]),
    }
}

fn guard(
    socket: BorrowedFd<'_>,
    order: &super::Order,
    kernel: &Order,
    given: Given,
    trees: [OwnedFd; 2],
) -> Result<Infallible, StepError> {
    process::set_name(c"guard").step("taking a name")?;
    process::new_session().step("making a session")?;
    process::unshare(libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP)
        .step("making namespaces")?;
    let Given { image, volume, runtime, fds } = given;
    let made = super::make(order, image, volume, |_| Ok(()))?;
    let workshop = furnish(order.base_uid, kernel, &trees, &made.logs)?;
    drop((trees, made.logs));

    let step = "starting the runtime";
    let (said, say) = sys::pipe().step(step)?;
    let args: Result<Vec<CString>, _> = order.args.iter().map(|arg| CString::new(arg.as_str())).collect();
    let args = args.map_err(|error| StepError::new("reading the runtime's arguments", &error.to_string()))?;
    let runner = match process::clone(0).step(step)? {
        Cloned::Parent(pid, _) => pid,
        Cloned::Child => {
            let Err(error) = become_runtime(made.userns.as_fd(), &fds.config, &say, runtime.as_fd(), &args);
            let _ = wire::send(socket, &Word::Failed(error), &[]);
            process::exit_now(1)
        }
    };
    drop((say, fds, runtime));
    if process::wait_for(runner).step(step)? != Some(0) {
        // It has said why.
        process::exit_now(1);
    }
    let kernel = read_pid(workshop.as_fd()).step("reading the kernel's pid")?;
    let seen = hear(said.as_fd())?;

    root::open(root::NEW_ROOT)
        .and_then(|root| mount::enter_root(root.as_fd()))
        .step("entering the agent's root")?;
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    process::enter_namespace(made.userns.as_fd(), libc::CLONE_NEWUSER).step("entering the user namespace")?;
    process::become_user(0, 0).step("becoming root inside")?;
    process::bound_capabilities(&[]).step("bounding capabilities")?;
    process::set_capabilities(&[]).step("dropping capabilities")?;
    Filter::new(Profile::Agent).load().step("loading the seccomp filter")?;
    wire::send(socket, &Word::Ready { landlock_abi: 0, kernel: Some(seen) }, &[]).step("answering node")?;
    drop((said, workshop, made.userns));
    // Its end tells node that all is done.
    process::close(socket.as_raw_fd());
    loop {
        match process::wait_for_any() {
            Ok((pid, code)) if pid == kernel => process::exit_now(code.unwrap_or(1)),
            Ok(_) => {}
            Err(_) => process::exit_now(1),
        }
    }
}

/// Makes the runtime's own root: all that it is to find.
fn furnish(
    base: u32,
    kernel: &Order,
    [exchange, init]: &[OwnedFd; 2],
    logs: &[OwnedFd; 2],
) -> Result<OwnedFd, StepError> {
    let step = "furnishing the runtime's root";
    let here = root::open("/").step(step)?;
    sys::mkdir_at(here.as_fd(), c"w", 0o700).step(step)?;
    let place = sys::open(WORKSHOP, libc::O_PATH | libc::O_DIRECTORY).step(step)?;
    let place = rootfs::attach_tmpfs(place.as_fd(), base, "0711", 16 << 20, PLAIN).step(step)?;
    for name in PLACES {
        let made = sys::mkdir_at(place.as_fd(), name, 0o700);
        made.and_then(|()| sys::chown_at(place.as_fd(), name, base, base)).step(step)?;
    }
    let bundle = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    sys::open_at(place.as_fd(), c"bundle/config.json", bundle, 0o644)
        .and_then(|file| sys::write_all(file.as_fd(), kernel.bundle.as_bytes()))
        .step(step)?;
    kernelfs::attach_dev(place.as_fd(), base, 1, 4096)?;
    let at = |path: &CStr, flags| sys::open_at(place.as_fd(), path, libc::O_PATH | flags, 0);
    let proc = rootfs::directory(place.as_fd(), "proc", 0o555)?;
    mount::attach(kernelfs::new_proc()?.as_fd(), proc.as_fd()).step(step)?;
    let attach = || {
        let root = mount::copy_tree(root::open(root::NEW_ROOT)?.as_fd(), c"", true)?;
        mount::attach(root.as_fd(), at(c"root", libc::O_DIRECTORY)?.as_fd())?;
        // What is mounted on a copy of a shared mount would appear on the host as well.
        let plain = |more| Change { set: PLAIN | more, private: true, ..Change::default() };
        mount::change(exchange.as_fd(), plain(0))?;
        mount::attach(exchange.as_fd(), at(c"exchange", libc::O_DIRECTORY)?.as_fd())?;
        mount::change(init.as_fd(), plain(MOUNT_ATTR_RDONLY))?;
        mount::attach(init.as_fd(), at(c"exchange/init", 0)?.as_fd())?;
        for (log, name) in logs.iter().zip([c"exchange/log.0", c"exchange/log.1"]) {
            let log = mount::copy_tree(log.as_fd(), c"", false)?;
            mount::attach(log.as_fd(), at(name, 0)?.as_fd())?;
        }
        Ok(())
    };
    attach().step(step)?;
    Ok(place)
}

fn become_runtime(
    userns: BorrowedFd<'_>,
    config: &OwnedFd,
    say: &OwnedFd,
    runtime: BorrowedFd<'_>,
    args: &[CString],
) -> Result<Infallible, StepError> {
    let step = "entering the runtime's root";
    process::unshare(libc::CLONE_NEWNS).step(step)?;
    sys::open(WORKSHOP, libc::O_PATH | libc::O_DIRECTORY)
        .and_then(|place| mount::enter_root(place.as_fd()))
        .step(step)?;
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    process::enter_namespace(userns, libc::CLONE_NEWUSER).step("entering the user namespace")?;
    process::become_user(0, 0).step("becoming root inside")?;
    let (config, say, runtime) =
        (take_above(config.as_fd())?, take_above(say.as_fd())?, take_above(runtime)?);
    process::place(config, 0)
        .and_then(|()| process::place(say, 1))
        .step("placing the runtime's descriptors")?;
    process::close_on_exec_from(3).step("placing the runtime's descriptors")?;
    let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
    Err(process::execute(runtime.as_fd(), &args)).step("starting the runtime")
}

fn read_pid(workshop: BorrowedFd<'_>) -> io::Result<i32> {
    let path = CString::new(&paths::PID[1..])?;
    let mut text = String::new();
    File::from(sys::open_at(workshop, &path, libc::O_RDONLY, 0)?).take(32).read_to_string(&mut text)?;
    text.trim().parse().map_err(io::Error::other)
}

/// The line that init says of itself.
fn hear(said: BorrowedFd<'_>) -> Result<Seen, StepError> {
    let step = "starting init";
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < REPORT_MAX {
        let mut more = [0; 512];
        match sys::read(said, &mut more).step(step)? {
            0 => return Err(StepError::new(step, "it ended without a word")),
            count => line.extend_from_slice(&more[..count]),
        }
    }
    match serde_json::from_slice(&line) {
        Ok(Word::Ready { kernel: Some(seen), .. }) => Ok(seen),
        Ok(Word::Failed(error)) => Err(error),
        _ => Err(StepError::new(step, "it said something else")),
    }
}

/// The first process under the other kernel: takes what it finds in the exchange, and becomes init.
pub fn inside() -> i32 {
    // SAFETY: descriptor 1 is the guard's pipe; nothing else here uses it.
    let mut said = File::from(unsafe { OwnedFd::from_raw_fd(1) });
    let say = |said: &mut File, word: &Word| {
        let mut line = serde_json::to_vec(word).unwrap_or_default();
        line.push(b'\n');
        said.write_all(&line)
    };
    match prepare() {
        Ok(seen) => {
            if say(&mut said, &Word::Ready { landlock_abi: 0, kernel: Some(seen) }).is_err() {
                return 1;
            }
            let quiet = sys::open(c"/dev/null", libc::O_RDWR).and_then(|null| {
                drop(said);
                process::place(null.try_clone()?, 1).and_then(|()| process::place(null, 2))
            });
            match quiet {
                Ok(()) => init::run(),
                Err(_) => 1,
            }
        }
        Err(error) => {
            let _ = say(&mut said, &Word::Failed(error));
            1
        }
    }
}

fn prepare() -> Result<Seen, StepError> {
    process::set_name(c"init").step("taking a name")?;
    if std::process::id() != 1 {
        return Err(StepError::new("starting init", "the runtime made no pid namespace"));
    }
    process::reset_signals().step("resetting signals")?;
    let step = "taking what is in the exchange";
    let open = |name: &str| sys::open(&CString::new(format!("{EXCHANGE}/{name}"))?, libc::O_RDWR);
    let channel = UnixListener::bind(format!("{EXCHANGE}/{CHANNEL}")).step("binding the channel")?;
    let config = inherited(0).step(step)?;
    let [log_a, log_b] = LOGS.map(open);
    let wanted = [
        (OwnedFd::from(channel), CHANNEL_FD),
        (open(RECORD).step(step)?, EXIT_RECORD_FD),
        (config, CONFIG_FD),
        (log_a.step(step)?, LOG_A_FD),
        (log_b.step(step)?, LOG_B_FD),
    ];
    let null = take_above(sys::open(c"/dev/null", libc::O_RDWR).step(step)?.as_fd())?;
    let mut above = Vec::new();
    for (fd, number) in wanted {
        above.push((take_above(fd.as_fd())?, number));
    }
    for (fd, number) in above {
        process::place(fd, number).step(step)?;
    }
    process::place(null, 0).step(step)?;
    let exchange = CString::new(EXCHANGE).expect("no NUL in a constant");
    mount::detach(&exchange).step("letting go of the exchange")?;
    process::become_user(0, 0).step("becoming root inside")?;
    let keep = [&ROOT_CAPABILITIES[..], &[INIT_CAPABILITY]].concat();
    process::bound_capabilities(&keep).step("bounding capabilities")?;
    process::set_capabilities(&keep).step("dropping capabilities")?;
    process::set_umask(0o022);
    look().step("looking at the kernel")
}

fn look() -> io::Result<Seen> {
    let version = std::fs::read_to_string("/proc/version")?.trim().to_owned();
    let log = sys::kernel_log()?;
    let log: Vec<&str> = log.lines().take(LOG_LINES).collect();
    let short = |text: String| text.chars().take(400).collect();
    Ok(Seen { version: short(version), log: short(log.join("; ")) })
}
