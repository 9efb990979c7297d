//! Boundaries made ahead, so that an agent need not wait for its own.
//!
//! How many are wanted follows from what was asked for in the last minutes. They are made one at a time, only while no
//! agent is being worked on, and with a bounded share of one core and of the machine's memory.

use crate::fleet::{Shared, lock};
use sandbox::{Blank, Shape};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The record of the shapes that were asked for last, so that a node that starts is as ready as the one before.
pub(crate) const RECORD: &str = "blanks.json";

/// How long what was asked for counts.
const MEMORY: Duration = Duration::from_secs(300);
/// The busiest time of this length is what there should be blanks for.
const WINDOW: Duration = Duration::from_secs(10);
/// How often what is long ago is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// Shapes that are remembered.
const SHAPES: usize = 8;
/// Asks for one shape that are remembered.
const ASKS: usize = 256;
/// None is made so soon after one was taken: whoever took it has something to do.
const SETTLE: Duration = Duration::from_millis(50);
/// After the time that making one took, this many times as long passes before the next: a quarter of a core.
const REST: u32 = 3;
/// When there is no range of ids for one.
const AGAIN: Duration = Duration::from_secs(10);
/// What one takes of the machine's memory at most, as measured: 1.3 MiB and some.
const SIZE: u64 = 2 << 20;
/// All of them together take no more than this part of the machine's memory.
const MEMORY_SHARE: u64 = 20;

/// The blanks of a node.
pub(crate) struct Blanks {
    most: usize,
    pool: Mutex<Pool>,
    wake: Notify,
}

#[derive(Default)]
struct Pool {
    ready: BTreeMap<Shape, Vec<Blank>>,
    demand: Demand,
    taken: Option<Instant>,
}

/// What was asked for, and when.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    asks: BTreeMap<Shape, VecDeque<Instant>>,
    /// The shape that was asked for last, and is kept ready however long ago that was.
    last: Option<Shape>,
}

impl Demand {
    /// Notes that one was asked for; whether the shape is new.
    pub(crate) fn ask(&mut self, shape: &Shape, now: Instant) -> bool {
        let new = !self.asks.contains_key(shape);
        let asks = self.asks.entry(shape.clone()).or_default();
        asks.push_back(now);
        if asks.len() > ASKS {
            asks.pop_front();
        }
        self.last = Some(shape.clone());
        new
    }

    /// Forgets what is long ago.
    fn forget(&mut self, now: Instant) {
        for asks in self.asks.values_mut() {
            while asks.front().is_some_and(|ask| now.duration_since(*ask) > MEMORY) {
                asks.pop_front();
            }
        }
        self.asks.retain(|_, asks| !asks.is_empty());
    }

    /// How many of each shape there should be, `most` in all: as many as were asked for in the busiest window.
    pub(crate) fn wanted(&mut self, now: Instant, most: usize) -> BTreeMap<Shape, usize> {
        self.forget(now);
        let mut wanted: Vec<(Shape, usize)> =
            self.asks.iter().map(|(shape, asks)| (shape.clone(), busiest(asks))).collect();
        let known = |last: &&Shape| wanted.iter().any(|(shape, _)| shape == *last);
        wanted.extend(
            self.last.iter().filter(|last| !known(last)).map(|last| (last.clone(), 1)).collect::<Vec<_>>(),
        );
        wanted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        wanted.truncate(SHAPES);
        let mut left = most;
        // One of each first; the rest to those that are asked for most.
        let shapes = wanted.len();
        wanted
            .into_iter()
            .enumerate()
            .map(|(index, (shape, count))| {
                let others = shapes - index - 1;
                let count = count.min(left.saturating_sub(others)).max(left.min(1));
                left -= count.min(left);
                (shape, count)
            })
            .collect()
    }
}

/// The most asks within any window.
fn busiest(asks: &VecDeque<Instant>) -> usize {
    let mut start = 0;
    let mut most = 0;
    for (end, ask) in asks.iter().enumerate() {
        while ask.duration_since(asks[start]) > WINDOW {
            start += 1;
        }
        most = most.max(end - start + 1);
    }
    most
}

/// What is to be done for the pool.
enum Chore {
    Make(Shape),
    Remove(Box<Blank>),
    /// Nothing before then.
    Wait(Instant),
}

impl Blanks {
    /// None yet, and at most so many; fewer on a machine with little memory. `shapes` are those of an earlier node.
    pub(crate) fn new(most: u32, memory: u64, shapes: Vec<Shape>) -> Self {
        let fitting = usize::try_from(memory / MEMORY_SHARE / SIZE).unwrap_or(usize::MAX);
        let mut pool = Pool::default();
        pool.demand.last = shapes.into_iter().next();
        Self { most: fitting.min(most as usize), pool: Mutex::new(pool), wake: Notify::new() }
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        lock(&self.pool).ready.values().map(Vec::len).sum()
    }

    /// One of this shape, if there is one. That it was asked for is remembered either way.
    pub(crate) fn take(&self, shape: &Shape) -> (Option<Blank>, Vec<Blank>) {
        if self.most == 0 {
            // Nobody makes any, nor forgets what was asked for.
            return (None, Vec::new());
        }
        let mut pool = lock(&self.pool);
        let now = Instant::now();
        pool.demand.ask(shape, now);
        pool.taken = Some(now);
        let mut dead = Vec::new();
        let mut found = None;
        while let Some(blank) = pool.ready.get_mut(shape).and_then(Vec::pop) {
            if blank.is_alive() {
                found = Some(blank);
                break;
            }
            dead.push(blank);
        }
        drop(pool);
        self.wake.notify_one();
        (found, dead)
    }

    fn chore(&self) -> Chore {
        let mut pool = lock(&self.pool);
        let now = Instant::now();
        if let Some(settled) = pool.taken.map(|taken| taken + SETTLE).filter(|settled| *settled > now) {
            return Chore::Wait(settled);
        }
        let wanted = pool.demand.wanted(now, self.most);
        for (shape, blanks) in &mut pool.ready {
            if blanks.len() > wanted.get(shape).copied().unwrap_or(0) {
                return blanks.pop().map_or(Chore::Wait(now), |blank| Chore::Remove(Box::new(blank)));
            }
        }
        let have = |shape: &Shape| pool.ready.get(shape).map_or(0, Vec::len);
        let missing = wanted.iter().find(|(shape, count)| have(shape) < **count);
        match missing {
            Some((shape, _)) => Chore::Make(shape.clone()),
            None => Chore::Wait(now + FORGET),
        }
    }

    /// The shape of the last ask, for the next node.
    fn last(&self) -> Vec<Shape> {
        lock(&self.pool).demand.last.clone().into_iter().collect()
    }

    /// Takes all out, to be ended.
    pub(crate) fn drain(&self) -> Vec<Blank> {
        std::mem::take(&mut lock(&self.pool).ready).into_values().flatten().collect()
    }
}

/// Keeps the pool as it should be, for ever.
pub(crate) async fn keep(shared: Arc<Shared>) {
    if shared.blanks.most == 0 {
        return;
    }
    let mut remembered = shared.blanks.last();
    loop {
        let last = shared.blanks.last();
        if last != remembered {
            if let Err(error) = shared.journal.write_own(RECORD, &last) {
                tracing::warn!(error = %crate::chain(&error), "could not remember what blanks are for");
            }
            remembered = last;
        }
        let again = match shared.blanks.chore() {
            Chore::Wait(until) => until,
            Chore::Remove(blank) => {
                discard(&shared, vec![*blank]).await;
                continue;
            }
            Chore::Make(shape) => {
                shared.idle().await;
                let rested = make(&shared, shape).await;
                tokio::time::sleep_until(rested).await;
                continue;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(again) => {}
            () = shared.blanks.wake.notified() => {}
        }
    }
}

/// Makes one; when to go on.
async fn make(shared: &Arc<Shared>, shape: Shape) -> Instant {
    let Some(lease) = lock(&shared.leases).take_spare() else { return Instant::now() + AGAIN };
    let started = Instant::now();
    let (sandbox, wanted) = (shared.sandbox.clone(), shape.clone());
    let made = tokio::task::spawn_blocking(move || sandbox.prepare(&wanted, lease)).await;
    let took = started.elapsed();
    match made {
        Ok(Ok(blank)) => {
            tracing::debug!(image = shape.image_digest, ?took, "a blank is ready");
            lock(&shared.blanks.pool).ready.entry(shape).or_default().push(blank);
            Instant::now() + took * REST
        }
        failed => {
            lock(&shared.leases).free_spare(lease);
            let mut pool = lock(&shared.blanks.pool);
            // An image that was removed, for one: it is tried again when somebody asks for it. Those who ask for other shapes
            // have nothing to do with that, and do not wait for it.
            pool.demand.asks.remove(&shape);
            pool.demand.last.take_if(|last| *last == shape);
            drop(pool);
            if let Ok(Err(error)) = failed {
                tracing::warn!(error = %crate::chain(&error), "no blank could be made");
            }
            Instant::now() + SETTLE.max(took * REST)
        }
    }
}

/// Ends blanks, and frees their ids once nothing has them.
pub(crate) async fn discard(shared: &Shared, blanks: Vec<Blank>) {
    let leases: Vec<_> = blanks.iter().map(Blank::lease).collect();
    let _ = tokio::task::spawn_blocking(move || drop(blanks)).await;
    for lease in leases {
        lock(&shared.leases).free_spare(lease);
    }
}
