//! How many locks of bytes of files there may be.
//!
//! Counting them takes a look at every descriptor of every process, so what is kept in between is an upper bound.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Locks of the agent at the same time: 3 MiB of the kernel's memory. Databases take a handful.
const MAX: usize = 16_384;
/// A lock in the midst of another one, of another kind, makes three of it.
const NEW: usize = 2;
/// So much has to be free when they were counted, so that they are not counted at every call.
const FREE: usize = 2048;
/// After too many were counted, they are not counted again for so long.
const REST: Duration = Duration::from_millis(250);
/// Nor for so many times as long as counting took: init has other things to do.
const SHARE: u32 = 3;
/// Descriptors that are looked at in one count; as many as one process may have.
const FILES: usize = 65_536;
/// What the kernel may say of them all: several times what that many locks take.
const BYTES: usize = 8 << 20;

/// What is known of them.
#[derive(Debug, Default)]
pub struct Locks {
    at_most: usize,
    /// Until then all are refused.
    refused_until: Option<Instant>,
}

impl Locks {
    /// Whether there may be one more.
    pub fn one_more(&mut self, now: Instant, count: impl FnOnce() -> usize) -> bool {
        if self.refused_until.is_some_and(|until| now < until) {
            return false;
        }
        self.refused_until = None;
        self.at_most = self.at_most.saturating_add(NEW);
        if self.at_most > MAX {
            let began = Instant::now();
            self.at_most = count();
            let rest = REST.max(began.elapsed() * SHARE);
            if self.at_most > MAX - FREE {
                // Counted again at the next call after the rest.
                self.at_most = MAX;
                self.refused_until = Some(now + rest);
                return false;
            }
        }
        true
    }
}

/// All that the agent's processes have. A file that a process has open twice counts twice. An agent that has so many
/// descriptors, or so much to say of them, that counting would keep init from its work, has too many locks.
pub fn count() -> usize {
    let mut look = Look { files: FILES, bytes: BYTES };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process =
        |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let locks = processes.filter(is_process).map(|entry| look.of_process(&entry.path()));
    locks.fold(0, usize::saturating_add)
}

/// What may still be looked at.
struct Look {
    files: usize,
    bytes: usize,
}

impl Look {
    fn of_process(&mut self, process: &Path) -> usize {
        // Threads share their descriptors, which the filter sees to, and the first may be gone before the others.
        let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        tasks.into_iter().find_map(|task| self.of_task(&task.path())).unwrap_or(0)
    }

    /// `None` for a task without descriptors.
    fn of_task(&mut self, task: &Path) -> Option<usize> {
        let files = match fs::read_dir(task.join("fdinfo")) {
            Ok(files) => files,
            // It may not be looked at, and then there are no more locks until it is gone.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Some(usize::MAX),
            Err(_) => return None,
        };
        let mut locks: Option<usize> = None;
        for entry in files.flatten() {
            if self.files == 0 || self.bytes == 0 {
                return Some(usize::MAX);
            }
            let mut text = Vec::new();
            let read = fs::File::open(entry.path())
                .and_then(|file| file.take(self.bytes as u64).read_to_end(&mut text));
            self.files -= 1;
            self.bytes -= read.unwrap_or(0).min(self.bytes);
            let found = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"lock:")).count();
            locks = Some(locks.unwrap_or(0).saturating_add(found));
        }
        locks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_counted_when_there_may_be_too_many() {
        let now = Instant::now();
        let mut locks = Locks::default();
        for _ in 0..MAX / NEW {
            assert!(locks.one_more(now, || panic!("not yet")));
        }
        // Most of them are gone again.
        assert!(locks.one_more(now, || 10));
        for _ in 0..(MAX - 10) / NEW {
            assert!(locks.one_more(now, || panic!("not yet")));
        }
        assert!(!locks.one_more(now, || MAX - FREE + 1));
        assert!(!locks.one_more(now + REST / 2, || panic!("not so soon")));
        assert!(!locks.one_more(now + REST, || usize::MAX));
        assert!(locks.one_more(now + REST * 2, || 0));
    }

    #[test]
    fn those_of_a_process_are_found() {
        let path = std::env::temp_dir().join(format!("cofferdam-jail-locks-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        let own = Path::new("/proc/self");
        let count = || Look { files: FILES, bytes: BYTES }.of_process(own);
        let before = count();
        for start in [0, 10, 20] {
            // SAFETY: plain data for which zeroes are valid.
            let mut lock: libc::flock = unsafe { std::mem::zeroed() };
            (lock.l_type, lock.l_start, lock.l_len) = (libc::F_WRLCK as i16, start, 1);
            // SAFETY: the call reads one such structure.
            let set = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETLK, &lock) };
            assert_eq!(set, 0);
        }
        assert_eq!(count(), before + 3);
        // What cannot be looked at in whole is too much.
        assert_eq!(Look { files: 2, bytes: BYTES }.of_process(own), usize::MAX);
        assert_eq!(Look { files: FILES, bytes: 8 }.of_process(own), usize::MAX);
        drop(file);
        fs::remove_file(path).unwrap();
    }
}
