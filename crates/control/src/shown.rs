//! Agents as they were last written out, each beside the mark that its row had: an agent that is asked for often is not put together
//! each time. Its mark is read each time, so nothing older is ever shown than the database has.
//!
//! Memory is bounded in bytes, whoever's agents they are, and however large.

use axum::body::Bytes;
use model::AgentId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::Mark;

/// Of those that were asked for lately, and as much again of those before: what is asked for again stays.
const MOST: usize = 16 << 20;
/// Larger ones are written out each time.
const LARGEST: usize = 256 << 10;
/// Beside its text.
const OVERHEAD: usize = 128;

/// An agent as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Its generation, which is its ETag.
    pub(crate) generation: u64,
    /// As JSON.
    pub(crate) body: Bytes,
}

/// Those that are remembered.
#[derive(Default)]
pub(crate) struct Shown(Mutex<Halves>);

#[derive(Default)]
struct Halves {
    lately: HashMap<AgentId, (Mark, Sent)>,
    before: HashMap<AgentId, (Mark, Sent)>,
    /// Of `lately`.
    bytes: usize,
}

impl Halves {
    fn keep(&mut self, mark: &Mark, sent: Sent) {
        let size = sent.body.len() + OVERHEAD;
        if self.bytes + size > MOST {
            self.before = std::mem::take(&mut self.lately);
            self.bytes = 0;
        }
        let replaced = self.lately.insert(mark.agent, (*mark, sent));
        self.bytes += size;
        self.bytes -= replaced.map_or(0, |(_, sent)| sent.body.len() + OVERHEAD);
    }
}

impl Shown {
    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was shown of the agent when its mark was this.
    pub(crate) fn find(&self, mark: &Mark) -> Option<Sent> {
        let mut halves = self.lock();
        if let Some((of, sent)) = halves.lately.get(&mark.agent) {
            return (of == mark).then(|| sent.clone());
        }
        let (of, sent) = halves.before.remove(&mark.agent)?;
        (of == *mark).then(|| {
            halves.keep(mark, sent.clone());
            sent
        })
    }

    /// Remembers what was written out, of a row that was read after its mark.
    pub(crate) fn keep(&self, mark: &Mark, sent: &Sent) {
        if sent.body.len() <= LARGEST {
            self.lock().keep(mark, sent.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::AccountId;

    fn of(agent: AgentId, shown: u64) -> Mark {
        Mark { agent, account: AccountId::new(), shown }
    }

    fn sent(size: usize) -> Sent {
        Sent { generation: 1, body: vec![b'x'; size].into() }
    }

    #[test]
    fn only_what_is_still_so_is_found() {
        let shown = Shown::default();
        let then = of(AgentId::new(), 1);
        assert_eq!(shown.find(&then), None);
        shown.keep(&then, &sent(3));
        assert_eq!(shown.find(&then), Some(sent(3)));
        assert_eq!(shown.find(&Mark { shown: 2, ..then }), None, "it changed");
        assert_eq!(shown.find(&Mark { account: AccountId::new(), ..then }), None, "it is another's");
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let shown = Shown::default();
        let often = of(AgentId::new(), 1);
        shown.keep(&often, &sent(10));
        shown.keep(&of(AgentId::new(), 1), &sent(LARGEST + 1));
        assert_eq!(shown.lock().lately.len(), 1, "one that is too large");
        for _ in 0..8 * MOST / LARGEST {
            shown.keep(&of(AgentId::new(), 1), &sent(LARGEST));
            assert!(shown.find(&often).is_some());
            let halves = shown.lock();
            let held = [&halves.lately, &halves.before].into_iter().flat_map(|half| half.values());
            assert!(held.map(|(_, sent)| sent.body.len() + OVERHEAD).sum::<usize>() <= 2 * MOST);
            let counted: usize = halves.lately.values().map(|(_, sent)| sent.body.len() + OVERHEAD).sum();
            assert_eq!(counted, halves.bytes);
        }
    }
}
