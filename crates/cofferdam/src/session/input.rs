//! What is typed on its way to the agent, and the questions that take the keyboard from it.

use super::Options;
use super::screen::Curtain;
use crate::asking::{After, Asker, Manner};
use crate::keyboard::{self, Keyboard};
use crate::terminal::{self, DetachKeys};
use client::AttachSender;
use model::egress::{Decision, OpenQuestion};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// A question is not asked in the middle of a word: so long nothing is typed before.
const QUIET: Duration = Duration::from_millis(700);
/// It waits no longer than this for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a terminal has another size, so that what draws on it draws anew.
const FLICKER: Duration = Duration::from_millis(100);

/// Why no more input is sent.
pub enum Fed {
    /// The detach keys were typed.
    Detached,
    /// The connection does not take any more.
    Ended,
}

/// Ctrl-C of a terminal that is not in raw mode comes as a signal, and belongs to the question while one is open.
#[derive(Clone, Default)]
pub struct Interrupts(Arc<(AtomicBool, watch::Sender<()>)>);

impl Interrupts {
    /// Whether a question takes it.
    pub fn taken(&self) -> bool {
        let (open, interrupted) = &*self.0;
        let taken = open.load(Ordering::Relaxed);
        if taken {
            interrupted.send_replace(());
        }
        taken
    }

    /// Takes them from now on: the next one, when it comes.
    fn take(&self) -> watch::Receiver<()> {
        self.0.0.store(true, Ordering::Relaxed);
        self.0.1.subscribe()
    }

    fn give_back(&self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

/// The way in.
pub struct Input {
    pub sender: AttachSender,
    pub options: Options,
    pub resizes: mpsc::Receiver<()>,
    pub curtain: Curtain,
    pub interrupts: Interrupts,
    /// Who asks the agent's questions here, if anybody does.
    pub asker: Option<Asker>,
}

impl Input {
    /// Sends what is typed, and the terminal's size when it changes; asks what is to be asked.
    pub async fn feed(mut self) -> Fed {
        let mut keyboard = match self.options.stdin {
            true => Some(Keyboard::open()),
            false if self.asker.is_some() => Keyboard::of_terminal(),
            false => None,
        };
        let mut passes_on = self.options.stdin;
        let mut keys = (self.options.tty && std::io::stdin().is_terminal()).then(DetachKeys::default);
        if self.options.tty && self.resize().await.is_err() {
            return Fed::Ended;
        }
        let mut typed_at: Option<Instant> = None;
        let mut asked: Option<(OpenQuestion, Instant)> = None;
        loop {
            let due = asked.as_ref().map(|(_, at)| {
                typed_at.map_or(*at, |typed_at| (typed_at + QUIET).clamp(*at, *at + PATIENCE))
            });
            let typed = async {
                match &mut keyboard {
                    Some(keyboard) if passes_on => keyboard.next().await,
                    _ => std::future::pending().await,
                }
            };
            let question = async {
                match &mut self.asker {
                    // When control is gone for good, so is who asks.
                    Some(asker) => asker.next().await.ok(),
                    None => std::future::pending().await,
                }
            };
            let sent = tokio::select! {
                piece = typed => match (piece, &mut keys) {
                    (Some(piece), Some(keys)) => {
                        typed_at = Some(Instant::now());
                        let (on, detach) = keys.push(&piece);
                        let sent = self.sender.stdin(&on).await;
                        if detach {
                            self.sender.close().await;
                            return Fed::Detached;
                        }
                        sent
                    }
                    (Some(piece), None) => self.sender.stdin(&piece).await,
                    (None, _) => {
                        passes_on = false;
                        self.sender.end_stdin().await
                    }
                },
                Some(()) = self.resizes.recv() => self.resize().await,
                question = question, if asked.is_none() => {
                    match question {
                        Some(question) => asked = Some((question, Instant::now())),
                        None => self.asker = None,
                    }
                    Ok(())
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    match (asked.take(), &mut keyboard) {
                        (Some((question, _)), Some(keyboard)) => {
                            let asked = self.ask(&question, keyboard).await;
                            // Who was about to answer this one must not answer the next.
                            typed_at = Some(Instant::now());
                            asked
                        }
                        _ => {
                            self.asker = None;
                            Ok(())
                        }
                    }
                }
            };
            if sent.is_err() {
                return Fed::Ended;
            }
        }
    }

    /// Asks one question. Nothing that is typed goes to the agent meanwhile, and nothing of the agent's is shown.
    async fn ask(&mut self, question: &OpenQuestion, keyboard: &mut Keyboard) -> Result<(), client::Error> {
        let Some(asker) = &mut self.asker else { return Ok(()) };
        if !asker.is_open(question.id) {
            return Ok(());
        }
        // Put into the background meanwhile, it would be stopped for touching the terminal.
        if !keyboard::is_ours() {
            self.asker = None;
            return Ok(());
        }
        self.curtain.drop_down().await;
        let mut interrupted = self.interrupts.take();
        let raw = self.options.tty && self.options.stdin;
        let stop = async {
            tokio::select! {
                _ = interrupted.changed() => After::Interrupted,
                () = self.curtain.over() => After::Stop,
            }
        };
        let after = asker.ask(question, Manner { raw, shared: true }, keyboard, stop).await;
        let after = match after {
            Ok(After::Interrupted) => {
                asker.settle(question.id);
                asker.decide(question, Decision::Deny, &mut std::io::stderr()).await.map(|()| After::Next)
            }
            after => after,
        };
        self.interrupts.give_back();
        self.curtain.lift();
        if !matches!(after, Ok(After::Next)) {
            self.asker = None;
        }
        if self.options.tty { self.flicker().await } else { Ok(()) }
    }

    /// Programs that fill the screen know nothing of the question on it, but draw anew when its size changes.
    async fn flicker(&mut self) -> Result<(), client::Error> {
        let Some(size) = terminal::size().filter(|size| size.rows > 1) else { return Ok(()) };
        self.sender.resize(size.rows - 1, size.cols).await?;
        sleep(FLICKER).await;
        self.resize().await
    }

    async fn resize(&mut self) -> Result<(), client::Error> {
        match terminal::size() {
            Some(size) => self.sender.resize(size.rows, size.cols).await,
            None => Ok(()),
        }
    }
}
