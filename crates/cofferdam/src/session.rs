//! A person at an exec: stdin goes in, output comes out, signals are passed on.
//!
//! Three things go on at once and none may hold up the others: output (a terminal may be stopped), input (the
//! program may not read), and signals, which therefore go over a connection of their own.

use crate::clean::Filter;
use crate::terminal::{self, DetachKeys, Raw};
use anyhow::Context as _;
use client::{AttachReceiver, AttachSender, Attached, Incoming, Workspace};
use model::ExecId;
use model::workspace::{ExecExit, ExitCause};
use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;
const SIGPIPE: i32 = 13;

/// A second Ctrl-C within this time means: at once.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process ended.
    Exited(ExecExit),
    /// The person left; the process goes on.
    Detached,
    /// A signal to this program ended the session.
    Interrupted(i32),
}

impl End {
    /// The exit code that goes with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Exited(exit) => (exit.code & 0xff) as u8,
            Self::Detached => 0,
            Self::Interrupted(signal) => 128 + (signal & 0x7f) as u8,
        }
    }
}

/// The signals that ask to end. Listened for before anything is made that must be cleaned up.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

fn on(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen for signals")
}

impl Signals {
    /// From now on these signals do not end the program by themselves.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// Waits for one that asks to end.
    pub async fn ending(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
            _ = self.hangup.recv() => SIGHUP,
        }
    }
}

/// How the session behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Pass stdin on.
    pub stdin: bool,
    /// The exec has a terminal: its output is for a terminal, whatever it contains.
    pub tty: bool,
    /// Do not neutralise control characters.
    pub raw: bool,
}

/// Runs a session to its end.
pub async fn run(
    workspace: &Workspace,
    exec: ExecId,
    attached: Attached,
    options: Options,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    let _raw = (options.tty && options.stdin && std::io::stdin().is_terminal())
        .then(|| Raw::enter().context("cannot switch the terminal to raw mode"))
        .transpose()?;
    let (sender, receiver) = attached.split();
    let (resized, resizes) = mpsc::channel(1);
    let mut window = on(SignalKind::window_change())?;
    let mut output = tokio::spawn(show(receiver, options));
    let mut input = tokio::spawn(feed(sender, options, resizes));
    let mut feeding = true;
    let mut interrupted: Option<Instant> = None;
    loop {
        tokio::select! {
            end = &mut output => {
                let end = end?;
                if end.is_err() {
                    // Nobody reads its output any more: what a pipe would tell it.
                    let _ = workspace.signal(exec, SIGPIPE).await;
                }
                return Ok(End::Exited(end?));
            }
            fed = &mut input, if feeding => match fed? {
                Fed::Detached => {
                    terminal::restore();
                    eprintln!("\ncofferdam: left it running");
                    return Ok(End::Detached);
                }
                // The connection is lost or the process is gone: the output side says which.
                Fed::Ended => feeding = false,
            },
            _ = window.recv(), if options.tty => {
                let _ = resized.try_send(());
            }
            signal = signals.ending() => {
                let impatient = interrupted.is_some_and(|at| at.elapsed() < IMPATIENCE);
                match signal {
                    SIGINT if !impatient => {
                        interrupted = Some(Instant::now());
                        pass_on(workspace, exec, SIGINT);
                    }
                    SIGINT => {
                        let _ = workspace.signal(exec, SIGKILL).await;
                        return Ok(End::Interrupted(SIGINT));
                    }
                    other => {
                        let _ = workspace.signal(exec, other).await;
                        return Ok(End::Interrupted(other));
                    }
                }
            }
        }
    }
}

/// Sends a signal without holding up the session.
fn pass_on(workspace: &Workspace, exec: ExecId, signal: i32) {
    let workspace = workspace.clone();
    tokio::spawn(async move {
        let _ = workspace.signal(exec, signal).await;
    });
}

/// Whether output for this terminal must be neutralised.
pub fn neutralises(is_terminal: bool, options: Options) -> bool {
    is_terminal && !options.tty && !options.raw
}

/// Writes what comes until the process ends.
async fn show(mut receiver: AttachReceiver, options: Options) -> anyhow::Result<ExecExit> {
    let mut stdout = Sink::new(std::io::stdout(), neutralises(std::io::stdout().is_terminal(), options));
    let mut stderr = Sink::new(std::io::stderr(), neutralises(std::io::stderr().is_terminal(), options));
    loop {
        match receiver.next().await? {
            Incoming::Stdout(data) => stdout.write(&data).await?,
            Incoming::Stderr(data) => stderr.write(&data).await?,
            Incoming::Lost(bytes) => {
                let note = format!(
                    "cofferdam: {bytes} bytes of output were written while nobody was attached, and are lost\n"
                );
                stderr.write(note.as_bytes()).await?;
            }
            Incoming::Exited(exit) => {
                stdout.finish().await?;
                stderr.finish().await?;
                match exit.cause {
                    Some(ExitCause::Timeout) => eprintln!("cofferdam: the command ran out of its time"),
                    Some(ExitCause::OutputLimit) => {
                        eprintln!("cofferdam: the command wrote more than it may")
                    }
                    None => {}
                }
                return Ok(exit);
            }
        }
    }
}

/// Somewhere that output goes, neutralised if it must be. A thread writes: a terminal that is stopped blocks, and
/// must not block what reacts to signals.
pub struct Sink {
    pieces: Option<mpsc::Sender<Vec<u8>>>,
    outcome: oneshot::Receiver<std::io::Result<()>>,
    filter: Option<Filter>,
}

/// Pieces on their way to the writing thread; each is at most a message of the connection.
const DEPTH: usize = 4;

impl Sink {
    /// `neutralise` for a terminal that did not ask for raw output.
    pub fn new(mut out: impl Write + Send + 'static, neutralise: bool) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Vec<u8>>(DEPTH);
        let (told, outcome) = oneshot::channel();
        std::thread::spawn(move || {
            let mut write = || -> std::io::Result<()> {
                while let Some(piece) = queue.blocking_recv() {
                    out.write_all(&piece)?;
                    out.flush()?;
                }
                Ok(())
            };
            let _ = told.send(write());
        });
        Self { pieces: Some(pieces), outcome, filter: neutralise.then(Filter::default) }
    }

    /// Hands a piece to the writer; waits while it is behind.
    pub async fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        let piece = match &mut self.filter {
            Some(filter) => filter.push(data),
            None => data.to_vec(),
        };
        match &self.pieces {
            Some(pieces) if pieces.send(piece).await.is_ok() => Ok(()),
            // The writer gave up, and says why.
            _ => self.outcome().await,
        }
    }

    /// Waits until everything is written.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        let rest = self.filter.as_mut().map(Filter::finish).unwrap_or_default();
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.send(rest).await;
        }
        self.outcome().await
    }

    async fn outcome(&mut self) -> std::io::Result<()> {
        (&mut self.outcome).await.unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))
    }
}

/// Why no more input is sent.
enum Fed {
    /// The detach keys were typed.
    Detached,
    /// The connection does not take any more.
    Ended,
}

/// Sends what is typed, and the terminal's size when it changes.
async fn feed(mut sender: AttachSender, options: Options, mut resizes: mpsc::Receiver<()>) -> Fed {
    let mut typed = options.stdin.then(stdin_chunks);
    let mut keys = (options.tty && std::io::stdin().is_terminal()).then(DetachKeys::default);
    if options.tty && resize(&mut sender).await.is_err() {
        return Fed::Ended;
    }
    loop {
        let next = async {
            match &mut typed {
                Some(typed) => typed.recv().await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            chunk = next => match (chunk, &mut keys) {
                (Some(chunk), Some(keys)) => {
                    let (on, detach) = keys.push(&chunk);
                    let sent = sender.stdin(&on).await;
                    if detach {
                        sender.close().await;
                        return Fed::Detached;
                    }
                    sent
                }
                (Some(chunk), None) => sender.stdin(&chunk).await,
                (None, _) => {
                    typed = None;
                    sender.end_stdin().await
                }
            },
            Some(()) = resizes.recv() => resize(&mut sender).await,
        };
        if sent.is_err() {
            return Fed::Ended;
        }
    }
}

async fn resize(sender: &mut AttachSender) -> Result<(), client::Error> {
    match terminal::size() {
        Some(size) => sender.resize(size.rows, size.cols).await,
        None => Ok(()),
    }
}

/// Stdin, read by a thread that nobody waits for: a read of a terminal cannot be called off.
fn stdin_chunks() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 32 << 10];
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
