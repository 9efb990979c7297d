//! Takes everything from a process of the platform that it does not need, then becomes its program.
//!
//! The program finds a read-only root with nothing in it but the paths that were named, no network unless it was
//! asked for, no capability, no way to gain one, and the filters of [`crate::seccomp`] and [`crate::landlock`]. It stays a
//! direct child of whoever started this one, under the same pid.

mod args;
mod places;
#[cfg(test)]
mod tests;

use crate::landlock;
use crate::seccomp::{Filter, Profile};
use crate::step::{Step, StepError};
use crate::sys::mount::{
    self, Change, DATA, Filesystem, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, PLAIN,
};
use crate::sys::{self, process};
use args::Options;
use places::{Place, Places};
use std::convert::Infallible;
use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;

pub use args::USAGE;

/// Like that of `env` and `chroot`: the program itself was not reached.
const NOT_REACHED: i32 = 125;

/// The nodes in `/dev`: name, major, minor.
const DEVICES: [(&CStr, u32, u32); 5] =
    [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9)];

/// Runs `confine` with its arguments. Returns an exit code when the program could not be started.
pub fn run(args: impl Iterator<Item = OsString>) -> i32 {
    let options = match args::parse(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("cofferdam-jail: confine: {error}\n{USAGE}");
            return 64;
        }
    };
    let Err(error) = confine(&options);
    eprintln!("cofferdam-jail: confine: {error}");
    NOT_REACHED
}

fn confine(options: &Options) -> Result<Infallible, StepError> {
    process::reset_signals().step("resetting signals")?;
    process::set_umask(0);
    let places = Places::resolve(options.places.iter())?;

    let network = if options.network { 0 } else { libc::CLONE_NEWNET };
    process::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network)
        .step("making namespaces")?;
    build_root(options, &places)?;
    give_up(options)?;
    process::set_umask(0o077);

    let [program, arguments @ ..] = options.command.as_slice() else {
        return Err(StepError::new("starting the program", "none was given"));
    };
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    if let Some(count) = options.keep_fds {
        // sd_listen_fds(3): the pid is that of this very process, and the program's.
        command.env("LISTEN_PID", std::process::id().to_string()).env("LISTEN_FDS", count.to_string());
    }
    process::close_on_exec_from(3 + options.keep_fds.unwrap_or(0)).step("closing descriptors")?;
    Err(command.exec()).step(&format!("starting {}", program.display()))
}

/// A detached tmpfs.
fn tmpfs(options: &[(&CStr, String)], attributes: u64) -> std::io::Result<OwnedFd> {
    let tmpfs = Filesystem::new(c"tmpfs")?.set(c"source", "tmpfs")?;
    options.iter().try_fold(tmpfs, |tmpfs, (key, value)| tmpfs.set(key, value))?.mount(attributes)
}

fn build_root(options: &Options, places: &Places) -> Result<(), StepError> {
    let step = "building the root";
    let host = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).step(step)?;
    mount::change(host.as_fd(), Change { private: true, recursive: true, ..Change::default() }).step(step)?;

    // The sources are opened while the host's tree is still in sight.
    let copies = places.copy()?;
    let root = tmpfs(&[(c"mode", "0755".into()), (c"size", "1m".into())], PLAIN).step(step)?;
    let target = sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY).step(step)?;
    mount::attach(root.as_fd(), target.as_fd()).step(step)?;

    attach_dev(root.as_fd()).step("mounting /dev")?;
    attach_tmp(root.as_fd(), options)?;
    if options.proc {
        attach_proc(root.as_fd())?;
    }
    // After /tmp, which may hold some of them.
    for (place, copy) in &copies {
        place.attach(root.as_fd(), copy.as_fd())?;
    }
    places.link(root.as_fd())?;
    mount::change(root.as_fd(), Change { set: MOUNT_ATTR_RDONLY, ..Change::default() }).step(step)?;
    mount::enter_root(root.as_fd()).step("entering the root")
}

fn attach_dev(root: BorrowedFd<'_>) -> std::io::Result<()> {
    sys::ensure_dir(root, c"dev", 0o755)?;
    let target = sys::open_at(root, c"dev", libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    let dev = tmpfs(&[(c"mode", "0755".into()), (c"size", "4k".into())], attributes)?;
    for (name, major, minor) in DEVICES {
        sys::make_char_device(dev.as_fd(), name, 0o666, major, minor)?;
    }
    mount::change(dev.as_fd(), Change { set: MOUNT_ATTR_RDONLY, ..Change::default() })?;
    mount::attach(dev.as_fd(), target.as_fd())
}

fn attach_tmp(root: BorrowedFd<'_>, options: &Options) -> Result<(), StepError> {
    let step = "mounting /tmp";
    let place = Place::directory("/tmp");
    let settings = [
        (c"mode", "0700".into()),
        (c"size", "64m".into()),
        (c"uid", options.uid.to_string()),
        (c"gid", options.gid.to_string()),
    ];
    place.attach(root, tmpfs(&settings, DATA).step(step)?.as_fd())
}

/// Its own processes, and no other part of `/proc`.
fn attach_proc(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let proc = Filesystem::new(c"proc")
        .and_then(|proc| proc.set(c"hidepid", "invisible")?.set(c"subset", "pid")?.mount(DATA))
        .step("mounting /proc")?;
    Place::directory("/proc").attach(root, proc.as_fd())
}

fn give_up(options: &Options) -> Result<(), StepError> {
    /// `CAP_SYS_ADMIN` of `linux/capability.h`.
    const SYS_ADMIN: u8 = 21;
    // Never a core; 1 also keeps the kernel from piping one into a helper, which 0 does not (core(5)).
    process::limit(libc::RLIMIT_CORE, 1, 1).step("setting limits")?;
    process::control(libc::PR_SET_NO_NEW_PRIVS, 1).step("setting no_new_privs")?;
    landlock::restrict(landlock::abi(), None, None).step("applying Landlock")?;
    process::bound_capabilities(&[]).step("bounding capabilities")?;
    process::control(libc::PR_SET_KEEPCAPS, 1).step("keeping capabilities")?;
    process::become_user(options.uid, options.gid).step("changing the user")?;
    // Agents can use up the room for compiled filters (`net.core.bpf_jit_limit`), and this capability alone goes beyond
    // it. So the filter is the last lock but one, and the program needs no filter of its own.
    process::set_capabilities(&[SYS_ADMIN]).step("dropping capabilities")?;
    let profile = if options.network { Profile::Client } else { Profile::Service };
    Filter::new(profile).load().step("loading the seccomp filter")?;
    process::set_capabilities(&[]).step("dropping the last capability")
}
