//! System calls as safe functions: what is a pointer there is a slice or a `CStr` here. Nothing decides anything.

pub mod mount;
pub mod process;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An `errno` as an error.
pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// What `syscall(2)` and its kin return, as a result.
pub(crate) fn check(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// A new descriptor out of a system call.
pub(crate) fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    let raw = check(returned)? as i32;
    // SAFETY: the kernel has just returned this descriptor as a new one; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Like openat2(2), with `resolve` = `RESOLVE_*`; close-on-exec.
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: open_how is plain data for which zeroes are valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    // SAFETY: `path` ends with NUL, `how` has the size that is stated.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })
}

/// openat(2), close-on-exec.
pub fn open_at(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: `path` ends with NUL.
    descriptor(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) }.into())
}

/// readlinkat(2). `EINVAL` for what is no link.
pub fn read_link_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<CString> {
    let mut target = [0u8; libc::PATH_MAX as usize];
    // SAFETY: `path` ends with NUL; the pointer and the length are those of `target`.
    let length = check(unsafe {
        libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), target.as_mut_ptr().cast(), target.len())
    } as libc::c_long)?;
    Ok(CString::new(&target[..length as usize])?)
}

/// open(2), close-on-exec.
pub fn open(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `path` ends with NUL.
    descriptor(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// mkdirat(2).
pub fn mkdir_at(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `path` ends with NUL.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), mode) }.into()).map(drop)
}

/// mkdirat(2) that is content with a directory that is there already.
pub fn ensure_dir(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> io::Result<bool> {
    match mkdir_at(dir, path, mode) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// mknodat(2) for a character device.
pub fn make_char_device(
    dir: BorrowedFd<'_>,
    path: &CStr,
    mode: u32,
    major: u32,
    minor: u32,
) -> io::Result<()> {
    // SAFETY: `path` ends with NUL.
    check(
        unsafe {
            libc::mknodat(dir.as_raw_fd(), path.as_ptr(), libc::S_IFCHR | mode, libc::makedev(major, minor))
        }
        .into(),
    )
    .map(drop)
}

/// symlinkat(2).
pub fn symlink_at(target: &CStr, dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: both texts end with NUL.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), path.as_ptr()) }.into()).map(drop)
}

/// unlinkat(2); `flags` is 0 or `AT_REMOVEDIR`.
pub fn unlink_at(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: `path` ends with NUL.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), path.as_ptr(), flags) }.into()).map(drop)
}

/// renameat(2) within and across directories.
pub fn rename_at(from: BorrowedFd<'_>, old: &CStr, to: BorrowedFd<'_>, new: &CStr) -> io::Result<()> {
    // SAFETY: both texts end with NUL.
    check(unsafe { libc::renameat(from.as_raw_fd(), old.as_ptr(), to.as_raw_fd(), new.as_ptr()) }.into())
        .map(drop)
}

/// fchmodat(2), of what is opened; not with `O_PATH`.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }.into()).map(drop)
}

/// fchownat(2) of a name, not followed when it is a link.
pub fn chown_at(dir: BorrowedFd<'_>, path: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `path` ends with NUL.
    check(unsafe { libc::fchownat(dir.as_raw_fd(), path.as_ptr(), uid, gid, flags) }.into()).map(drop)
}

/// What statvfs(3) has as `f_flag`.
pub fn filesystem_flags(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: statvfs is plain data for which zeroes are valid.
    let mut result: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `result` is writable.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut result) }.into())?;
    Ok(result.f_flag)
}

/// fallocate(2) from the file's beginning.
pub fn allocate(fd: BorrowedFd<'_>, bytes: i64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, bytes) }.into()).map(drop)
}

/// statx(2) of what is opened.
fn status(fd: BorrowedFd<'_>) -> io::Result<libc::statx> {
    // SAFETY: statx is plain data for which zeroes are valid.
    let mut result: libc::statx = unsafe { std::mem::zeroed() };
    let (raw, wanted) = (fd.as_raw_fd(), libc::STATX_TYPE | libc::STATX_MODE);
    // SAFETY: the path is an empty text that ends with NUL, `result` is writable.
    check(unsafe { libc::statx(raw, c"".as_ptr(), libc::AT_EMPTY_PATH, wanted, &raw mut result) }.into())?;
    Ok(result)
}

/// Whether a descriptor is the root of a mount (`STATX_ATTR_MOUNT_ROOT`).
pub fn is_mount_root(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(status(fd)?.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
}

/// Whether it is a directory.
pub fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(u32::from(status(fd)?.stx_mode) & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether a file's mode lets everybody read it.
pub fn is_readable_by_all(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(u32::from(status(fd)?.stx_mode) & libc::S_IROTH != 0)
}

/// How the kernel's log begins (syslog(2)).
pub fn kernel_log() -> io::Result<String> {
    /// `SYSLOG_ACTION_READ_ALL` of `linux/syslog.h`.
    const READ_ALL: i32 = 3;
    let mut text = [0u8; 1024];
    // SAFETY: the pointer and the length are those of `text`.
    let count =
        check(unsafe { libc::klogctl(READ_ALL, text.as_mut_ptr().cast(), text.len() as i32) }.into())?;
    Ok(String::from_utf8_lossy(text.get(..count as usize).unwrap_or_default()).into_owned())
}

/// write(2) of all bytes, to a file or a pipe that takes them at once.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length are those of `bytes`.
        let count =
            check(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as libc::c_long);
        match count {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count as usize..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length are those of `buffer`.
        let count =
            check(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) }
                as libc::c_long);
        match count {
            Ok(count) => return Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// pipe2(2): read end, write end; close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    // SAFETY: both are new and owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Opens a file beneath `dir` for writing (it has to exist) and writes `bytes` at once, as `/proc/sys` wants it.
pub fn write_file_at(dir: BorrowedFd<'_>, path: &CStr, bytes: &[u8]) -> io::Result<()> {
    use std::os::fd::AsFd;
    write_all(open_at(dir, path, libc::O_WRONLY, 0)?.as_fd(), bytes)
}

/// The names in a directory, without `.` and `..`; at most `limit` of them.
pub fn list(dir: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<CString>> {
    use std::os::fd::IntoRawFd;
    let own = open_at(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    // SAFETY: fdopendir owns the descriptor from here on, and closedir below gives it back.
    let stream = unsafe { libc::fdopendir(own.into_raw_fd()) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    while names.len() < limit {
        // SAFETY: `stream` is open, and used by this thread alone.
        let entry = unsafe { libc::readdir(stream) };
        if entry.is_null() {
            break;
        }
        // SAFETY: readdir returned an entry whose name ends with NUL; it is copied before the next call.
        let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    // SAFETY: `stream` came from fdopendir and is not used again.
    unsafe { libc::closedir(stream) };
    Ok(names)
}
