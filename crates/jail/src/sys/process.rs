//! Processes, ids, capabilities and limits.
//!
//! Ids are set by the raw system calls: glibc's wrappers would send signals to other threads, and there are none.

use super::{check, descriptor};
use crate::sabotage;
use crate::spec::Identity;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// From `linux/sched.h`; the libc crate's is an `int`, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What a clone is in the process that asked for it, and in the new one.
#[derive(Debug)]
pub enum Cloned {
    /// The caller: pid and pidfd of the new process.
    Parent(i32, OwnedFd),
    /// The new process.
    Child,
}

/// clone3(2) without shared memory, as fork(2): `flags` are `CLONE_NEW*` and `CLONE_PARENT`. Only for processes with
/// one thread.
pub fn clone(flags: i32) -> io::Result<Cloned> {
    clone_into(flags, None)
}

/// The same with the new process in this cgroup (v2) from its beginning.
pub fn clone_into(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data for which zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    args.pidfd = (&raw mut pidfd) as u64;
    // With CLONE_PARENT the signal is that of the caller itself and may not be given (clone(2)).
    args.exit_signal = if flags & libc::CLONE_PARENT != 0 { 0 } else { libc::SIGCHLD as u64 };
    // SAFETY: memory is copied, not shared, and this process has one thread, so that no lock is held by somebody who
    // does not exist in the copy. `args` has the size that is stated; `pidfd` is writable.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(Cloned::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Ends this process at once: nothing that was copied from the parent is flushed or dropped.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// The exit code of a child of this process (-1: of any), or `None` when a signal ended it.
pub fn wait_for(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
            Ok(_) => return Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Collects the next child that ends: its pid, and its exit code unless a signal ended it.
pub fn wait_for_any() -> io::Result<(i32, Option<i32>)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        match check(unsafe { libc::waitpid(-1, &raw mut status, 0) }.into()) {
            Ok(pid) => return Ok((pid as i32, libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// unshare(2).
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no pointers; flags that share memory or descriptors are not used in this crate.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// setns(2).
pub fn enter_namespace(namespace: BorrowedFd<'_>, kind: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) }.into()).map(drop)
}

/// prctl(2) with plain numbers.
pub fn control(option: i32, argument: u64) -> io::Result<i64> {
    // SAFETY: the options that this crate uses take numbers alone; unused arguments have to be zero.
    check(unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) }.into())
}

/// What this process is called in lists of processes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with NUL; the kernel copies 16 bytes of it at most.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }.into()).map(drop)
}

/// sethostname(2) and setdomainname(2).
pub fn set_host_name(host: &str, domain: &str) -> io::Result<()> {
    // SAFETY: pointers and lengths are those of the texts.
    unsafe {
        check(libc::sethostname(host.as_ptr().cast(), host.len()).into())?;
        check(libc::setdomainname(domain.as_ptr().cast(), domain.len()).into())?;
    }
    Ok(())
}

/// Sets real, effective and saved gid and uid (`None`: as it is), groups before users; with no other groups at all if
/// `groups` says so.
pub fn set_ids(ids: [Option<u32>; 3], clear_groups: bool) -> io::Result<()> {
    let [real, effective, saved] = ids.map(|id| id.unwrap_or(u32::MAX));
    // SAFETY: no pointers but an empty list of groups.
    unsafe {
        if clear_groups {
            check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        }
        check(libc::syscall(libc::SYS_setresgid, real, effective, saved))?;
        check(libc::syscall(libc::SYS_setresuid, real, effective, saved))?;
    }
    Ok(())
}

/// Like [`set_ids`] with one uid and another gid for all three, and no other groups.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    become_user_saving(uid, gid, gid)
}

/// The same with another saved gid: nobody else's limits are changed by whoever has not that too (prlimit(2)).
pub fn become_user_saving(uid: u32, gid: u32, saved: u32) -> io::Result<()> {
    // SAFETY: no pointers but an empty list of groups.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, saved))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Takes every capability out of the bounding set that is not in `keep`.
pub fn bound_capabilities(keep: &[u8]) -> io::Result<()> {
    for capability in 0..64u8 {
        match control(libc::PR_CAPBSET_READ, capability.into()) {
            Ok(0) => {}
            Ok(_) if keep.contains(&capability) => {}
            Ok(_) => drop(control(libc::PR_CAPBSET_DROP, capability.into())?),
            // The first number that the kernel does not know.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Capabilities of those who change who they are (`linux/capability.h`).
const SETGID: u8 = 6;
const SETUID: u8 = 7;
const SETPCAP: u8 = 8;

/// Becomes a user of the machine for good, from the host's root with `SECBIT_NO_SETUID_FIXUP`: with that one group, nothing in
/// the bounding set, and no capability but the one with which init takes a saved gid of its own. An exec takes that along
/// under no_new_privs as well, where it would undo another real or effective gid.
pub fn become_os_user(ids: Identity) -> io::Result<()> {
    let Identity { uid, gid } = ids;
    // It can be inherited only as long as it is in the bounding set.
    capset(&[SETGID, SETUID, SETPCAP], &[SETGID])?;
    if !sabotage::leaves_out("capabilities") {
        bound_capabilities(&[])?;
    }
    // SAFETY: one id is read; the others take no pointers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 1, &raw const gid))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    control(libc::PR_SET_SECUREBITS, 0)?;
    capset(&[SETGID], &[SETGID])?;
    // SAFETY: no pointers; unused arguments have to be zero.
    check(
        unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                libc::c_ulong::from(SETGID),
                0u64,
                0u64,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Sets effective and permitted capabilities to `keep`, inheritable and ambient ones to none.
pub fn set_capabilities(keep: &[u8]) -> io::Result<()> {
    capset(keep, &[])
}

/// Sets effective and permitted capabilities, and those that can be inherited. Ambient ones are none then.
fn capset(permitted: &[u8], inheritable: &[u8]) -> io::Result<()> {
    /// `struct __user_cap_header_struct` and twice `__user_cap_data_struct` of `linux/capability.h`, version 3.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;

    let mask = |set: &[u8]| set.iter().fold(0u64, |mask, &capability| mask | 1 << capability);
    let (permitted, inheritable) = (mask(permitted), mask(inheritable));
    let half = |shift: u32| Data {
        effective: (permitted >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data structures.
    unsafe {
        match check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).into()) {
            // A kernel that knows of no such capabilities has none set.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => drop(other?),
        }
        check(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()))?;
    }
    Ok(())
}

/// Sets soft and hard limit; a hard limit is never raised, since that takes a privilege that not every host gives.
pub fn limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let mut current = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both structures are valid for the calls.
    unsafe {
        check(libc::getrlimit(resource as _, &raw mut current).into())?;
        let hard = hard.min(current.rlim_max);
        let wanted = libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard };
        check(libc::setrlimit(resource as _, &raw const wanted).into())?;
    }
    Ok(())
}

/// Gives up a preference for the processor over others, if there is one; what is nice stays so.
pub fn take_no_preference() -> io::Result<()> {
    // SAFETY: takes numbers. The system call itself tells 20 less the niceness, so that it is never negative (getpriority(2)).
    unsafe {
        if libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) > 20 {
            check(libc::setpriority(libc::PRIO_PROCESS, 0, 0).into())?;
        }
    }
    Ok(())
}

/// All signals to their defaults, none blocked.
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is used; SIG_DFL is valid for every signal, and the two
    // that cannot be set, like those that glibc keeps for itself, answer EINVAL, which changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()).into())?;
    }
    Ok(())
}

/// Ignores a signal that a process sends. What the kernel forces on a process for its own fault ends it all the same.
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN is valid for every signal but the two that answer EINVAL.
    match unsafe { libc::signal(signal, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Ends a process at once.
pub fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo_t the kernel makes its own.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, nothing, 0) })
        .map(drop)
}

/// setsid(2).
pub fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// umask(2).
pub fn set_umask(mask: u32) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask) };
}

/// A copy of a descriptor with a number of at least `lowest`, close-on-exec.
pub fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    descriptor(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())
}

/// Puts a descriptor, which has another number, under a fixed one, to be kept across exec. Whatever had that number
/// is closed, even if an `OwnedFd` of this process believes to own it: only for processes that end by exec or
/// [`exit_now`] and use nothing of the kind before.
pub fn place(fd: OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Closes a number in a copy of a process, of which only the original ever acts on its owner again.
pub fn close(number: RawFd) {
    // SAFETY: no pointers. The caller vouches for the number, as said above.
    unsafe { libc::close(number) };
}

/// Closes all descriptors from `first` up, in a process that owns none of them yet.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers. The caller vouches for the numbers, as said above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) }).map(drop)
}

/// Marks all descriptors from `first` up close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers; nothing is closed now.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// Runs the program behind `binary` (execveat(2) with `AT_EMPTY_PATH`). Returns only when that failed.
pub fn execute(binary: BorrowedFd<'_>, argv: &[&CStr]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|text| text.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: both lists end with null, and the texts outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            binary.as_raw_fd(),
            c"".as_ptr(),
            pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
