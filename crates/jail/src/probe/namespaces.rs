//! Attempts on namespaces and mounts.

use super::word::{NULL, call};
use super::{Outside, Prober, Seen, refused, refused_or};
use libc::*;
use std::fs;

/// The numbers of new calls are the same on all architectures of today.
pub const OPEN_TREE: c_long = 428;
const MOVE_MOUNT: c_long = 429;
const FSOPEN: c_long = 430;
const FSCONFIG: c_long = 431;
const FSMOUNT: c_long = 432;
const FSPICK: c_long = 433;
const MOUNT_SETATTR: c_long = 442;

/// A directory that is never the root of a mount, so that whoever may mount is told EINVAL.
const NO_MOUNT: &std::ffi::CStr = c"/proc/self";

/// An id that no agent's map has.
const OUTSIDE_THE_MAP: u32 = 70_000;

const CLONE_NEWTIME: i32 = 0x80;

pub fn attempts(prober: &mut Prober<'_>) {
    mounts(prober);
    users(prober);
    processes(prober);
    others(prober);
    cgroups(prober);
}

fn mounts(prober: &mut Prober<'_>) {
    prober.attempt("mount-propagation", |_| {
        refused(call!(SYS_mount, NULL, c"/", NULL, MS_PRIVATE | MS_SHARED, NULL))
    });
    prober.attempt("mount-remount", |_| {
        refused(call!(SYS_mount, NULL, NO_MOUNT, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL))
    });
    prober.attempt("mount-unmount", |_| refused(call!(SYS_umount2, NO_MOUNT, 0)));
    prober.attempt("mount-pivot-root", |_| refused(call!(SYS_pivot_root, NO_MOUNT, NO_MOUNT)));
    prober.attempt("mount-open-tree", |_| refused(call!(OPEN_TREE, AT_FDCWD, c"/", O_CLOEXEC | 1)));
    prober.attempt("mount-fsopen", |_| refused(call!(FSOPEN, c"tmpfs", 1)));
    prober.attempt("mount-fsconfig", |_| refused(call!(FSCONFIG, -1, 0, NULL, NULL, 0)));
    prober.attempt("mount-fsmount", |_| refused(call!(FSMOUNT, -1, 0, 0)));
    prober.attempt("mount-fspick", |_| refused(call!(FSPICK, AT_FDCWD, c"/", 1)));
    prober.attempt("mount-move", |_| refused(call!(MOVE_MOUNT, -1, c"", -1, c"", 4)));
    prober.attempt("mount-setattr", |_| refused(call!(MOUNT_SETATTR, AT_FDCWD, NO_MOUNT, 0, &[0u64; 4], 32)));
    prober.attempt("mount-setns", |_| refused(call!(SYS_setns, -1, CLONE_NEWNS)));
    prober.attempt("mount-unshare", |_| refused(call!(SYS_unshare, CLONE_NEWNS)));
}

fn users(prober: &mut Prober<'_>) {
    prober.attempt("user-unshare", |_| refused_or(&[ENOSPC, EUSERS], call!(SYS_unshare, CLONE_NEWUSER)));
    prober.attempt("user-clone", |_| {
        // A child that came into being has its parent's pipe and nothing to say on it.
        match call!(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) {
            Ok(0) => crate::sys::process::exit_now(0),
            result => refused_or(&[ENOSPC, EUSERS], result),
        }
    });
    prober.attempt("user-join-init", |_| match call!(SYS_pidfd_open, 1, 0) {
        // Its own it cannot join again: EINVAL.
        Ok(pidfd) => refused_or(&[EINVAL], call!(SYS_setns, pidfd, CLONE_NEWUSER)),
        Err(error) => refused(Err(error)),
    });
    prober.attempt("user-setuid", |_| {
        let id = OUTSIDE_THE_MAP;
        refused_or(&[EINVAL], call!(SYS_setresuid, id, id, id))
    });
    prober.attempt("user-chown", |_| match call!(SYS_memfd_create, c"probe", 0) {
        Ok(file) => refused_or(&[EINVAL], call!(SYS_fchown, file, OUTSIDE_THE_MAP, OUTSIDE_THE_MAP)),
        Err(error) => Seen::unclear(error.to_string()),
    });
    prober.attempt("user-map", |_| match fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => {
            let ids: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let held = matches!(ids[..], [0, base, count] if base >= 65_536 && count == 65_536);
            Seen::expect(held, map.split_whitespace().collect::<Vec<_>>().join(" "))
        }
        Err(error) => Seen::unclear(error.to_string()),
    });
}

/// The number of a process of the outside that no process inside has.
fn outside_pid(outside: &Outside) -> Option<i32> {
    let inside = |pid: &i32| fs::exists(format!("/proc/{pid}")).unwrap_or(true);
    outside.pids.iter().copied().find(|pid| !inside(pid))
}

/// Names a process of the outside: nobody of that number may be there.
fn named(outside: &Outside, name: fn(i32) -> std::io::Result<i64>) -> Seen {
    match outside_pid(outside) {
        Some(pid) => match name(pid) {
            Err(error) if error.raw_os_error() == Some(ESRCH) => Seen::held(error.to_string()),
            Err(error) => Seen::broken(error.to_string()),
            Ok(value) => Seen::broken(format!("allowed, returned {value}")),
        },
        None => Seen::unclear("no process of the outside has a number that is free inside"),
    }
}

fn processes(prober: &mut Prober<'_>) {
    prober.attempt("pid-signal", |outside| named(outside, |pid| call!(SYS_kill, pid, 0)));
    prober.attempt("pid-pidfd", |outside| named(outside, |pid| call!(SYS_pidfd_open, pid, 0)));
    prober.attempt("pid-ptrace", |outside| named(outside, |pid| call!(SYS_ptrace, PTRACE_SEIZE, pid, 0, 0)));
    prober.attempt("pid-read-memory", |outside| {
        named(outside, |pid| {
            let mut buffer = [0u64; 1];
            let (local, remote) = ([(&raw mut buffer) as u64, 8], [0x10000u64, 8]);
            call!(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0)
        })
    });
    prober.attempt("pid-limits", |outside| {
        named(outside, |pid| call!(SYS_prlimit64, pid, RLIMIT_NOFILE, NULL, &mut [0u64; 2]))
    });
    prober.attempt("pid-priority", |outside| named(outside, |pid| call!(SYS_getpriority, 0, pid)));
    prober.attempt("pid-list", |_| {
        let Ok(entries) = fs::read_dir("/proc") else { return Seen::unclear("cannot list /proc") };
        let stats = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        let processes: Vec<String> = stats.collect();
        match processes.iter().find(|stat| is_kernel_thread(stat)) {
            None => Seen::held(format!("{} processes, no thread of the kernel", processes.len())),
            Some(stat) => Seen::broken(stat.chars().take(40).collect::<String>()),
        }
    });
}

/// Names can be chosen; the flags of a process are the kernel's. They are field 9 of `/proc/PID/stat`, the seventh after the
/// name.
fn is_kernel_thread(stat: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok());
    flags.is_some_and(|flags: u32| flags & PF_KTHREAD != 0)
}

/// A namespace of a kind must not be the host's.
fn own(outside: &Outside, kind: &str) -> Seen {
    let Ok(link) = fs::read_link(format!("/proc/self/ns/{kind}")) else {
        return Seen::unclear("cannot read which namespace it is in");
    };
    let name = link.to_string_lossy().into_owned();
    match outside.namespaces.iter().find(|found| found.split(':').next() == Some(kind)) {
        Some(host) => Seen::expect(*host != name, format!("{name}, the host's is {host}")),
        None => Seen::unclear("the host's namespace is not known"),
    }
}

fn others(prober: &mut Prober<'_>) {
    prober.attempt("ipc-namespace", |outside| own(outside, "ipc"));
    prober.attempt("ipc-sysctl", |_| super::files::closed(c"/proc/sys/kernel/shmmax"));
    prober.attempt("ipc-unshare", |_| refused(call!(SYS_unshare, CLONE_NEWIPC)));
    prober.attempt("uts-namespace", |outside| own(outside, "uts"));
    // Longer than a name can be: whoever may set it is told EINVAL.
    prober.attempt("uts-host-name", |_| refused(call!(SYS_sethostname, c"probe", 4096)));
    prober.attempt("uts-domain-name", |_| refused(call!(SYS_setdomainname, c"probe", 4096)));
    prober.attempt("net-namespace", |outside| own(outside, "net"));
    prober.attempt("net-unshare", |_| refused(call!(SYS_unshare, CLONE_NEWNET)));
    prober.attempt("time-unshare", |_| refused(call!(SYS_unshare, CLONE_NEWTIME)));
}

fn cgroups(prober: &mut Prober<'_>) {
    prober.attempt("cgroup-namespace", |outside| own(outside, "cgroup"));
    prober.attempt("cgroup-unshare", |_| refused(call!(SYS_unshare, CLONE_NEWCGROUP)));
    prober.attempt("cgroup-path", |_| match fs::read_to_string("/proc/self/cgroup") {
        Ok(text) => {
            let told = text.lines().find(|line| line.splitn(3, ':').nth(2) != Some("/"));
            Seen::expect(told.is_none(), told.unwrap_or("all paths are /"))
        }
        Err(error) => Seen::unclear(error.to_string()),
    });
    prober.attempt("cgroup-mounts", |_| match fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => {
            let found = text.lines().find(|line| line.contains(" - cgroup"));
            Seen::expect(found.is_none(), found.unwrap_or("no cgroup file system is mounted"))
        }
        Err(error) => Seen::unclear(error.to_string()),
    });
    prober.attempt("cgroup-fsopen", |_| refused(call!(FSOPEN, c"cgroup2", 1)));
    prober.attempt("cgroup-procs", |_| super::files::closed(c"/sys/fs/cgroup/cgroup.procs"));
    prober.attempt("cgroup-release-agent", |_| {
        let names = [c"/sys/fs/cgroup/release_agent", c"/sys/fs/cgroup/rdma/release_agent"];
        let more = [c"/sys/fs/cgroup/memory/release_agent", c"/sys/fs/cgroup/systemd/release_agent"];
        super::files::all_closed(names.into_iter().chain(more))
    });
    prober.attempt("cgroup-devices", |_| super::files::closed(c"/sys/fs/cgroup/devices/devices.allow"));
}
