//! Execs: their table, their streams, what limits and ends them.

use super::conn::State;
use super::errors::refuse;
use super::slab::Key;
use super::spawn::{self, Plan};
use super::streams::{Input, Stream};
use super::sys::{self, Status};
use super::{Init, Phase, Tag, token};
use channel::{
    ChannelError, ErrorKind, Event, ExecInfo, ExecRequest, Exit, ExitCause, Kind, MAX_ARGV_BYTES, Reply,
};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Execs that run at the same time.
const MAX_LIVE: usize = 256;
/// Execs that ended and are kept until they are forgotten.
const MAX_ENDED: usize = 64;
/// Output bytes that are kept of all ended ones together.
const MAX_ENDED_BYTES: usize = 4 << 20;

/// A client that is attached: how far it got.
#[derive(Debug)]
pub struct Client {
    pub(super) conn: Key,
    pub(super) cursors: [u64; 2],
    pub(super) ended: [bool; 2],
}

/// One exec.
#[derive(Debug)]
pub struct Exec {
    pub(super) id: String,
    pub(super) argv: Vec<String>,
    pub(super) cwd: Option<String>,
    pub(super) pid: i32,
    pub(super) tty: bool,
    /// Until the program runs, and who asked for it (and wants to be attached).
    pub(super) status: Option<OwnedFd>,
    pub(super) asked: Option<(Key, bool)>,
    pub(super) exit: Option<Exit>,
    pub(super) cause: Option<ExitCause>,
    pub(super) deadline: Option<Instant>,
    pub(super) output_left: Option<u64>,
    pub(super) input: Option<Input>,
    pub(super) streams: [Stream; 2],
    pub(super) clients: Vec<Client>,
    /// Counts up from exec to exec.
    pub(super) age: u64,
}

impl Exec {
    fn info(&self) -> ExecInfo {
        ExecInfo {
            id: self.id.clone(),
            argv: self.argv.clone(),
            pid: self.pid,
            tty: self.tty,
            exit: self.exit,
        }
    }

    fn kept(&self) -> usize {
        self.streams.iter().map(|stream| stream.ring.len()).sum()
    }

    /// When it is killed for taking too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// Cut so that lists of many execs stay small.
fn cut(argv: &[String]) -> Vec<String> {
    let mut left = MAX_ARGV_BYTES;
    let mut kept = Vec::new();
    for argument in argv {
        if left == 0 {
            break;
        }
        let end = argument.floor_char_boundary(left);
        left = if end < argument.len() { 0 } else { left.saturating_sub(end + 1) };
        kept.push(argument.get(..end).unwrap_or_default().to_owned());
    }
    kept
}

fn valid_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}

fn no_such(id: &str) -> ChannelError {
    let id: String = id.chars().take(64).collect();
    refuse(ErrorKind::NoSuchExec, format!("there is no exec {id}; it may have ended and been forgotten"))
}

impl Init {
    fn exec_key(&self, id: &str) -> Result<Key, ChannelError> {
        self.execs.iter().find(|(_, exec)| exec.id == id).map(|(key, _)| key).ok_or_else(|| no_such(id))
    }

    /// Execs that run.
    pub fn live_execs(&self) -> usize {
        self.execs.iter().filter(|(_, exec)| exec.exit.is_none()).count()
    }

    /// Forks it. The answer follows when the program runs, or does not.
    pub fn start_exec(&mut self, conn: Key, request: ExecRequest) -> Result<Key, ChannelError> {
        if !matches!(self.phase, Phase::Serving) {
            return Err(refuse(ErrorKind::Refused, "the agent is ending and starts nothing any more"));
        }
        if !valid_id(&request.id) {
            return Err(refuse(ErrorKind::Invalid, "the id of an exec is 1 to 64 of a-z, 0-9, _ and -"));
        }
        if self.exec_key(&request.id).is_ok() {
            return Err(refuse(ErrorKind::Exists, format!("there is an exec {} already", request.id)));
        }
        if self.live_execs() >= MAX_LIVE {
            let message = format!("the agent runs {MAX_LIVE} execs, which is the most; end one first");
            return Err(refuse(ErrorKind::TooMany, message));
        }
        let plan = Plan {
            argv: &request.argv,
            env: &request.env,
            cwd: request.cwd.as_deref(),
            user: self.user(request.user)?,
            tty: request.tty,
            stdin: request.stdin,
            joined: false,
        };
        let started = spawn::start(&self.config, &plan, self.open_files)?;
        let timeout = request.timeout_ms.map(Duration::from_millis);
        let mut error = Stream { ended: started.error.is_none(), ..Stream::default() };
        error.fd = started.error;
        let key = self.execs.insert(Exec {
            argv: cut(&request.argv),
            id: request.id,
            cwd: request.cwd,
            pid: started.pid,
            tty: request.tty.is_some(),
            status: Some(started.status),
            asked: Some((conn, request.attach)),
            exit: None,
            cause: None,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            output_left: request.output_limit,
            input: started.input.map(|fd| Input { fd, waiting: Vec::new(), end: false, watched: false }),
            streams: [Stream { fd: Some(started.output), ..Stream::default() }, error],
            clients: Vec::new(),
            age: self.serial,
        });
        self.serial += 1;
        self.childless = false;
        // Of one that nobody talks to, its first output or its end says that it began, if that comes soon.
        if request.stdin || request.tty.is_some() || !request.attach {
            self.watch_status(key);
        }
        self.watch_streams(key);
        Ok(key)
    }

    fn watch_status(&self, key: Key) {
        if let Some(status) = self.execs.get(key).and_then(|exec| exec.status.as_ref()) {
            let _ = self.poll.add(status.as_fd(), token(Tag::ExecStatus, key), libc::EPOLLIN as u32);
        }
    }

    /// Whoever asked for an exec on this connection wants to know now whether it began.
    pub fn watch_start(&mut self, conn: Key) {
        let its = |exec: &Exec| exec.asked.is_some_and(|(asked, _)| asked == conn);
        let keys: Vec<Key> = self.execs.iter().filter(|(_, exec)| its(exec)).map(|(key, _)| key).collect();
        for key in keys {
            self.watch_status(key);
        }
    }

    /// What the status pipe says, if anything: answers whoever asked for the exec.
    pub fn exec_started(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(key) else { return };
        let Some(status) = &exec.status else { return };
        let argv0 = exec.argv.first().map_or("", String::as_str);
        let Some(failure) = spawn::outcome(status, argv0, exec.cwd.as_deref()) else { return };
        self.poll.remove(status.as_fd());
        exec.status = None;
        exec.cwd = None;
        let asked = exec.asked.take();
        let info = exec.info();
        if failure.is_some() {
            // Its process is reaped as an orphan.
            self.remove_exec(key);
        }
        let Some((conn, attach)) = asked else { return };
        match failure {
            Some(error) => self.fail(conn, &error),
            None if attach => self.attach_waiting(conn, key),
            None => self.finish_with(conn, Kind::Reply, &Reply::Exec(info)),
        }
    }

    fn attach_waiting(&mut self, conn: Key, exec: Key) {
        if let Some(mut taken) = self.conns.take(conn) {
            self.attach(conn, exec, &mut taken.out);
            taken.state = State::Attached(exec);
            self.conns.put(conn, taken);
            self.stir(conn);
        }
    }

    /// Makes a connection a client of the exec with this id.
    pub fn attach_by_id(&mut self, conn: Key, id: &str, out: &mut Vec<u8>) -> Result<Key, ChannelError> {
        let key = self.exec_key(id)?;
        self.exec_started(key);
        if self.execs.get(key).is_none_or(|exec| exec.status.is_some()) {
            return Err(refuse(
                ErrorKind::NoSuchExec,
                format!("exec {id} is only just being started; try again"),
            ));
        }
        self.attach(conn, key, out);
        Ok(key)
    }

    fn attach(&mut self, conn: Key, key: Key, out: &mut Vec<u8>) {
        let Some(exec) = self.execs.get_mut(key) else { return };
        let offsets = [exec.streams[0].ring.start(), exec.streams[1].ring.start()];
        exec.clients.push(Client { conn, cursors: offsets, ended: [false; 2] });
        super::say(out, Kind::Reply, &Reply::Attached { exec: exec.info(), offsets });
        let bytes = exec.streams.iter_mut().map(|stream| stream.ring.take_lost()).sum();
        if bytes > 0 {
            super::say(out, Kind::Event, &Event::Lost { bytes });
        }
    }

    /// The connection is gone: nothing waits for it any more.
    pub fn detach(&mut self, conn: Key, key: Key) {
        if let Some(exec) = self.execs.get_mut(key) {
            exec.clients.retain(|client| client.conn != conn);
            self.watch_streams(key);
            self.trim();
        }
    }

    /// Signals the process group.
    pub fn exec_signal(&mut self, key: Key, signal: i32) -> Result<(), ChannelError> {
        if !(1..=31).contains(&signal) {
            return Err(refuse(ErrorKind::Invalid, "a signal is a number from 1 to 31"));
        }
        let Some(exec) = self.execs.get(key) else { return Ok(()) };
        if exec.exit.is_some() {
            return Err(refuse(ErrorKind::Invalid, format!("exec {} has ended", exec.id)));
        }
        // The group does not exist for the instant before the child's setsid.
        if sys::kill(-exec.pid, signal).is_err() {
            let _ = sys::kill(exec.pid, signal);
        }
        Ok(())
    }

    /// [`channel::Request::Signal`].
    pub fn signal_by_id(&mut self, id: &str, signal: i32) -> Result<(), ChannelError> {
        let key = self.exec_key(id)?;
        self.exec_signal(key, signal)
    }

    /// [`channel::Request::Forget`].
    pub fn forget(&mut self, id: &str) -> Result<(), ChannelError> {
        let key = self.exec_key(id)?;
        if self.execs.get(key).is_some_and(|exec| exec.exit.is_none()) {
            return Err(refuse(ErrorKind::Invalid, format!("exec {id} still runs; end it first")));
        }
        self.remove_exec(key);
        Ok(())
    }

    fn remove_exec(&mut self, key: Key) {
        let Some(exec) = self.execs.remove(key) else { return };
        for fd in exec.streams.iter().filter_map(|stream| stream.fd.as_ref()) {
            self.poll.remove(fd.as_fd());
        }
        for client in exec.clients {
            self.drive(client.conn, 0);
        }
    }

    /// [`channel::Request::Execs`], as replies of a bounded size.
    pub fn list_execs(&self, out: &mut Vec<u8>) {
        let mut all: Vec<&Exec> = self.execs.iter().map(|(_, exec)| exec).collect();
        all.sort_by_key(|exec| exec.age);
        let all: Vec<ExecInfo> = all.into_iter().map(Exec::info).collect();
        let mut pages = all.chunks(64).peekable();
        if pages.peek().is_none() {
            super::say(out, Kind::Reply, &Reply::Execs { execs: Vec::new(), more: false });
        }
        while let Some(page) = pages.next() {
            super::say(
                out,
                Kind::Reply,
                &Reply::Execs { execs: page.to_vec(), more: pages.peek().is_some() },
            );
        }
    }

    /// A child ended. Says whether it was an exec.
    pub fn exec_exited(&mut self, pid: i32, status: Status) -> bool {
        let found = self.execs.iter().find(|(_, exec)| exec.pid == pid && exec.exit.is_none());
        let Some(key) = found.map(|(key, _)| key) else { return false };
        // If it never became its program, this answers whoever asked, and removes it.
        self.exec_started(key);
        let Some(exec) = self.execs.get_mut(key) else { return true };
        exec.exit = Some(Exit { code: status.code(), cause: exec.cause });
        exec.deadline = None;
        if let Some(input) = exec.input.take() {
            self.poll.remove(input.fd.as_fd());
        }
        for stream in &mut exec.streams {
            if let (Some(fd), false) = (&stream.fd, exec.tty) {
                let left = sys::readable_bytes(fd.as_fd());
                stream.left = Some(left);
                stream.ended |= left == 0;
            }
        }
        if exec.tty {
            self.drain_terminal(key);
        }
        self.exec_changed(key);
        self.trim();
        true
    }

    /// Kills the execs whose time is up.
    pub fn exec_deadlines(&mut self, now: Instant) {
        for key in self.execs.keys() {
            if let Some(exec) = self.execs.get_mut(key)
                && exec.deadline.is_some_and(|deadline| deadline <= now)
            {
                exec.deadline = None;
                exec.cause = exec.cause.or(Some(ExitCause::Timeout));
                super::reap::kill_session(exec.pid);
            }
        }
    }

    /// Forgets the oldest of too many execs that ended, and the oldest output of too many bytes, which counts as lost.
    pub(super) fn trim(&mut self) {
        let mut ended: Vec<(Key, usize)> = Vec::new();
        for key in self.execs.keys() {
            if let Some(exec) = self.execs.get_mut(key)
                && exec.exit.is_some()
                && exec.clients.is_empty()
            {
                exec.streams.iter_mut().filter(|stream| stream.ended).for_each(|stream| stream.ring.shrink());
                ended.push((key, exec.kept()));
            }
        }
        ended.sort_by_key(|(key, _)| self.execs.get(*key).map(|exec| exec.age));
        let mut bytes: usize = ended.iter().map(|(_, kept)| kept).sum();
        let mut count = ended.len();
        for (key, kept) in ended {
            if count > MAX_ENDED {
                self.remove_exec(key);
                count -= 1;
                bytes -= kept;
                continue;
            }
            let mut excess = bytes.saturating_sub(MAX_ENDED_BYTES);
            for stream in self.execs.get_mut(key).into_iter().flat_map(|exec| &mut exec.streams) {
                let given_up = stream.ring.give_up(excess);
                (excess, bytes) = (excess - given_up, bytes - given_up);
            }
        }
    }
}
