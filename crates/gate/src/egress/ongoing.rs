//! The requests of one connection that are under way, of which HTTP/2 has many at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// All of them.
#[derive(Clone)]
pub struct Requests(Arc<Mutex<State>>);

struct State {
    last: u64,
    /// Method and path of each.
    all: HashMap<u64, (String, String)>,
    /// Since when there is none.
    quiet: Instant,
}

/// One of them, until it is dropped.
pub struct Ongoing {
    requests: Requests,
    number: u64,
    counted: Arc<AtomicUsize>,
}

impl Requests {
    /// There is none.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { last: 0, all: HashMap::new(), quiet: Instant::now() })))
    }

    /// One begins, unless `most` are under way of all that `counted` counts.
    pub fn begin(
        &self,
        method: &str,
        path: &str,
        counted: &Arc<AtomicUsize>,
        most: usize,
    ) -> Option<Ongoing> {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.all.insert(number, (method.to_owned(), path.to_owned()));
        drop(state);
        let before = counted.fetch_add(1, Ordering::Relaxed);
        // Gives back what was counted when it is not granted.
        let ongoing = Ongoing { requests: self.clone(), number, counted: counted.clone() };
        (before < most).then_some(ongoing)
    }

    /// The first that `check` has something against.
    pub fn each<E>(&self, mut check: impl FnMut(&(String, String)) -> Result<(), E>) -> Result<(), E> {
        self.lock().all.values().try_for_each(&mut check)
    }

    /// Waits until there was none for so long.
    pub async fn quiet(&self, bound: Duration) {
        loop {
            let left = {
                let state = self.lock();
                match state.all.is_empty() {
                    true => (state.quiet + bound).saturating_duration_since(Instant::now()),
                    // Whatever comes after them has its own time.
                    false => bound,
                }
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.counted.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.requests.lock();
        state.all.remove(&self.number);
        state.quiet = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::Requests;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test]
    async fn it_is_quiet_once_the_last_ended_long_ago() {
        const BOUND: Duration = Duration::from_millis(20);
        let (requests, counted) = (Requests::new(), Arc::default());
        let ongoing = requests.begin("GET", "/", &counted, 2).unwrap();
        let ends = async {
            tokio::time::sleep(BOUND * 3).await;
            drop(ongoing);
            Instant::now()
        };
        let quiet = async {
            requests.quiet(BOUND).await;
            Instant::now()
        };
        let (quiet, ended) = tokio::join!(quiet, ends);
        assert!(quiet - ended >= BOUND);
    }

    #[test]
    fn there_are_only_so_many_and_places_come_back() {
        let (requests, counted) = (Requests::new(), Arc::default());
        let first = requests.begin("GET", "/", &counted, 2);
        let second = requests.begin("GET", "/", &counted, 2);
        assert!(first.is_some() && second.is_some());
        assert!(requests.begin("GET", "/", &counted, 2).is_none());
        drop(first);
        assert!(requests.begin("GET", "/", &counted, 2).is_some());
        drop(second);
        assert_eq!(counted.load(Ordering::Relaxed), 0);
        assert!(requests.each(|_| Err(())).is_ok());
    }
}
