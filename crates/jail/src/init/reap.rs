//! The end of processes: collecting every one, ending sessions, ending the agent.

use super::slab::Key;
use super::sys::{self, Status};
use super::{Init, MAIN_DRAIN, Phase};
use crate::spec::Ended;
use std::time::{Duration, Instant};

/// Children that are collected before other events get their turn.
const BATCH: usize = 512;

/// The longest grace that a request may ask for.
const MAX_GRACE: Duration = Duration::from_secs(600);

/// A forked worker.
#[derive(Debug)]
pub struct Worker {
    /// Its pid.
    pub pid: i32,
    /// Whom it answers.
    pub conn: Key,
}

/// SIGKILL to a process group and to the rest of its session: shells give each job a group of its own.
pub fn kill_session(leader: i32) {
    let _ = sys::kill(-leader, libc::SIGKILL);
    // The group may not exist yet.
    let _ = sys::kill(leader, libc::SIGKILL);
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if pid > 1 && session(pid) == Some(leader) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }
}

fn session(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything, brackets too: state, ppid, pgrp and session follow the last one.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(3)?.parse().ok()
}

impl Init {
    /// Collects children that ended, a batch at a time.
    pub fn reap(&mut self) {
        self.more_to_reap = false;
        for _ in 0..BATCH {
            match sys::reap() {
                Ok(Some((pid, status))) => self.ended(pid, status),
                Ok(None) => {
                    self.childless = false;
                    return;
                }
                Err(_) => {
                    self.childless = true;
                    return;
                }
            }
        }
        self.more_to_reap = true;
    }

    fn ended(&mut self, pid: i32, status: Status) {
        if self.main.as_ref().is_some_and(|main| main.pid == pid) {
            return self.main_exited(status);
        }
        if let Some(index) = self.workers.iter().position(|worker| worker.pid == pid) {
            let worker = self.workers.swap_remove(index);
            return self.worker_ended(worker.conn, pid);
        }
        self.exec_exited(pid, status);
    }

    fn main_exited(&mut self, status: Status) {
        // If it never became its program, this says why.
        self.main_started();
        for _ in 0..MAIN_DRAIN {
            if !self.main_readable() {
                break;
            }
        }
        let Some(main) = self.main.take() else { return };
        let reason = match (self.phase, main.failure, status) {
            (_, Some(detail), _) => Ended::NotStarted { detail },
            (Phase::Stopping { .. }, ..) => Ended::Requested,
            (_, None, Status::Exited(code)) => Ended::Exited { code },
            (_, None, Status::Signaled(signal)) => Ended::Signaled { signal },
        };
        self.leave(reason);
    }

    /// Begins to end the agent: asks everything to end.
    pub fn terminate(&mut self, grace: Duration) {
        if matches!(self.phase, Phase::Leaving { .. }) {
            return;
        }
        let kill_at = Instant::now() + grace.min(MAX_GRACE);
        let kill_at = match self.phase {
            Phase::Stopping { kill_at: earlier } => earlier.min(kill_at),
            _ => kill_at,
        };
        self.phase = Phase::Stopping { kill_at };
        let _ = sys::kill(-1, libc::SIGTERM);
        // A stopped process would not notice.
        let _ = sys::kill(-1, libc::SIGCONT);
        self.reap();
    }

    /// The agent is over: leaves the record, ends what still runs, and lets clients hear the rest.
    pub fn leave(&mut self, reason: Ended) {
        if matches!(self.phase, Phase::Leaving { .. }) {
            return;
        }
        self.record.write(reason);
        let _ = sys::kill(-1, libc::SIGKILL);
        self.phase = Phase::Leaving { until: Instant::now() + super::DRAIN };
        self.pause_listener();
        for key in self.conns.keys() {
            self.drive(key, 0);
        }
    }

    /// What time alone brings about.
    pub fn deadlines(&mut self, now: Instant) {
        self.exec_deadlines(now);
        self.hurry(now);
        match self.phase {
            Phase::Stopping { kill_at } if self.main.is_none() && (self.childless || kill_at <= now) => {
                self.leave(Ended::Requested);
            }
            Phase::Stopping { kill_at } if kill_at <= now => {
                // The main process is reaped next, and that leaves.
                let _ = sys::kill(-1, libc::SIGKILL);
                self.phase = Phase::Stopping { kill_at: now + super::DRAIN };
            }
            Phase::Leaving { until } if until <= now || (self.childless && self.conns.len() == 0) => {
                sys::exit_now(0);
            }
            _ => {}
        }
    }
}
