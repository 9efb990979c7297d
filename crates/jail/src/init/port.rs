//! The relay between a connection and a TCP port on the agent's loopback.

use super::errors::{of_io, refuse};
use super::slab::Key;
use super::streams::{Filled, MAX_INPUT, PIECE};
use super::sys::{self, Poll};
use super::{Tag, say, token};
use channel::{ChannelError, ErrorKind, Kind, Reply};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

/// Whether this user listens at a port of this network namespace's loopback, and nobody else does: for an agent that shares
/// the machine's.
pub fn is_own(port: u16) -> bool {
    let own = sys::user();
    let mut found = false;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = File::open(table) else { continue };
        // Those that listen come first.
        let lines = BufReader::new(table).lines().skip(1).map_while(Result::ok);
        for owner in
            lines.map_while(|line| listener(&line)).filter(|(at, _)| *at == port).map(|(_, owner)| owner)
        {
            if owner != own {
                return false;
            }
            found = true;
        }
    }
    found
}

/// The port and the owner of a socket that listens: `sl local_address rem_address st tx:rx tr:tm retrnsmt uid` (proc(5)).
fn listener(line: &str) -> Option<(u16, u32)> {
    const LISTENS: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().take(8).collect();
    let [_, local, _, state, _, _, _, owner] = fields[..] else { return None };
    let (_, port) = local.rsplit_once(':')?;
    (state == LISTENS).then_some((u16::from_str_radix(port, 16).ok()?, owner.parse().ok()?))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_with_their_owners() {
        let line = "   0: 0100007F:1E14 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 12 1 0 100 0";
        assert_eq!(listener(line), Some((7700, 1001)));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener("  sl  local_address rem_address   st"), None);
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        assert!(is_own(port));
        drop(listening);
        assert!(!is_own(port));
    }
}
