//! Who a namespace belongs to (ioctl_ns(2)), and a user namespace made for the proof that one can be.

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::thread::LinkNameSpaceType;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const NS_GET_USERNS: Opcode = 0xB701;
const NS_GET_OWNER_UID: Opcode = 0xB704;

/// `NS_GET_USERNS` answers with a new descriptor as its return value.
struct GetUserNamespace;

// SAFETY: the request takes no argument and writes nothing; its result is a descriptor that we own.
unsafe impl Ioctl for GetUserNamespace {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_USERNS
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut libc::c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the kernel made the descriptor for this call alone.
        Ok(unsafe { OwnedFd::from_raw_fd(output) })
    }
}

/// The user namespace that owns a namespace.
pub(crate) fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request is defined for namespace files and fails with ENOTTY on any other.
    unsafe { ioctl(namespace, GetUserNamespace) }.map_err(io::Error::from)
}

/// The uid that made a user namespace.
pub(crate) fn owner_uid(namespace: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the request writes one uid_t.
    let getter = unsafe { rustix::ioctl::Getter::<NS_GET_OWNER_UID, u32>::new() };
    // SAFETY: as for `owner`.
    unsafe { ioctl(namespace, getter) }.map_err(io::Error::from)
}

/// Sets the host name in a process's UTS namespace.
pub(crate) fn set_host_name(pid: u32, name: &str) -> io::Result<()> {
    inside(pid, "uts", LinkNameSpaceType::HostNameAndNISDomainName, || {
        Ok(rustix::system::sethostname(name.as_bytes())?)
    })
}

/// Does something in a process's network namespace, which may not be the host's own.
pub(crate) fn inside_network<T>(pid: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let host = identity(Path::new("/proc/self/ns/net"))?;
    inside(pid, "net", LinkNameSpaceType::Network, || match identity(Path::new("/proc/thread-self/ns/net")) {
        Ok(is) if is == host => Err(io::Error::other("it is in the host's network namespace")),
        Ok(_) => act(),
        Err(error) => Err(error),
    })
}

/// Does something in a new network namespace, in a thread of its own that ends afterwards.
pub(crate) fn in_new_network<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
    let there = || {
        // SAFETY: no pointers. It changes the network namespace of this thread alone, which is nobody else's.
        match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
            0 => Ok(act()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    std::thread::scope(|scope| scope.spawn(there).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread in it did not end well")))
}

/// Whether a process is in our own network namespace.
pub(crate) fn is_in_hosts_network(pid: u32) -> io::Result<bool> {
    let its = identity(Path::new(&format!("/proc/{pid}/ns/net")))?;
    Ok(its == identity(Path::new("/proc/self/ns/net"))?)
}

/// What tells namespaces apart (namespaces(7)): device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// This thread goes there and comes back.
fn inside<T>(
    pid: u32,
    name: &str,
    kind: LinkNameSpaceType,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let [there, here] =
        [format!("/proc/{pid}/ns/{name}"), format!("/proc/thread-self/ns/{name}")].map(File::open);
    let (there, here) = (there?, here?);
    let go = |namespace: &File| rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind));
    go(&there)?;
    let done = act();
    if go(&here).is_err() {
        // Nothing that the kernel documents keeps a thread from coming back; it may not work on as somebody else's.
        std::process::abort();
    }
    done
}

/// Makes a user namespace whose ids 0–65535 are `base`… of ours, and ends the process that made it.
pub(crate) fn make_user_namespace(base: u32) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of this thread alone, on a copy of its
    // stack. It makes nothing but raw system calls on descriptors that it holds, and ends with _exit, so no
    // lock or allocator that another thread held at the fork is touched.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match child {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let mut byte = 0u8;
            // SAFETY: see above; the buffer is one byte on this stack. The read ends when the parent closes.
            unsafe {
                libc::close(write.as_raw_fd());
                libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        }
        _ => {}
    }
    let proc = format!("/proc/{child}");
    let map = format!("0 {base} {}\n", crate::UidRange::COUNT);
    let made = File::open(format!("{proc}/ns/user")).and_then(|namespace| {
        std::fs::write(format!("{proc}/uid_map"), &map)?;
        std::fs::write(format!("{proc}/gid_map"), &map)?;
        Ok(OwnedFd::from(namespace))
    });
    drop(write);
    let pid = rustix::process::Pid::from_raw(child as i32);
    while let Err(rustix::io::Errno::INTR) =
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
    {}
    made
}
