//! `/v1/events`

use super::query::{Query, page};
use crate::app::App;
use crate::auth::Caller;
use crate::auth::access::Action;
use crate::problems::Fault;
use axum::extract::State;
use model::api::{Event, Page};
use std::sync::Arc;

/// Lists audit events, newest first: those of the account, and those of the installation for its operator.
#[utoipa::path(get, path = "/v1/events", tag = "events", operation_id = "list_events",
    params(
        ("subject" = Option<String>, Query, description = "Only those on this: an id"),
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Event>)))]
pub(super) async fn list(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Event>>, Fault> {
    query.only(&["subject", "cursor", "limit"])?;
    let paging = query.paging()?;
    let subject = query.text("subject")?;
    let before = paging.before.as_deref();
    let rows = state
        .store
        .events(caller.account, caller.may(Action::Operate), subject, before, paging.limit)
        .await?;
    Ok(axum::Json(page(rows, |event| event.id.to_string(), |event| event)))
}
