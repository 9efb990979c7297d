//! Chains events that are committed, within a second. Several control processes agree by a lease in the database on who does it.

use crate::app::App;
use std::sync::Arc;
use std::time::Duration;
use store::Chaining;

/// Gathers what is committed at about the same time.
const GATHER: Duration = Duration::from_millis(200);
/// Looks again in any case: whoever had the lease may be no more, and what it was told of was told to nobody else.
const LONGEST: Duration = Duration::from_secs(10);
/// Tries again what could not be done now.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn run(app: Arc<App>) {
    let holder = model::EventId::new().to_string();
    let mut changes = app.notify.events();
    loop {
        let pause = match app.store.chain_events(&holder).await {
            Ok(Chaining::Done { more: true, .. }) => continue,
            Ok(Chaining::Done { .. } | Chaining::Elsewhere) => LONGEST,
            Err(store::Error::Overtaken) => RETRY,
            Err(error) => {
                tracing::warn!(%error, "cannot chain audit events; trying again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changes.changed() => tokio::time::sleep(GATHER).await,
            () = app.ending.cancelled() => return,
        }
    }
}
