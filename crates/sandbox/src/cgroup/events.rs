//! Waiting for a change in a v2 cgroup's `cgroup.events`, by the notification that the kernel sends for it.

use super::CgroupError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Waits until `key` has `value`. A cgroup that is gone counts as empty and thawed.
pub(crate) fn wait(group: &Path, key: &'static str, value: u8, limit: Duration) -> Result<(), CgroupError> {
    let path = group.join("cgroup.events");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && value == 0 => return Ok(()),
        Err(error) => return Err(CgroupError::file("open", &path)(error)),
    };
    let deadline = Instant::now() + limit;
    loop {
        // Reading before polling is what arms the notification: a change in between is not lost.
        match read(&file, key) {
            Ok(Some(found)) if found == value => return Ok(()),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) && value == 0 => return Ok(()),
            Err(error) => return Err(CgroupError::file("read", &path)(error)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let path = group.to_owned();
            return Err(CgroupError::Timeout { path, key, value, seconds: limit.as_secs() });
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(CgroupError::file("wait for", &path)(error.into())),
        }
    }
}

/// One key of a file of `key value` lines, now.
fn read(file: &File, key: &str) -> std::io::Result<Option<u8>> {
    let mut buffer = [0; 256];
    let length = file.read_at(&mut buffer, 0)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    Ok(super::group::keyed(&text, key).and_then(|value| u8::try_from(value).ok()))
}

/// Whether the v2 cgroup has live processes in it or below.
pub(crate) fn is_populated(group: &Path) -> bool {
    File::open(group.join("cgroup.events"))
        .and_then(|file| read(&file, "populated"))
        .is_ok_and(|found| found == Some(1))
}
