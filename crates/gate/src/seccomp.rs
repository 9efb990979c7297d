//! The system calls of the gate: an allowlist, with the reason for each group.
//!
//! What is not listed fails with EPERM, so that a library that tries something optional goes on without it.
//! What only an attacker would try ends the process.

use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Loads the filters into all threads.
pub fn apply() -> Result<(), Error> {
    // Each filter costs every call a little, but three short ones say more than one long one. The most severe
    // answer of all wins; the last one loaded may not allow what the loading of it needs.
    for filter in [deadly()?, unfilterable()?, allowed()?] {
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// Calls that end the process: no library of ours makes them.
fn deadly() -> Result<SeccompFilter, Error> {
    let calls = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_pidfd_getfd,
        libc::SYS_open_by_handle_at,
    ];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    filter(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// `clone3` takes its flags in memory, where no filter sees them; with ENOSYS glibc falls back to `clone`.
fn unfilterable() -> Result<SeccompFilter, Error> {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    filter(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))
}

fn allowed() -> Result<SeccompFilter, Error> {
    // Allowed here, because the filter above has answered it already and the less severe answer loses.
    let mut rules: Rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    rules.extend(PLAIN.iter().map(|call| (*call, Vec::new())));
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_poll, Vec::new()), (libc::SYS_epoll_wait, Vec::new())]);

    let af_unix = arg(0, libc::AF_UNIX.cast_unsigned().into())?;
    rules.insert(libc::SYS_socket, vec![rule(vec![af_unix.clone()])?]);
    rules.insert(libc::SYS_socketpair, vec![rule(vec![af_unix])?]);

    // Threads, never processes or namespaces.
    let thread = bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?;
    rules.insert(libc::SYS_clone, vec![rule(vec![thread])?]);

    // Memory is never executable once the process runs.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(vec![bits(2, libc::PROT_EXEC, 0)?])?]);
    }

    rules.insert(
        libc::SYS_fcntl,
        any_of(1, &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC])?,
    );
    // Setting a descriptor nonblocking, and asking what a socket holds. Never TIOCSTI and its like.
    let ioctls = [libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD];
    let ioctls = ioctls.into_iter().map(|request| rule(vec![arg(1, request)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    // Names of threads, and of their memory.
    rules.insert(libc::SYS_prctl, any_of(0, &[libc::PR_SET_NAME, libc::PR_SET_VMA])?);
    // Own signals only: abort() after a panic in a panic.
    let me = arg(0, u64::from(std::process::id()))?;
    rules.insert(libc::SYS_tgkill, vec![rule(vec![me])?]);
    // Reading limits: a null pointer for the new ones.
    let no_change = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![no_change])?]);

    filter(rules, SeccompAction::Errno(libc::EPERM.cast_unsigned()), SeccompAction::Allow)
}

/// Calls that are harmless with any argument, on the descriptors that the gate has.
const PLAIN: &[c_long] = &[
    // Bytes in and out.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_close,
    libc::SYS_fstat,
    // Sockets that exist: accepting, connecting (only unix sockets can be made), asking.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // The event loop.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    // Memory; mmap and mprotect are above.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals to itself: SIGTERM ends it in order.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
];

fn filter(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<SeccompFilter, Error> {
    Ok(SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions)?)
}

fn arg(index: u8, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

fn bits(index: u8, mask: i32, value: i32) -> Result<SeccompCondition, Error> {
    let mask = SeccompCmpOp::MaskedEq(mask.cast_unsigned().into());
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, mask, value.cast_unsigned().into())?)
}

fn any_of(index: u8, values: &[i32]) -> Result<Vec<SeccompRule>, Error> {
    values.iter().map(|value| rule(vec![arg(index, value.cast_unsigned().into())?])).collect()
}
