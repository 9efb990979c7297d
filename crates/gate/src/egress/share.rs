//! How what a gate has is shared out among its agents, so that one which wants all of it leaves enough for the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Places for connections.
pub struct Places {
    all: usize,
    for_one: usize,
    taken: AtomicUsize,
}

/// One of them, until it is dropped.
pub struct Place {
    places: Arc<Places>,
    own: Arc<AtomicUsize>,
}

impl Places {
    /// So many, and so many at most for one agent.
    pub fn new(all: usize, for_one: usize) -> Arc<Self> {
        Arc::new(Self { all, for_one, taken: AtomicUsize::new(0) })
    }

    /// One more for the agent that has `own`, if that is not more than are free for everybody else: an agent that asks for all
    /// gets half, the next one half of the rest, and there always is a place for one who has none.
    pub fn take(self: &Arc<Self>, own: &Arc<AtomicUsize>) -> Option<Place> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let had = own.fetch_add(1, Ordering::Relaxed);
        // Gives back what was counted when it is not granted.
        let place = Place { places: self.clone(), own: own.clone() };
        let free = self.all.saturating_sub(taken);
        (had < self.for_one && had < free).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        self.own.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A bucket of tokens: so many at once, and so many a second.
pub struct Bucket {
    rate: f64,
    size: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// Full, and filled again within a second.
    pub fn new(per_second: u32) -> Self {
        Self::with(per_second, per_second)
    }

    /// Full, with room for so many.
    pub fn with(per_second: u32, at_once: u32) -> Self {
        let size = f64::from(at_once);
        Self { rate: f64::from(per_second), size, state: Mutex::new((size, Instant::now())) }
    }

    /// Takes one. When there is none: after how long there will be.
    pub fn take(&self) -> Result<(), Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, then) = *state;
        let tokens = (tokens + now.saturating_duration_since(then).as_secs_f64() * self.rate).min(self.size);
        let left = tokens - 1.0;
        *state = (if left >= 0.0 { left } else { tokens }, now);
        if left >= 0.0 { Ok(()) } else { Err(Duration::from_secs_f64(-left / self.rate)) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Places};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn who_wants_all_gets_half_and_the_next_one_half_of_the_rest() {
        let places = Places::new(64, 1000);
        let mut held = Vec::new();
        for expected in [32, 16, 8, 4, 2, 1, 1] {
            let own = Arc::default();
            let mut got = 0;
            while let Some(place) = places.take(&own) {
                held.push(place);
                got += 1;
            }
            assert_eq!(got, expected);
        }
        held.clear();
        let own = Arc::default();
        assert_eq!(
            std::iter::from_fn(|| places.take(&own)).take(40).map(|place| held.push(place)).count(),
            32
        );
        let few = Places::new(64, 3);
        let own = Arc::default();
        held.clear();
        while let Some(place) = few.take(&own) {
            held.push(place);
        }
        assert_eq!(held.len(), 3);
    }

    #[test]
    fn a_bucket_is_filled_as_time_goes_by() {
        let bucket = Bucket::new(10);
        let mut now = tokio::time::Instant::now();
        assert_eq!((0..20).filter(|_| bucket.take_at(now).is_ok()).count(), 10);
        let wait = bucket.take_at(now).unwrap_err();
        assert!(wait.as_millis().abs_diff(100) <= 1, "{wait:?}");
        now += wait + Duration::from_millis(1);
        assert!(bucket.take_at(now).is_ok() && bucket.take_at(now).is_err());
        now += Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| bucket.take_at(now).is_ok()).count(), 10);
    }
}
