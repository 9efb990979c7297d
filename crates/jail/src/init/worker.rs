//! Workers: forked children that are the request's user, serve one connection with blocking calls, and end.
//!
//! Whatever the agent put in the way (a FIFO, a slow or endless file, a tree of a million entries) holds up one
//! worker, never init.

use super::conn::Conn;
use super::errors::{of_io, refuse};
use super::places::Places;
use super::reap::Worker;
use super::slab::Key;
use super::sys::{self, Forked};
use super::{Init, Phase, child, files, procs, say, spawn, tar};
use crate::spec::{FileRules, Identity, User};
use channel::{ChannelError, Decoder, ErrorKind, Kind, Reply, Request};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Workers at the same time.
const MAX_WORKERS: usize = 64;

/// After its time a call may still tidy up behind itself.
const GRACE: Duration = Duration::from_secs(2);

/// The largest data frame that a worker sends.
const PIECE: usize = 64 << 10;

impl Init {
    /// Hands the connection to a new worker.
    pub fn start_worker(&mut self, key: Key, conn: &mut Conn, request: &Request) -> Result<(), ChannelError> {
        if matches!(self.phase, Phase::Leaving { .. }) {
            return Err(refuse(ErrorKind::Refused, "the agent is ending"));
        }
        if self.workers.len() >= MAX_WORKERS {
            let message =
                format!("{MAX_WORKERS} file operations are under way, which is the most; try again later");
            return Err(refuse(ErrorKind::TooMany, message));
        }
        let user = self.user(asked_user(request))?;
        let ids = self.config.ids(user);
        match sys::fork().map_err(|error| spawn::no_process(&error))? {
            Forked::Child => {
                // A panic must not unwind into init's loop: the child would go on as a second init.
                let rules = self.config.files.as_ref();
                let work = std::panic::AssertUnwindSafe(|| run(conn, request, user, ids, rules));
                let code = i32::from(std::panic::catch_unwind(work).is_err());
                sys::exit_now(code)
            }
            Forked::Parent(pid) => {
                self.childless = false;
                self.workers.push(Worker { pid, conn: key });
                // These two see the end of their client themselves, and clean up.
                let kill = !matches!(request, Request::Write { .. } | Request::TarIn { .. });
                conn.hand_over(pid, kill);
                Ok(())
            }
        }
    }
}

fn asked_user(request: &Request) -> Option<channel::User> {
    match request {
        Request::Stat { user, .. }
        | Request::List { user, .. }
        | Request::Read { user, .. }
        | Request::Write { user, .. }
        | Request::Mkdir { user, .. }
        | Request::Move { user, .. }
        | Request::Remove { user, .. }
        | Request::TarOut { user, .. }
        | Request::TarIn { user, .. } => *user,
        // Reading /proc takes no privilege.
        _ => Some(channel::User::Agent),
    }
}

/// The connection, in a worker.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
    decoder: Decoder,
    /// Where calls may go.
    pub places: Places,
    /// Bytes that may still go either way, and until when.
    left: u64,
    until: Option<Instant>,
}

fn run(conn: &mut Conn, request: &Request, user: User, ids: Identity, rules: Option<&FileRules>) {
    let Ok(socket) = conn.socket.try_clone() else { return };
    let unsent = conn.unsent().to_vec();
    let time = rules.map(|rules| Duration::from_secs(rules.seconds.max(1).into()));
    let mut link = Link {
        socket,
        decoder: std::mem::take(&mut conn.decoder),
        places: Places(rules.cloned()),
        left: rules.map_or(u64::MAX, |rules| rules.bytes),
        until: time.map(|time| Instant::now() + time),
    };
    let ready = child::become_worker(user, ids, link.socket.as_fd()).and_then(|()| {
        link.socket.set_nonblocking(false)?;
        link.socket.set_read_timeout(time)?;
        link.socket.set_write_timeout(time)?;
        if let Some(time) = time {
            // What no look at the clock ends, this does.
            sys::end_after(time.saturating_add(GRACE));
        }
        link.socket.write_all(&unsent)
    });
    let result = match ready {
        Ok(()) => work(&mut link, request),
        Err(error) => Err(of_io("could not become the user of the request", &error)),
    };
    // If nobody listens any more, nobody is to be told.
    if let Err(error) = result {
        let _ = link.say(Kind::Error, &error);
    }
}

fn work(link: &mut Link, request: &Request) -> Result<(), ChannelError> {
    match request {
        Request::Stat { path, .. } => files::stat(link, path),
        Request::List { path, .. } => files::list(link, path),
        Request::Read { path, offset, length, .. } => files::read(link, path, *offset, *length),
        Request::Write { path, mode, .. } => files::write(link, path, *mode),
        Request::Mkdir { path, .. } => files::mkdir(link, path),
        Request::Move { path, to, .. } => files::rename(link, path, to),
        Request::Remove { path, recursive, .. } => files::remove(link, path, *recursive),
        Request::TarOut { path, .. } => tar::pack(link, path),
        Request::TarIn { path, .. } => tar::unpack(link, path),
        Request::Processes => procs::list(link),
        _ => Err(refuse(ErrorKind::Internal, "no worker does this")),
    }
}

impl Link {
    /// Sends a message.
    pub fn say<T: Serialize>(&mut self, kind: Kind, value: &T) -> Result<(), ChannelError> {
        let mut out = Vec::new();
        say(&mut out, kind, value);
        self.socket.write_all(&out).map_err(|error| of_io("could not answer", &error))
    }

    /// Sends the reply that ends most requests.
    pub fn done(&mut self) -> Result<(), ChannelError> {
        self.say(Kind::Reply, &Reply::Done)
    }

    /// Sends the end of the outgoing data.
    pub fn end(&mut self) -> Result<(), ChannelError> {
        let mut out = Vec::new();
        let _ = channel::encode(Kind::End1, &[], &mut out);
        self.socket.write_all(&out).map_err(|error| of_io("could not answer", &error))
    }

    /// Takes so many bytes and the time until now from what the call may have.
    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        let over = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let Some(left) = self.left.checked_sub(bytes as u64) else {
            let most = self.places.0.as_ref().map_or(0, |rules| rules.bytes);
            return over(format!("one call moves at most {most} bytes in this agent"));
        };
        self.left = if self.until.is_some() { left } else { self.left };
        if self.until.is_some_and(|until| until < Instant::now()) {
            let most = self.places.0.as_ref().map_or(0, |rules| rules.seconds);
            return over(format!("one call takes at most {most} s in this agent"));
        }
        Ok(())
    }

    /// What the client sends, up to its `End0`. A connection that closes before is an error, never an end.
    pub fn incoming(&mut self) -> Incoming<'_> {
        Incoming { link: self, piece: Vec::new(), taken: 0, ended: false }
    }

    /// A writer of data frames, to be flushed at the end.
    pub fn outgoing(&mut self) -> io::BufWriter<Outgoing<'_>> {
        io::BufWriter::with_capacity(PIECE, Outgoing { link: self })
    }
}

/// See [`Link::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    link: &'a mut Link,
    piece: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Incoming<'_> {
    fn next_piece(&mut self) -> io::Result<()> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        loop {
            match self.link.decoder.next().map_err(|error| invalid(error.to_string()))? {
                Some(frame) if frame.kind == Kind::Data0 => {
                    self.link.spend(frame.payload.len())?;
                    self.piece = frame.payload;
                    self.taken = 0;
                    return Ok(());
                }
                Some(frame) if frame.kind == Kind::End0 => {
                    self.ended = true;
                    return Ok(());
                }
                Some(frame) => return Err(invalid(format!("{:?} makes no sense here", frame.kind))),
                None => {}
            }
            let mut buffer = [0; 32 << 10];
            match self.link.socket.read(&mut buffer)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the data ended too early")),
                count => self.link.decoder.push(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty data frame is no end.
        while self.taken >= self.piece.len() && !self.ended {
            self.next_piece()?;
        }
        let count = self.piece.get(self.taken..).unwrap_or_default().read(buffer)?;
        self.taken += count;
        Ok(count)
    }
}

/// See [`Link::outgoing`].
#[derive(Debug)]
pub struct Outgoing<'a> {
    link: &'a mut Link,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..PIECE).unwrap_or(bytes);
        self.link.spend(bytes.len())?;
        let mut out = Vec::new();
        channel::encode(Kind::Data1, bytes, &mut out).map_err(io::Error::other)?;
        self.link.socket.write_all(&out)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
