//! What `/proc` says, parsed. Pure but for the small readers at the end.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// `major:minor` of the filesystem.
    pub(crate) device: &'a str,
    /// The directory of the filesystem that is mounted.
    pub(crate) root: Cow<'a, str>,
    /// Where, seen from the process's root.
    pub(crate) target: Cow<'a, str>,
    /// Options of the mount.
    pub(crate) options: &'a str,
    /// Type of the filesystem.
    pub(crate) kind: &'a str,
    /// Options of the filesystem.
    pub(crate) super_options: &'a str,
}

/// Parses a mount table; lines that do not parse are left out.
pub(crate) fn mounts(table: &str) -> impl Iterator<Item = Mount<'_>> {
    table.lines().filter_map(mount)
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let mut after = after.split(' ');
    Some(Mount {
        device: before.next()?,
        root: unescape(before.next()?),
        target: unescape(before.next()?),
        options: before.next()?,
        kind: after.next()?,
        // Between them is what is mounted, as the filesystem names it.
        super_options: after.nth(1).unwrap_or_default(),
    })
}

/// Where a mount table shows a directory of the host, or something beneath it. A file system may be mounted more than once,
/// whole or in part, so that one directory has many names. `host` is the table that the path is of.
pub(crate) fn names(path: &Path, host: &[Mount<'_>], table: &[Mount<'_>]) -> Vec<PathBuf> {
    // Of mounts on one place the last is seen.
    let above = host.iter().filter(|mount| path.starts_with(&*mount.target));
    let Some(home) = above.max_by_key(|mount| mount.target.len()) else { return Vec::new() };
    let Ok(rest) = path.strip_prefix(&*home.target) else { return Vec::new() };
    let inside = Path::new(&*home.root).join(rest);
    let name = |mount: &Mount<'_>| {
        let (target, root) = (Path::new(&*mount.target), Path::new(&*mount.root));
        match inside.strip_prefix(root) {
            // Joining nothing would end it with a slash.
            Ok(rest) if rest.as_os_str().is_empty() => Some(target.to_owned()),
            Ok(rest) => Some(target.join(rest)),
            Err(_) => root.starts_with(&inside).then(|| target.to_owned()),
        }
    };
    table.iter().filter(|mount| mount.device == home.device).filter_map(name).collect()
}

/// Undoes the octal escapes of blanks.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    Cow::Owned(plain.replace("\\134", "\\"))
}

/// The value of a `Key:\tvalue` line of `/proc/PID/status`.
pub(crate) fn status_value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot. With the boot's id it
/// tells a process from a later one that has the same pid.
pub(crate) fn start_time(stat: &str) -> Option<u64> {
    // The name in field 2 may hold anything, also blanks and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// The name, state letter and parent of a process, from `/proc/PID/stat`.
pub(crate) fn identity(stat: &str) -> Option<(&str, &str, u32)> {
    let (before, rest) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once(" (")?;
    let mut fields = rest.split(' ');
    Some((name, fields.next()?, fields.next()?.parse().ok()?))
}

/// Most files of the kernel fit in this.
const ROOM: usize = 8 << 10;

/// And all that are read here in this.
const MOST: u64 = 1 << 20;

/// A file of the kernel's, which says that it is empty until it is read: with room from the beginning, so that it is not read
/// in many small pieces. One that is too long is not read in part.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(ROOM);
    match File::open(path)?.take(MOST + 1).read_to_string(&mut text)? as u64 {
        length if length > MOST => Err(io::Error::other("it is longer than 1 MiB")),
        _ => Ok(text),
    }
}

/// The mount table of this process, and the filesystems in it.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) table: String,
    pub(crate) devices: HashSet<String>,
}

/// As it is now. It is read again only when the kernel says that it changed (proc_pid_mountinfo(5)).
pub(crate) fn own_mounts() -> io::Result<Arc<Own>> {
    static KNOWN: Mutex<Option<(File, Arc<Own>)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Told of a change, the kernel does not tell of it again: what was known counts no more, whatever happens next.
    if let Some((file, own)) = known.take()
        && poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&now))? == 0
    {
        *known = Some((file, own.clone()));
        return Ok(own);
    }
    // Whatever changes after it was opened is told of when it is asked about next.
    let path = "/proc/self/mountinfo";
    let file = File::open(path)?;
    let table = read(path)?;
    let devices = mounts(&table).map(|mount| mount.device.to_owned()).collect();
    let own = Arc::new(Own { table, devices });
    *known = Some((file, own.clone()));
    Ok(own)
}

/// The start time of a process.
pub(crate) fn process_start_time(pid: u32) -> io::Result<u64> {
    let stat = read(format!("/proc/{pid}/stat"))?;
    start_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
}

/// The id of this boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    read("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}
