//! Which system calls are allowed, in groups with their reasons, and which of them are looked at more closely.
//!
//! Deliberately absent, each because of what it has been or could be used for:
//! - namespaces and mounts (`unshare`, `setns` but for one way, `mount`, `umount2`, `pivot_root`, `fsopen`, `fsconfig`, `fsmount`,
//!   `fspick`, `open_tree`, `move_mount`, `mount_setattr`): most of the kernel that only root should reach;
//! - `io_uring_*` (runs calls that no filter sees), `bpf`, `userfaultfd`, `perf_event_open`: the usual parts of exploits;
//! - `add_key`, `keyctl`, `request_key`: keyrings know no pid namespace, and are shared with the host;
//! - `init_module` and its kin, `kexec_*`, `reboot`, `swapon`, `acct`, `quotactl`, `iopl`, `ioperm`, clocks: the machine's;
//! - `syslog`: the host's kernel log; `open_by_handle_at`: files by number, whatever the path; `fanotify_*`, `lookup_dcookie`;
//! - `mbind`, `set_mempolicy`, `migrate_pages`, `move_pages`: place memory on the host's nodes; `modify_ldt`, `vm86`,
//!   `memfd_secret`, `kcmp`, `uselib`, `_sysctl`, `vhangup`, `sethostname`: nothing here needs them.

use super::bpf::{Rule, Test, Verdict};
use super::service;
use libc::*;
use std::collections::BTreeMap;

/// Who is put under the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Init and everything that an agent runs.
    Agent,
    /// A process of the platform that `confine` started: see [`service`].
    Service,
    /// The same with connections to the network: what `confine --net` starts.
    Client,
}

/// For what is not listed.
pub const DENIED: Verdict = Verdict::Errno(EPERM);

/// The newest call that was looked at: `mseal`, Linux 6.10. The same number on all architectures of today.
pub const NEWEST: u32 = 462;

/// Calls that have no number in the libc crate yet; the same on all architectures of today.
const RECENT: [c_long; 7] = [
    451, // cachestat
    452, // fchmodat2
    453, // map_shadow_stack: glibc's control-flow protection
    454, // futex_wake
    455, // futex_wait
    456, // futex_requeue
    462, // mseal
];

/// Reading and writing of open files.
#[rustfmt::skip]
const IO: &[c_long] = &[
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
    SYS_preadv2, SYS_pwritev2, SYS_lseek, SYS_close, SYS_dup, SYS_dup3,
    SYS_flock, SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs, SYS_sync_file_range, SYS_fadvise64,
    SYS_readahead, SYS_fallocate, SYS_ftruncate, SYS_sendfile, SYS_splice, SYS_tee, SYS_vmsplice,
    SYS_copy_file_range, SYS_pipe2, SYS_eventfd2,
];

/// Files by name. What they may reach is decided by mounts, ids and Landlock.
#[rustfmt::skip]
const FILES: &[c_long] = &[
    SYS_openat, SYS_openat2, SYS_faccessat, SYS_faccessat2, SYS_fchmod, SYS_fchmodat,
    SYS_fchown, SYS_fchownat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs,
    SYS_getdents64, SYS_linkat, SYS_symlinkat, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_mkdirat,
    SYS_readlinkat, SYS_truncate, SYS_utimensat, SYS_umask, SYS_chdir, SYS_fchdir, SYS_getcwd, SYS_chroot,
    SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_listxattr,
    SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr,
    SYS_name_to_handle_at, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
];

/// Memory of the caller.
#[rustfmt::skip]
const MEMORY: &[c_long] = &[
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_process_madvise,
    SYS_mincore, SYS_msync, SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_munlock, SYS_munlockall,
    SYS_remap_file_pages, SYS_memfd_create, SYS_membarrier, SYS_pkey_alloc, SYS_pkey_free,
    SYS_pkey_mprotect, SYS_get_mempolicy,
];

/// Processes and threads. `clone` is looked at below; `clone3`, whose flags no filter can see, is ENOSYS.
#[rustfmt::skip]
const PROCESSES: &[c_long] = &[
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_getpid, SYS_getppid,
    SYS_gettid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_set_tid_address,
    SYS_set_robust_list, SYS_get_robust_list, SYS_futex, SYS_futex_waitv, SYS_rseq, SYS_prctl,
    SYS_getrlimit, SYS_getrusage, SYS_times, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_process_mrelease,
    SYS_getcpu, SYS_uname, SYS_sysinfo, SYS_getrandom,
];

/// Scheduling of the caller's own; real-time classes are shut by `RLIMIT_RTPRIO` 0.
#[rustfmt::skip]
const SCHEDULING: &[c_long] = &[
    SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_setparam,
    SYS_sched_getscheduler, SYS_sched_setscheduler, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_sched_getattr, SYS_sched_setattr,
    SYS_getpriority, SYS_setpriority, SYS_ioprio_get, SYS_ioprio_set,
];

/// Signals; a pid namespace keeps them inside.
#[rustfmt::skip]
const SIGNALS: &[c_long] = &[
    SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigpending,
    SYS_rt_sigtimedwait, SYS_rt_sigsuspend, SYS_rt_sigreturn, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
    SYS_sigaltstack, SYS_signalfd4, SYS_restart_syscall,
];

/// Reading clocks and waiting; nothing sets one.
#[rustfmt::skip]
const TIME: &[c_long] = &[
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_gettimeofday, SYS_nanosleep,
    SYS_getitimer, SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime,
    SYS_timer_getoverrun, SYS_timer_delete, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime,
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2,
];

/// Ids and capabilities, all within the user namespace, for package managers and for privilege that is given up.
#[rustfmt::skip]
const IDS: &[c_long] = &[
    SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups,
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setfsuid,
    SYS_setfsgid, SYS_setgroups, SYS_capget, SYS_capset,
];

/// Sockets once they exist; which may exist is looked at below.
#[rustfmt::skip]
const SOCKETS: &[c_long] = &[
    SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown, SYS_getsockname,
    SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg,
    SYS_sendmmsg, SYS_recvmmsg,
];

/// Memory, semaphores and messages shared within the ipc namespace.
#[rustfmt::skip]
const IPC: &[c_long] = &[
    SYS_shmget, SYS_shmat, SYS_shmdt, SYS_shmctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_semctl,
    SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_mq_open, SYS_mq_unlink, SYS_mq_timedsend,
    SYS_mq_timedreceive, SYS_mq_notify, SYS_mq_getsetattr,
];

/// Programs that confine themselves further, browsers for instance.
const CONFINING: &[c_long] =
    &[SYS_seccomp, SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self];

/// Debuggers. An agent debugs its own programs all day long, and what these calls reach is what signals reach: the
/// processes of its pid namespace with its ids and no more capabilities than its own. Init is out of reach by its
/// additional capability. The kernel applies the filter after a tracer changed a call (since 4.8), so that tracing is no
/// way around it.
const DEBUGGING: &[c_long] = &[SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd];

/// What glibc and older programs still call on x86-64 alone; each has its twin above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const LEGACY: &[c_long] = &[
    SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_poll, SYS_select, SYS_pipe, SYS_dup2,
    SYS_getdents, SYS_link, SYS_symlink, SYS_unlink, SYS_rename, SYS_mkdir, SYS_rmdir, SYS_readlink,
    SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_fork, SYS_vfork,
    SYS_getpgrp, SYS_alarm, SYS_pause, SYS_time, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd,
    SYS_signalfd, SYS_inotify_init, SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[c_long] = &[];

pub(super) const ALLOW: Rule = Rule::Return(Verdict::Allow);
pub(super) const REFUSE: Rule = Rule::Return(Verdict::Errno(EPERM));
pub(super) const NO_SUCH_CALL: Rule = Rule::Return(Verdict::Errno(ENOSYS));
const NO_SUCH_FAMILY: Rule = Rule::Return(Verdict::Errno(EAFNOSUPPORT));
const NO_SUCH_PROTOCOL: Rule = Rule::Return(Verdict::Errno(EPROTONOSUPPORT));
const ASK: Rule = Rule::Return(Verdict::Ask);
const PRETEND: Rule = Rule::Return(Verdict::Errno(0));

/// `CLONE_NEWTIME` shares its bit with the exit signal here and cannot be asked for through `clone`.
pub(super) const NEW_NAMESPACES: u32 = (CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET) as u32;
const CLONE: Rule = Rule::If(0, Test::HasAny(NEW_NAMESPACES), &REFUSE, &THREADS);
/// A thread shares its process's descriptors, which is where locks are counted. No threading library asks for another kind.
const THREADS: Rule = Rule::If(
    0,
    Test::HasAny(CLONE_THREAD as u32),
    &Rule::If(0, Test::HasAny(CLONE_FILES as u32), &ALLOW, &REFUSE),
    &ALLOW,
);
const CLOSE_RANGE: Rule = Rule::If(2, Test::HasAny(CLOSE_RANGE_UNSHARE), &INVALID, &ALLOW);
const INVALID: Rule = Rule::Return(Verdict::Errno(EINVAL));

/// A lock of some bytes of a file is memory of the kernel that no cgroup is charged for (`filelock_cache` of `fs/locks.c`
/// lacks `SLAB_ACCOUNT`), and no limit counts them: 600,000 in one process took 115 MiB of the host. So init is asked,
/// and counts.
///
/// It counts at the descriptors of processes. The locks of open file descriptions (`F_OFD_SETLK`) outlive those: a mapping of
/// the file keeps them, or a message that the descriptor is in, where nobody can see them. So there are none, as before
/// Linux 3.15; programs that prefer them fall back to others at `EINVAL`.
const FCNTL: Rule = Rule::If(
    1,
    Test::Is(F_SETLK as u32),
    &ASK,
    &Rule::If(
        1,
        Test::Is(F_SETLKW as u32),
        &ASK,
        &Rule::If(
            1,
            Test::Is(F_OFD_SETLK as u32),
            &INVALID,
            &Rule::If(
                1,
                Test::Is(F_OFD_SETLKW as u32),
                &INVALID,
                &Rule::If(1, Test::Is(F_OFD_GETLK as u32), &INVALID, &ALLOW),
            ),
        ),
    ),
);

/// The filter is loaded while its process is still the host's root, just before it enters its user namespace: all programs
/// that are compiled for others share one limit (`net.core.bpf_jit_limit`), and agents with filters of their own could
/// use it up, so that no boundary could be made any more. So this one way in is open. It leads nowhere: a process
/// inside can name no user namespace but its own, and entering that is EINVAL.
const SETNS: Rule = Rule::If(1, Test::Is(CLONE_NEWUSER as u32), &ALLOW, &REFUSE);

/// Unix, IPv4, IPv6 and the part of netlink that lists addresses and routes. `AF_VSOCK` reaches the hypervisor from every
/// network namespace, `AF_ALG`, `AF_PACKET` and the rest are attack surface. Of the internet's protocols only those that
/// the dry network carries: asking for another would make the host load its module.
const SOCKET: Rule = Rule::If(0, Test::Is(AF_NETLINK as u32), &NETLINK, &FAMILIES);
const FAMILIES: Rule = Rule::If(
    0,
    Test::Is(AF_UNIX as u32),
    &ALLOW,
    &Rule::If(
        0,
        Test::Is(AF_INET as u32),
        &INTERNET,
        &Rule::If(0, Test::Is(AF_INET6 as u32), &INTERNET, &NO_SUCH_FAMILY),
    ),
);
/// What waits in a netlink socket is charged to no cgroup (`netlink_dump` and `netlink_ack` of `net/netlink/af_netlink.c`
/// allocate without `__GFP_ACCOUNT`), and no limit counts such sockets: 3,000 of them took 634 MiB of the host. So init is
/// asked, and counts. An agent's own filters cannot have a listener because of that: the kernel allows one.
const NETLINK: Rule = Rule::If(2, Test::Is(NETLINK_ROUTE as u32), &ASK, &NO_SUCH_PROTOCOL);
const INTERNET: Rule = Rule::If(
    2,
    Test::Is(0),
    &ALLOW,
    &Rule::If(
        2,
        Test::Is(IPPROTO_TCP as u32),
        &ALLOW,
        &Rule::If(
            2,
            Test::Is(IPPROTO_UDP as u32),
            &ALLOW,
            &Rule::If(
                2,
                Test::Is(IPPROTO_ICMP as u32),
                &ALLOW,
                &Rule::If(2, Test::Is(IPPROTO_ICMPV6 as u32), &ALLOW, &NO_SUCH_PROTOCOL),
            ),
        ),
    ),
);
const SOCKET_PAIR: Rule = Rule::If(0, Test::Is(AF_UNIX as u32), &ALLOW, &NO_SUCH_FAMILY);

/// Terminals: no typing into another's (`TIOCSTI`), no virtual console (`TIOCLINUX`, `TIOCCONS`), no line discipline that
/// would make the host load a module (`TIOCSETD`). The home is the volume's own filesystem, and everybody may give such a
/// one keys of their own (fscrypt): whose key a file is under is the host's business.
const IOCTL: Rule = Rule::If(
    1,
    Test::Is(TIOCSTI as u32),
    &REFUSE,
    &Rule::If(
        1,
        Test::Is(TIOCLINUX as u32),
        &REFUSE,
        &Rule::If(
            1,
            Test::Is(TIOCCONS as u32),
            &REFUSE,
            &Rule::If(1, Test::Is(TIOCSETD as u32), &REFUSE, &ENCRYPTION),
        ),
    ),
);
const ENCRYPTION: Rule = Rule::If(
    1,
    Test::Is(FS_IOC_SET_ENCRYPTION_POLICY),
    &REFUSE,
    &Rule::If(
        1,
        Test::Is(FS_IOC_ADD_ENCRYPTION_KEY),
        &REFUSE,
        &Rule::If(
            1,
            Test::Is(FS_IOC_REMOVE_ENCRYPTION_KEY),
            &REFUSE,
            &Rule::If(1, Test::Is(FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS), &REFUSE, &ALLOW),
        ),
    ),
);
// `linux/fscrypt.h`; the same on both architectures.
const FS_IOC_SET_ENCRYPTION_POLICY: u32 = 0x800c_6613;
const FS_IOC_ADD_ENCRYPTION_KEY: u32 = 0xc050_6617;
const FS_IOC_REMOVE_ENCRYPTION_KEY: u32 = 0xc040_6618;
const FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS: u32 = 0xc040_6619;

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, the question, and `ADDR_NO_RANDOMIZE` for debuggers. Not
/// `READ_IMPLIES_EXEC`, not the personalities of other systems.
const PERSONALITY: Rule = Rule::If(
    0,
    Test::Is(u32::MAX),
    &ALLOW,
    &Rule::If(0, Test::HasAny(!(ADDR_NO_RANDOMIZE as u32 | UNAME26 as u32 | 0x8)), &REFUSE, &ALLOW),
);

/// Nodes for devices are refused here, by the missing capability, and by Landlock; named pipes and sockets are made.
/// The bit is set in `S_IFCHR` and `S_IFBLK` alone.
const MKNOD: Rule = Rule::If(1, Test::HasAny(DEVICE_BIT), &REFUSE, &ALLOW);
const MKNODAT: Rule = Rule::If(2, Test::HasAny(DEVICE_BIT), &REFUSE, &ALLOW);
const DEVICE_BIT: u32 = S_IFCHR & S_IFBLK;

/// `RLIMIT_CORE` stays at 1, the one value with which the kernel never starts the host's `core_pattern` helper. Programs
/// that lower it to 0 so that they leave no core are told that they did: there is none.
const SETRLIMIT: Rule = Rule::If(0, Test::Is(RLIMIT_CORE), &PRETEND, &ALLOW);
pub(super) const PRLIMIT: Rule =
    Rule::If(2, Test::IsNull, &ALLOW, &Rule::If(1, Test::Is(RLIMIT_CORE), &PRETEND, &ALLOW));

const EXAMINED: &[(c_long, Rule)] = &[
    (SYS_clone, CLONE),
    (SYS_clone3, NO_SUCH_CALL),
    (SYS_socket, SOCKET),
    (SYS_setns, SETNS),
    (SYS_fcntl, FCNTL),
    (SYS_close_range, CLOSE_RANGE),
    (SYS_socketpair, SOCKET_PAIR),
    (SYS_ioctl, IOCTL),
    (SYS_personality, PERSONALITY),
    (SYS_mknodat, MKNODAT),
    (SYS_setrlimit, SETRLIMIT),
    (SYS_prlimit64, PRLIMIT),
    // Asynchronous IO of old: all of a machine shares one limit (`fs.aio-max-nr`), and its few users do without.
    (SYS_io_setup, NO_SUCH_CALL),
    // statmount, listmount and the lsm_ calls: programs ask /proc when they are not there.
    (457, NO_SUCH_CALL),
    (458, NO_SUCH_CALL),
    (459, NO_SUCH_CALL),
    (460, NO_SUCH_CALL),
    (461, NO_SUCH_CALL),
    #[cfg(target_arch = "x86_64")]
    (SYS_mknod, MKNOD),
];

/// The list of a profile, by number.
pub fn rules(profile: Profile) -> BTreeMap<u32, Rule> {
    let by_number = |(number, rule): (c_long, Rule)| (number as u32, rule);
    match profile {
        Profile::Agent => agent().map(by_number).collect(),
        Profile::Service => service::rules().map(by_number).collect(),
        Profile::Client => service::rules().chain(service::client_rules()).map(by_number).collect(),
    }
}

fn agent() -> impl Iterator<Item = (c_long, Rule)> {
    let groups = [
        &RECENT, IO, FILES, MEMORY, PROCESSES, SCHEDULING, SIGNALS, TIME, IDS, SOCKETS, IPC, CONFINING,
        LEGACY, DEBUGGING,
    ];
    groups.into_iter().flatten().map(|&number| (number, ALLOW)).chain(EXAMINED.iter().copied())
}
