//! `/v1/usage`

use super::query::Query;
use crate::app::App;
use crate::app::usage::{self as app, Asked};
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use model::usage_api::UsagePage;
use std::sync::Arc;

/// What the account's agents used, by day, agent, level or node.
///
/// Days are of UTC. Those that are over were counted once and stay as they are; what is `open` may still grow. Agents that were destroyed
/// are in it, and those that were given away with what they used before.
#[utoipa::path(get, path = "/v1/usage", tag = "agents", operation_id = "get_usage",
    params(
        ("from" = Option<String>, Query, description = "The first day, such as 2026-11-01; the first of the month unless told"),
        ("to" = Option<String>, Query, description = "The first day that is not in it any more; tomorrow unless told"),
        ("by" = Option<String>, Query, description = "day (unless told), agent, level or node"),
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = UsagePage)))]
pub(super) async fn show(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<UsagePage>, Fault> {
    query.only(&["from", "to", "by", "cursor", "limit"])?;
    // A day, an id or a level.
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let paging = query
        .paging_by(|key| Some(key).filter(|key| matches!(key.len(), 1..=30) && key.bytes().all(known)))?;
    let asked = Asked {
        from: query.parsed("from")?,
        to: query.parsed("to")?,
        by: query.parsed("by")?.unwrap_or_default(),
        after: paging.before,
        limit: paging.limit,
    };
    Ok(axum::Json(app::usage(&state, &caller, asked).await?))
}
