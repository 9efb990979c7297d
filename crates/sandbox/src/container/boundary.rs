//! A boundary that was made: what can be done to it, and why it ended.

use super::{BoundaryRecord, EXIT_RECORD, PATIENCE, agent_dir};
use crate::cgroup::{CgroupError, Group};
use crate::children::Watch;
use crate::error::BoundaryError;
use crate::network::{self, Doors, SteerError};
use crate::probe::{self, ProbeError};
use crate::{Shared, files, procfs};
use jail::spec::{self, Ended, ExitRecord};
use model::agent::Level;
use model::evidence::Evidence;
use model::probe::Tried;
use model::workspace::Stats;
use model::{AgentSpec, ExitReason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// One agent's boundary. Dropping it ends nothing.
#[derive(Debug)]
pub struct Boundary {
    pub(super) record: BoundaryRecord,
    /// None when init was gone before this was made.
    pidfd: Option<OwnedFd>,
    group: Group,
    pub(super) run: PathBuf,
    volume: PathBuf,
    /// What an agent without an image must not see.
    hidden: Vec<PathBuf>,
    /// The jail of this node, for probes: an agent may run an older one.
    jail: PathBuf,
    jail_digest: String,
    /// What was seen before it began.
    pub(super) proof: Option<Proof>,
    /// Doors that were made with it, until somebody has them.
    pub(super) doors: Mutex<Option<Doors>>,
    /// Set when we ended it, so that its end is no riddle.
    killed: AtomicBool,
    /// How init ended, once it was collected: the kernel tells it only once.
    status: Mutex<Option<Status>>,
    _watch: Watch,
}

/// What was seen of a boundary before anything of its agent ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// One for each control of its level.
    pub evidence: Vec<Evidence>,
    /// When; limits and disk, which are the agent's own, were seen as it began.
    pub at: SystemTime,
}

/// How init ended, as its parent learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Exited(i32),
    Signaled(i32),
    /// It was somebody else's child, or collected by somebody else.
    Unknown,
}

impl AsFd for Boundary {
    /// Init's pidfd: readable once it ended. Panics for [`crate::Sandbox::remains`], which has none.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.pidfd {
            Some(pidfd) => pidfd.as_fd(),
            None => unreachable!("remains of a boundary have no process to wait for"),
        }
    }
}

impl AsRawFd for Boundary {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Boundary {
    pub(super) fn new(shared: &Shared, record: BoundaryRecord, pidfd: Option<OwnedFd>) -> Self {
        Self {
            group: Group::new(&shared.cgroups, record.boundary),
            run: agent_dir(&shared.config, record.agent),
            volume: shared.volumes.path(record.volume),
            hidden: if record.level.has_image() { Vec::new() } else { shared.config.hidden() },
            jail: shared.init.path.clone(),
            jail_digest: shared.init.digest.clone(),
            _watch: Watch::new(record.pid),
            record,
            pidfd,
            proof: None,
            doors: Mutex::new(None),
            killed: AtomicBool::new(false),
            status: Mutex::new(None),
        }
    }

    /// What to journal.
    pub fn record(&self) -> &BoundaryRecord {
        &self.record
    }

    /// Whether init lives.
    pub fn is_alive(&self) -> bool {
        self.ended(Some(Duration::ZERO)).is_ok_and(|ended| !ended)
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.group.is_frozen()
    }

    /// Waits until init ended. From async code, watch the descriptor instead.
    pub fn wait_exit(&self) -> Result<(), BoundaryError> {
        self.ended(None).map(drop)
    }

    /// Waits for the end, no longer than `limit`.
    fn ended(&self, limit: Option<Duration>) -> Result<bool, BoundaryError> {
        let Some(pidfd) = &self.pidfd else { return Ok(true) };
        let timeout = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        loop {
            match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.failed("wait for")(error.into())),
            }
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> BoundaryError + use<> {
        let agent = self.record.agent;
        move |source| BoundaryError::Process { agent, what, source }
    }

    /// Stops all its processes where they are, and returns when none runs any more.
    pub fn freeze(&self) -> Result<(), BoundaryError> {
        let frozen = self.group.freeze(true, PATIENCE).ok_or(BoundaryError::NoFreezer)?;
        if let Err(CgroupError::Timeout { .. }) = frozen {
            // Half frozen is worse than running: the caller is told, the agent goes on.
            let _ = self.group.freeze(false, PATIENCE);
            return Err(self.timeout("freeze"));
        }
        Ok(frozen?)
    }

    /// Lets all its processes go on.
    pub fn thaw(&self) -> Result<(), BoundaryError> {
        Ok(self.group.freeze(false, PATIENCE).ok_or(BoundaryError::NoFreezer)??)
    }

    fn timeout(&self, what: &'static str) -> BoundaryError {
        BoundaryError::Timeout { agent: self.record.agent, what, seconds: PATIENCE.as_secs() }
    }

    /// Ends everything in it, frozen or not, and returns when nothing is left. Ending what ended is fine.
    pub fn kill(&self) -> Result<(), BoundaryError> {
        if self.is_alive() {
            self.killed.store(true, Ordering::Relaxed);
        }
        match self.group.kill(PATIENCE) {
            Some(Err(CgroupError::Timeout { .. })) => return Err(self.timeout("end")),
            Some(killed) => killed?,
            // Without v2: the pid namespace ends with its init, and init is not waited for before all are.
            None => {
                let signal = self.pidfd.as_ref().map(|pidfd| pidfd_send_signal(pidfd, Signal::KILL));
                match signal {
                    None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => {}
                    Some(Err(error)) => return Err(self.failed("end")(error.into())),
                }
            }
        }
        if self.ended(Some(PATIENCE))? { Ok(()) } else { Err(self.timeout("end")) }
    }

    /// Collects init if it is our child and ended.
    pub(super) fn status(&self) -> Status {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = *known {
            return status;
        }
        let Some(pidfd) = &self.pidfd else { return Status::Unknown };
        let status = match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        {
            Ok(Some(ended)) => ended
                .exit_status()
                .map(Status::Exited)
                .or_else(|| ended.terminating_signal().map(Status::Signaled))
                .unwrap_or(Status::Unknown),
            Ok(None) => return Status::Unknown,
            Err(_) => Status::Unknown,
        };
        *known = Some(status);
        status
    }

    /// Why it ended: what init itself recorded, else how the kernel says that init ended. Call it when init
    /// ended and before [`Self::cleanup`], which removes both. What init recorded comes from inside.
    pub fn exit_reason(&self) -> ExitReason {
        let status = self.status();
        let out_of_memory = self.group.oom_kills() > 0;
        let recorded = files::read_bounded(&self.run.join(EXIT_RECORD), spec::EXIT_RECORD_MAX)
            .ok()
            .and_then(|content| ExitRecord::read(&content));
        if let Some(ExitRecord { reason }) = recorded {
            return recorded_reason(reason, out_of_memory);
        }
        if self.killed.load(Ordering::Relaxed) {
            return ExitReason::Requested;
        }
        if out_of_memory {
            return ExitReason::OutOfMemory;
        }
        let detail = match status {
            Status::Signaled(signal) => format!("its init was killed by signal {signal}"),
            Status::Exited(code) => format!("its init exited with code {code} and left no record"),
            Status::Unknown if procfs::boot_id().is_ok_and(|id| id != self.record.boot_id) => {
                "the machine restarted".to_owned()
            }
            Status::Unknown => "its init is gone and left no record".to_owned(),
        };
        ExitReason::Lost { detail }
    }

    /// What it uses now.
    pub fn stats(&self) -> Stats {
        let usage = self.group.usage();
        let disk = crate::inspect::disk((&self.record).into()).unwrap_or_default();
        Stats {
            cpu_usec: usage.cpu_usec,
            memory: usage.memory,
            memory_limit: usage.memory_limit,
            pids: usage.pids,
            pids_limit: usage.pids_limit,
            disk: disk.used,
            disk_limit: disk.size,
            oom_kills: self.group.oom_kills(),
        }
    }

    /// What the kernel said of each control before anything of the agent ran. Nothing for one that was taken over.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    /// What the kernel says of each control, now. One [`Evidence`] per control of its level.
    pub fn inspect(&self) -> Vec<Evidence> {
        crate::inspect::inspect((&self.record).into(), &self.group, self.places(), || self.is_alive())
    }

    fn places(&self) -> crate::inspect::Places<'_> {
        crate::inspect::Places { volume: &self.volume, hidden: &self.hidden }
    }

    /// The same with what takes longer to read.
    pub fn inspect_whole(&self) -> Vec<Evidence> {
        crate::inspect::inspect_whole((&self.record).into(), &self.group, self.places(), || self.is_alive())
    }

    /// The doors at which all arrives that leaves it, shut, and its gate's to open. The first are those that were made with it.
    /// For others, sets what leads there if it is not set, and compares it if it is. `None` where nothing can leave in this way: in the host's network (level 0), and under
    /// another kernel.
    pub fn open_doors(&self) -> Result<Option<Doors>, SteerError> {
        if self.record.level == Level::Workspace || self.record.driver.is_kernel() {
            return Ok(None);
        }
        let ready = self.doors.lock().unwrap_or_else(PoisonError::into_inner).take();
        let doors = match ready {
            Some(doors) => doors,
            None => network::doors(self.record.pid)?,
        };
        // Its pid named this very init the whole time.
        Ok(self.is_alive().then_some(doors))
    }

    /// Tries to get out of it, as the agent's user and as root inside if there is one, by everything that `model::probe` lists. Takes about
    /// a third of a second, some of it of the agent's own processor time; `patience` is for each of the two. A frozen agent
    /// cannot be probed.
    pub fn probe(&self, spec: &AgentSpec, patience: Duration) -> Result<Vec<Tried>, ProbeError> {
        let gone = || ProbeError::Start(io::Error::other("its init is gone"));
        let pidfd = self.pidfd.as_ref().filter(|_| self.is_alive()).ok_or_else(gone)?;
        if self.record.driver.is_kernel() {
            let why = "another kernel answers its system calls, and the probe is for the host's";
            return Err(ProbeError::Start(io::Error::other(why)));
        }
        if self.is_frozen() {
            return Err(ProbeError::Start(io::Error::other("it is paused: resume it first")));
        }
        let ids = super::launch::ids(spec, self.record.base_uid);
        let tried = probe::run(&self.jail, &self.record, pidfd.as_fd(), &self.group, ids, patience)?;
        // Its pid named this very init the whole time.
        if self.is_alive() { Ok(tried) } else { Err(gone()) }
    }

    /// Whether its init is the program that this node starts inits and probes from.
    pub fn runs_our_init(&self) -> bool {
        self.record.init_digest == self.jail_digest
    }

    /// Removes its cgroups, runtime files and socket. Refused while init lives; doing it twice is fine.
    pub fn cleanup(&self) -> Result<(), BoundaryError> {
        if self.is_alive() {
            return Err(self.failed("clear away")(io::Error::other("it is still running")));
        }
        self.status();
        self.group.clear(PATIENCE)?;
        files::remove_dir(&self.run)
            .and_then(|()| files::remove(&self.record.channel))
            .map_err(self.failed("remove the runtime files of"))
    }
}

fn recorded_reason(reason: Ended, out_of_memory: bool) -> ExitReason {
    match reason {
        // A shell says 128 + 9 for a child that was killed.
        Ended::Signaled { signal: libc::SIGKILL } | Ended::Exited { code: 137 } if out_of_memory => {
            ExitReason::OutOfMemory
        }
        Ended::Exited { code } => ExitReason::Exited { code },
        Ended::Signaled { signal } => ExitReason::Signaled { signal },
        Ended::Requested => ExitReason::Requested,
        Ended::NotStarted { detail } => ExitReason::Boundary {
            detail: format!("the main process could not be started: {}", printable(&detail)),
        },
        Ended::InitFailed { detail } => ExitReason::Lost { detail: format!("init: {}", printable(&detail)) },
    }
}

/// Text from inside, without anything that a terminal or a log would act on, or that would deceive its reader:
/// bidirectional controls show text in an order that it does not have.
pub(crate) fn printable(text: &str) -> String {
    let deceives =
        |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let tamed = |c: char| if c.is_control() || deceives(c) { '\u{fffd}' } else { c };
    text.chars().take(400).map(tamed).collect()
}
