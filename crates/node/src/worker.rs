//! One agent's worker: brings what is to what should be, one step at a time, and watches its boundary.

mod copy;
mod given;
mod steps;

use crate::backoff::Backoff;
use crate::fleet::{CopyOrder, Shared};
use crate::journal::JournalError;
use crate::local::{self, Local, Motion, Owner, Phase};
use crate::plan::{Step, plan};
use crate::recheck::{Changes, unseen};
use model::agent::Observed;
use model::evidence::{Drift, Evidence, Observation, drift};
use model::gate_api::{Condition, GateAgent};
use model::node_api::{DesiredAgent, ObservedAgent};
use model::{AgentId, BoundaryId, Desired};
use sandbox::{Blank, Boundary, Doors};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Plans in a row. A life needs a handful; more means that a step claims to be done and is not.
const MAX_ROUNDS: u32 = 50;

/// What control says of the agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Seen {
    /// Control was not heard since the node started.
    #[default]
    Nothing,
    /// It is in the list.
    Listed(Box<Wish>),
    /// There was a list, without it.
    Unlisted,
}

/// What control wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    /// The agent, as it should be.
    pub desired: DesiredAgent,
    /// In which count of generations.
    pub database_epoch: u64,
}

/// Why a step could not be done now. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error("{}", crate::chain(.0))]
    Journal(#[from] JournalError),
    #[error("could not {what}: {detail}")]
    Step { what: &'static str, detail: String },
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    agent: AgentId,
    local: Option<Local>,
    /// The record in memory is newer than the one on disk.
    unsaved: bool,
    boundary: Option<Held>,
    /// A boundary that was made ahead, until it is launched.
    blank: Option<Blank>,
    /// Nobody looked yet whether the journaled boundary lives.
    unadopted: bool,
    evidence: Vec<Evidence>,
    /// When that was seen.
    observation: Option<Observation>,
    /// When to look again.
    next_look: Instant,
    /// A look that is under way, and of which boundary.
    looking: Option<JoinHandle<Looked>>,
    changes: Changes,
    workspace_url: Option<String>,
    seen: watch::Receiver<Seen>,
    parking: mpsc::Receiver<oneshot::Sender<()>>,
    copies: mpsc::Receiver<CopyOrder>,
    parked: bool,
    /// Steps that failed for good, so far.
    failures: u64,
    /// Only the tombstone is left.
    buried: Arc<AtomicBool>,
    /// How often it had been given to another account by the wish that is acted on.
    owner: Arc<Mutex<Option<Owner>>>,
    /// The last refusal that was logged.
    refused: Option<String>,
}

/// What was seen of a boundary, and the doors that could be made if it had none.
type Looked = (BoundaryId, Vec<Evidence>, Option<Doors>);

/// A live boundary and the descriptor that becomes readable when its init ends.
struct Held {
    boundary: Arc<Boundary>,
    /// Where all arrives that leaves it; nowhere without.
    doors: Option<Arc<Doors>>,
    pidfd: AsyncFd<OwnedFd>,
}

impl Held {
    // `register_with_interest` asks its caller to keep the descriptor open: an `OwnedFd` that nobody takes out does.
    #[allow(deprecated, reason = "its replacement is unsafe, which this crate has none of")]
    fn new(boundary: Boundary, doors: Option<Doors>) -> std::io::Result<Self> {
        let pidfd = boundary.as_fd().try_clone_to_owned()?;
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self { boundary: Arc::new(boundary), doors: doors.map(Arc::new), pidfd })
    }

    /// Returns when init has ended.
    async fn exited(&self) {
        if self.pidfd.readable().await.is_err() {
            // Only when the runtime shuts down.
            std::future::pending::<()>().await;
        }
    }

    fn has_exited(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(self.pidfd.get_ref(), rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        agent: AgentId,
        local: Option<Local>,
        seen: watch::Receiver<Seen>,
        parking: mpsc::Receiver<oneshot::Sender<()>>,
        copies: mpsc::Receiver<CopyOrder>,
    ) -> Self {
        let owner = match (&local, &*seen.borrow()) {
            (Some(local), _) => Some(local::owner(&local.desired)),
            (None, Seen::Listed(wish)) => Some(local::owner(&wish.desired)),
            (None, Seen::Nothing | Seen::Unlisted) => None,
        };
        Self {
            shared,
            agent,
            unadopted: local.as_ref().is_some_and(|local| matches!(local.phase, Phase::Live(_))),
            local,
            unsaved: false,
            boundary: None,
            blank: None,
            evidence: Vec::new(),
            observation: None,
            next_look: Instant::now(),
            looking: None,
            changes: Changes::default(),
            workspace_url: None,
            seen,
            parking,
            copies,
            parked: false,
            failures: 0,
            buried: Arc::default(),
            owner: Arc::new(Mutex::new(owner)),
            refused: None,
        }
    }

    /// Set once only the tombstone is left.
    pub(crate) fn buried(&self) -> Arc<AtomicBool> {
        self.buried.clone()
    }

    /// Whose it is by the wish that is acted on.
    pub(crate) fn owner(&self) -> Arc<Mutex<Option<Owner>>> {
        self.owner.clone()
    }

    /// Works until the agent is gone for good, or the node ends. `adopted` is told after the first look.
    pub(crate) async fn run(mut self, adopted: Option<oneshot::Sender<()>>) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        if let Some(adopted) = adopted {
            if let Err(error) = self.look().await {
                tracing::error!(agent = %self.agent, %error, "not adopted yet");
            }
            let _ = adopted.send(());
        }
        loop {
            let retry = match self.converge().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    let delay = backoff.delay();
                    tracing::error!(agent = %self.agent, %error, ?delay, "tried again later");
                    Some(delay)
                }
            };
            self.publish();
            if retry.is_none() && self.is_forgotten() {
                match self.forget() {
                    Ok(()) => return,
                    Err(error) => tracing::error!(agent = %self.agent, %error, "could not forget it"),
                }
            }
            let again = async {
                match retry {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            let exited = async {
                match &self.boundary {
                    Some(held) => held.exited().await,
                    None => std::future::pending().await,
                }
            };
            let (lives, next_look) = (self.boundary.is_some(), self.next_look);
            tokio::select! {
                changed = self.seen.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next_look.into()), if lives => self.look_again(),
                seen = looked(&mut self.looking) => self.looked(seen),
                () = exited => {}
                () = again => {}
                Some(order) = self.copies.recv() => self.copy(order).await,
                Some(done) = self.parking.recv() => {
                    self.park().await;
                    let _ = done.send(());
                }
            }
        }
    }

    /// Does steps until none is left. The plan is made anew whenever the world may have changed under it.
    async fn converge(&mut self) -> Result<(), Stuck> {
        let mut rounds = 0;
        'planning: while !self.parked {
            rounds += 1;
            if rounds > MAX_ROUNDS {
                return Err(Stuck::Step { what: "settle", detail: "its steps lead nowhere".to_owned() });
            }
            self.look().await?;
            let Some(desired) = self.wish() else { break };
            let steps = plan(&desired, self.local.as_ref());
            if steps.is_empty() {
                break;
            }
            for step in steps {
                tracing::debug!(agent = %self.agent, generation = desired.generation, ?step, "step");
                let (failures, started) = (self.failures, Instant::now());
                // The grace of a termination is the agent's time, not the node's.
                let working = (step != Step::Terminate).then(|| self.shared.work());
                self.execute(step, &desired).await?;
                drop(working);
                let took_us = started.elapsed().as_micros() as u64;
                tracing::debug!(agent = %self.agent, ?step, took_us, "done");
                let ended = self.boundary.as_ref().is_some_and(Held::has_exited);
                // A backup may have had an agent that nothing is left of.
                let lost = self.local.as_ref().is_some_and(|local| local.phase == Phase::Destroyed);
                if ended || lost || self.failures != failures || self.seen.has_changed().unwrap_or(false) {
                    continue 'planning;
                }
            }
        }
        self.save()
    }

    /// The wish to act on: control's newest, or when that may not be acted on the one that was.
    fn wish(&mut self) -> Option<DesiredAgent> {
        let seen = self.seen.borrow_and_update().clone();
        let Some(local) = &mut self.local else {
            return match seen {
                Seen::Listed(wish) => Some(wish.desired),
                Seen::Nothing | Seen::Unlisted => None,
            };
        };
        let Seen::Listed(wish) = seen else { return Some(local.desired.clone()) };
        if wish.database_epoch > local.database_epoch {
            local.rebase(wish.database_epoch, &wish.desired);
            self.unsaved = true;
        }
        if local.outlived(&wish.desired) {
            return Some(local.desired.clone());
        }
        match local.check(&wish.desired) {
            Ok(()) => Some(wish.desired),
            Err(refusal) => {
                let refusal = refusal.to_string();
                if self.refused.as_ref() != Some(&refusal) {
                    tracing::warn!(agent = %self.agent, refusal, "control's wish is not acted on");
                    self.refused = Some(refusal);
                }
                Some(local.desired.clone())
            }
        }
    }

    /// Writes the record, if it changed.
    fn save(&mut self) -> Result<(), Stuck> {
        if let Some(local) = self.local.as_mut().filter(|_| self.unsaved) {
            local.last_activity = local.last_activity.max(self.shared.reporter.last_activity(self.agent));
            self.shared.journal.save(local)?;
            self.unsaved = false;
        }
        Ok(())
    }

    /// Tells the gate and control how it is.
    fn publish(&mut self) {
        let Some(local) = &self.local else { return };
        let account = local.desired.spec.account;
        self.buried.store(local.phase == Phase::Destroyed, Ordering::Relaxed);
        if local.phase == Phase::Destroyed || local.leaves {
            self.shared.gates.remove(account, self.agent);
        } else {
            match self.shared.gates.ensure(account) {
                Ok(address) => {
                    let condition = match local.phase {
                        Phase::Live(Motion::Frozen) => Condition::Paused,
                        Phase::Live(_) => Condition::Running,
                        _ => Condition::Stopped,
                    };
                    let agent = GateAgent {
                        authority: local.authority.clone(),
                        id: self.agent,
                        channel: channel(&address.directory, self.agent).display().to_string(),
                        token_epoch: local.desired.token_epoch,
                        condition,
                        policy: local.desired.policy.clone(),
                    };
                    self.workspace_url = Some(address.url);
                    let held = self.boundary.as_ref();
                    let boundary = held.map(|held| held.boundary.clone());
                    let doors = held.and_then(|held| held.doors.clone());
                    self.shared.gates.set(account, agent, boundary, doors);
                }
                Err(error) => {
                    tracing::error!(agent = %self.agent, error = %crate::chain(&error), "it has no gate");
                }
            }
        }
        let Some(observed) = local.observed() else { return };
        let lives = matches!(observed, Observed::Running | Observed::Paused);
        self.shared.reporter.set(ObservedAgent {
            id: self.agent,
            generation: local.desired.generation,
            observed,
            reason: local.reason.clone().filter(|_| !lives),
            evidence: if lives { self.evidence.clone() } else { Vec::new() },
            observation: self.observation.clone().filter(|_| lives),
            workspace_url: self.workspace_url.clone().filter(|_| observed != Observed::Destroyed),
            last_activity: local.last_activity,
        });
    }

    /// Begins to look at the boundary as it is now. One look at a time: one that does not come back must neither be joined by
    /// others, nor be taken for a good sign.
    fn look_again(&mut self) {
        self.next_look = Instant::now() + self.shared.config.inspect_every.duration();
        let Some(held) = &self.boundary else { return };
        if self.looking.is_some() {
            let unseen = unseen(&self.evidence);
            return self.know(unseen);
        }
        let (shared, boundary, shut) = (self.shared.clone(), held.boundary.clone(), held.doors.is_none());
        self.looking = Some(tokio::spawn(async move {
            // Never closed.
            let _permit = shared.looks.acquire().await;
            let id = boundary.record().boundary;
            let look = tokio::task::spawn_blocking(move || {
                (boundary.inspect(), shut.then(|| steps::open_doors(&boundary)).flatten())
            });
            let (seen, doors) = look.await.unwrap_or_default();
            (id, seen, doors)
        }));
    }

    /// Takes in what was seen, if it is of the boundary that is there, and its init still lives: the end of an agent is no
    /// loss of controls.
    fn looked(&mut self, (boundary, seen, doors): Looked) {
        let Some(held) = &mut self.boundary else { return };
        if held.boundary.record().boundary == boundary && !held.has_exited() {
            if let Some(doors) = doors {
                held.doors = Some(Arc::new(doors));
            }
            self.know(seen);
        }
    }

    fn know(&mut self, seen: Vec<Evidence>) {
        let lost = drift(&self.evidence, &seen);
        self.evidence = self.changes.take(&self.evidence, seen, Instant::now());
        if let Some(observation) = &mut self.observation {
            observation.at = OffsetDateTime::now_utc();
        }
        for Drift { control, before, after, detail } in lost {
            tracing::warn!(agent = %self.agent, ?control, ?before, ?after, detail, "a control changed while it runs");
        }
    }

    /// Whether only the tombstone is left, and control does not ask for it any more.
    fn is_forgotten(&self) -> bool {
        let buried = self.local.as_ref().is_none_or(|local| local.phase == Phase::Destroyed);
        buried && *self.seen.borrow() == Seen::Unlisted
    }

    fn forget(&mut self) -> Result<(), Stuck> {
        self.shared.journal.remove(self.agent)?;
        // Freed by the tombstone, unless the disk was full then.
        crate::fleet::lock(&self.shared.leases).free(self.agent);
        self.shared.reporter.forget(self.agent);
        self.shared.secrets.forget(self.agent);
        self.shared.disclaim(self.agent);
        Ok(())
    }
}

/// What the look that is under way sees, once it is done.
async fn looked(looking: &mut Option<JoinHandle<Looked>>) -> Looked {
    let Some(look) = looking.as_mut() else { return std::future::pending().await };
    let seen = look.await;
    *looking = None;
    match seen {
        Ok(seen) => seen,
        // The runtime ends, or the look panicked: then the next one will have to do.
        Err(_) => std::future::pending().await,
    }
}

/// Whether control wants the agent gone.
fn is_condemned(seen: &Seen) -> bool {
    matches!(seen, Seen::Listed(wish) if wish.desired.desired == Desired::Destroyed)
}

/// Where an agent's channel listens.
fn channel(directory: &std::path::Path, agent: AgentId) -> std::path::PathBuf {
    directory.join(format!("{}.sock", agent.base32()))
}
