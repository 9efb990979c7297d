//! What control is told: changes at once, the whole at the start, each until it was accepted.

use crate::backoff::Backoff;
use crate::control::{CallError, Caller};
use crate::recheck::TOLD_EVERY;
use model::AgentId;
use model::agent::Level;
use model::node_api::{ObservedAgent, ObservedState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An agent's mere activity is reported at most this often.
pub(crate) const ACTIVITY_EVERY: Duration = Duration::from_secs(10);
/// Between the first news and the report: what happens at the same time is one report, and whoever the news is about has the
/// processor first.
const GATHER: Duration = Duration::from_millis(2);
/// Agents in one report, so that a report stays small.
const BATCH: usize = 50;

/// Holds the newest state of each agent until control has it.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    /// What this node makes.
    levels: Vec<Level>,
    entries: Mutex<Entries>,
    wake: Notify,
    /// Told when control was silent and answers again.
    answers: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    agents: BTreeMap<AgentId, Entry>,
    /// Those of them that are due, or used since the last report.
    news: BTreeSet<AgentId>,
    orphans: Vec<AgentId>,
    /// Orphans and levels are to be told.
    node_due: bool,
}

#[derive(Debug)]
struct Entry {
    state: ObservedAgent,
    due: bool,
    /// Used since the last report.
    touched: bool,
    reported: Option<Instant>,
    /// The time of the observation that was reported last.
    told: Option<OffsetDateTime>,
}

impl Entry {
    /// Whether control is to hear of this now. That the same was seen again can wait.
    fn is_news(&self, state: &ObservedAgent) -> bool {
        let same =
            ObservedAgent { observation: self.state.observation.clone(), ..state.clone() } == self.state;
        let at = |state: &ObservedAgent| state.observation.as_ref().map(|observation| observation.at);
        !same || at(state).is_some_and(|at| self.told.is_none_or(|told| at - told >= TOLD_EVERY))
    }
}

impl Reporter {
    /// Of a node that makes these levels.
    pub(crate) fn new(levels: Vec<Level>) -> Self {
        let entries = Mutex::new(Entries { node_due: true, ..Entries::default() });
        Self { levels, entries, ..Self::default() }
    }

    /// This is how the agent is now.
    pub(crate) fn set(&self, mut state: ObservedAgent) {
        let mut entries = self.lock();
        let id = state.id;
        let news = match entries.agents.get_mut(&id) {
            Some(entry) => {
                state.last_activity = state.last_activity.max(entry.state.last_activity);
                entry.state.last_activity = state.last_activity;
                entry.due |= entry.is_news(&state);
                entry.state = state;
                entry.due
            }
            None => {
                entries
                    .agents
                    .insert(id, Entry { due: true, touched: false, reported: None, told: None, state });
                true
            }
        };
        if news {
            entries.news.insert(id);
            drop(entries);
            self.wake.notify_one();
        }
    }

    /// The agent's workspace API was used.
    pub(crate) fn touch(&self, agent: AgentId, at: OffsetDateTime) {
        let mut entries = self.lock();
        let Some(entry) = entries.agents.get_mut(&agent) else { return };
        entry.state.last_activity = entry.state.last_activity.max(Some(at));
        let known = std::mem::replace(&mut entry.touched, true);
        if !known {
            entries.news.insert(agent);
            drop(entries);
            self.wake.notify_one();
        }
    }

    /// When the agent was last used, as far as was seen.
    pub(crate) fn last_activity(&self, agent: AgentId) -> Option<OffsetDateTime> {
        self.lock().agents.get(&agent).and_then(|entry| entry.state.last_activity)
    }

    /// The agent is gone, and control knows.
    pub(crate) fn forget(&self, agent: AgentId) {
        let mut entries = self.lock();
        entries.agents.remove(&agent);
        entries.news.remove(&agent);
    }

    /// These run here and control does not know them.
    pub(crate) fn set_orphans(&self, orphans: Vec<AgentId>) {
        let mut entries = self.lock();
        if entries.orphans != orphans {
            entries.orphans = orphans;
            entries.node_due = true;
            drop(entries);
            self.wake.notify_one();
        }
    }

    /// Control may have forgotten something: everything is due again.
    pub(crate) fn repeat_all(&self) {
        let mut entries = self.lock();
        let Entries { agents, news, node_due, .. } = &mut *entries;
        *node_due = true;
        agents.values_mut().for_each(|entry| entry.due = true);
        news.extend(agents.keys());
        drop(entries);
        self.wake.notify_one();
    }

    /// Control is there again: what waits for another attempt goes out now.
    pub(crate) fn control_answers(&self) {
        self.answers.notify_waiters();
    }

    /// What is due now, or else when something will be.
    pub(crate) fn take(&self, now: Instant) -> Due {
        let mut entries = self.lock();
        let Entries { agents, news, orphans, node_due } = &mut *entries;
        let levels = node_due.then(|| self.levels.clone());
        let mut report = ObservedState { agents: Vec::new(), orphans: orphans.clone(), levels };
        let mut next: Option<Instant> = None;
        for id in news.clone() {
            let Some(entry) = agents.get_mut(&id) else { continue };
            let quiet_until = entry.reported.map(|reported| reported + ACTIVITY_EVERY);
            let activity_due = entry.touched && quiet_until.is_none_or(|until| until <= now);
            if !entry.due && !activity_due {
                if entry.touched {
                    next = [next, quiet_until].into_iter().flatten().min();
                }
                continue;
            }
            if report.agents.len() == BATCH {
                next = Some(now);
                break;
            }
            (entry.due, entry.touched, entry.reported) = (false, false, Some(now));
            entry.told = entry.state.observation.as_ref().map(|observation| observation.at);
            news.remove(&id);
            report.agents.push(entry.state.clone());
        }
        if report.agents.is_empty() && !*node_due {
            return Due::Later(next);
        }
        *node_due = false;
        Due::Now(report)
    }

    /// A report was not accepted: what it said is due again, unless it changed meanwhile anyway.
    pub(crate) fn give_back(&self, report: &ObservedState) {
        let mut entries = self.lock();
        let Entries { agents, news, node_due, .. } = &mut *entries;
        *node_due = true;
        for state in &report.agents {
            if let Some(entry) = agents.get_mut(&state.id) {
                entry.due = true;
                news.insert(state.id);
            }
        }
    }

    /// Sends what is due, for ever.
    pub(crate) async fn run(&self, caller: &Caller) {
        let mut backoff = Backoff::to_control();
        loop {
            match self.take(Instant::now()) {
                Due::Later(None) => {
                    self.wake.notified().await;
                    tokio::time::sleep(GATHER).await;
                }
                Due::Later(Some(at)) => {
                    if tokio::time::timeout_at(at, self.wake.notified()).await.is_ok() {
                        tokio::time::sleep(GATHER).await;
                    }
                }
                Due::Now(report) => match send(caller, &report).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        self.give_back(&report);
                        tracing::debug!(error = %crate::chain(&error), "control did not take a report");
                        tokio::select! {
                            () = tokio::time::sleep(backoff.delay()) => {}
                            () = self.answers.notified() => backoff.reset(),
                        }
                    }
                },
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a reporter has to send.
#[derive(Debug)]
pub(crate) enum Due {
    /// This, now.
    Now(ObservedState),
    /// Nothing until then, or until something changes.
    Later(Option<Instant>),
}

/// One agent's report that control refuses must not keep the others from it.
async fn send(caller: &Caller, report: &ObservedState) -> Result<(), CallError> {
    match caller.report(report).await {
        Err(error) if error.is_refusal() => {}
        other => return other,
    }
    // One of an earlier version refuses what it does not know: levels, and the circumstances of evidence.
    let mut report = report.clone();
    report.agents.iter_mut().for_each(|state| state.observation = None);
    if let Some(levels) = report.levels.take() {
        let levels = ObservedState { levels: Some(levels), ..ObservedState::default() };
        caller.report(&levels).await.or_else(give_up)?;
    }
    match caller.report(&report).await {
        Err(error) if error.is_refusal() && report.agents.len() > 1 => {}
        other => return other.or_else(give_up),
    }
    for state in &report.agents {
        let alone = ObservedState { agents: vec![state.clone()], ..report.clone() };
        caller.report(&alone).await.or_else(give_up)?;
    }
    Ok(())
}

/// What control will never take is not sent again until it changes.
fn give_up(error: CallError) -> Result<(), CallError> {
    if !error.is_refusal() {
        return Err(error);
    }
    tracing::error!(error = %crate::chain(&error), "control refuses a report");
    Ok(())
}
