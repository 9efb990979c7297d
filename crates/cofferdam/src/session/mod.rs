//! A person at an exec: stdin goes in, output comes out, signals are passed on.
//!
//! Three things go on at once and none may hold up the others: output (a terminal may be stopped), input (the
//! program may not read), and signals, which therefore go over a connection of their own.

mod input;
mod screen;

pub use screen::{Sink, neutralises};

use crate::asking::Asker;
use crate::terminal::{self, Raw};
use anyhow::Context as _;
use client::{Attached, Workspace};
use input::{Fed, Input, Interrupts};
use model::ExecId;
use model::workspace::ExecExit;
use screen::Curtain;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

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

/// A task that ends with whoever waits for it: nothing is asked or sent after the session.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a session to its end. `asker` asks the agent's questions, where somebody can answer them.
pub async fn run(
    workspace: &Workspace,
    exec: ExecId,
    attached: Attached,
    options: Options,
    asker: Option<Asker>,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    let _raw = (options.tty && options.stdin && std::io::stdin().is_terminal())
        .then(|| Raw::enter().context("cannot switch the terminal to raw mode"))
        .transpose()?;
    let (sender, receiver) = attached.split();
    let (resized, resizes) = mpsc::channel(1);
    let mut window = on(SignalKind::window_change())?;
    let (curtain, interrupts) = (Curtain::new(), Interrupts::default());
    let mut output = Task(tokio::spawn(screen::show(receiver, options, curtain.clone())));
    let input = Input { sender, options, resizes, curtain, interrupts: interrupts.clone(), asker };
    let mut input = Task(tokio::spawn(input.feed()));
    let mut feeding = true;
    let mut interrupted: Option<Instant> = None;
    loop {
        tokio::select! {
            end = &mut output.0 => {
                let end = end?;
                if end.is_err() {
                    // Nobody reads its output any more: what a pipe would tell it.
                    let _ = workspace.signal(exec, SIGPIPE).await;
                }
                return Ok(End::Exited(end?));
            }
            fed = &mut input.0, if feeding => match fed? {
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
                    SIGINT if interrupts.taken() => {}
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
