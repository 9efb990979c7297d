//! What happens between `fork` and `execve`, and in workers: giving up everything that is init's.
#![allow(unsafe_code)]

use super::sys::{self, check};
use crate::layout::INIT_CAPABILITY;
use crate::spec::{Identity, User};
use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// CAP_SETPCAP: init needs it to drop the others from children, no child does.
const CAP_SETPCAP: u8 = 8;

/// Highest capability number that the interface can express.
const CAP_MAX: u8 = 63;

/// Higher than any descriptor. gVisor refuses what is negative as an int.
const ALL: libc::c_uint = libc::c_int::MAX as libc::c_uint;

/// Where a child failed; one byte on the status pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Session, terminal, descriptors, signals, limits.
    Setup = 1,
    /// Ids and capabilities.
    User = 2,
    /// The working directory.
    Directory = 3,
    /// `execve`.
    Exec = 4,
}

impl Stage {
    /// Reads the byte.
    pub fn from_byte(byte: u8) -> Self {
        [Self::User, Self::Directory, Self::Exec]
            .into_iter()
            .find(|stage| *stage as u8 == byte)
            .unwrap_or(Self::Setup)
    }
}

/// Everything a child needs, made before the fork.
#[derive(Debug)]
pub struct Program {
    /// Where to look, in this order: whole paths.
    pub candidates: Vec<CString>,
    /// Arguments, the first one as asked for.
    pub argv: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// Goes to `/` when `cwd` does not exist: only for a home that nobody asked for.
    pub cwd_optional: bool,
    /// Who it is.
    pub user: User,
    /// And which ids that is.
    pub ids: Identity,
    /// Open files, as before init raised its own.
    pub open_files: libc::rlimit,
}

/// The child's three standard descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Standard<'a> {
    /// 0.
    pub input: BorrowedFd<'a>,
    /// 1.
    pub output: BorrowedFd<'a>,
    /// 2.
    pub error: BorrowedFd<'a>,
    /// Whether they are a terminal, to become the session's.
    pub terminal: bool,
}

/// Becomes the program. Returns only on failure, having said nothing yet.
pub fn become_program(
    program: &Program,
    standard: Standard<'_>,
    status: BorrowedFd<'_>,
) -> (Stage, io::Error) {
    if let Err(error) = set_up(program, standard, status) {
        return (Stage::Setup, error);
    }
    if let Err(error) = become_user(program.user, program.ids) {
        return (Stage::User, error);
    }
    if let Err(error) = change_directory(program) {
        return (Stage::Directory, error);
    }
    (Stage::Exec, execute(program))
}

fn set_up(program: &Program, standard: Standard<'_>, status: BorrowedFd<'_>) -> io::Result<()> {
    reset_oom_score()?;
    // SAFETY: none takes a pointer, but TIOCSCTTY's argument is a plain 0. The descriptors are init's, all above 4
    // (below are the fixed ones), so that no dup2 overwrites a source; this process uses none of the closed ones.
    unsafe {
        check(libc::setsid())?;
        if standard.terminal {
            check(libc::ioctl(standard.input.as_raw_fd(), libc::TIOCSCTTY, 0))?;
        }
        check(libc::dup2(standard.input.as_raw_fd(), 0))?;
        check(libc::dup2(standard.output.as_raw_fd(), 1))?;
        check(libc::dup2(standard.error.as_raw_fd(), 2))?;
        check(libc::dup3(status.as_raw_fd(), STATUS_FD, libc::O_CLOEXEC))?;
        check(libc::close_range(STATUS_FD as libc::c_uint + 1, ALL, 0))?;
        libc::umask(0o022);
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &program.open_files))?;
    }
    default_signal(libc::SIGPIPE);
    unblock_signals();
    Ok(())
}

/// Root inside can change init's, which children inherit. An OS user cannot, and the zygote has set it.
fn reset_oom_score() -> io::Result<()> {
    if sys::is_os_user() { Ok(()) } else { std::fs::write("/proc/self/oom_score_adj", "0") }
}

/// Where the status pipe is in the child.
pub const STATUS_FD: libc::c_int = 3;

/// Init begins with all signals at their default but SIGPIPE, which is ignored: all that its children have to undo.
pub fn reset_signals() {
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        default_signal(signal);
    }
}

/// The kernel's signal sets have so many bytes.
const SIGNAL_SET: libc::size_t = 8;

fn default_signal(signal: libc::c_int) {
    // By the bare system call: glibc hides its own two signals, and they can be inherited as ignored like any other.
    // All zero is SIG_DFL, and no more than the 32 bytes of the kernel's struct.
    let (default, nothing) = ([0u64; 4], std::ptr::null_mut::<libc::c_void>());
    // SAFETY: the kernel reads one and writes nothing. It refuses SIGKILL and SIGSTOP, which changes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, SIGNAL_SET) };
}

/// Lets all signals through.
fn unblock_signals() {
    let (none, nothing) = (0u64, std::ptr::null_mut::<libc::c_void>());
    // SAFETY: the kernel reads one set and writes nothing.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, nothing, SIGNAL_SET);
    }
}

/// For a worker: keeps one descriptor besides the standard ones, becomes the user, lets all signals through. They are
/// at their default apart from SIGPIPE, which stays ignored.
pub fn become_worker(user: User, ids: Identity, keep: BorrowedFd<'_>) -> io::Result<()> {
    reset_oom_score()?;
    let keep = keep.as_raw_fd() as libc::c_uint;
    unblock_signals();
    // SAFETY: takes no pointers that outlive the call; the worker uses no descriptor but `keep` and the standard ones.
    unsafe {
        check(libc::setsid())?;
        if keep > 3 {
            check(libc::close_range(3, keep - 1, 0))?;
        }
        check(libc::close_range(keep + 1, ALL, 0))?;
        libc::umask(0o022);
    }
    become_user(user, ids)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`
const CAP_VERSION: u32 = 0x2008_0522;

fn capabilities() -> io::Result<[CapData; 2]> {
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: both are laid out as capget(2) says for version 3, which writes two elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) } as libc::c_int)?;
    Ok(data)
}

fn set_capabilities(data: &[CapData; 2]) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    // SAFETY: both are laid out as capset(2) says for version 3, which reads two elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) } as libc::c_int)?;
    Ok(())
}

/// Gives up what the user may not have, and proves it.
fn become_user(user: User, ids: Identity) -> io::Result<()> {
    become_user_saving(user, ids, ids.gid)
}

/// The same with a saved gid of its own, for what no process of the agent may limit.
pub(crate) fn become_user_saving(user: User, ids: Identity, saved: u32) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // Root keeps its bounded set without what is init's; the agent keeps nothing, not even in the bounding set.
    let own = [INIT_CAPABILITY, CAP_SETPCAP];
    let kept = |capability: u8| {
        user == User::Root && !own.contains(&capability) || crate::sabotage::leaves_out("capabilities")
    };
    for capability in (0..=CAP_MAX).filter(|capability| !kept(*capability)) {
        let number = libc::c_ulong::from(capability);
        // SAFETY: take no pointers. Reading tells whether the kernel knows the number, and whether it is set.
        unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, number, zero, zero, zero) {
                1 => drop(check(libc::prctl(libc::PR_CAPBSET_DROP, number, zero, zero, zero))?),
                0 => {}
                // The kernel's numbers have no gaps: it knows none that follows either.
                _ => break,
            }
        }
    }
    if user == User::Agent && ids.uid == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let Identity { uid, gid } = ids;
    // SAFETY: setgroups reads one id; the others take no pointers. A kernel without ambient capabilities refuses the
    // prctl, and then there are none.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, zero, zero, zero);
        // An OS user has them already, and may not set them.
        if groups()? != [gid] {
            check(libc::setgroups(1, &gid))?;
        }
        check(libc::setresgid(gid, gid, saved))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    let mut data = capabilities()?;
    for (half, data) in data.iter_mut().enumerate() {
        let mask = (0..32)
            .filter(|bit| kept(half as u8 * 32 + bit))
            .fold(0u32, |mask, bit| mask | 1 << u32::from(bit));
        data.permitted &= mask;
        data.effective = data.permitted;
        data.inheritable = 0;
    }
    set_capabilities(&data)?;
    verify(user, ids, saved, &data)
}

/// The supplementary groups of this process.
fn groups() -> io::Result<Vec<u32>> {
    // SAFETY: with a length of 0 nothing is written.
    let count = check(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    let mut groups = vec![u32::MAX; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the pointer and the length are those of `groups`; nobody else changes how many there are.
    check(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    Ok(groups)
}

fn verify(user: User, ids: Identity, saved: u32, expected: &[CapData; 2]) -> io::Result<()> {
    let (mut uids, mut gids) = ([u32::MAX; 3], [u32::MAX; 3]);
    // SAFETY: each pointer is to one id.
    unsafe {
        let [real, effective, saved] = &mut uids;
        check(libc::getresuid(real, effective, saved))?;
        let [real, effective, saved] = &mut gids;
        check(libc::getresgid(real, effective, saved))?;
    }
    let none = [CapData::default(); 2];
    let now = capabilities()?;
    let capabilities_right = now == *expected && (user == User::Root || now == none);
    let Identity { uid, gid } = ids;
    if uids == [uid; 3] && gids == [gid, gid, saved] && groups()? == [gid] && capabilities_right {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

fn change_directory(program: &Program) -> io::Result<()> {
    // SAFETY: the path is a C string that outlives the call.
    match check(unsafe { libc::chdir(program.cwd.as_ptr()) }) {
        // SAFETY: as above.
        Err(_) if program.cwd_optional => check(unsafe { libc::chdir(c"/".as_ptr()) }).map(|_| ()),
        result => result.map(|_| ()),
    }
}

/// Tries each candidate as `execvp` does, except that a text file without `#!` is not given to a shell.
fn execute(program: &Program) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(&program.argv), pointers(&program.env));
    let mut found = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in &program.candidates {
        // SAFETY: path, arguments and environment are C strings that live in `program`; both arrays end with null.
        unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => found = error,
            _ => return error,
        }
    }
    found
}
