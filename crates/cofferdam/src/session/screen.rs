//! Output of an agent on its way to the person's terminal or files, and the curtain before it while a question is asked.

use super::Options;
use crate::clean::Filter;
use client::{AttachReceiver, Incoming};
use model::workspace::{ExecExit, ExitCause};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Whether output for this terminal must be neutralised.
pub fn neutralises(is_terminal: bool, options: Options) -> bool {
    is_terminal && !options.tty && !options.raw
}

/// Pieces on their way to the writing thread; each is at most a message of the connection.
const DEPTH: usize = 4;

/// Something for the writing thread.
enum Piece {
    Output(Vec<u8>),
    /// Everything before this is written.
    Mark(oneshot::Sender<()>),
}

/// Somewhere that output goes, neutralised if it must be. A thread writes: a terminal that is stopped blocks, and
/// must not block what reacts to signals.
pub struct Sink {
    pieces: Option<mpsc::Sender<Piece>>,
    outcome: oneshot::Receiver<std::io::Result<()>>,
    filter: Option<Filter>,
}

impl Sink {
    /// `neutralise` for a terminal that did not ask for raw output.
    pub fn new(mut out: impl Write + Send + 'static, neutralise: bool) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Piece>(DEPTH);
        let (told, outcome) = oneshot::channel();
        std::thread::spawn(move || {
            let mut write = || -> std::io::Result<()> {
                while let Some(piece) = queue.blocking_recv() {
                    match piece {
                        Piece::Output(data) => {
                            out.write_all(&data)?;
                            out.flush()?;
                        }
                        Piece::Mark(written) => {
                            let _ = written.send(());
                        }
                    }
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
        self.hand(Piece::Output(piece)).await
    }

    async fn hand(&mut self, piece: Piece) -> std::io::Result<()> {
        match &self.pieces {
            Some(pieces) if pieces.send(piece).await.is_ok() => Ok(()),
            // The writer gave up, and says why.
            _ => self.outcome().await,
        }
    }

    /// Waits until what was handed over is written.
    async fn settle(&mut self) -> std::io::Result<()> {
        let (mark, written) = oneshot::channel();
        self.hand(Piece::Mark(mark)).await?;
        match written.await {
            Ok(()) => Ok(()),
            Err(_) => self.outcome().await,
        }
    }

    /// Waits until everything is written.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        let rest = self.filter.as_mut().map(Filter::finish).unwrap_or_default();
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.send(Piece::Output(rest)).await;
        }
        self.outcome().await
    }

    async fn outcome(&mut self) -> std::io::Result<()> {
        (&mut self.outcome).await.unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))
    }
}

/// Whether output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Yes,
    /// No more of it from here on, please.
    NotSoon,
    /// Not now: what comes is kept.
    No,
    /// Not now, and the process has ended meanwhile.
    Over,
}

/// Before the output of an agent while the terminal belongs to a question: so that nothing inside can change what the person
/// reads there.
#[derive(Clone)]
pub struct Curtain(Arc<watch::Sender<Shown>>);

impl Curtain {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Shown::Yes)))
    }

    /// Waits until nothing is shown any more, and all that was to be shown is.
    pub async fn drop_down(&self) {
        self.0.send_replace(Shown::NotSoon);
        let _ = self.0.subscribe().wait_for(|shown| matches!(shown, Shown::No | Shown::Over)).await;
    }

    /// Output is shown again, and what was kept first.
    pub fn lift(&self) {
        self.0.send_replace(Shown::Yes);
    }

    /// Waits until the process has ended behind it.
    pub async fn over(&self) {
        let _ = self.0.subscribe().wait_for(|shown| *shown == Shown::Over).await;
    }
}

/// What is kept behind the curtain, in bytes; then the agent waits.
const KEPT: usize = 4 << 20;

#[derive(Default)]
struct Kept {
    queue: VecDeque<Incoming>,
    bytes: usize,
    over: bool,
}

impl Kept {
    fn push(&mut self, incoming: Incoming) {
        match &incoming {
            Incoming::Stdout(data) | Incoming::Stderr(data) => self.bytes += data.len(),
            Incoming::Lost(_) => {}
            Incoming::Exited(_) => self.over = true,
        }
        // What is empty takes room, too.
        self.bytes += size_of::<Incoming>();
        self.queue.push_back(incoming);
    }

    fn has_room(&self) -> bool {
        !self.over && self.bytes < KEPT
    }
}

/// Shows what comes until the process ends.
pub async fn show(
    mut receiver: AttachReceiver,
    options: Options,
    curtain: Curtain,
) -> anyhow::Result<ExecExit> {
    let mut screen = Screen::new(options);
    let mut changes = curtain.0.subscribe();
    let mut kept = Kept::default();
    loop {
        let shown = *changes.borrow_and_update();
        match shown {
            Shown::Yes => {
                for incoming in std::mem::take(&mut kept).queue {
                    if let Some(exit) = screen.show(incoming).await? {
                        return Ok(exit);
                    }
                }
            }
            Shown::NotSoon => {
                screen.settle().await?;
                curtain.0.send_if_modified(|shown| {
                    let wanted = *shown == Shown::NotSoon;
                    if wanted {
                        *shown = if kept.over { Shown::Over } else { Shown::No };
                    }
                    wanted
                });
                continue;
            }
            Shown::No | Shown::Over => {}
        }
        tokio::select! {
            _ = changes.changed() => {}
            incoming = receiver.next(), if kept.has_room() => {
                let incoming = incoming?;
                if shown != Shown::Yes {
                    if matches!(incoming, Incoming::Exited(_)) {
                        curtain.0.send_if_modified(|shown| {
                            let down = *shown == Shown::No;
                            if down {
                                *shown = Shown::Over;
                            }
                            down
                        });
                    }
                    kept.push(incoming);
                } else if let Some(exit) = screen.show(incoming).await? {
                    return Ok(exit);
                }
            }
        }
    }
}

/// Where output goes.
struct Screen {
    stdout: Sink,
    stderr: Sink,
}

impl Screen {
    fn new(options: Options) -> Self {
        Self {
            stdout: Sink::new(std::io::stdout(), neutralises(std::io::stdout().is_terminal(), options)),
            stderr: Sink::new(std::io::stderr(), neutralises(std::io::stderr().is_terminal(), options)),
        }
    }

    /// Shows it; how the process ended, if that is what it was.
    async fn show(&mut self, incoming: Incoming) -> anyhow::Result<Option<ExecExit>> {
        match incoming {
            Incoming::Stdout(data) => self.stdout.write(&data).await?,
            Incoming::Stderr(data) => self.stderr.write(&data).await?,
            Incoming::Lost(bytes) => {
                let note = format!(
                    "cofferdam: {bytes} bytes of output were written while nobody was attached, and are lost\n"
                );
                self.stderr.write(note.as_bytes()).await?;
            }
            Incoming::Exited(exit) => {
                self.stdout.finish().await?;
                self.stderr.finish().await?;
                match exit.cause {
                    Some(ExitCause::Timeout) => eprintln!("cofferdam: the command ran out of its time"),
                    Some(ExitCause::OutputLimit) => {
                        eprintln!("cofferdam: the command wrote more than it may")
                    }
                    None => {}
                }
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }

    async fn settle(&mut self) -> std::io::Result<()> {
        self.stdout.settle().await?;
        self.stderr.settle().await
    }
}
