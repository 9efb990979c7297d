//! Removes expired tokens, assertions and remembered answers, once an hour. Expiry itself does not depend on
//! this: what has expired is not accepted, removed or not.

use crate::app::App;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(3600);

pub(crate) async fn run(app: Arc<App>) {
    let mut hours = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = hours.tick() => {}
            () = app.ending.cancelled() => return,
        }
        match app.store.remove_expired().await {
            Ok(rows) => tracing::debug!(rows, "removed what had expired"),
            Err(error) => tracing::warn!(%error, "cannot remove what has expired; trying again in an hour"),
        }
    }
}
