//! Boundaries made ahead, so that an agent need not wait for its own.
//!
//! How many are wanted follows from what was asked for in the last minutes. They are made one at a time, only while no
//! agent is being worked on, and with a bounded share of one core and of the machine's memory.

use crate::fleet::{Shared, lock};
use model::{ByteSize, Driver, Resources};
use sandbox::{Blank, Form, Shape};
use serde::Serialize;
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
/// How often the pool is looked over: what is long ago is forgotten, and what died with the zygote is removed.
const LOOK: Duration = Duration::from_secs(5);
/// Forms that are made at once, at most.
const FORMS: usize = 8;
/// Asks for one form that are remembered.
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

/// How many boundaries are ready for new agents.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Ready {
    /// Without an image.
    pub bare: usize,
    /// With one.
    pub whole: usize,
}

struct Pool {
    ready: BTreeMap<Form, Vec<Blank>>,
    demand: Demand,
    taken: Option<Instant>,
}

/// What was asked for, and when. A bare one is asked for when there is none with the image.
#[derive(Debug)]
pub(crate) struct Demand {
    asks: BTreeMap<Form, VecDeque<Instant>>,
    /// The shape that was asked for last.
    last: Option<Shape>,
}

impl Demand {
    pub(crate) fn new(last: Option<Shape>) -> Self {
        Self { asks: BTreeMap::new(), last }
    }

    /// Notes that one was asked for.
    pub(crate) fn ask(&mut self, form: &Form, now: Instant) {
        let asks = self.asks.entry(form.clone()).or_default();
        asks.push_back(now);
        if asks.len() > ASKS {
            asks.pop_front();
        }
        if let Form::Whole(shape) = form {
            self.last = Some(shape.clone());
        }
    }

    /// Forgets that it was asked for.
    fn drop(&mut self, form: &Form) {
        self.asks.remove(form);
        self.last.take_if(|last| matches!(form, Form::Whole(shape) if shape == last));
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

    /// What is kept ready however long ago it was asked for: one of the last shape, and one for an image that nobody
    /// asked for yet.
    fn always(&self) -> Vec<Form> {
        let disk: ByteSize = self.last.as_ref().map_or(Resources::default().disk, |shape| shape.disk);
        self.last.iter().cloned().map(Form::Whole).chain([Form::Bare(disk)]).collect()
    }

    /// How many of each form there should be, `most` in all: as many as were asked for in the busiest window.
    pub(crate) fn wanted(&mut self, now: Instant, most: usize) -> BTreeMap<Form, usize> {
        self.forget(now);
        let mut counts: BTreeMap<Form, usize> =
            self.asks.iter().map(|(form, asks)| (form.clone(), busiest(asks))).collect();
        for form in self.always() {
            counts.entry(form).or_insert(1);
        }
        let mut wanted: Vec<(Form, usize)> = counts.into_iter().collect();
        wanted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        wanted.truncate(FORMS);
        let mut left = most;
        // One of each first; the rest to those that are asked for most.
        let forms = wanted.len();
        wanted
            .into_iter()
            .enumerate()
            .map(|(index, (form, count))| {
                let others = forms - index - 1;
                let count = count.min(left.saturating_sub(others)).max(left.min(1));
                left -= count.min(left);
                (form, count)
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
    Make(Form),
    Remove(Box<Blank>),
    /// Look at it again: it was seen whole long ago.
    Look(Box<Blank>, Shape),
    /// Nothing before then.
    Wait(Instant),
}

impl Blanks {
    /// None yet, and at most so many; fewer on a machine with little memory. `shapes` are those of an earlier node.
    pub(crate) fn new(most: u32, memory: u64, shapes: Vec<Shape>) -> Self {
        let fitting = usize::try_from(memory / MEMORY_SHARE / SIZE).unwrap_or(usize::MAX);
        let demand = Demand::new(shapes.into_iter().next());
        let pool = Pool { ready: BTreeMap::new(), demand, taken: None };
        Self { most: fitting.min(most as usize), pool: Mutex::new(pool), wake: Notify::new() }
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> Ready {
        let mut count = Ready::default();
        for (form, blanks) in &lock(&self.pool).ready {
            match form {
                Form::Bare(_) => count.bare += blanks.len(),
                Form::Whole(_) => count.whole += blanks.len(),
            }
        }
        count
    }

    /// One of this shape, else a bare one, if there is one. That it was asked for is remembered either way.
    pub(crate) fn take(&self, shape: &Shape) -> (Option<Blank>, Vec<Blank>) {
        let mut dead = Vec::new();
        if self.most == 0 {
            // Nobody makes any, nor forgets what was asked for.
            return (None, dead);
        }
        let mut pool = lock(&self.pool);
        let now = Instant::now();
        pool.taken = Some(now);
        let mut found = None;
        // A bare one is node's own, with ids of its own and no way to the host's network.
        let fits = shape.driver == Driver::Builtin && shape.base_uid.is_none();
        let bare = fits.then_some(Form::Bare(shape.disk));
        for form in [Form::Whole(shape.clone())].into_iter().chain(bare) {
            pool.demand.ask(&form, now);
            while found.is_none()
                && let Some(blank) = pool.ready.get_mut(&form).and_then(Vec::pop)
            {
                if blank.is_alive() { found = Some(blank) } else { dead.push(blank) }
            }
            if found.is_some() {
                break;
            }
        }
        drop(pool);
        self.wake.notify_one();
        (found, dead)
    }

    /// What to do next, if what was seen counts for so long.
    fn chore(&self, every: Duration) -> Chore {
        let mut pool = lock(&self.pool);
        let now = Instant::now();
        if let Some(settled) = pool.taken.map(|taken| taken + SETTLE).filter(|settled| *settled > now) {
            return Chore::Wait(settled);
        }
        let wanted = pool.demand.wanted(now, self.most);
        for (form, blanks) in &mut pool.ready {
            if let Some(dead) = blanks.iter().position(|blank| !blank.is_alive()) {
                return Chore::Remove(Box::new(blanks.swap_remove(dead)));
            }
            if blanks.len() > wanted.get(form).copied().unwrap_or(0) {
                return blanks.pop().map_or(Chore::Wait(now), |blank| Chore::Remove(Box::new(blank)));
            }
            if let Form::Whole(shape) = form
                && let Some(unseen) = blanks.iter().position(|blank| !blank.was_seen(every))
            {
                return Chore::Look(Box::new(blanks.swap_remove(unseen)), shape.clone());
            }
        }
        let have = |form: &Form| pool.ready.get(form).map_or(0, Vec::len);
        let missing = wanted.iter().find(|(form, count)| have(form) < **count);
        match missing {
            Some((form, _)) => Chore::Make(form.clone()),
            None => Chore::Wait(now + LOOK),
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
            // Whoever asked for it has something to do.
            shared.idle().await;
            if let Err(error) = shared.journal.write_hint(RECORD, &last) {
                tracing::warn!(error = %crate::chain(&error), "could not remember what blanks are for");
            }
            remembered = last;
        }
        let again = match shared.blanks.chore(shared.config.inspect_every.duration()) {
            Chore::Wait(until) => until,
            Chore::Remove(blank) => {
                discard(&shared, vec![*blank]).await;
                continue;
            }
            Chore::Look(blank, shape) => {
                look_again(&shared, *blank, shape).await;
                continue;
            }
            Chore::Make(form) => {
                shared.idle().await;
                let rested = make(&shared, form).await;
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
async fn make(shared: &Arc<Shared>, form: Form) -> Instant {
    let own = match &form {
        Form::Whole(shape) => shape.base_uid,
        Form::Bare(_) => None,
    };
    let lease = match own {
        Some(base) => lock(&shared.leases).share(base),
        None => lock(&shared.leases).take_spare(),
    };
    let Some(lease) = lease else {
        if own.is_some() {
            // The account has no such agent any more; with the next come its ids.
            lock(&shared.blanks.pool).demand.drop(&form);
            return Instant::now();
        }
        return Instant::now() + AGAIN;
    };
    let started = Instant::now();
    let (sandbox, wanted) = (shared.sandbox.clone(), form.clone());
    let made = tokio::task::spawn_blocking(move || sandbox.prepare(&wanted, lease)).await;
    let took = started.elapsed();
    match made {
        Ok(Ok(blank)) => {
            tracing::debug!(?form, ?took, "a blank is ready");
            lock(&shared.blanks.pool).ready.entry(form).or_default().push(blank);
            Instant::now() + took * REST
        }
        failed => {
            lock(&shared.leases).free_blank(lease);
            // An image that was removed, for one: it is tried again when somebody asks for it. Those who ask for another form
            // have nothing to do with that, and do not wait for it.
            lock(&shared.blanks.pool).demand.drop(&form);
            let again = match form {
                Form::Whole(_) => SETTLE.max(took * REST),
                // Something is wrong with the machine, and may be so for long.
                Form::Bare(_) => AGAIN,
            };
            if let Ok(Err(error)) = failed {
                tracing::warn!(error = %crate::chain(&error), "no blank could be made");
            }
            Instant::now() + again
        }
    }
}

/// Puts one back if it is as it was.
async fn look_again(shared: &Arc<Shared>, mut blank: Blank, shape: Shape) {
    let (sandbox, form) = (shared.sandbox.clone(), Form::Whole(shape.clone()));
    let looked = tokio::task::spawn_blocking(move || {
        let seen = sandbox.look_at(&mut blank, &shape);
        (blank, seen)
    });
    match looked.await {
        Ok((blank, Ok(()))) => lock(&shared.blanks.pool).ready.entry(form).or_default().push(blank),
        Ok((blank, Err(_))) if !blank.is_alive() => discard(shared, vec![blank]).await,
        Ok((blank, Err(error))) => {
            tracing::error!(error = %crate::chain(&error), "a blank is not whole any more; it is ended");
            discard(shared, vec![blank]).await;
        }
        // Only when the runtime shuts down.
        Err(_) => {}
    }
}

/// Ends blanks, and frees their ids once nothing has them.
pub(crate) async fn discard(shared: &Shared, blanks: Vec<Blank>) {
    for mut blank in blanks {
        let lease = blank.lease();
        match tokio::task::spawn_blocking(move || blank.end()).await {
            Ok(Ok(())) => lock(&shared.leases).free_blank(lease),
            Ok(Err(error)) => {
                tracing::error!(error = %crate::chain(&error), "a blank is not removed whole; its ids stay taken");
            }
            // Only when the runtime shuts down, or by a bug that has been told of.
            Err(_) => {}
        }
    }
}
