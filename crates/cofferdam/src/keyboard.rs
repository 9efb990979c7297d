//! What is typed, or comes by a pipe, on stdin.
//!
//! Of a terminal nothing is read before it is asked for: what a person types while nobody reads is for the shell that comes next.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{QueueSelector, tcflush, tcgetpgrp};
use std::io::{IsTerminal, Read, Stdin};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// The most that is read at once.
const PIECE: usize = 32 << 10;

/// Stdin, as it comes.
pub enum Keyboard {
    /// A terminal.
    Terminal(AsyncFd<Stdin>),
    /// Anything else: a thread reads, for not everything can be waited for.
    Pieces(mpsc::Receiver<Vec<u8>>),
}

impl Keyboard {
    /// Stdin, whatever it is.
    pub fn open() -> Self {
        Self::of_terminal().unwrap_or_else(|| Self::Pieces(pieces()))
    }

    /// Stdin, if it is a terminal.
    // `register_with_interest` asks its caller to keep the descriptor open: nobody closes stdin.
    #[allow(deprecated, reason = "its replacement is unsafe, which this crate has none of")]
    pub fn of_terminal() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        AsyncFd::with_interest(stdin, Interest::READABLE).ok().map(Self::Terminal)
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let terminal = match self {
            Self::Pieces(pieces) => return pieces.recv().await,
            Self::Terminal(terminal) => terminal,
        };
        loop {
            let mut ready = terminal.readable().await.ok()?;
            // Others may have read it, and a read that waits would hold up everything.
            if !has_input(ready.get_inner()) {
                ready.clear_ready();
                continue;
            }
            let mut piece = vec![0; PIECE];
            match rustix::io::read(ready.get_inner(), &mut piece) {
                Ok(0) => return None,
                Ok(length) => {
                    piece.truncate(length);
                    return Some(piece);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Drops what was typed and not read yet.
    pub fn forget(&mut self) {
        match self {
            Self::Terminal(terminal) => {
                let _ = tcflush(terminal.get_ref(), QueueSelector::IFlush);
            }
            Self::Pieces(pieces) => while pieces.try_recv().is_ok() {},
        }
    }
}

fn has_input(stdin: &Stdin) -> bool {
    let mut asked = [PollFd::new(stdin, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Whether what is typed there is for this program, and not for the shell that started it in the background.
pub fn is_ours() -> bool {
    // A terminal that controls nobody has no background.
    tcgetpgrp(std::io::stdin()).map_or(true, |group| group == rustix::process::getpgrp())
}

fn pieces() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
