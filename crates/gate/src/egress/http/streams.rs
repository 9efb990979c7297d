//! The tasks of a connection of HTTP/2: they end with it.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs them.
#[derive(Clone)]
pub struct Streams(CancellationToken);

impl Streams {
    /// Until the second is dropped.
    pub fn new() -> (Self, DropGuard) {
        let over = CancellationToken::new();
        (Self(over.clone()), over.drop_guard())
    }
}

impl<T> hyper::rt::Executor<T> for Streams
where
    T: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: T) {
        let over = self.0.clone();
        tokio::spawn(async move { over.run_until_cancelled(task).await });
    }
}
