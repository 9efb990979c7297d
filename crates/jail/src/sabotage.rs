//! For tests alone: a jail that leaves one control out, so that it can be seen whether anybody notices.
//!
//! The feature `sabotage` is off in every program that is shipped. A jail that has it contains a text with room for the name
//! of what to leave out; tests write it there, and `cargo xtask build` looks for that text where it must not be. Without the
//! feature nothing here is left but a `false`.

#[cfg(feature = "sabotage")]
pub use with::*;

/// Whether this is left out.
#[cfg(not(feature = "sabotage"))]
pub const fn leaves_out(_: &str) -> bool {
    false
}

#[cfg(feature = "sabotage")]
mod with {
    use crate::step::{Step, StepError};
    use crate::sys;
    use crate::sys::mount::{self, Change, DATA, Filesystem, PLAIN};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::OnceLock;

    /// Where tests write the name, behind the mark.
    #[used]
    static WHAT: [u8; 64] = *b"COFFERDAM-SABOTAGE:                                             ";
    const MARK: usize = b"COFFERDAM-SABOTAGE:".len();

    /// Whether this is left out.
    pub fn leaves_out(what: &str) -> bool {
        let name = &std::hint::black_box(&WHAT)[MARK..];
        name.strip_prefix(what.as_bytes()).is_some_and(|rest| rest.iter().all(|byte| *byte == b' '))
    }

    /// What of the host a zygote keeps that does harm: its root, its processes and its cgroups.
    static HOST: OnceLock<[OwnedFd; 3]> = OnceLock::new();

    /// Called by the zygote before it leaves the host.
    pub fn keep_the_host() -> Result<(), StepError> {
        if leaves_out("uts_namespace") {
            // The host's own name is nobody's to change: all its boundaries share one of its own.
            sys::process::unshare(libc::CLONE_NEWUTS).step("sharing a uts namespace")?;
        }
        let open = |path| sys::open(path, libc::O_PATH | libc::O_DIRECTORY);
        let root = || {
            let copy = mount::copy_tree(open(c"/")?.as_fd(), c".", false)?;
            mount::change(copy.as_fd(), Change { set: DATA, private: true, ..Change::default() })
                .map(|()| copy)
        };
        let kept = || Ok::<_, io::Error>([root()?, open(c"/proc")?, open(c"/sys/fs/cgroup")?]);
        HOST.set(kept().step("keeping the host")?).map_err(|_| StepError::new("keeping the host", "twice"))
    }

    fn host(which: usize) -> io::Result<&'static OwnedFd> {
        HOST.get().map(|kept| &kept[which]).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The host's root, in the agent's. Once: a mount has one place.
    pub fn show_the_host(root: &OwnedFd) -> Result<(), StepError> {
        let show =
            || mount::attach(host(0)?.as_fd(), sys::open_at(root.as_fd(), c"tmp", libc::O_PATH, 0)?.as_fd());
        show().step("showing the host")
    }

    /// Takes the limit of a controller off the cgroup that this process is in.
    pub fn lift_limits() -> Result<(), StepError> {
        let limits: &[(&str, &str, &str, &str)] = &[
            ("memory_limit", "memory", "memory.memsw.limit_in_bytes", "-1"),
            ("memory_limit", "memory", "memory.limit_in_bytes", "-1"),
            ("memory_limit", "", "memory.max", "max"),
            ("cpu_limit", "cpu", "cpu.cfs_quota_us", "-1"),
            ("cpu_limit", "", "cpu.max", "max"),
            ("pids_limit", "pids", "pids.max", "max"),
            ("pids_limit", "", "pids.max", "max"),
        ];
        if !limits.iter().any(|(what, ..)| leaves_out(what)) {
            return Ok(());
        }
        let step = "lifting limits";
        let table = || {
            let file = sys::open_at(host(1)?.as_fd(), c"self/cgroup", libc::O_RDONLY, 0)?;
            let mut text = vec![0; 64 << 10];
            let length = sys::read(file.as_fd(), &mut text)?;
            text.truncate(length);
            Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
        };
        let table = table().step(step)?;
        let mut lifted = false;
        for (_, controller, file, value) in limits.iter().filter(|(what, ..)| leaves_out(what)) {
            let of_it = |line: &&str| {
                line.split(':').nth(1).is_some_and(|is| is.split(',').any(|it| it == *controller))
            };
            let Some(path) = table.lines().find(of_it).and_then(|line| line.splitn(3, ':').nth(2)) else {
                continue;
            };
            for mount in [*controller, "unified", "cpu,cpuacct"] {
                let path = format!("./{mount}{path}/{file}");
                let path = std::ffi::CString::new(path).expect("no NUL");
                lifted |= sys::write_file_at(host(2).step(step)?.as_fd(), &path, value.as_bytes()).is_ok();
            }
        }
        if lifted { Ok(()) } else { Err(StepError::new(step, "there was none")) }
    }

    /// In place of the agent's volume, the machine's memory.
    pub fn boundless_volume() -> Result<OwnedFd, StepError> {
        let tmpfs = || Filesystem::new(c"tmpfs")?.set(c"source", "tmpfs")?.mount(PLAIN);
        tmpfs().step("mounting a volume without end")
    }
}
