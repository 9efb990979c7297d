//! Secrets of the agents here: asked of control whenever they changed, and kept in memory as long as an agent runs that has
//! them. They go to its gate, and at its start to itself; never into the journal, a log or an error.

mod given;
mod seal;

pub(crate) use given::{given, needs_none};
pub(crate) use seal::{Seal, SealError};

use crate::backoff::Backoff;
use crate::control::Caller;
use crate::gates::Gates;
use model::AgentId;
use model::gate_api::Credential;
use model::node_api::AgentSecret;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long the start of an agent waits for them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Agents that are asked about at once.
const AT_ONCE: usize = 8;
/// Between attempts, at first and at last.
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// What an agent has.
pub(crate) type Values = Arc<[AgentSecret]>;

/// Why an agent's secrets are not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unready {
    /// Control says so. Asking again is pointless until something changes there.
    #[error("control does not give this node its secrets: {0}")]
    Refused(String),
    /// They may come yet.
    #[error(
        "its secrets could not be fetched within {patience} s: {detail}; start it again when control answers"
    )]
    Away {
        /// How long was waited, in seconds.
        patience: u64,
        /// What went wrong last.
        detail: String,
    },
}

/// Those of all agents here.
#[derive(Default)]
pub(crate) struct Secrets {
    inner: Mutex<BTreeMap<AgentId, Entry>>,
    /// There may be something to ask.
    wake: Notify,
}

struct Entry {
    /// The revision that control named last; none since this node started.
    revision: Option<u64>,
    /// How often the agent had been given to another account by then.
    transfers: u64,
    /// Somebody has use of them.
    needed: bool,
    /// What came.
    held: Option<Held>,
    /// It is being asked for.
    asking: bool,
    /// What came of the last question under this revision, if not they.
    failed: Option<(u64, Failure)>,
    /// Not before then.
    next: Option<Instant>,
    backoff: Backoff,
    /// Told of every change.
    changes: watch::Sender<()>,
}

struct Held {
    /// The revision that control had named when it was asked.
    asked: u64,
    /// That of the answer. It may be a newer one, which control names next.
    of: u64,
    values: Values,
}

#[derive(Clone)]
struct Failure {
    detail: String,
    is_refusal: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            revision: None,
            transfers: 0,
            needed: false,
            held: None,
            asking: false,
            failed: None,
            next: None,
            backoff: Backoff::new(PACE.0, PACE.1),
            changes: watch::Sender::new(()),
        }
    }
}

impl Entry {
    /// What there is to have now, or why there is nothing; `None` as long as that is open.
    fn settled(&self) -> Option<Result<Values, Unready>> {
        match self.revision? {
            0 => Some(Ok(Arc::default())),
            revision => match (&self.held, &self.failed) {
                (Some(held), _) if held.of == revision => Some(Ok(held.values.clone())),
                (_, Some((of, failure))) if *of == revision && failure.is_refusal => {
                    Some(Err(Unready::Refused(failure.detail.clone())))
                }
                _ => None,
            },
        }
    }

    /// The revision to ask for, if one is.
    fn due(&self) -> Option<u64> {
        let revision = self.revision.filter(|revision| *revision != 0 && self.needed && !self.asking)?;
        let has = self.held.as_ref().is_some_and(|held| held.of == revision || held.asked == revision);
        (!has).then_some(revision)
    }
}

impl Secrets {
    /// Control named the revision of an agent's secrets.
    pub(crate) fn heard(&self, agent: AgentId, revision: u64, transfers: u64, gates: &Gates) {
        let mut inner = self.lock();
        let entry = inner.entry(agent).or_default();
        let before = (entry.revision.replace(revision), std::mem::replace(&mut entry.transfers, transfers));
        if before == (Some(revision), transfers) {
            return;
        }
        (entry.next, entry.failed) = (None, None);
        entry.backoff.reset();
        // Until others come the gate has the ones that it has, unless there are none any more.
        if revision == 0 && entry.held.take().is_some() {
            gates.set_credentials(agent, Vec::new());
        }
        entry.changes.send_replace(());
        drop(inner);
        self.wake.notify_one();
    }

    /// The agent runs, or is about to.
    pub(crate) fn need(&self, agent: AgentId) {
        let mut inner = self.lock();
        let entry = inner.entry(agent).or_default();
        if !std::mem::replace(&mut entry.needed, true) {
            self.wake.notify_one();
        }
    }

    /// It does not run any more: nothing of them is kept.
    pub(crate) fn rest(&self, agent: AgentId, gates: &Gates) {
        let mut inner = self.lock();
        let Some(entry) = inner.get_mut(&agent) else { return };
        entry.needed = false;
        // Whoever starts it again has done something about it.
        (entry.next, entry.failed) = (None, None);
        entry.backoff.reset();
        if entry.held.take().is_some() {
            gates.set_credentials(agent, Vec::new());
        }
    }

    /// The agent is gone for good.
    pub(crate) fn forget(&self, agent: AgentId) {
        self.lock().remove(&agent);
    }

    /// What the agent has, as of what control named last. Waits for it so long.
    pub(crate) async fn of(&self, agent: AgentId, patience: Duration) -> Result<Values, Unready> {
        let deadline = Instant::now() + patience;
        self.need(agent);
        loop {
            let mut changes = {
                let mut inner = self.lock();
                let entry = inner.entry(agent).or_default();
                if let Some(settled) = entry.settled() {
                    return settled;
                }
                entry.changes.subscribe()
            };
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                let inner = self.lock();
                let entry = inner.get(&agent);
                let failed = entry.and_then(|entry| Some(entry.failed.as_ref()?.1.detail.clone()));
                let heard = entry.is_some_and(|entry| entry.revision.is_some());
                let open = if heard {
                    "control did not answer"
                } else {
                    "control was not heard since this node started"
                };
                let detail = failed.unwrap_or_else(|| open.to_owned());
                return Err(Unready::Away { patience: patience.as_secs(), detail });
            }
        }
    }

    /// Asks control for what changed, for ever.
    pub(crate) async fn run(self: &Arc<Self>, caller: &Arc<Caller>, gates: &Arc<Gates>) {
        let mut asking = JoinSet::new();
        loop {
            let next = self.take_due(AT_ONCE - asking.len(), |agent, revision, transfers| {
                let (secrets, caller, gates) = (self.clone(), caller.clone(), gates.clone());
                asking.spawn(async move {
                    let answer = caller.secrets(agent, transfers).await;
                    secrets.take(agent, revision, answer, &gates);
                });
            });
            let later = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                Some(_) = asking.join_next() => {}
                () = later => {}
            }
        }
    }

    /// Begins to ask for so many at most. Returns when there will be more to ask, if that is known.
    fn take_due(&self, most: usize, mut ask: impl FnMut(AgentId, u64, u64)) -> Option<Instant> {
        let (now, mut asked, mut next) = (Instant::now(), 0, None::<Instant>);
        for (agent, entry) in self.lock().iter_mut() {
            let Some(revision) = entry.due() else { continue };
            match entry.next.filter(|next| *next > now) {
                Some(later) => next = Some(next.map_or(later, |next| next.min(later))),
                // The end of one that is under way is waited for as well.
                None if asked < most => {
                    (entry.asking, asked) = (true, asked + 1);
                    ask(*agent, revision, entry.transfers);
                }
                None => {}
            }
        }
        next
    }

    /// What came of a question.
    fn take(
        &self,
        agent: AgentId,
        revision: u64,
        answer: Result<(u64, Vec<AgentSecret>), crate::CallError>,
        gates: &Gates,
    ) {
        let mut inner = self.lock();
        // Gone meanwhile.
        let Some(entry) = inner.get_mut(&agent) else { return };
        entry.asking = false;
        // Of another time: control may be several, and one of them behind.
        let stale = |of: u64| Failure {
            detail: format!("control answered with revision {of}, and {revision} is there"),
            is_refusal: false,
        };
        let failure = match answer {
            Ok((of, _)) if of < revision => stale(of),
            Ok((of, values)) => {
                // Nobody has use of them any more.
                if entry.needed {
                    gates.set_credentials(agent, credentials(&values));
                    entry.held = Some(Held { asked: revision, of, values: values.into() });
                }
                (entry.failed, entry.next) = (None, None);
                entry.backoff.reset();
                entry.changes.send_replace(());
                return;
            }
            Err(error) => Failure { detail: crate::chain(&error), is_refusal: error.is_refusal() },
        };
        let known = entry.failed.as_ref().is_some_and(|(_, known)| known.detail == failure.detail);
        if !known {
            let detail = &failure.detail;
            tracing::warn!(%agent, detail, "its secrets are not here; asked for again");
        }
        entry.next = Some(Instant::now() + entry.backoff.delay());
        entry.failed = Some((revision, failure));
        entry.changes.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentId, Entry>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that a gate puts into requests.
fn credentials(values: &[AgentSecret]) -> Vec<Credential> {
    let credential = |secret: &AgentSecret| {
        let placeholder = secret.placeholder.clone()?;
        Some(Credential { secret: secret.name.clone(), value: secret.value.clone(), placeholder })
    };
    values.iter().filter_map(credential).collect()
}
