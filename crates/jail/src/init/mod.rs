//! Init: pid 1 behind a boundary. It serves the channel, starts processes, collects them, and leaves a record.
//!
//! One thread, one epoll loop, nothing that blocks: what might (files, trees) is done by forked workers. Nothing
//! that an agent does may end init, fill its memory or make it wait. It never opens a network connection but to the
//! agent's own loopback, and accepts no descriptors.

pub(crate) mod child;
mod conn;
mod errors;
mod exec;
mod files;
mod locks;
mod logs;
mod pace;
mod places;
mod port;
mod procs;
mod questions;
mod reap;
mod record;
mod ring;
mod secrets;
mod slab;
mod spawn;
mod streams;
pub(crate) mod sys;
mod tar;
#[cfg(test)]
mod tests;
mod trust;
mod worker;

use crate::layout::{
    CHANNEL_FD, CONFIG_FD, EXIT_RECORD_FD, HOSTNAME_FD, HOSTS_FD, LOG_A_FD, LOG_B_FD, READY_FD, SECCOMP_FD,
};
use crate::spec::{Ended, InitConfig, User};
use channel::{ChannelError, ErrorKind, Kind};
use conn::Conn;
use exec::Exec;
use logs::{Logs, Main};
use reap::Worker;
use record::Record;
use serde::Serialize;
use slab::{Key, Slab};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use sys::Poll;

/// How long clients may take to hear the rest when the agent is over.
const DRAIN: Duration = Duration::from_secs(2);

/// Reads of the main process's last output: 4 MiB, more than any pipe holds.
const MAIN_DRAIN: usize = 64;

/// The grace of a SIGTERM from outside.
const SIGTERM_GRACE: Duration = Duration::from_secs(10);

/// When accepting failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The longest configuration. In JSON a byte of a secret may take six.
const MAX_CONFIG: u64 = 16 << 20;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Listener,
    Signals,
    MainOutput,
    MainStatus,
    Conn,
    Tcp,
    ExecOutput,
    ExecError,
    ExecInput,
    ExecStatus,
    Socket,
}

impl Tag {
    const ALL: [Self; 11] = [
        Self::Listener,
        Self::Signals,
        Self::MainOutput,
        Self::MainStatus,
        Self::Conn,
        Self::Tcp,
        Self::ExecOutput,
        Self::ExecError,
        Self::ExecInput,
        Self::ExecStatus,
        Self::Socket,
    ];
}

fn token(tag: Tag, key: Key) -> u64 {
    (tag as u64) << 56 | key.to_bits()
}

/// Appends a message. Everything that init says is bounded, so this cannot fail; if it did, the client would miss
/// the message and nothing else would happen.
fn say<T: Serialize>(out: &mut Vec<u8>, kind: Kind, value: &T) {
    let _ = channel::encode_json(kind, value, out);
}

/// Where the agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Normal.
    Serving,
    /// Everything was asked to end.
    Stopping { kill_at: Instant },
    /// The record is written; clients hear the rest.
    Leaving { until: Instant },
}

#[derive(Debug)]
struct Init {
    poll: Poll,
    listener: UnixListener,
    /// When accepting is tried again, while it is not.
    listener_paused: Option<Instant>,
    signals: OwnedFd,
    /// The seccomp filter's listener. Without one the kernel refuses what it would be asked about.
    listener_of_filter: Option<OwnedFd>,
    locks: locks::Locks,
    record: Record,
    config: InitConfig,
    /// What children may have; init raised its own.
    open_files: libc::rlimit,
    phase: Phase,
    main: Option<Main>,
    logs: Logs,
    execs: Slab<Exec>,
    serial: u64,
    conns: Slab<Conn>,
    /// Connections that have something to say at the end of this round: see [`Init::stir`].
    stirred: Vec<Key>,
    workers: Vec<Worker>,
    more_to_reap: bool,
    childless: bool,
    /// One buffer for all reads. It is as large as what was last read into it needed.
    scratch: Vec<u8>,
}

/// Runs as pid 1, with the descriptors that [`crate::layout`] names. Never returns: it ends when the agent does.
pub fn run() -> ! {
    // Init's own stderr goes nowhere that anybody reads, and formatting a panic costs memory.
    std::panic::set_hook(Box::new(|_| {}));
    if std::process::id() != 1 && !crate::sabotage::leaves_out("pid_namespace") {
        // Anywhere else "kill everything" would mean another machine's everything.
        eprintln!("cofferdam-jail init runs as pid 1 of a boundary and is started by the zygote only");
        sys::exit_now(2);
    }
    // Before anything is opened that might get their numbers.
    let ready = sys::inherited(READY_FD).ok();
    let filter = sys::inherited(SECCOMP_FD).ok().filter(|fd| sys::is_filter_listener(fd.as_fd()));
    // Without a record nobody could be told why, so nothing is begun.
    let Ok(record) = sys::inherited(EXIT_RECORD_FD).and_then(|fd| Record::new(File::from(fd))) else {
        sys::exit_now(1)
    };
    let attempt =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match Init::new(record, filter, ready) {
            Ok(mut init) => init.serve(),
            Err((step, error)) => format!("{step}: {error}"),
        }));
    let detail = attempt.unwrap_or_else(|_| "init has a fault".to_owned());
    record.write(Ended::InitFailed { detail });
    sys::exit_now(1)
}

/// Waits for node to say what this boundary is for.
fn read_config() -> io::Result<InitConfig> {
    let file = File::from(sys::inherited(CONFIG_FD)?);
    let mut text = Vec::new();
    file.take(MAX_CONFIG + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // What the parser says in its own words may hold a part of what it read.
    serde_json::from_slice(&text).map_err(|error| {
        let detail = format!("{:?} error at its byte {} of {}", error.classify(), error.column(), text.len());
        io::Error::new(io::ErrorKind::InvalidData, detail)
    })
}

/// Writes the files in which programs look for the machine's own name. Nothing of the agent runs yet. An OS user has them
/// read-only inside, and init was given them for writing.
fn write_names(host: &str) -> io::Result<()> {
    let hosts = format!("127.0.0.1 localhost {host}\n::1 localhost ip6-localhost ip6-loopback\n");
    let own = [("/etc/hostname", HOSTNAME_FD, format!("{host}\n")), ("/etc/hosts", HOSTS_FD, hosts)];
    for (path, number, text) in own {
        let written = match sys::is_os_user() {
            true => sys::inherited(number).and_then(|file| File::from(file).write_all(text.as_bytes())),
            false => replace(path, &text),
        };
        match written {
            // An agent whose disk is full must come up, or nobody could ever make room on it.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Puts a new file in the place of whatever was there: never through a link. A directory stays, for it can only be there
/// because the agent wanted one.
fn replace(path: &str, text: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}

impl Init {
    fn new(
        record: Record,
        listener_of_filter: Option<OwnedFd>,
        ready: Option<OwnedFd>,
    ) -> Result<Self, (&'static str, io::Error)> {
        fn step<T>(name: &'static str, result: io::Result<T>) -> Result<T, (&'static str, io::Error)> {
            result.map_err(|error| (name, error))
        }
        sys::tune_allocator();
        child::reset_signals();
        step("protecting init", sys::protect())?;
        drop(ready);
        let mut config = step("reading the configuration", read_config())?;
        step("writing the machine's name", write_names(&config.hostname))?;
        let secrets = std::mem::take(&mut config.secrets);
        step("writing the agent's secrets", secrets::write(&secrets, config.agent.ids))?;
        if let Some(authority) = config.authority.take() {
            let roots = config.roots.take().unwrap_or_default();
            step("writing whom the agent trusts", trust::establish(&authority, &roots, &mut config.env))?;
        }
        let log = |fd| sys::inherited(fd).map(File::from);
        let logs = log(LOG_A_FD).and_then(|a| Logs::new([a, log(LOG_B_FD)?]));
        let logs = step("opening the log", logs)?;
        let listener = step("taking the channel", sys::inherited(CHANNEL_FD).map(UnixListener::from))?;
        step("taking the channel", listener.set_nonblocking(true))?;
        let signals = step("watching signals", sys::signal_descriptor(&[libc::SIGCHLD, libc::SIGTERM]))?;
        let open_files = step("reading limits", sys::open_files_limit())?;
        let raised = libc::rlimit { rlim_cur: open_files.rlim_max, ..open_files };
        step("raising limits", sys::set_open_files_limit(&raised))?;
        step("entering /", std::env::set_current_dir("/"))?;
        let poll = step("making the event loop", Poll::new())?;
        let readable = libc::EPOLLIN as u32;
        let watched = poll.add(listener.as_fd(), token(Tag::Listener, Key::NONE), readable);
        step("watching the channel", watched)?;
        let watched = poll.add(signals.as_fd(), token(Tag::Signals, Key::NONE), readable);
        step("watching signals", watched)?;
        if let Some(listener) = &listener_of_filter {
            let watched = poll.add(listener.as_fd(), token(Tag::Socket, Key::NONE), readable);
            step("watching the filter", watched)?;
        }
        Ok(Self {
            poll,
            listener_of_filter,
            locks: locks::Locks::default(),
            listener,
            listener_paused: None,
            signals,
            record,
            config,
            open_files,
            phase: Phase::Serving,
            main: None,
            logs,
            execs: Slab::new(),
            serial: 0,
            conns: Slab::new(),
            stirred: Vec::new(),
            workers: Vec::new(),
            more_to_reap: false,
            childless: true,
            scratch: Vec::new(),
        })
    }

    /// Returns only what made it impossible to go on.
    fn serve(&mut self) -> String {
        if let Some(main) = self.config.main.clone() {
            self.start_main(&main);
        }
        let mut events = [sys::Event { events: 0, u64: 0 }; 64];
        loop {
            let timeout = self.timeout(Instant::now());
            let happened = match self.poll.wait(&mut events, timeout) {
                Ok(happened) => happened,
                Err(error) => return format!("waiting for events: {error}"),
            };
            for event in happened {
                let (bits, what) = (event.u64, event.events);
                // A fault in one event costs that event.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.event(bits, what)));
            }
            if self.more_to_reap {
                self.reap();
            }
            for key in std::mem::take(&mut self.stirred) {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.drive(key, 0)));
            }
            self.deadlines(Instant::now());
            if self.listener_paused.is_some_and(|again| again <= Instant::now()) {
                self.resume_listener();
            }
        }
    }

    fn timeout(&self, now: Instant) -> Option<i32> {
        if self.more_to_reap || !self.stirred.is_empty() {
            return Some(0);
        }
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Leaving { until } => Some(until),
        };
        let execs = self.execs.iter().filter_map(|(_, exec)| exec.deadline()).min();
        let next = [phase, execs, self.next_late(), self.listener_paused].into_iter().flatten().min()?;
        // Rounded up, so that the deadline has passed when the wait ends.
        let wait = next.saturating_duration_since(now).as_millis() + 1;
        Some(i32::try_from(wait).unwrap_or(i32::MAX))
    }

    fn event(&mut self, bits: u64, what: u32) {
        let Some(tag) = Tag::ALL.into_iter().find(|tag| *tag as u64 == bits >> 56) else { return };
        let bits = bits & ((1 << 56) - 1);
        let (conn, exec) = (self.conns.find(bits), self.execs.find(bits));
        match (tag, conn, exec) {
            (Tag::Listener, ..) => self.accept(),
            (Tag::Signals, ..) => self.read_signals(),
            (Tag::Socket, ..) => self.decide_question(),
            (Tag::MainOutput, ..) => drop(self.main_readable()),
            (Tag::MainStatus, ..) => self.main_started(),
            (Tag::Conn, Some(key), _) => self.drive(key, what),
            (Tag::Tcp, Some(key), _) => self.drive(key, 0),
            (Tag::ExecOutput, _, Some(key)) => self.exec_readable(key, 0),
            (Tag::ExecError, _, Some(key)) => self.exec_readable(key, 1),
            (Tag::ExecInput, _, Some(key)) => self.exec_writable(key),
            (Tag::ExecStatus, _, Some(key)) => self.exec_started(key),
            // Removed by an earlier event of the same wait.
            _ => {}
        }
    }

    fn read_signals(&mut self) {
        while let Some((signal, from_outside)) = sys::read_signal(&self.signals) {
            // An agent that wants to end ends its main process.
            if signal == libc::SIGTERM && from_outside {
                self.terminate(SIGTERM_GRACE);
            }
        }
        self.reap();
    }

    fn user(&self, asked: Option<channel::User>) -> Result<User, ChannelError> {
        match asked {
            Some(channel::User::Agent) => Ok(User::Agent),
            Some(channel::User::Root) if sys::is_os_user() => {
                let why = "nobody is root in this agent: it is an OS user of its machine; leave the user out";
                Err(errors::refuse(ErrorKind::Refused, why))
            }
            Some(channel::User::Root) => Ok(User::Root),
            None => Ok(self.config.run_as),
        }
    }

    fn pause_listener(&mut self) {
        self.poll.remove(self.listener.as_fd());
        self.listener_paused = Some(Instant::now() + ACCEPT_AGAIN);
    }

    fn resume_listener(&mut self) {
        if self.listener_paused.take().is_some() && !matches!(self.phase, Phase::Leaving { .. }) {
            let _ =
                self.poll.add(self.listener.as_fd(), token(Tag::Listener, Key::NONE), libc::EPOLLIN as u32);
        }
    }
}
