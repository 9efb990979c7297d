//! Loop devices (loop(4)) that clear themselves when their last user closes them.

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u32 = 7;

/// Others take free devices too: so often a new one is asked for.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// `LOOP_CTL_GET_FREE` answers with its return value, for which rustix has no pattern.
struct GetFree;

// SAFETY: the request takes no argument and writes nothing; its result is the number of a device.
unsafe impl Ioctl for GetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut libc::c_void) -> rustix::io::Result<u32> {
        u32::try_from(output).map_err(|_| rustix::io::Errno::RANGE)
    }
}

/// A device that is bound to a file as long as this, or a mount of it, lives.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    device: File,
}

impl LoopDevice {
    /// The open device. Closing it lets the device go unless it is mounted.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Whether the device may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Binds a free device to a file. The device keeps the file's open description, so a lock on that
/// (flock(2)) is held until the device is cleared.
pub(crate) fn attach(file: BorrowedFd<'_>, access: Access) -> io::Result<LoopDevice> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let mut last = io::Error::from_raw_os_error(libc::EBUSY);
    for _ in 0..ATTEMPTS {
        // SAFETY: /dev/loop-control is the file that this request is for.
        let number = unsafe { ioctl(&control, GetFree) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path, number, access)?;
        match configure(device.as_fd(), file, access) {
            Ok(()) => return Ok(LoopDevice { device }),
            // Taken in between.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The device that is bound to the file of this path, if one is.
pub(crate) fn of(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = path.canonicalize()?;
    for entry in std::fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        let backing = Path::new("/sys/block").join(&name).join("loop/backing_file");
        // One that is bound to nothing has no such file, and one may go at any moment.
        let Ok(bound) = std::fs::read(&backing) else { continue };
        if bound.trim_ascii_end() == path.as_os_str().as_bytes() {
            return Ok(Some(Path::new("/dev").join(name)));
        }
    }
    Ok(None)
}

fn open(path: &Path, number: u32, access: Access) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
    };
    match open() {
        // A host that is a container has no devtmpfs that makes the node.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let device = rustix::fs::makedev(LOOP_MAJOR, number);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::BlockDevice, mode, device)?;
            open()
        }
        other => other,
    }
}

fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    let read_only = if access == Access::ReadOnly { LO_FLAGS_READ_ONLY } else { 0 };
    // Direct IO keeps the volume's pages out of the host's cache a second time. A filesystem that cannot
    // do it leaves the flag out without an error, or refuses with EINVAL: then without.
    for direct in [LO_FLAGS_DIRECT_IO, 0] {
        let info = LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_AUTOCLEAR | read_only | direct,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        };
        let config = LoopConfig { fd: file.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
        // SAFETY: the request reads a `struct loop_config`, of which LoopConfig is the layout.
        let setter = unsafe { Setter::<LOOP_CONFIGURE, LoopConfig>::new(config) };
        // SAFETY: the device is a loop device, which this request is for.
        match unsafe { ioctl(device, setter) } {
            Err(rustix::io::Errno::INVAL) if direct != 0 => {}
            other => return other.map_err(io::Error::from),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}
