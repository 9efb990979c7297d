//! Removes expired tokens, assertions, remembered answers and records of connections, once an hour. Expiry itself does not depend on
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
        match app.store.cut_egress_log(app.keep_egress).await {
            Ok(rows) => tracing::debug!(rows, "removed old records of connections"),
            Err(error) => {
                tracing::warn!(%error, "cannot remove old records of connections; trying again in an hour");
            }
        }
    }
}
