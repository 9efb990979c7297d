//! Which of the gate's threads serves which connection. It stays there to its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Connections that a thread may have more than twice those of another before it gives new ones away: to wake a thread
/// takes longer than all that most connections need.
const SLACK: usize = 8;

/// The threads' runtimes.
pub struct Workers {
    all: Vec<Worker>,
    turn: AtomicUsize,
    /// Connections that are served.
    served: TaskTracker,
}

struct Worker {
    runtime: Handle,
    load: Arc<AtomicUsize>,
}

struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// At least one.
    pub fn new(first: Handle, more: Vec<Handle>) -> Self {
        let all = std::iter::once(first).chain(more);
        let all = all.map(|runtime| Worker { runtime, load: Arc::default() }).collect();
        Self { all, turn: AtomicUsize::new(0), served: TaskTracker::new() }
    }

    /// One for what lasts, in turn.
    pub fn next(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.all.len()
    }

    /// Has one do this.
    pub fn spawn(&self, worker: usize, task: impl Future<Output = ()> + Send + 'static) {
        match self.all.get(worker) {
            Some(worker) => drop(worker.runtime.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// The one at `home`, or one that has far fewer connections.
    pub fn choose(&self, home: usize) -> usize {
        let load =
            |worker: usize| self.all.get(worker).map_or(0, |worker| worker.load.load(Ordering::Relaxed));
        let idlest = (0..self.all.len()).min_by_key(|&worker| load(worker)).unwrap_or(home);
        if load(home) > 2 * load(idlest) + SLACK { idlest } else { home }
    }

    /// Has one serve a connection.
    pub fn deal(&self, worker: usize, task: impl Future<Output = ()> + Send + 'static) {
        let Some(worker) = self.all.get(worker) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(worker.load.clone());
        worker.runtime.spawn(self.served.track_future(async move {
            task.await;
            drop(load);
        }));
    }

    /// Waits until no connection is served any more.
    pub async fn idle(&self) {
        self.served.close();
        self.served.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::{SLACK, Workers};
    use std::sync::atomic::Ordering;

    #[tokio::test]
    async fn others_help_who_has_too_much() {
        let here = tokio::runtime::Handle::current();
        let workers = Workers::new(here.clone(), vec![here]);
        let loads =
            || workers.all.iter().map(|worker| worker.load.load(Ordering::Relaxed)).collect::<Vec<_>>();
        for _ in 0..=SLACK {
            workers.deal(workers.choose(0), std::future::pending());
        }
        assert_eq!(loads(), [SLACK + 1, 0]);
        workers.deal(workers.choose(0), async {});
        assert_eq!(loads(), [SLACK + 1, 1]);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(loads(), [SLACK + 1, 0]);
        for _ in 0..100 {
            workers.deal(workers.choose(0), std::future::pending());
        }
        let [first, second] = loads()[..] else { panic!() };
        assert!(first <= 2 * second + SLACK + 1, "{first} {second}");
        assert_eq!([workers.next(), workers.next(), workers.next()], [0, 1, 0]);
    }
}
