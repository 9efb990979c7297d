//! Counts what was used on each UTC day, shortly after it is over, and at the start what was not counted meanwhile. Several control
//! processes may try: the database lets one of them.

use crate::app::App;
use std::sync::Arc;
use std::time::Duration;

/// Looks again after this long in any case: the machine's clock may be set.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Tries again what could not be done now.
const RETRY: Duration = Duration::from_secs(60);

pub(crate) async fn run(app: Arc<App>) {
    loop {
        let pause = match settle(&app).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "cannot count what was used; trying again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.ending.cancelled() => return,
        }
    }
}

/// Counts the days that are over, and tells when to look again.
pub(crate) async fn settle(app: &App) -> Result<Duration, store::Error> {
    loop {
        match app.store.count_usage().await {
            Ok(Some(day)) => tracing::info!(%day, "counted what was used"),
            Ok(None) => break,
            // Another process counted it.
            Err(store::Error::Overtaken) => {}
            Err(error) => return Err(error),
        }
        if app.ending.is_cancelled() {
            break;
        }
    }
    let Some(due) = app.store.usage_due().await? else { return Ok(LONGEST) };
    let left = due - app.store.now();
    // A second more than it needs: timers know milliseconds.
    Ok(LONGEST.min(left.max(time::Duration::ZERO).unsigned_abs() + Duration::from_secs(1)))
}
