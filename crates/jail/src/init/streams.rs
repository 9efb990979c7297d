//! What goes in and out of execs: their streams, kept and passed on, with backpressure.

use super::exec::Exec;
use super::ring::Ring;
use super::slab::Key;
use super::sys::{self, Poll};
use super::{Init, Tag, token};
use channel::{Event, ExitCause, Kind};
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of stdin that wait for the process, after which its clients are not read.
pub const MAX_INPUT: usize = 64 << 10;
/// One read, and one data frame.
pub const PIECE: usize = 64 << 10;

/// One output of a process.
#[derive(Debug, Default)]
pub struct Stream {
    pub(super) fd: Option<OwnedFd>,
    pub(super) watched: bool,
    pub(super) ring: Ring,
    /// Nothing more is added to the ring. The descriptor may stay open to keep what the process left behind
    /// from SIGPIPE; what that writes goes nowhere.
    pub(super) ended: bool,
    /// Once the process ended: bytes that were in the pipe then and are still to be read.
    pub(super) left: Option<usize>,
}

impl Stream {
    fn close(&mut self, poll: &Poll) {
        if let Some(fd) = self.fd.take() {
            poll.remove(fd.as_fd());
        }
        self.watched = false;
        self.ended = true;
    }
}

/// Stdin.
#[derive(Debug)]
pub struct Input {
    pub(super) fd: OwnedFd,
    pub(super) waiting: Vec<u8>,
    pub(super) end: bool,
    pub(super) watched: bool,
}

/// What a client's connection is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Frames were added.
    Some,
    /// There is nothing to say yet.
    Nothing,
    /// The last frame was added.
    Last,
}

impl Exec {
    /// Takes in output, within the limit.
    fn absorb(&mut self, index: usize, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(index).filter(|stream| !stream.ended) else { return };
        let left = self.output_left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let allowed = bytes.len().min(left);
        stream.ring.push(bytes.get(..allowed).unwrap_or_default());
        self.output_left = self.output_left.map(|left| left.saturating_sub(allowed as u64));
        stream.left = stream.left.map(|left| left.saturating_sub(bytes.len()));
        stream.ended = stream.left == Some(0);
        if allowed < bytes.len() && self.cause.is_none() {
            self.cause = Some(ExitCause::OutputLimit);
            match &mut self.exit {
                Some(exit) => exit.cause = self.cause,
                None => super::reap::kill_session(self.pid),
            }
        }
    }

    fn slowest(&self, index: usize) -> Option<u64> {
        self.clients.iter().filter_map(|client| client.cursors.get(index).copied()).min()
    }
}

impl Init {
    /// Adds frames for a client, as many as fit one piece per stream.
    pub fn fill_from_exec(&mut self, conn: Key, key: Key, out: &mut Vec<u8>) -> Filled {
        let Some(exec) = self.execs.get_mut(key) else { return Filled::Last };
        let Some(client) = exec.clients.iter_mut().find(|client| client.conn == conn) else {
            return Filled::Last;
        };
        let before = out.len();
        let kinds = [(Kind::Data1, Kind::End1), (Kind::Data2, Kind::End2)];
        let parts = exec.streams.iter_mut().zip(&mut client.cursors).zip(&mut client.ended).zip(kinds);
        for (((stream, cursor), ended), (data, end)) in parts {
            let piece = stream.ring.piece(*cursor);
            let piece = piece.get(..PIECE).unwrap_or(piece);
            if !piece.is_empty() && channel::encode(data, piece, out).is_ok() {
                *cursor += piece.len() as u64;
                stream.ring.deliver(*cursor);
            } else if stream.ended && !*ended {
                *ended = true;
                let _ = channel::encode(end, &[], out);
            }
        }
        match exec.exit {
            Some(exit) if client.ended == [true; 2] => {
                super::say(out, Kind::Event, &Event::Exited(exit));
                Filled::Last
            }
            _ if out.len() > before => Filled::Some,
            _ => Filled::Nothing,
        }
    }

    /// Watches the streams that have room, and only those: a pipe whose other end is closed would be told of
    /// again and again.
    pub fn watch_streams(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(key) else { return };
        for (index, tag) in [(0, Tag::ExecOutput), (1, Tag::ExecError)] {
            let slowest = exec.slowest(index);
            let Some(stream) = exec.streams.get_mut(index) else { continue };
            let Some(fd) = &stream.fd else { continue };
            let wanted = stream.ended || stream.ring.room(slowest) > 0;
            if wanted && !stream.watched {
                stream.watched = self.poll.add(fd.as_fd(), token(tag, key), libc::EPOLLIN as u32).is_ok();
            } else if !wanted && stream.watched {
                self.poll.remove(fd.as_fd());
                stream.watched = false;
            }
        }
    }

    /// Reads one piece of output.
    pub fn exec_readable(&mut self, key: Key, index: usize) {
        self.scratch.resize(PIECE, 0);
        let Some(exec) = self.execs.get_mut(key) else { return };
        let slowest = exec.slowest(index);
        let Some(stream) = exec.streams.get_mut(index) else { return };
        let Some(fd) = &stream.fd else { return };
        let room = match (stream.ended, stream.left) {
            (true, _) => PIECE,
            (false, Some(left)) => left.min(stream.ring.room(slowest)).min(PIECE),
            (false, None) => stream.ring.room(slowest).min(PIECE),
        };
        let Some(buffer) = self.scratch.get_mut(..room).filter(|buffer| !buffer.is_empty()) else {
            return self.watch_streams(key);
        };
        let mut spoke = false;
        match sys::read(fd.as_fd(), buffer) {
            Ok(Some(count)) if count > 0 => {
                spoke = true;
                exec.absorb(index, buffer.get(..count).unwrap_or_default());
            }
            Ok(None) => {}
            // The end of a pipe; EIO from a terminal whose last user is gone.
            _ => stream.close(&self.poll),
        }
        let over = exec.exit.is_some();
        if spoke {
            // So it runs.
            self.exec_started(key);
        }
        self.exec_changed(key);
        if over {
            // What was in its pipes when it ended.
            self.trim();
        }
    }

    /// Clients may have something to hear, and streams room.
    pub fn exec_changed(&mut self, key: Key) {
        let clients: Vec<Key> =
            self.execs.get(key).map(|exec| exec.clients.iter().map(|c| c.conn).collect()).unwrap_or_default();
        for conn in clients {
            self.stir(conn);
        }
        self.watch_streams(key);
    }

    /// Whether stdin takes more from clients.
    pub fn input_has_room(&self, key: Key) -> bool {
        let input = self.execs.get(key).and_then(|exec| exec.input.as_ref());
        input.is_none_or(|input| input.waiting.len() < MAX_INPUT)
    }

    /// A client typed. What nobody reads any more is thrown away, as a shell's pipe would.
    pub fn exec_input(&mut self, key: Key, bytes: &[u8], end: bool) {
        let Some(exec) = self.execs.get_mut(key) else { return };
        let Some(input) = &mut exec.input else { return };
        if input.end {
            return;
        }
        input.waiting.extend_from_slice(bytes);
        if end && exec.tty {
            // A terminal has no end of file, only the character that stands for it.
            input.waiting.push(4);
        } else {
            input.end |= end;
        }
        self.exec_writable(key);
    }

    /// Writes what waits for stdin.
    pub fn exec_writable(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(key) else { return };
        let Some(input) = &mut exec.input else { return };
        let was_full = input.waiting.len() >= MAX_INPUT;
        let mut broken = false;
        while !input.waiting.is_empty() {
            match sys::write(input.fd.as_fd(), &input.waiting) {
                Ok(Some(count)) => drop(input.waiting.drain(..count)),
                Ok(None) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken || (input.end && input.waiting.is_empty()) {
            self.poll.remove(input.fd.as_fd());
            exec.input = None;
        } else {
            let wanted = !input.waiting.is_empty();
            if wanted && !input.watched {
                let added =
                    self.poll.add(input.fd.as_fd(), token(Tag::ExecInput, key), libc::EPOLLOUT as u32);
                input.watched = added.is_ok();
            } else if !wanted && input.watched {
                self.poll.remove(input.fd.as_fd());
                input.watched = false;
            }
        }
        if was_full && self.input_has_room(key) {
            self.exec_changed(key);
        }
    }

    /// A client's terminal changed.
    pub fn exec_resize(&mut self, key: Key, rows: u16, cols: u16) {
        if let Some(exec) = self.execs.get(key)
            && exec.tty
            && let Some(fd) = &exec.streams[0].fd
        {
            let _ = sys::set_window_size(fd.as_fd(), rows, cols);
        }
    }

    /// The leader of a terminal's session ended. What is still in the terminal is little, so it is taken whatever the
    /// clients have read; then the terminal is closed, and who is left in it is hung up.
    pub fn drain_terminal(&mut self, key: Key) {
        self.scratch.resize(PIECE, 0);
        let Some(exec) = self.execs.get_mut(key) else { return };
        for _ in 0..4 {
            let Some(fd) = &exec.streams[0].fd else { break };
            match sys::read(fd.as_fd(), &mut self.scratch) {
                Ok(Some(count)) if count > 0 => exec.absorb(0, self.scratch.get(..count).unwrap_or_default()),
                _ => break,
            }
        }
        exec.streams[0].close(&self.poll);
    }
}
