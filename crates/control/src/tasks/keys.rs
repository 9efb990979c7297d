//! Goes on with a change of keys that was not finished: control ended in the middle of it, or its operator put another key first.

use crate::app::App;
use crate::app::secrets::rekey;
use std::sync::Arc;
use std::time::Duration;

/// Tries again what could not be done now.
const RETRY: Duration = Duration::from_secs(60);

pub(crate) async fn run(app: Arc<App>) {
    loop {
        match rekey::finish(&app).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot go on with a change of the keys of secrets; trying again in a minute")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = app.ending.cancelled() => return,
        }
    }
}
