//! Writes when keys and sessions were last used: once a minute, for all that were, and once more at the end.

use crate::app::App;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(60);

pub(crate) async fn run(app: Arc<App>) {
    let mut minutes = tokio::time::interval(EVERY);
    loop {
        let ending = tokio::select! {
            _ = minutes.tick() => false,
            () = app.ending.cancelled() => true,
        };
        if let Err(error) = app.store.write_uses().await {
            tracing::warn!(%error, "cannot write when keys and sessions were last used");
        }
        if ending {
            return;
        }
    }
}
