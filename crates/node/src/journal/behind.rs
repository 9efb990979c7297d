//! What brings the records in memory to disk.

use super::{JournalError, Places, Sync, file_name, replace};
use crate::fleet::lock;
use model::AgentId;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a record changes before it is written.
const LAG: Duration = Duration::from_secs(1);

/// A thread that writes what changed. Dropped, it writes the rest first.
#[derive(Debug)]
pub(super) struct Behind {
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queue {
    places: Places,
    changed: Mutex<Changed>,
    woken: Condvar,
    /// Held while a record is written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Changed {
    agents: BTreeMap<AgentId, Sync>,
    closing: bool,
}

impl Changed {
    fn add(&mut self, agent: AgentId, when: Sync) {
        let known = self.agents.entry(agent).or_insert(when);
        if when == Sync::Now {
            *known = when;
        }
    }
}

impl Behind {
    pub(super) fn start(places: Places) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            places,
            changed: Mutex::default(),
            woken: Condvar::new(),
            writing: Mutex::new(()),
        });
        let writing = queue.clone();
        let writer = thread::Builder::new().name("journal".into()).spawn(move || writing.run())?;
        Ok(Self { queue, writer: Some(writer) })
    }

    /// The agent's record changed.
    pub(super) fn add(&self, agent: AgentId, when: Sync) {
        lock(&self.queue.changed).add(agent, when);
        self.queue.woken.notify_one();
    }

    /// Once this returns, the agent's file is the caller's, until it is added again.
    pub(super) fn skip(&self, agent: AgentId) {
        lock(&self.queue.changed).agents.remove(&agent);
        drop(lock(&self.queue.writing));
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        lock(&self.queue.changed).closing = true;
        self.queue.woken.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Queue {
    fn run(&self) {
        loop {
            let changed = lock(&self.changed);
            let changed = self
                .woken
                .wait_while(changed, |changed| changed.agents.is_empty() && !changed.closing)
                .unwrap_or_else(PoisonError::into_inner);
            let (changed, _) = self
                .woken
                .wait_timeout_while(changed, LAG, |changed| !changed.closing)
                .unwrap_or_else(PoisonError::into_inner);
            let closing = changed.closing;
            drop(changed);
            let left = self.write_all();
            if closing {
                return;
            }
            let mut changed = lock(&self.changed);
            left.into_iter().for_each(|(agent, when)| changed.add(agent, when));
        }
    }

    /// Writes each, and tells which could not be written.
    fn write_all(&self) -> Vec<(AgentId, Sync)> {
        let mut left = Vec::new();
        loop {
            // Taken and written in one: see `skip`.
            let _writing = lock(&self.writing);
            let Some((agent, when)) = lock(&self.changed).agents.pop_first() else { return left };
            if let Err(error) = self.write(agent, when) {
                tracing::warn!(%agent, error = %crate::chain(&error), "its record is in memory alone until it can be written");
                left.push((agent, when));
            }
        }
    }

    fn write(&self, agent: AgentId, when: Sync) -> Result<(), JournalError> {
        let name = file_name(agent);
        let Some((path, bytes)) = self.places.read(&name)? else { return Ok(()) };
        let known = fs::read(self.places.disk.join(&name)).is_ok_and(|known| known == bytes);
        match known || path.starts_with(&self.places.disk) {
            true => Ok(()),
            false => replace(&self.places.disk, &name, &bytes, when),
        }
    }
}
