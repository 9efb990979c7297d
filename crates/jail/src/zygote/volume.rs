//! The directories of a volume: `home`, the overlay's `upper` and `work`, and `log`.
//!
//! Ids on disk are those that the agent sees. What is in `upper` and `home` was written by the agent: names in it are
//! never followed, and nothing recurses into it.

use crate::layout::{VOLUME_DIRS, VOLUME_HOME, VOLUME_LOGS, VOLUME_OLD as OLD, VOLUME_UPPER, VOLUME_WORK};
use crate::spec::Identity;
use crate::step::{Step, StepError};
use crate::sys;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Room that is given free while a boundary is made, and taken again before the agent runs: an agent that filled its disk
/// must come up, or nobody could ever make room on it.
const SPARE: &CStr = c"spare";
/// Its size in bytes. A start needs a few blocks for directories and small files.
const SPARE_BYTES: i64 = 1 << 20;
/// Names that are read from a directory at a time.
const BATCH: usize = 4096;

/// Makes what is missing, and empties the scratch layer unless it is kept. The volume is mounted without an idmap, and
/// the caller is the host's root.
pub fn prepare(volume: BorrowedFd<'_>, keep_scratch: bool, owner: Identity) -> Result<(), StepError> {
    let step = "preparing the volume";
    if !sys::is_mount_root(volume).step(step)? {
        return Err(StepError::new(step, "the descriptor is not that of a mount"));
    }
    if is_new(volume).step(step)? {
        return sys::chown_at(volume, VOLUME_HOME, owner.uid, owner.gid).step(step);
    }
    match sys::unlink_at(volume, SPARE, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => other.step(step)?,
    }
    let discard: &[&CStr] = if keep_scratch { &[VOLUME_WORK] } else { &[VOLUME_WORK, VOLUME_UPPER] };
    discard_directories(volume, discard).step("emptying the scratch layer")?;
    for (name, mode) in VOLUME_DIRS {
        let made = sys::ensure_dir(volume, name, mode).step(step)?;
        if made && name == VOLUME_HOME {
            sys::chown_at(volume, VOLUME_HOME, owner.uid, owner.gid).step(step)?;
        }
    }
    Ok(())
}

/// Whether all directories are there and no agent had them yet: in `work`, which no agent can name, the first overlay
/// leaves a directory of its own.
fn is_new(volume: BorrowedFd<'_>) -> io::Result<bool> {
    match sys::open_at(volume, VOLUME_WORK, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        work => Ok(sys::list(work?.as_fd(), 1)?.is_empty()),
    }
}

/// Notes that an agent had it where no overlay leaves a trace.
pub fn mark_used(volume: BorrowedFd<'_>) -> Result<(), StepError> {
    sys::ensure_dir(volume, c"work/used", 0o700).step("preparing the volume").map(drop)
}

/// Takes the spare room again. The volume is idmapped by now, so that blocks which are reserved for root do not count.
pub fn set_spare_aside(volume: BorrowedFd<'_>) -> Result<(), StepError> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let taken =
        sys::open_at(volume, SPARE, flags, 0o600).and_then(|spare| sys::allocate(spare.as_fd(), SPARE_BYTES));
    match taken {
        // It was needed; there is some again after the next start with room.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(()),
        other => other.step("setting spare room aside"),
    }
}

/// Opens both halves of the main process's log, which the agent cannot name. The volume is idmapped by now.
pub fn open_logs(volume: BorrowedFd<'_>) -> Result<[OwnedFd; 2], StepError> {
    let open =
        |name: &CStr| sys::open_at(volume, name, libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW, 0o600);
    let step = "opening the log";
    let [first, second] = VOLUME_LOGS.map(open);
    Ok([first.step(step)?, second.step(step)?])
}

/// Moves directories aside, then deletes them, and what an earlier start that was cut short left to delete.
fn discard_directories(volume: BorrowedFd<'_>, names: &[&CStr]) -> io::Result<()> {
    sys::ensure_dir(volume, OLD, 0o700)?;
    let old = sys::open_at(volume, OLD, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    let mut names_given = 0;
    for name in names {
        match move_into(old.as_fd(), volume, name, &mut names_given) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    empty(old.as_fd(), &mut names_given)
}

/// Moves a directory into `old` under a number that is free.
fn move_into(old: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr, names_given: &mut u64) -> io::Result<()> {
    loop {
        *names_given += 1;
        let number = CString::new(names_given.to_string())?;
        match sys::rename_at(dir, name, old, &number) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR)) => {}
            other => return other,
        }
    }
}

/// Deletes one name; `false` when it is a directory that is not empty.
fn remove(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match sys::unlink_at(dir, name, 0) {
        Ok(()) => return Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {}
        Err(error) => return Err(error),
    }
    match sys::unlink_at(dir, name, libc::AT_REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Empties a directory however deep it is, with two descriptors and no recursion: directories within directories are
/// moved up first.
fn empty(old: BorrowedFd<'_>, names_given: &mut u64) -> io::Result<()> {
    loop {
        let names = sys::list(old, BATCH)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if remove(old, &name)? {
                continue;
            }
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let dir = sys::open_at(old, &name, flags, 0)?;
            for inner in sys::list(dir.as_fd(), BATCH)? {
                if !remove(dir.as_fd(), &inner)? {
                    move_into(old, dir.as_fd(), &inner, names_given)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_new_until_an_overlay_used_it() {
        let dir = std::env::temp_dir().join(format!("cofferdam-jail-new-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("upper/of-somebody")).unwrap();
        let volume = sys::open(&CString::new(dir.to_str().unwrap()).unwrap(), libc::O_RDONLY).unwrap();
        let new = || is_new(volume.as_fd());
        // As volumes of an older template are, and those whose start was cut short.
        assert!(!new().unwrap());
        std::fs::create_dir(dir.join("work")).unwrap();
        assert!(new().unwrap());
        std::fs::create_dir(dir.join("work/work")).unwrap();
        assert!(!new().unwrap());
        std::fs::remove_dir_all(dir.join("work")).unwrap();
        std::os::unix::fs::symlink("/", dir.join("work")).unwrap();
        assert!(new().is_err(), "nothing is followed");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn deep_wide_and_hostile_trees_are_emptied() {
        let dir = std::env::temp_dir().join(format!("cofferdam-jail-volume-{}", std::process::id()));
        let upper = dir.join("upper");
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::write(dir.join("spared"), "x").unwrap();
        std::os::unix::fs::symlink(&dir, upper.join("out")).unwrap();
        std::os::unix::fs::symlink("/", upper.join("1")).unwrap();
        let mut deep = sys::open(&CString::new(upper.to_str().unwrap()).unwrap(), libc::O_RDONLY).unwrap();
        // Deeper than any path can be long.
        for level in 0..3000 {
            sys::mkdir_at(deep.as_fd(), c"deeper", 0o700).unwrap();
            if level % 100 == 0 {
                sys::symlink_at(c"..", deep.as_fd(), c"3").unwrap();
                sys::mkdir_at(deep.as_fd(), c"2", 0o700).unwrap();
            }
            deep = sys::open_at(deep.as_fd(), c"deeper", libc::O_RDONLY, 0).unwrap();
        }
        let volume = sys::open(&CString::new(dir.to_str().unwrap()).unwrap(), libc::O_RDONLY).unwrap();
        discard_directories(volume.as_fd(), &[c"upper", c"work"]).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["old", "spared"]);
        assert_eq!(std::fs::read_dir(dir.join("old")).unwrap().count(), 0);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
