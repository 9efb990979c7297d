//! Destroys agents past their time to live and stops those that nobody uses. Sleeps until the nearest deadline,
//! or until something changes.

use crate::app::App;
use model::Verb;
use std::sync::Arc;
use std::time::Duration;
use store::{Actor, Cause, Due, Order};
use time::OffsetDateTime;

const BATCH: u32 = 4096;
/// Looks again after this long in any case: the machine's clock may be set.
const LONGEST: Duration = Duration::from_secs(600);
/// Looks again at what could not be done now.
const RETRY: Duration = Duration::from_secs(5);

pub(crate) async fn run(app: Arc<App>) {
    let mut changes = app.notify.deadlines();
    loop {
        let pause = match app.store.deadlines(BATCH).await {
            Ok(deadlines) => settle(&app, &deadlines).await,
            Err(error) => {
                tracing::warn!(%error, "cannot read deadlines");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.changed() => {}
            () = app.ending.cancelled() => return,
        }
    }
}

/// Acts on each deadline that has passed, whatever became of the others, and tells when to look again.
pub(crate) async fn settle(app: &App, deadlines: &[Due]) -> Duration {
    let now = app.store.now();
    let mut pause = LONGEST;
    for due in deadlines {
        let wait = match ripe(due, now) {
            Ripeness::Now => match end(app, due).await {
                Ok(()) => continue,
                Err(error) => {
                    tracing::warn!(%error, agent = %due.agent, "cannot end an agent whose time is up");
                    RETRY
                }
            },
            Ripeness::Unheard => RETRY,
            Ripeness::In(wait) => wait,
        };
        pause = pause.min(wait);
    }
    pause
}

enum Ripeness {
    Now,
    In(Duration),
    /// Its node has not spoken since: it may have been used without control knowing.
    Unheard,
}

fn ripe(due: &Due, now: OffsetDateTime) -> Ripeness {
    let left = due.at - now;
    if left.is_positive() {
        return Ripeness::In(left.unsigned_abs());
    }
    match due.cause {
        Cause::Ttl => Ripeness::Now,
        Cause::Idle if due.node_seen.is_some_and(|seen| seen >= due.at) => Ripeness::Now,
        Cause::Idle => Ripeness::Unheard,
    }
}

async fn end(app: &App, due: &Due) -> Result<(), store::Error> {
    let (verb, cause) = match due.cause {
        Cause::Ttl => (Verb::Destroy, "ttl"),
        Cause::Idle => (Verb::Stop, "idle"),
    };
    // Nothing happened in between that would have moved the deadline, or this is refused.
    let agent = app.store.agent(due.agent).await?;
    let order = Order { if_match: Some(agent.generation), cause: Some(cause), idempotency: None };
    app.store.order(Actor::System, due.agent, verb, &order).await.map(drop)
}
