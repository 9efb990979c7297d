//! A process that was forked ahead: it waits to be told which program to become.
//!
//! This way the forking is over when somebody asks. An agent that starts nothing for a while has none. As long as it waits it is like init: it has init's privileges, its memory cannot be read,
//! and nothing of the agent can ask it for anything. Root inside may end or stop it, as it may any process there: then
//! another one is forked.

use super::child::{self, Program, Stage, Standard};
use super::{Init, Phase, spawn, sys};
use crate::wire;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long an agent that starts nothing keeps one.
const KEPT: Duration = Duration::from_secs(10);

/// The process. It ends when this is dropped.
#[derive(Debug)]
pub struct Spare {
    /// Also its process group and session.
    pub pid: i32,
    socket: OwnedFd,
}

impl Spare {
    /// Forks one, or does without.
    pub fn fork() -> Option<Self> {
        let (socket, theirs) = wire::pair().ok()?;
        let wait = || {
            let Ok(socket) = child::keep_only(theirs) else { return };
            let begun = child::begin();
            let Ok(Some((program, fds))) = wire::receive::<Program>(socket.as_fd()) else { return };
            let [input, output, error, status] = &*fds else { return };
            match begun {
                Ok(()) => {
                    spawn::turn_into(&program, [input.as_fd(), output.as_fd(), error.as_fd()], status.as_fd())
                }
                Err(error) => spawn::report(status.as_fd(), Stage::Setup, &error),
            }
        };
        let pid = spawn::forked(wait).ok()?;
        Some(Self { pid, socket })
    }

    /// Lets it become the program. `None`: it is gone, or the program is too long for it.
    pub fn hand_over(
        self,
        program: &Program,
        [input, output, error]: Standard<'_>,
        status: BorrowedFd<'_>,
    ) -> Option<i32> {
        wire::send(self.socket.as_fd(), program, &[input, output, error, status]).ok()?;
        // Root inside could have stopped it.
        let _ = sys::kill(self.pid, libc::SIGCONT);
        Some(self.pid)
    }
}

/// The spare process of an agent, if it is to have one.
#[derive(Debug, Default)]
pub struct Spares {
    ready: Option<Spare>,
    until: Option<Instant>,
}

impl Spares {
    /// The one that is ready. Somebody starts programs: there will be another.
    pub fn take(&mut self) -> Option<Spare> {
        self.expect();
        self.ready.take()
    }

    /// Somebody may come soon.
    pub fn expect(&mut self) {
        self.until = Some(Instant::now() + KEPT);
    }

    /// Forks the first one.
    pub fn first() -> Self {
        Self { ready: Spare::fork(), until: None }
    }

    /// When there is something to do for it.
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Its pid.
    pub fn pid(&self) -> Option<i32> {
        self.ready.as_ref().map(|spare| spare.pid)
    }

    /// It is not needed any more.
    pub fn drop(&mut self) {
        *self = Self::default();
    }

    /// A child ended. Says whether it was this one; there is none until the next program was started.
    pub fn ended(&mut self, pid: i32) -> bool {
        let its = self.pid() == Some(pid);
        if its {
            self.drop();
        }
        its
    }
}

impl Init {
    /// Called when everything else is done.
    pub fn mind_spare(&mut self, now: Instant) {
        let Some(until) = self.spares.until else { return };
        if until <= now || !matches!(self.phase, Phase::Serving) {
            return self.spares.drop();
        }
        if self.spares.ready.is_none() {
            match Spare::fork() {
                None => self.spares.drop(),
                spare => self.spares.ready = spare,
            }
            self.childless = false;
        }
    }
}
