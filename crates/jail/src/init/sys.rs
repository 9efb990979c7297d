//! The system calls that the standard library has no safe form of.
//!
//! Every function here is safe to call; none keeps state. What may only run in a forked child is in
//! [`super::child`].
#![allow(unsafe_code)]

use crate::layout::SAVED_GID;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Turns the usual `-1` into the error that `errno` tells.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// An epoll instance. Level-triggered throughout, so nothing is lost when a handler stops early.
#[derive(Debug)]
pub struct Poll(OwnedFd);

/// One event: which token, and `EPOLL*` bits.
pub type Event = libc::epoll_event;

impl Poll {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just made this descriptor and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: libc::c_int, fd: BorrowedFd<'_>, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` outlives the call, which only reads it.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Watches a descriptor.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, events)
    }

    /// Changes what is watched for. With no events, `EPOLLHUP` and `EPOLLERR` are still told.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, events)
    }

    /// Stops watching, silently if it never was.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    /// Waits. `None` is no timeout. An interrupted wait is an empty one.
    pub fn wait<'a>(&self, events: &'a mut [Event], timeout_ms: Option<i32>) -> io::Result<&'a [Event]> {
        let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events, which is at most the slice's length.
        let count = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, timeout_ms.unwrap_or(-1).max(-1))
        };
        let count = match check(count) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(events.get(..count).unwrap_or_default())
    }
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset changes an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks these signals and returns a descriptor that they are read from.
pub fn signal_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised and outlives both calls; the old mask is not asked for.
    let fd = unsafe {
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()))?;
        check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?
    };
    // SAFETY: the kernel just made this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads one signal: its number, and whether it was sent from outside the pid namespace. Who sends a signal with words of
/// his own (rt_sigqueueinfo) can say that he has no pid, but not that it came by kill: those codes are the kernel's.
pub fn read_signal(fd: &OwnedFd) -> Option<(libc::c_int, bool)> {
    let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = std::mem::size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as large as said; all-zero bytes are a valid value of this plain struct.
    let (count, info) =
        unsafe { (libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size), info.assume_init()) };
    let signal = libc::c_int::try_from(info.ssi_signo).ok()?;
    (usize::try_from(count) == Ok(size))
        .then_some((signal, info.ssi_code == libc::SI_USER && info.ssi_pid == 0))
}

/// `read`, or `None` where it would block.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the kernel writes at most the buffer's length into it.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    or_block(check_size(count))
}

/// `write`, or `None` where it would block. SIGPIPE is ignored by the runtime, so EPIPE comes back as an error.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Option<usize>> {
    // SAFETY: the kernel reads at most the slice's length from it.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    or_block(check_size(count))
}

fn or_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sets or clears `O_NONBLOCK`.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let on = libc::c_int::from(on);
    // SAFETY: FIONBIO reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw const on) }).map(|_| ())
}

/// A pipe, both ends closed on exec and blocking: (read, write).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}

/// Bytes that can be read right now.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    match check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut count) }) {
        Ok(_) => usize::try_from(count).unwrap_or(0),
        Err(_) => 0,
    }
}

/// What `fork` returns.
pub enum Forked {
    /// In the child. It must end in `execve` or [`exit_now`], whatever happens.
    Child,
    /// In the parent, with the child's pid.
    Parent(i32),
}

/// Makes a child process.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: init is single-threaded, so the child may use the allocator and all of the library.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Status {
    /// As shells say it.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// Collects one child that has ended. `None`: none has. ECHILD: there are no children at all.
pub fn reap() -> io::Result<Option<(i32, Status)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    match check(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) })? {
        0 => Ok(None),
        pid if libc::WIFSIGNALED(status) => Ok(Some((pid, Status::Signaled(libc::WTERMSIG(status))))),
        pid => Ok(Some((pid, Status::Exited(libc::WEXITSTATUS(status))))),
    }
}

/// `kill`; a negative pid is a process group, -1 everything but init.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

/// Has the kernel end this process after so many seconds, by SIGALRM.
pub fn end_after(time: std::time::Duration) {
    let seconds = libc::c_uint::try_from(time.as_secs()).unwrap_or(libc::c_uint::MAX);
    // SAFETY: takes no pointers, cannot fail.
    unsafe { libc::alarm(seconds) };
}

/// Ends this process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches no memory.
    unsafe { libc::_exit(code) }
}

/// Sets a terminal's size, through either end.
pub fn set_window_size(fd: BorrowedFd<'_>, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(|_| ())
}

/// Unlocks a pseudo terminal and opens its other end, without any path: what is mounted at `/dev/pts` cannot
/// matter.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCSPTLCK reads one int; TIOCGPTPEER takes flags by value and returns a new descriptor.
    let peer = unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock))?;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))
    };
    match peer {
        // SAFETY: the kernel just made this descriptor and nobody else has it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        // gVisor has no such request, and lets nobody mount anything.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            let mut number: libc::c_uint = 0;
            // SAFETY: TIOCGPTN writes one number.
            check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
            let path = std::ffi::CString::new(format!("/dev/pts/{number}"))?;
            crate::sys::open(&path, flags | libc::O_NOFOLLOW)
        }
        Err(error) => Err(error),
    }
}

/// Gives the descriptor's file an owner and permission bits.
pub fn own(fd: BorrowedFd<'_>, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    // SAFETY: take no pointers.
    unsafe {
        check(libc::fchown(fd.as_raw_fd(), uid, gid))?;
        check(libc::fchmod(fd.as_raw_fd(), mode))?;
    }
    Ok(())
}

/// Takes over a descriptor that was inherited under a fixed number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; fails with EBADF unless the descriptor is open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by contract (DESIGN: fixed descriptors) init alone owns it and takes it once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Starts to connect to a TCP port on this host without waiting for it. It is connected, or has failed, when it
/// becomes writable.
pub fn connect_loopback(port: u16, v6: bool) -> io::Result<std::net::TcpStream> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(family, flags, 0) })?;
    // SAFETY: the kernel just made this descriptor and nobody else has it.
    let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
    let result = if v6 {
        let address = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: std::net::Ipv6Addr::LOCALHOST.octets() },
            sin6_scope_id: 0,
        };
        let size = std::mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is of the family and size that is said, and outlives the call.
        check(unsafe { libc::connect(fd, (&raw const address).cast(), size) })
    } else {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(std::net::Ipv4Addr::LOCALHOST).to_be() },
            sin_zero: [0; 8],
        };
        let size = std::mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: as above.
        check(unsafe { libc::connect(fd, (&raw const address).cast(), size) })
    };
    match result {
        Ok(_) => Ok(stream),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(stream),
        Err(error) => Err(error),
    }
}

/// Whether a descriptor is the listener of a seccomp filter: others do not know the request.
pub fn is_filter_listener(fd: BorrowedFd<'_>) -> bool {
    let nobody = 0u64;
    // SAFETY: the request reads one number, of a call that is waiting; there is none with this one.
    let asked = unsafe { libc::ioctl(fd.as_raw_fd(), SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const nobody) };
    asked == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
}

/// Takes the next question of a seccomp filter's listener that is readable, which keeps this from waiting: the
/// identity of the call, and its number. `None` when its caller is gone.
pub fn next_question(listener: BorrowedFd<'_>) -> Option<(u64, libc::c_long)> {
    // SAFETY: plain data for which zeroes are valid, and which the kernel wants to be zero.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one seccomp_notif.
    let heard =
        unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut question) };
    check(heard).ok().map(|_| (question.id, question.data.nr.into()))
}

/// Lets the call go on, or fail with this `errno`.
pub fn answer_question(listener: BorrowedFd<'_>, id: u64, refusal: Option<libc::c_int>) {
    // What was decided by are numbers: nobody can change them between the filter and the call.
    let flags = if refusal.is_none() { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 };
    let answer = libc::seccomp_notif_resp { id, val: 0, error: -refusal.unwrap_or(0), flags };
    // SAFETY: the request reads one seccomp_notif_resp. It fails when the caller is gone, which is as good.
    unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND as _, &raw const answer) };
}

/// `SECCOMP_IOWR(0, struct seccomp_notif)`, `SECCOMP_IOWR(1, struct seccomp_notif_resp)` and `SECCOMP_IOW(2, __u64)` of
/// `linux/seccomp.h`.
const SECCOMP_IOCTL_NOTIF_RECV: u32 = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: u32 = 0xc018_2101;
const SECCOMP_IOCTL_NOTIF_ID_VALID: u32 = 0x4008_2102;

/// Open files that this process may have: (soft, hard).
pub fn open_files_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(limit)
}

/// Sets it.
pub fn set_open_files_limit(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the kernel reads one rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) }).map(|_| ())
}

/// What protects init from the agent (KERNEL.md): not dumpable, so no ptrace and no /proc/1/mem; a saved gid that
/// differs, so no prlimit, even from root inside without CAP_SYS_RESOURCE; no privilege through exec. An OS user was given
/// that gid as its real one, and could take no other.
pub fn protect() -> io::Result<()> {
    let (zero, one): (libc::c_ulong, libc::c_ulong) = (0, 1);
    let keep = libc::gid_t::MAX;
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: the pointers are to one id each. Changing the saved gid resets dumpability, so that comes last.
    unsafe {
        if is_os_user() {
            check(libc::getresgid(&mut real, &mut effective, &mut saved))?;
            if real == effective {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
            check(libc::setresgid(effective, effective, real))?;
        } else {
            check(libc::setresgid(keep, keep, SAVED_GID))?;
        }
        if !crate::sabotage::leaves_out("no_new_privs") {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero))?;
        }
        let dumpable = libc::c_ulong::from(crate::sabotage::leaves_out("init_protection"));
        check(libc::prctl(libc::PR_SET_DUMPABLE, dumpable, zero, zero, zero))?;
    }
    Ok(())
}

/// The effective uid.
pub fn user() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether init is an OS user of the machine: without a user namespace, without any capability.
pub fn is_os_user() -> bool {
    user() != 0
}

/// Makes freed buffers go back to the kernel: glibc would otherwise learn from the first large one to keep them.
pub fn tune_allocator() {
    // SAFETY: plain integers; failure is harmless.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

/// One page of a file, shared with whoever else has the file. Processes that are forked do not get it.
#[derive(Debug, Clone, Copy)]
pub struct SharedPage(std::ptr::NonNull<[u8; PAGE]>);

/// The smallest page there is. Where pages are larger, the rest is not used.
const PAGE: usize = 4096;

impl SharedPage {
    /// The first page of a file, which has to be as long as that. The file may be closed then.
    pub fn of(file: &std::fs::File) -> io::Result<Self> {
        if file.metadata()?.len() < PAGE as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel chooses where; nothing that exists is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping was just made, and is as long as that.
        check(unsafe { libc::madvise(start, PAGE, libc::MADV_DONTFORK) })?;
        std::ptr::NonNull::new(start.cast()).map(Self).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Copies bytes to its start, as many as there is room for.
    pub fn write(self, bytes: &[u8]) {
        let length = bytes.len().min(PAGE);
        // SAFETY: the mapping is as long as that, is never removed, and no reference into it exists. Nobody but this
        // process and the host's root has the file, and root only reads it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().cast(), length) };
    }
}
