//! One connection: greeting, request, and what it then carries.

use super::errors::refuse;
use super::pace::TOGETHER;
use super::port::{self, Port};
use super::slab::Key;
use super::streams::{Filled, MAX_INPUT, PIECE};
use super::{Init, Phase, Tag, say, sys, token};
use channel::{ChannelError, Control, Decoder, ErrorKind, FrameError, Hello, Kind, Reply, Request};
use serde::Serialize;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 1024;

/// Reads and writes in one turn, so that one busy connection does not keep the others waiting.
const TURN: usize = 8;

const HANG_UP: u32 = (libc::EPOLLHUP | libc::EPOLLERR) as u32;
const READABLE: u32 = libc::EPOLLIN as u32;
const WRITABLE: u32 = libc::EPOLLOUT as u32;

/// What a connection is at.
#[derive(Debug)]
pub enum State {
    /// Its hello is due, then its request.
    Greeting {
        /// The hello came.
        greeted: bool,
    },
    /// It asked for something that is about to be done.
    Asked(Box<Request>),
    /// Its exec is being started.
    Starting {
        /// Nothing is said before this time unless there is more than a hello: see [`super::pace`].
        until: Option<Instant>,
    },
    /// It is a client of this exec.
    Attached(Key),
    /// It reads the main process's log from this offset on.
    Logs {
        /// Next byte.
        position: u64,
        /// Whether the end is the end.
        follow: bool,
    },
    /// It is relayed to a port.
    Port(Box<Port>),
    /// A worker has it. Init only looks out for its end.
    Worker {
        /// The worker.
        pid: i32,
        /// Whether the worker is killed when the client goes: not if that might leave half a file behind.
        kill: bool,
    },
    /// What is in `out`, and then the end.
    Closing,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket, not blocking.
    pub socket: UnixStream,
    /// What came and was not yet understood.
    pub decoder: Decoder,
    /// What is to be sent.
    pub out: Vec<u8>,
    /// What it is at.
    pub state: State,
    sent: usize,
    ended: bool,
    more: bool,
    /// It is among [`Init::stirred`].
    pub(super) stirred: bool,
    watched: u32,
    pub(super) since: Instant,
}

impl Conn {
    /// What was not yet sent.
    pub fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// From now on the worker speaks on it, and has a copy of all that was buffered.
    pub fn hand_over(&mut self, pid: i32, kill: bool) {
        self.out = Vec::new();
        self.sent = 0;
        self.decoder = Decoder::new();
        self.state = State::Worker { pid, kill };
    }
}

impl Init {
    /// Takes new connections.
    pub fn accept(&mut self) {
        for _ in 0..TURN {
            match self.listener.accept() {
                Ok((socket, _)) => self.welcome(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
                {
                    // Tried again when a connection ends, or after a while.
                    return self.pause_listener();
                }
                Err(_) => {}
            }
        }
    }

    fn welcome(&mut self, socket: UnixStream) {
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let full = self.conns.len() >= MAX_CONNECTIONS;
        let mut conn = Conn {
            socket,
            decoder: Decoder::new(),
            out: Vec::new(),
            state: State::Greeting { greeted: false },
            sent: 0,
            ended: false,
            more: false,
            stirred: false,
            watched: READABLE,
            since: Instant::now(),
        };
        if full {
            let error =
                refuse(ErrorKind::TooMany, format!("the agent serves {MAX_CONNECTIONS} connections already"));
            say(&mut conn.out, Kind::Error, &error);
            let _ = sys::write(conn.socket.as_fd(), &conn.out);
            return;
        }
        let key = self.conns.insert(conn);
        let added = self
            .conns
            .get(key)
            .map(|conn| self.poll.add(conn.socket.as_fd(), token(Tag::Conn, key), READABLE));
        if matches!(added, Some(Ok(()))) {
            // Most clients have said everything by now.
            self.drive(key, READABLE);
        } else {
            self.conns.remove(key);
        }
    }

    /// Sends a last message.
    pub fn finish_with<T: Serialize>(&mut self, key: Key, kind: Kind, value: &T) {
        if let Some(conn) = self.conns.get_mut(key) {
            say(&mut conn.out, kind, value);
            conn.state = State::Closing;
            self.drive(key, 0);
        }
    }

    /// Sends an error, which is the last message.
    pub fn fail(&mut self, key: Key, error: &ChannelError) {
        self.finish_with(key, Kind::Error, error);
    }

    /// New bytes in the log.
    pub fn drive_log_readers(&mut self) {
        let reads = |state: &State| matches!(state, State::Logs { .. });
        let keys: Vec<Key> =
            self.conns.iter().filter(|(_, conn)| reads(&conn.state)).map(|(key, _)| key).collect();
        for key in keys {
            self.drive(key, 0);
        }
    }

    /// Does all that can be done on a connection now. `events` is what epoll said, 0 if something else changed.
    pub fn drive(&mut self, key: Key, events: u32) {
        let Some(mut conn) = self.conns.take(key) else { return };
        conn.stirred = false;
        if self.advance(key, &mut conn, events).is_err() {
            return self.close(key, conn);
        }
        let mut wanted = 0;
        if !conn.ended && self.wants_input(&conn) {
            wanted |= READABLE;
        }
        if conn.more || (conn.sent < conn.out.len() && !conn.holds()) {
            wanted |= WRITABLE;
        }
        if let State::Port(port) = &mut conn.state {
            port.watch(&self.poll, key, conn.sent < conn.out.len());
        }
        if wanted != conn.watched {
            let _ = self.poll.modify(conn.socket.as_fd(), token(Tag::Conn, key), wanted);
            conn.watched = wanted;
        }
        self.conns.put(key, conn);
    }

    fn close(&mut self, key: Key, mut conn: Conn) {
        self.poll.remove(conn.socket.as_fd());
        self.conns.remove(key);
        self.let_go(key, &mut conn);
        drop(conn);
        self.resume_listener();
    }

    /// Ends what the connection carries; what is in `out` is still sent.
    fn let_go(&mut self, key: Key, conn: &mut Conn) {
        match std::mem::replace(&mut conn.state, State::Closing) {
            State::Attached(exec) => self.detach(key, exec),
            State::Port(port) => port.close(&self.poll),
            _ => {}
        }
    }

    /// A worker is done, so its connection is.
    pub fn worker_ended(&mut self, key: Key, pid: i32) {
        let its = |conn: &Conn| matches!(conn.state, State::Worker { pid: its, .. } if its == pid);
        if self.conns.get(key).is_some_and(its)
            && let Some(conn) = self.conns.take(key)
        {
            self.close(key, conn);
        }
    }

    /// `Err`: the connection is over.
    fn advance(&mut self, key: Key, conn: &mut Conn, events: u32) -> Result<(), Over> {
        if let State::Worker { pid, kill } = conn.state {
            if events & HANG_UP == 0 {
                return Ok(());
            }
            if kill {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            return Err(Over);
        }
        if events & (READABLE | HANG_UP) != 0 {
            self.receive(conn)?;
        }
        // Sending may make room for what came before and had to wait; nothing else would call for it again.
        loop {
            let waited = self.understand(key, conn);
            self.send(key, conn)?;
            if !waited || !self.wants_input(conn) {
                break;
            }
        }
        // Nobody is there any more, and nothing that was sent before is left to be understood.
        if events & HANG_UP != 0 && (conn.ended || !self.wants_input(conn)) { Err(Over) } else { Ok(()) }
    }

    fn wants_input(&self, conn: &Conn) -> bool {
        match &conn.state {
            State::Greeting { .. } | State::Logs { .. } => true,
            State::Starting { .. } => conn.decoder.buffered() < MAX_INPUT,
            State::Attached(exec) => self.input_has_room(*exec),
            State::Port(port) => port.has_room(),
            State::Asked(_) | State::Worker { .. } | State::Closing => false,
        }
    }

    fn receive(&mut self, conn: &mut Conn) -> Result<(), Over> {
        self.scratch.resize(PIECE, 0);
        for _ in 0..TURN {
            if conn.ended
                || !self.wants_input(conn)
                || conn.decoder.buffered() >= channel::HEADER + channel::MAX_PAYLOAD
            {
                break;
            }
            match sys::read(conn.socket.as_fd(), &mut self.scratch) {
                Ok(None) => break,
                Ok(Some(0)) => conn.ended = true,
                Ok(Some(count)) => {
                    conn.decoder.push(self.scratch.get(..count).unwrap_or_default());
                    if !matches!(conn.state, State::Greeting { .. }) {
                        break;
                    }
                }
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }

    /// Takes the frames that came, as far as there is room for them, and answers the request among them. Whether
    /// some may be left for want of room.
    fn understand(&mut self, key: Key, conn: &mut Conn) -> bool {
        let mut decoder = std::mem::take(&mut conn.decoder);
        let mut all = false;
        while !all && self.wants_input(conn) && !matches!(conn.state, State::Starting { .. }) {
            let result = match decoder.next_borrowed() {
                Ok(None) => {
                    all = true;
                    Ok(())
                }
                Ok(Some((kind, payload))) => self.frame(conn, kind, payload),
                Err(error) => Err(bad(&error)),
            };
            let result = match (result, &mut conn.state) {
                (Ok(()), State::Asked(_)) => {
                    // A worker gets a copy of what the client sent along.
                    conn.decoder = std::mem::take(&mut decoder);
                    let result = self.asked(key, conn);
                    decoder = std::mem::take(&mut conn.decoder);
                    result
                }
                (result, _) => result,
            };
            if let Err(error) = result {
                self.let_go(key, conn);
                say(&mut conn.out, Kind::Error, &error);
            }
        }
        conn.decoder = decoder;
        if conn.ended && matches!(conn.state, State::Greeting { .. }) {
            conn.state = State::Closing;
        }
        !all && matches!(conn.state, State::Attached(_) | State::Port(_))
    }

    fn asked(&mut self, key: Key, conn: &mut Conn) -> Result<(), ChannelError> {
        match std::mem::replace(&mut conn.state, State::Closing) {
            State::Asked(request) => self.answer(key, conn, *request),
            _ => Ok(()),
        }
    }

    fn frame(&mut self, conn: &mut Conn, kind: Kind, payload: &[u8]) -> Result<(), ChannelError> {
        match &mut conn.state {
            State::Greeting { greeted } => match (*greeted, kind) {
                (false, Kind::Hello) => {
                    let hello: Hello = parse(kind, payload)?;
                    say(&mut conn.out, Kind::Hello, &Hello::OURS);
                    if Hello::OURS.agree(hello).is_none() {
                        let message =
                            "this agent was started by another version and speaks no common one; restart it";
                        return Err(refuse(ErrorKind::Invalid, message));
                    }
                    *greeted = true;
                    Ok(())
                }
                (true, Kind::Request) => {
                    conn.state = State::Asked(Box::new(parse(kind, payload)?));
                    Ok(())
                }
                (greeted, found) => {
                    let expected = if greeted { Kind::Request } else { Kind::Hello };
                    Err(bad(&FrameError::Unexpected { expected, found }))
                }
            },
            State::Attached(exec) => {
                let exec = *exec;
                match kind {
                    Kind::Data0 => self.exec_input(exec, payload, false),
                    Kind::End0 => self.exec_input(exec, &[], true),
                    Kind::Control => match parse(kind, payload)? {
                        Control::Resize(size) => self.exec_resize(exec, size.rows, size.cols),
                        // A process that just ended is no reason to end the connection before its last words.
                        Control::Signal { signal } => drop(self.exec_signal(exec, signal)),
                    },
                    _ => return Err(refuse(ErrorKind::Invalid, format!("{kind:?} makes no sense here"))),
                }
                Ok(())
            }
            State::Port(port) => match kind {
                Kind::Data0 => port.push(payload),
                Kind::End0 => port.end(),
                _ => Err(refuse(ErrorKind::Invalid, format!("{kind:?} makes no sense here"))),
            },
            _ => Err(refuse(ErrorKind::Invalid, format!("{kind:?} makes no sense here"))),
        }
    }

    fn answer(&mut self, key: Key, conn: &mut Conn, request: Request) -> Result<(), ChannelError> {
        let done = |conn: &mut Conn| {
            say(&mut conn.out, Kind::Reply, &Reply::Done);
            Ok(())
        };
        match request {
            Request::Ping => {
                let execs = u32::try_from(self.live_execs()).unwrap_or(u32::MAX);
                say(&mut conn.out, Kind::Reply, &Reply::Pong { main: self.main.is_some(), execs });
                Ok(())
            }
            Request::Exec(request) => {
                self.start_exec(key, *request)?;
                conn.state = State::Starting { until: Some(Instant::now() + TOGETHER) };
                Ok(())
            }
            Request::Attach { id } => {
                conn.state = State::Attached(self.attach_by_id(key, &id, &mut conn.out)?);
                Ok(())
            }
            Request::Execs => {
                self.list_execs(&mut conn.out);
                Ok(())
            }
            Request::Signal { id, signal } => self.signal_by_id(&id, signal).and_then(|()| done(conn)),
            Request::Forget { id } => self.forget(&id).and_then(|()| done(conn)),
            Request::Logs { follow, tail } => {
                let from = tail.map_or(0, |tail| self.logs.end().saturating_sub(tail));
                conn.state = State::Logs { position: from.max(self.logs.start()), follow };
                say(&mut conn.out, Kind::Reply, &Reply::Streaming);
                Ok(())
            }
            Request::Port { port } => {
                // Its loopback is the machine's.
                if self.config.files.is_some() && !port::is_own(port) {
                    let why =
                        format!("no process of this agent's user listens at port {port}, or others do too");
                    return Err(refuse(ErrorKind::Refused, why));
                }
                conn.state = State::Port(Box::new(Port::connect(&self.poll, port, key)?));
                Ok(())
            }
            Request::Terminate { grace_ms } => {
                self.terminate(Duration::from_millis(grace_ms));
                done(conn)
            }
            request => self.start_worker(key, conn, &request),
        }
    }

    fn send(&mut self, key: Key, conn: &mut Conn) -> Result<(), Over> {
        conn.more = false;
        if conn.holds() {
            return Ok(());
        }
        for _ in 0..TURN {
            // What is said about a process goes together with what it says.
            let more_fits = matches!(conn.state, State::Attached(_)) && conn.unsent().len() < PIECE;
            if !more_fits && !flush(conn)? {
                return Ok(());
            }
            let filled = match &mut conn.state {
                State::Attached(exec) => self.fill_from_exec(key, *exec, &mut conn.out),
                State::Logs { position, follow } => {
                    let (mut at, follow) = (*position, *follow);
                    let filled = self.fill_from_logs(&mut at, follow, &mut conn.out);
                    if let State::Logs { position, .. } = &mut conn.state {
                        *position = at;
                    }
                    filled
                }
                State::Port(port) => port.fill(&self.poll, &mut self.scratch, &mut conn.out),
                State::Closing => return Err(Over),
                _ => Filled::Nothing,
            };
            match filled {
                Filled::Some => {}
                // Leaving: who has nothing to hear any more is not waited for.
                Filled::Nothing if self.is_leaving(conn) => return Err(Over),
                Filled::Nothing => return flush(conn).map(drop),
                Filled::Last => self.let_go(key, conn),
            }
            if let State::Attached(exec) = conn.state {
                self.watch_streams(exec);
            }
        }
        conn.more = flush(conn)?;
        Ok(())
    }

    fn is_leaving(&self, conn: &Conn) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
            && !matches!(conn.state, State::Attached(_) | State::Starting { .. } | State::Worker { .. })
    }
}

/// Nothing is left to do on the connection but to close it.
struct Over;

/// Whether everything was sent.
fn flush(conn: &mut Conn) -> Result<bool, Over> {
    while let Some(rest) = conn.out.get(conn.sent..).filter(|rest| !rest.is_empty()) {
        match sys::write(conn.socket.as_fd(), rest) {
            Ok(Some(count)) => conn.sent += count,
            Ok(None) => return Ok(false),
            Err(_) => return Err(Over),
        }
    }
    conn.sent = 0;
    conn.out.clear();
    if conn.out.capacity() > 4 * PIECE {
        conn.out = Vec::new();
    }
    Ok(true)
}

fn parse<T: serde::de::DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, ChannelError> {
    serde_json::from_slice(payload).map_err(|source| bad(&FrameError::Json { kind, source }))
}

fn bad(error: &FrameError) -> ChannelError {
    refuse(ErrorKind::Invalid, error.to_string())
}
