//! All agents of this node: one worker each, told what control wants, in parallel and none behind another.

use crate::blanks::{Blanks, Ready};
use crate::config::Config;
use crate::control::Standing;
use crate::gates::Gates;
use crate::journal::Journal;
use crate::key::NodeKey;
use crate::lease::Leases;
use crate::local::{Local, Owner, Phase, owner};
use crate::recheck::AT_ONCE;
use crate::report::Reporter;
use crate::secrets::Secrets;
use crate::session::ENROLLED;
use crate::verify::{self, Signed};
use crate::worker::{self, Seen, Wish};
use model::node_api::{DesiredAgent, DesiredState};
use model::{AccountId, AgentId, VolumeId};
use sandbox::Sandbox;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Copies of one agent that are waited for at once; who asks for one more waits for that.
const COPIES: usize = 4;
/// Copies of volumes that are made at once.
const COPYING: usize = 2;

/// What all workers share.
pub(crate) struct Shared {
    pub config: Config,
    pub sandbox: Sandbox,
    pub journal: Arc<Journal>,
    pub leases: Mutex<Leases>,
    pub gates: Arc<Gates>,
    pub reporter: Arc<Reporter>,
    pub secrets: Arc<Secrets>,
    /// How many agents are worked on at once.
    pub permits: Semaphore,
    /// How many boundaries are looked at again at once.
    pub looks: Semaphore,
    /// How many are worked on now.
    working: watch::Sender<usize>,
    /// Boundaries made ahead.
    pub blanks: Blanks,
    pub boot_id: String,
    /// Agents that live and that the journal does not know.
    pub strangers: BTreeSet<AgentId>,
    /// Where to ask the workers of agents for copies of their volumes.
    copiers: Mutex<BTreeMap<AgentId, mpsc::Sender<CopyOrder>>>,
    /// Copies of volumes have turns of their own: they take long, and everything else goes on.
    pub(crate) copying: Arc<Semaphore>,
    /// Which agent a volume belongs to: the first that was heard of with it.
    volumes: Mutex<BTreeMap<VolumeId, AgentId>>,
}

impl Shared {
    /// Collects what workers share.
    #[allow(clippy::too_many_arguments, reason = "one call, in one place")]
    pub(crate) fn new(
        config: Config,
        sandbox: Sandbox,
        journal: Arc<Journal>,
        leases: Leases,
        gates: Arc<Gates>,
        reporter: Arc<Reporter>,
        secrets: Arc<Secrets>,
        boot_id: String,
        strangers: BTreeSet<AgentId>,
        blanks: Blanks,
    ) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Self {
            config,
            sandbox,
            journal,
            leases: Mutex::new(leases),
            gates,
            reporter,
            secrets,
            permits: Semaphore::new((2 * cores).clamp(4, 32)),
            copying: Arc::new(Semaphore::new(COPYING)),
            looks: Semaphore::new(AT_ONCE),
            working: watch::Sender::new(0),
            blanks,
            boot_id,
            strangers,
            copiers: Mutex::default(),
            volumes: Mutex::new(BTreeMap::new()),
        })
    }

    /// Until it is dropped, blanks wait.
    pub(crate) fn work(self: &Arc<Self>) -> Working {
        self.working.send_modify(|working| *working += 1);
        Working(self.clone())
    }

    /// Returns once no agent is worked on.
    pub(crate) async fn idle(&self) {
        // The sender is here, so it is never gone.
        let _ = self.working.subscribe().wait_for(|working| *working == 0).await;
    }

    /// Makes the volume the agent's, if it is nobody's. Whether it is the agent's now.
    pub(crate) fn claim(&self, volume: VolumeId, agent: AgentId) -> bool {
        *lock(&self.volumes).entry(volume).or_insert(agent) == agent
    }

    /// Where to ask for a copy of an agent's volume, if there is such an agent here.
    pub(crate) fn copier(&self, agent: AgentId) -> Option<mpsc::Sender<CopyOrder>> {
        lock(&self.copiers).get(&agent).cloned()
    }

    /// The agent is gone for good.
    pub(crate) fn disclaim(&self, agent: AgentId) {
        lock(&self.copiers).remove(&agent);
        lock(&self.volumes).retain(|_, holder| *holder != agent);
    }
}

/// A copy of a volume that somebody waits for.
#[derive(Debug)]
pub(crate) struct CopyOrder {
    /// For whom: nobody else's agents are copied.
    pub account: AccountId,
    /// The volume to make.
    pub to: VolumeId,
    /// Told whether it is there. Whoever does not wait any more has no use of it.
    pub done: oneshot::Sender<Result<(), String>>,
    /// Its turn among all copies, until it is done.
    pub turn: OwnedSemaphorePermit,
}

/// An agent is being worked on.
pub(crate) struct Working(Arc<Shared>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.send_modify(|working| *working -= 1);
    }
}

/// A lock whose holder panicked guards plain data that is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The workers.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    workers: Mutex<BTreeMap<AgentId, Handle>>,
}

struct Handle {
    seen: watch::Sender<Seen>,
    park: mpsc::Sender<oneshot::Sender<()>>,
    /// Only its tombstone is left.
    buried: Arc<AtomicBool>,
    /// How often it had been given to another account by the wish that is acted on.
    owner: Arc<Mutex<Option<Owner>>>,
}

impl Handle {
    /// Tells the worker that control's list does not have its agent.
    fn leave_out(&self) {
        self.seen.send_if_modified(|seen| {
            let changed = *seen != Seen::Unlisted;
            *seen = Seen::Unlisted;
            changed
        });
    }
}

impl Fleet {
    /// Takes up the journal's agents. Returns when each was found again, or found dead.
    pub(crate) async fn adopt(shared: Arc<Shared>, records: BTreeMap<AgentId, Local>) -> Self {
        for (agent, record) in &records {
            if !shared.claim(record.desired.spec.volume, *agent) {
                tracing::error!(%agent, "the journal gives its volume to another agent too");
            }
        }
        let fleet = Self { shared, workers: Mutex::default() };
        let adopted: Vec<_> = records
            .into_iter()
            .map(|(agent, record)| {
                let (done, adopted) = oneshot::channel();
                fleet.start(agent, Some(record), Seen::default(), Some(done));
                adopted
            })
            .collect();
        for adopted in adopted {
            let _ = adopted.await;
        }
        fleet
    }

    /// Tells workers what control wants, and makes workers for agents that are new. An agent that is not listed is left
    /// alone; returns those that a whole list leaves out.
    pub(crate) fn apply(&self, state: DesiredState) -> Option<Vec<AgentId>> {
        let mut workers = lock(&self.workers);
        workers.retain(|_, handle| !handle.seen.is_closed());
        let mut listed = BTreeSet::new();
        for desired in state.agents {
            let agent = desired.spec.id;
            if !listed.insert(agent) {
                tracing::error!(%agent, "control lists this agent twice; the first is acted on");
                continue;
            }
            // What another account binds to an agent reaches nothing that is there for the account before: its worker says so once that
            // is gone.
            let known = workers.get(&agent).and_then(|handle| *lock(&handle.owner));
            if known.is_none_or(|known| known == owner(&desired)) {
                let DesiredAgent { secrets_revision, transfers, .. } = desired;
                self.shared.secrets.heard(agent, secrets_revision, transfers, &self.shared.gates);
            }
            let seen = Seen::Listed(Box::new(Wish { desired, database_epoch: state.database_epoch }));
            match workers.get(&agent) {
                Some(handle) => {
                    handle.seen.send_if_modified(|before| {
                        let changed = *before != seen;
                        *before = seen;
                        changed
                    });
                }
                None => {
                    let handle = self.spawn(agent, None, seen, None);
                    workers.insert(agent, handle);
                }
            }
        }
        if state.since.is_some() {
            for handle in state.gone.iter().filter_map(|agent| workers.get(agent)) {
                handle.leave_out();
            }
            return None;
        }
        let mut orphans: Vec<AgentId> =
            self.shared.strangers.iter().filter(|agent| !listed.contains(agent)).copied().collect();
        for (agent, handle) in workers.iter().filter(|(agent, _)| !listed.contains(agent)) {
            handle.leave_out();
            let gone = handle.seen.is_closed() || handle.buried.load(Ordering::Relaxed);
            if !gone && !orphans.contains(agent) {
                orphans.push(*agent);
            }
        }
        orphans.sort_unstable();
        Some(orphans)
    }

    /// Agents that there are workers for.
    pub(crate) fn count(&self) -> usize {
        lock(&self.workers).values().filter(|handle| !handle.seen.is_closed()).count()
    }

    /// Boundaries that are ready for new agents.
    pub(crate) fn blanks(&self) -> Ready {
        self.shared.blanks.ready()
    }

    /// Looks at an agent's boundary now, and tries to get out of it.
    pub(crate) async fn verify(&self, agent: AgentId) -> Result<Signed, String> {
        let wish = lock(&self.workers).get(&agent).map(|handle| handle.seen.borrow().clone());
        let Some(Seen::Listed(wish)) = wish else {
            return Err("control has not told this node of such an agent".to_owned());
        };
        // Never closed.
        let _permit = self.shared.permits.acquire().await;
        let shared = self.shared.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let standing =
                shared.journal.read_own::<Standing>(ENROLLED).map_err(|error| crate::chain(&error))?;
            let node = standing.map(|standing| standing.node);
            let found = verify::verify(&shared.sandbox, &wish.desired.spec, node)?;
            let key = NodeKey::load(shared.journal.root()).map_err(|error| crate::chain(&error))?;
            verify::sign(found, &key).map_err(|error| crate::chain(&error))
        });
        verified.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Ends every boundary; each starts again when a node starts next. Returns when all are gone.
    pub(crate) async fn park(&self) {
        let asked: Vec<_> = lock(&self.workers)
            .values()
            .map(|handle| {
                let (done, parked) = oneshot::channel();
                // One place in the queue, and only this asks.
                let _ = handle.park.try_send(done);
                parked
            })
            .collect();
        for parked in asked {
            let _ = parked.await;
        }
    }

    fn start(&self, agent: AgentId, record: Option<Local>, seen: Seen, adopted: Option<oneshot::Sender<()>>) {
        let handle = self.spawn(agent, record, seen, adopted);
        lock(&self.workers).insert(agent, handle);
    }

    fn spawn(
        &self,
        agent: AgentId,
        record: Option<Local>,
        seen: Seen,
        adopted: Option<oneshot::Sender<()>>,
    ) -> Handle {
        let (wishes, seen) = watch::channel(seen);
        let (park, parking) = mpsc::channel(1);
        let (copier, copies) = mpsc::channel(COPIES);
        lock(&self.shared.copiers).insert(agent, copier);
        let worker = worker::Worker::new(self.shared.clone(), agent, record, seen, parking, copies);
        let (buried, owner) = (worker.buried(), worker.owner());
        tokio::spawn(worker.run(adopted));
        Handle { seen: wishes, park, buried, owner }
    }
}

/// The agents of the journal that a sweep must leave alone: all that may still have something.
pub(crate) fn kept(records: &BTreeMap<AgentId, Local>) -> Vec<AgentId> {
    let has_something = |record: &&Local| !matches!(record.phase, Phase::Destroyed);
    records.values().filter(has_something).map(|record| record.desired.spec.id).collect()
}
