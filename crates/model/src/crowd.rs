//! Who gets a place when there are fewer places than callers. Pure: what a place is, the caller knows.
//!
//! A *guest* has come in and proved nothing yet, or has nothing under way: a connection whose head is still
//! awaited, or that idles. One that sits in a *seat* does something that it may. When all places are taken, the
//! guest who has stood for the longest makes room for a newcomer, so that connections which only hold places
//! keep out nobody who has business; whoever sits is never put out. How many seats one account may have is
//! bounded elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All places of one listener. `T` is what puts a guest out.
pub struct Crowd<T>(Arc<Mutex<Places<T>>>);

struct Places<T> {
    free: usize,
    turn: u64,
    /// Those who stand, by when they began to.
    standing: BTreeMap<u64, T>,
}

/// Somebody who has a place, until this is dropped.
pub struct Guest<T: Clone> {
    crowd: Crowd<T>,
    handle: T,
    stance: Mutex<Stance>,
}

struct Stance {
    seats: usize,
    /// When it began to stand, if it stands.
    since: Option<u64>,
}

/// A guest may not be put out while this lives.
pub struct Seat<T: Clone>(Arc<Guest<T>>);

impl<T> Clone for Crowd<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Places<T> {
    fn stand(&mut self, handle: T) -> u64 {
        self.turn += 1;
        self.standing.insert(self.turn, handle);
        self.turn
    }
}

impl<T: Clone> Crowd<T> {
    /// So many places.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Places { free: places, turn: 0, standing: BTreeMap::new() })))
    }

    /// Lets somebody in who can be put out by `handle`, and tells who has to go for that. `None`: everybody sits.
    pub fn enter(&self, handle: T) -> Option<(Arc<Guest<T>>, Option<T>)> {
        let mut places = lock(&self.0);
        let out = match places.free.checked_sub(1) {
            Some(free) => {
                places.free = free;
                None
            }
            None => Some(places.standing.pop_first()?.1),
        };
        let since = Some(places.stand(handle.clone()));
        drop(places);
        let stance = Mutex::new(Stance { seats: 0, since });
        Some((Arc::new(Guest { crowd: self.clone(), handle, stance }), out))
    }
}

impl<T: Clone> Guest<T> {
    /// Sits down. A guest that was put out already may do so too; it makes no difference any more.
    pub fn sit(self: &Arc<Self>) -> Seat<T> {
        let mut places = lock(&self.crowd.0);
        let mut stance = lock(&self.stance);
        stance.seats += 1;
        // One that was put out keeps its mark: see `drop`.
        if let Some(since) = stance.since
            && places.standing.remove(&since).is_some()
        {
            stance.since = None;
        }
        drop((places, stance));
        Seat(self.clone())
    }
}

impl<T: Clone> Drop for Seat<T> {
    fn drop(&mut self) {
        let guest = &self.0;
        let mut places = lock(&guest.crowd.0);
        let mut stance = lock(&guest.stance);
        stance.seats -= 1;
        if stance.seats == 0 && stance.since.is_none() {
            stance.since = Some(places.stand(guest.handle.clone()));
        }
    }
}

impl<T: Clone> Drop for Guest<T> {
    fn drop(&mut self) {
        let mut places = lock(&self.crowd.0);
        let since = lock(&self.stance).since;
        // Its place went to the newcomer if it is marked as standing and does not stand any more.
        if since.is_none_or(|since| places.standing.remove(&since).is_some()) {
            places.free += 1;
        }
    }
}
