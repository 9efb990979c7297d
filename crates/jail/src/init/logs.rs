//! The main process: its start, its output, and the two files that keep the end of it.

use super::slab::Key;
use super::spawn::{self, Plan};
use super::{Init, Tag, streams, sys, token};
use crate::spec::{Ended, ExecSpec};
use channel::{Event, Kind};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Size of each of the two files.
const FILE_SIZE: u64 = 4 << 20;

/// The main process.
#[derive(Debug)]
pub struct Main {
    /// Its pid, also its process group.
    pub pid: i32,
    /// Why it did not become its program.
    pub failure: Option<String>,
    status: Option<OwnedFd>,
    output: Option<OwnedFd>,
}

/// What it wrote, addressed by an offset that only grows. The older file begins at [`Logs::start`], the current
/// one follows; when that is full, the older one is emptied and becomes the current one.
#[derive(Debug)]
pub struct Logs {
    files: [File; 2],
    sizes: [u64; 2],
    current: usize,
    /// Offset at which the current file begins.
    base: u64,
}

impl Logs {
    /// Goes on where the last start of the agent left off.
    pub fn new(files: [File; 2]) -> io::Result<Self> {
        let [a, b] = [files[0].metadata()?, files[1].metadata()?];
        let sizes = [a.len(), b.len()];
        // An empty file has nothing to be newer with: two of them begin with the first.
        let written = |meta: &std::fs::Metadata| (meta.len() > 0).then(|| (meta.mtime(), meta.mtime_nsec()));
        let current = usize::from(written(&b) > written(&a));
        let base = sizes.get(1 - current).copied().unwrap_or(0);
        Ok(Self { files, sizes, current, base })
    }

    fn size(&self, index: usize) -> u64 {
        self.sizes.get(index).copied().unwrap_or(0)
    }

    /// Offset of the oldest byte.
    pub fn start(&self) -> u64 {
        self.base.saturating_sub(self.size(1 - self.current))
    }

    /// Offset after the newest byte.
    pub fn end(&self) -> u64 {
        self.base + self.size(self.current)
    }

    /// Adds output. What the volume has no room for is dropped: the main process must not stop over it.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let size = self.size(self.current);
        if size > 0 && size + bytes.len() as u64 > FILE_SIZE {
            self.base += size;
            self.current = 1 - self.current;
            let emptied = self.files.get(self.current).is_some_and(|file| file.set_len(0).is_ok());
            if let (true, Some(size)) = (emptied, self.sizes.get_mut(self.current)) {
                *size = 0;
            }
        }
        if let (Some(file), Some(size)) = (self.files.get(self.current), self.sizes.get_mut(self.current))
            && file.write_all_at(bytes, *size).is_ok()
        {
            *size += bytes.len() as u64;
        }
    }

    /// Reads from an offset that is kept.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let (index, at, size) = match offset.checked_sub(self.base) {
            Some(at) => (self.current, at, self.size(self.current)),
            None => {
                let older = 1 - self.current;
                (older, offset.saturating_sub(self.start()), self.size(older))
            }
        };
        let room = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        match (self.files.get(index), buffer.get_mut(..room)) {
            (Some(file), Some(buffer)) => file.read_at(buffer, at).unwrap_or(0),
            _ => 0,
        }
    }
}

impl Init {
    /// Starts the main process.
    pub fn start_main(&mut self, spec: &ExecSpec) {
        let plan = Plan {
            argv: &spec.argv,
            env: &spec.env,
            cwd: spec.cwd.as_deref(),
            user: spec.user.unwrap_or(self.config.run_as),
            tty: None,
            stdin: false,
            joined: true,
        };
        match spawn::start(&self.config, &plan, self.open_files) {
            Ok(started) => {
                self.childless = false;
                let key = Key::NONE;
                let readable = libc::EPOLLIN as u32;
                let _ = self.poll.add(started.status.as_fd(), token(Tag::MainStatus, key), readable);
                let _ = self.poll.add(started.output.as_fd(), token(Tag::MainOutput, key), readable);
                self.main = Some(Main {
                    pid: started.pid,
                    failure: None,
                    status: Some(started.status),
                    output: Some(started.output),
                });
            }
            Err(error) => self.leave(Ended::NotStarted { detail: error.message }),
        }
    }

    /// The main process's status pipe spoke.
    pub fn main_started(&mut self) {
        let Some(main) = &mut self.main else { return };
        let Some(status) = &main.status else { return };
        let spec = self.config.main.as_ref();
        let argv0 = spec.and_then(|spec| spec.argv.first()).map_or("", String::as_str);
        let cwd = spec.and_then(|spec| spec.cwd.as_deref());
        if let Some(failure) = spawn::outcome(status, argv0, cwd) {
            self.poll.remove(status.as_fd());
            main.status = None;
            main.failure = failure.map(|error| error.message);
        }
    }

    /// Takes one piece of the main process's output. Whether there was any.
    pub fn main_readable(&mut self) -> bool {
        self.scratch.resize(streams::PIECE, 0);
        let Some(main) = &mut self.main else { return false };
        let Some(fd) = &main.output else { return false };
        match sys::read(fd.as_fd(), &mut self.scratch) {
            Ok(Some(count)) if count > 0 => {
                self.logs.append(self.scratch.get(..count).unwrap_or_default());
                self.drive_log_readers();
                true
            }
            Ok(None) => false,
            _ => {
                self.poll.remove(fd.as_fd());
                main.output = None;
                false
            }
        }
    }

    /// Adds frames for a reader of the log that has come this far.
    pub fn fill_from_logs(&mut self, position: &mut u64, follow: bool, out: &mut Vec<u8>) -> streams::Filled {
        if let Some(bytes) = self.logs.start().checked_sub(*position).filter(|bytes| *bytes > 0) {
            *position = self.logs.start();
            super::say(out, Kind::Event, &Event::Lost { bytes });
        }
        self.scratch.resize(streams::PIECE, 0);
        let count = self.logs.read(*position, &mut self.scratch);
        if count > 0 {
            *position += count as u64;
            let _ = channel::encode(Kind::Data1, self.scratch.get(..count).unwrap_or_default(), out);
            return streams::Filled::Some;
        }
        if follow && self.main.is_some() {
            return streams::Filled::Nothing;
        }
        let _ = channel::encode(Kind::End1, &[], out);
        streams::Filled::Last
    }
}
