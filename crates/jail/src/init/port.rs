//! The relay between a connection and a TCP port on the agent's loopback.

use super::errors::{of_io, refuse};
use super::slab::Key;
use super::streams::{Filled, MAX_INPUT, PIECE};
use super::sys::{self, Poll};
use super::{Tag, say, token};
use channel::{ChannelError, ErrorKind, Kind, Reply};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

/// The TCP side. Each direction ends on its own.
#[derive(Debug)]
pub struct Port {
    stream: TcpStream,
    number: u16,
    v6: bool,
    connected: bool,
    waiting: Vec<u8>,
    /// The client sent its end, and it was passed on.
    ended: bool,
    shut: bool,
    /// The agent's side sent its end.
    finished: bool,
    watched: u32,
}

impl Port {
    /// Begins to connect; what came of it is told by [`Self::fill`].
    pub fn connect(poll: &Poll, number: u16, key: Key) -> Result<Self, ChannelError> {
        let begin = |v6| sys::connect_loopback(number, v6).map(|stream| (stream, v6));
        let (stream, v6) = begin(false).or_else(|_| begin(true)).map_err(|error| failed(number, &error))?;
        let mut port = Self {
            stream,
            number,
            v6,
            connected: false,
            waiting: Vec::new(),
            ended: false,
            shut: false,
            finished: false,
            watched: 0,
        };
        port.watch(poll, key, false);
        Ok(port)
    }

    /// Stops watching; the socket closes with it.
    pub fn close(self, poll: &Poll) {
        poll.remove(self.stream.as_fd());
    }

    /// Whether more may come from the client.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_INPUT
    }

    /// From the client.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        if self.ended {
            return Err(refuse(ErrorKind::Invalid, "data after the end of the stream"));
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    /// The client's end.
    pub fn end(&mut self) -> Result<(), ChannelError> {
        self.ended = true;
        Ok(())
    }

    /// Watches for what can be worked on: not for input while the client is behind.
    pub fn watch(&mut self, poll: &Poll, key: Key, client_behind: bool) {
        let mut wanted = 0;
        if self.connected && !self.finished && !client_behind {
            wanted |= libc::EPOLLIN as u32;
        }
        if !self.connected || !self.waiting.is_empty() {
            wanted |= libc::EPOLLOUT as u32;
        }
        let (fd, bits) = (self.stream.as_fd(), token(Tag::Tcp, key));
        let result = match (self.watched, wanted) {
            (before, after) if before == after => Ok(()),
            (0, events) => poll.add(fd, bits, events),
            (_, 0) => {
                poll.remove(fd);
                Ok(())
            }
            (_, events) => poll.modify(fd, bits, events),
        };
        self.watched = if result.is_ok() { wanted } else { self.watched };
    }

    fn connecting(&mut self, poll: &Poll, out: &mut Vec<u8>) -> Filled {
        let error = match self.stream.take_error() {
            Ok(None) if self.stream.peer_addr().is_ok() => {
                self.connected = true;
                let _ = self.stream.set_nodelay(true);
                say(out, Kind::Reply, &Reply::Streaming);
                return Filled::Some;
            }
            Ok(None) => return Filled::Nothing,
            Ok(Some(error)) | Err(error) => error,
        };
        if !self.v6
            && let Ok(stream) = sys::connect_loopback(self.number, true)
        {
            poll.remove(self.stream.as_fd());
            self.stream = stream;
            self.v6 = true;
            self.watched = 0;
            return Filled::Nothing;
        }
        say(out, Kind::Error, &failed(self.number, &error));
        Filled::Last
    }

    /// Moves bytes both ways, as far as they go now.
    pub fn fill(&mut self, poll: &Poll, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Filled {
        if !self.connected {
            return self.connecting(poll, out);
        }
        let mut broken = false;
        while !self.waiting.is_empty() && !broken {
            match sys::write(self.stream.as_fd(), &self.waiting) {
                Ok(Some(count)) => drop(self.waiting.drain(..count)),
                Ok(None) => break,
                Err(_) => broken = true,
            }
        }
        if self.ended && !self.shut && self.waiting.is_empty() {
            self.shut = true;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        let mut filled = Filled::Nothing;
        if !self.finished {
            scratch.resize(PIECE, 0);
            match sys::read(self.stream.as_fd(), scratch) {
                Ok(Some(count)) if count > 0 => {
                    let _ = channel::encode(Kind::Data1, scratch.get(..count).unwrap_or_default(), out);
                    return Filled::Some;
                }
                Ok(None) if !broken => {}
                result => {
                    broken |= result.is_err();
                    self.finished = true;
                    let _ = channel::encode(Kind::End1, &[], out);
                    filled = Filled::Some;
                }
            }
        }
        if broken || (self.finished && self.shut) { Filled::Last } else { filled }
    }
}

fn failed(number: u16, error: &io::Error) -> ChannelError {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return refuse(ErrorKind::Refused, format!("nothing listens on port {number} inside the agent"));
    }
    of_io(&format!("could not connect to port {number} inside the agent"), error)
}
