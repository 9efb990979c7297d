//! `/v1/nodes`

use super::query::{Query, page};
use crate::app::App;
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use model::api::{Node, Page};
use std::sync::Arc;

/// Lists the nodes that the account's agents may be placed on, newest first.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", operation_id = "list_nodes",
    params(
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Node>)))]
pub(super) async fn list(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Node>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = state.store.nodes(caller.account, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |node| node.id.to_string(), |node| node)))
}
