//! Connections that wait for somebody to decide on them.
//!
//! They wait only while somebody looks after the agent. All that go to the same host and port wait for one answer, which is
//! theirs and nobody else's: who comes later asks anew.

use super::share::Bucket;
use crate::limits;
use model::AgentId;
use model::egress::{Attention, MAX_QUESTIONS, Question};
use model::gate_api::FromGate;
use model::policy::By;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// What waits of one agent.
pub struct Holds {
    agent: AgentId,
    /// How long a question may wait.
    time: Duration,
    /// Where it says that its questions changed.
    changed: mpsc::UnboundedSender<Arc<Holds>>,
    new: Bucket,
    state: Mutex<State>,
}

struct State {
    watched_until: Option<OffsetDateTime>,
    questions: HashMap<Key, Waiting>,
    /// Connections that wait.
    held: usize,
    /// What somebody refused, until then.
    denied: HashMap<Key, Instant>,
    /// When the last question was asked: each has a time of its own.
    last: OffsetDateTime,
    /// What node was told.
    told: Vec<Question>,
    /// Whether [`ask`] knows that there may be something else to tell.
    changed: bool,
}

/// Host and port.
type Key = (String, u16);

struct Waiting {
    asked: OffsetDateTime,
    until: OffsetDateTime,
    deadline: Instant,
    held: usize,
    decided: watch::Sender<Option<bool>>,
}

/// The place of a connection that waits. It is given up when it is dropped, and a question for which nobody waits is withdrawn.
pub struct Held {
    holds: Arc<Holds>,
    key: Key,
    asked: OffsetDateTime,
    deadline: Instant,
    decided: watch::Receiver<Option<bool>>,
}

impl Holds {
    /// Nobody looks after it, and nothing waits. A question waits for `time`.
    pub fn new(agent: AgentId, changed: mpsc::UnboundedSender<Arc<Self>>, time: Duration) -> Arc<Self> {
        let state = State {
            watched_until: None,
            questions: HashMap::new(),
            held: 0,
            denied: HashMap::new(),
            last: OffsetDateTime::UNIX_EPOCH,
            told: Vec::new(),
            changed: false,
        };
        let new = Bucket::with(limits::ASKED_PER_SECOND, limits::ASKED_AT_ONCE);
        Arc::new(Self { agent, time, changed, new, state: Mutex::new(state) })
    }

    /// Whether somebody is there who could decide.
    pub fn is_watched(&self) -> bool {
        self.state().is_watched()
    }

    /// Takes over who looks after it, and what they said.
    pub fn attend(self: &Arc<Self>, attention: Option<&Attention>) {
        let mut state = self.state();
        state.watched_until = attention.and_then(|attention| attention.watched_until);
        for answer in attention.map_or(&[][..], |attention| &attention.answers) {
            let key = (answer.host.clone(), answer.port);
            // To another question than the one that waits: it was answered before, or it is nobody's any more.
            if state.questions.get(&key).is_none_or(|question| question.asked != answer.asked) {
                continue;
            }
            if let Some(question) = state.questions.remove(&key) {
                question.decided.send_replace(Some(answer.allow));
            }
            if !answer.allow {
                state.remember(key, Instant::now());
            }
            self.has_changed(&mut state);
        }
    }

    /// Another policy is in force: what was refused under the last one may be asked for again.
    pub fn forget(&self) {
        self.state().denied.clear();
    }

    /// A place for a connection that is to wait; who refuses it otherwise.
    pub fn enter(self: &Arc<Self>, host: String, port: u16) -> Result<Held, By> {
        let now = Instant::now();
        let mut state = self.state();
        let key = (host, port);
        if state.denied.get(&key).is_some_and(|until| now < *until) {
            return Err(By::Once);
        }
        if !state.is_watched() || state.held >= limits::HELD_PER_AGENT {
            return Err(By::Unknown);
        }
        // Those whose time is over are about to leave.
        if state.questions.get(&key).is_none_or(|question| question.deadline <= now) {
            if state.questions.remove(&key).is_some() {
                self.has_changed(&mut state);
            }
            if state.questions.len() >= MAX_QUESTIONS || self.new.take().is_err() {
                return Err(By::Unknown);
            }
            let question = state.question(now, self.time);
            state.questions.insert(key.clone(), question);
            self.has_changed(&mut state);
        }
        let question =
            state.questions.get_mut(&key).filter(|question| question.held < limits::HELD_PER_QUESTION);
        let Some(question) = question else { return Err(By::Unknown) };
        question.held += 1;
        let (asked, deadline, decided) = (question.asked, question.deadline, question.decided.subscribe());
        state.held += 1;
        Ok(Held { holds: self.clone(), key, asked, deadline, decided })
    }

    fn leave(self: &Arc<Self>, key: &Key, asked: OffsetDateTime) {
        let mut state = self.state();
        state.held -= 1;
        let Some(question) = state.questions.get_mut(key).filter(|question| question.asked == asked) else {
            return;
        };
        question.held -= 1;
        if question.held == 0 {
            state.questions.remove(key);
            self.has_changed(&mut state);
        }
    }

    fn has_changed(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.changed, true) {
            // Nobody is there any more when the gate ends.
            let _ = self.changed.send(self.clone());
        }
    }

    /// What node is to be told, if that is not what it was told last.
    fn news(&self) -> Option<FromGate> {
        let mut state = self.state();
        state.changed = false;
        let waiting = state.questions.iter().map(|((host, port), question)| Question {
            host: host.clone(),
            port: *port,
            asked: question.asked,
            until: question.until,
        });
        let mut questions: Vec<_> = waiting.collect();
        questions.sort_by_key(|question| question.asked);
        if questions == state.told {
            return None;
        }
        state.told.clone_from(&questions);
        Some(FromGate::Asks { agent: self.agent, questions })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_watched(&self) -> bool {
        self.watched_until.is_some_and(|until| OffsetDateTime::now_utc() < until)
    }

    /// A new question. When it was asked tells it from all others, so that is not finer than what others may keep of it.
    fn question(&mut self, now: Instant, time: Duration) -> Waiting {
        let asked = OffsetDateTime::now_utc();
        let asked = asked.replace_millisecond(asked.millisecond()).unwrap_or(asked);
        let asked = asked.max(self.last + Duration::from_millis(1));
        self.last = asked;
        Waiting {
            asked,
            until: asked + time,
            deadline: now + time,
            held: 0,
            decided: watch::Sender::new(None),
        }
    }

    fn remember(&mut self, key: Key, now: Instant) {
        self.denied.retain(|_, until| now < *until);
        if self.denied.len() >= limits::DENIED_HOSTS {
            let first = self.denied.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone());
            first.map(|first| self.denied.remove(&first));
        }
        self.denied.insert(key, now + limits::DENIED);
    }
}

impl Held {
    /// Waits for what somebody decides. By nobody it is refused when its time is over.
    pub async fn decided(&mut self) -> Result<(), By> {
        match timeout_at(self.deadline, self.decided.wait_for(Option::is_some)).await {
            Ok(Ok(decided)) if *decided == Some(true) => Ok(()),
            Ok(Ok(_)) => Err(By::Once),
            Ok(Err(_)) | Err(_) => Err(By::Unknown),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holds.leave(&self.key, self.asked);
    }
}

/// Tells node what waits, whenever that changed. What changes often is told of as it is then. Ends when node hears nothing any
/// more.
pub async fn ask(mut changed: mpsc::UnboundedReceiver<Arc<Holds>>, to_node: mpsc::Sender<FromGate>) {
    while let Some(first) = changed.recv().await {
        let mut next = Some(first);
        while let Some(holds) = next {
            if let Some(news) = holds.news()
                && to_node.send(news).await.is_err()
            {
                return;
            }
            next = changed.try_recv().ok();
        }
        sleep(limits::ASK_AGAIN).await;
    }
}
