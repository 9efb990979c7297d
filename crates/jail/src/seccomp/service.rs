//! The system calls of the platform's own confined processes: gate, the image worker, and the downloader of images, which
//! alone may connect to the network.
//!
//! It is one filter, loaded by `confine` while it still is root: a process that loaded its own later would need room
//! for it (`net.core.bpf_jit_limit`), which agents with filters of their own can use up. So it has to leave open what leads
//! to the program's first instruction, with these consequences:
//! - `execve` and `openat` are allowed. Mounts bound what they reach, and gate's own Landlock closes all files.
//! - The dynamic linker maps libraries executable. So that is allowed for files that are not writable in that mapping;
//!   nothing that a process wrote into its memory can ever be executed.
//!
//! What only an attacker would try ends the process.

use super::bpf::{Rule, Test, Verdict};
use super::table::{ALLOW, NEW_NAMESPACES, NO_SUCH_CALL, PRLIMIT, REFUSE};
use libc::*;

const KILL: Rule = Rule::Return(Verdict::Kill);

/// Calls that are harmless with any argument, on the descriptors and files that such a process has.
#[rustfmt::skip]
const PLAIN: &[c_long] = &[
    // Bytes of open files and sockets.
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_ftruncate, SYS_fsync,
    SYS_fdatasync, SYS_copy_file_range, SYS_close, SYS_close_range, SYS_dup, SYS_recvfrom, SYS_recvmsg, SYS_sendto,
    SYS_sendmsg, SYS_splice,
    // Looking at files; none is made, renamed, removed or given away.
    SYS_openat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_getdents64, SYS_readlinkat, SYS_getcwd,
    SYS_faccessat, SYS_faccessat2,
    // Sockets that exist: accepting, connecting (only unix sockets can be made), asking. Gate is handed sockets of others, and
    // may do with them what their network allows.
    SYS_accept4, SYS_connect, SYS_shutdown, SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt,
    // The event loop.
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2, SYS_timerfd_create,
    SYS_timerfd_settime, SYS_pipe2, SYS_ppoll,
    // Memory; mmap and mprotect are below.
    SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise,
    // Threads.
    SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_gettid, SYS_getpid, SYS_getppid, SYS_set_tid_address, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_exit, SYS_exit_group,
    // Own signals: SIGTERM ends it in order, abort() after a panic in a panic. No other process has its uid.
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall, SYS_tgkill,
    // Time, chance, and who one is.
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_getrandom, SYS_uname, SYS_sysinfo,
    SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getresuid, SYS_getresgid, SYS_capget,
    SYS_getrlimit,
    // Giving up more. Capabilities are dropped once the filter is loaded.
    SYS_capset, SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self,
    // The one program.
    SYS_execve,
];

/// What glibc still calls on x86-64 alone; each has its twin above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const LEGACY: &[c_long] = &[
    SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_poll, SYS_epoll_wait, SYS_dup2, SYS_pipe, SYS_time,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[c_long] = &[];

/// Calls that end the process: no library of ours makes them.
#[rustfmt::skip]
const DEADLY: &[c_long] = &[
    SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_mount, SYS_umount2, SYS_pivot_root,
    SYS_chroot, SYS_setns, SYS_unshare, SYS_bpf, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load,
    SYS_keyctl, SYS_add_key, SYS_request_key, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup,
    SYS_pidfd_getfd, SYS_open_by_handle_at,
];

/// Unix sockets alone.
const SOCKET: Rule = Rule::If(0, Test::Is(AF_UNIX as u32), &ALLOW, &REFUSE);

/// Connections, too, and questions to name servers.
const CLIENT_SOCKET: Rule =
    Rule::If(0, Test::Is(AF_INET as u32), &ALLOW, &Rule::If(0, Test::Is(AF_INET6 as u32), &ALLOW, &SOCKET));

/// What a client of the network has on top of that, or instead.
const CLIENT: &[(c_long, Rule)] = &[(SYS_socket, CLIENT_SOCKET), (SYS_bind, ALLOW), (SYS_sendmmsg, ALLOW)];

/// Threads, never processes or namespaces.
const CLONE: Rule = Rule::If(
    0,
    Test::HasAny(NEW_NAMESPACES),
    &REFUSE,
    &Rule::If(0, Test::HasAny(CLONE_THREAD as u32), &ALLOW, &REFUSE),
);

/// Executable memory comes from files, and cannot be written to.
const MMAP: Rule = Rule::If(
    2,
    Test::HasAny(PROT_EXEC as u32),
    &Rule::If(
        2,
        Test::HasAny(PROT_WRITE as u32),
        &REFUSE,
        &Rule::If(3, Test::HasAny((MAP_ANONYMOUS | MAP_SHARED) as u32), &REFUSE, &ALLOW),
    ),
    &ALLOW,
);
const MPROTECT: Rule = Rule::If(2, Test::HasAny(PROT_EXEC as u32), &REFUSE, &ALLOW);

/// Allowed if the argument is one of these values.
macro_rules! one_of {
    ($argument:literal;) => { REFUSE };
    ($argument:literal; $value:expr $(, $more:expr)*) => {
        Rule::If($argument, Test::Is($value as u32), &ALLOW, &one_of!($argument; $($more),*))
    };
}

const FCNTL: Rule = one_of!(1; F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC);

/// Setting a descriptor nonblocking, and asking what it is and holds. Never TIOCSTI and its like.
const IOCTL: Rule = one_of!(1; FIONBIO, FIOCLEX, FIONREAD, TCGETS);

/// Names of threads and of their memory, questions, and what gives up more: it never becomes dumpable again.
const PRCTL: Rule = Rule::If(
    0,
    Test::Is(PR_SET_DUMPABLE as u32),
    &Rule::If(1, Test::Is(0), &ALLOW, &REFUSE),
    &one_of!(0; PR_SET_NAME, PR_SET_VMA, PR_GET_DUMPABLE, PR_GET_SECCOMP, PR_CAPBSET_READ, PR_CAP_AMBIENT,
        PR_GET_NO_NEW_PRIVS, PR_SET_NO_NEW_PRIVS),
);

/// What is looked at more closely, or answered otherwise than by EPERM.
const EXAMINED: &[(c_long, Rule)] = &[
    (SYS_socket, SOCKET),
    (SYS_socketpair, SOCKET),
    (SYS_clone, CLONE),
    // It takes its flags in memory, where no filter sees them; glibc falls back to `clone`.
    (SYS_clone3, NO_SUCH_CALL),
    (SYS_mmap, MMAP),
    (SYS_mprotect, MPROTECT),
    (SYS_fcntl, FCNTL),
    (SYS_ioctl, IOCTL),
    (SYS_prctl, PRCTL),
    (SYS_prlimit64, PRLIMIT),
];

/// The answers that are another for a client of the network, by number.
pub fn client_rules() -> impl Iterator<Item = (c_long, Rule)> {
    CLIENT.iter().copied()
}

/// The answers to all of them, by number.
pub fn rules() -> impl Iterator<Item = (c_long, Rule)> {
    let plain = PLAIN.iter().chain(LEGACY).map(|&number| (number, ALLOW));
    plain.chain(EXAMINED.iter().copied()).chain(DEADLY.iter().map(|&number| (number, KILL)))
}
