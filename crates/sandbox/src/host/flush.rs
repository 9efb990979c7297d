//! Writing back the journal of ext4 (its documentation in the kernel, "Journal checkpoint").

use rustix::ioctl::{NoArg, Opcode, Setter, ioctl};
use std::io;
use std::os::fd::BorrowedFd;

/// `EXT4_IOC_CHECKPOINT`, since Linux 5.14.
const CHECKPOINT: Opcode = 0x4004_662B;
/// `FIFREEZE` and `FITHAW` of linux/fs.h.
const FREEZE: Opcode = 0xC004_5877;
const THAW: Opcode = 0xC004_5878;

/// Puts all that the journal of a filesystem has where it belongs, so that its device holds the whole of it. Nobody writes meanwhile.
pub(crate) fn journal(filesystem: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request reads a u32 of flags.
    let checkpoint = unsafe { Setter::<CHECKPOINT, u32>::new(0) };
    // SAFETY: as above; a file of another filesystem refuses it.
    match unsafe { ioctl(filesystem, checkpoint) } {
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP) => {}
        done => return Ok(done?),
    }
    // An older kernel does the same before it lets nobody write, which is over at once: nobody who waits would be told.
    // SAFETY: the request takes no argument.
    unsafe { ioctl(filesystem, NoArg::<FREEZE>::new()) }?;
    // SAFETY: the request takes no argument.
    Ok(unsafe { ioctl(filesystem, NoArg::<THAW>::new()) }?)
}
