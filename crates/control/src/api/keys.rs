//! `/v1/keys`

use super::extract::{Empty, Guards, Id, Json};
use super::query::{Query, page};
use crate::app::App;
use crate::app::keys as app;
use crate::auth::Caller;
use crate::peer::Client;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use model::api::Page;
use model::people::{ApiKey, CreateKey};
use std::sync::Arc;

/// Makes an API key. `secret` is in this answer alone: a replay under the same idempotency key comes without it.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", operation_id = "create_key",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and request make one API key, for 24 hours")),
    request_body = CreateKey,
    responses((status = 201, description = "The key, with its secret", body = ApiKey)))]
pub(super) async fn create(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    guards: Guards,
    Json(request): Json<CreateKey>,
) -> Result<(StatusCode, axum::Json<ApiKey>), Fault> {
    let idempotency = guards.idempotency(caller.account, "create_key", &request)?;
    Ok((StatusCode::CREATED, axum::Json(app::create(&state, &caller, from, request, idempotency).await?)))
}

/// Lists API keys, newest first, without their secrets.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    params(
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<ApiKey>)))]
pub(super) async fn list(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<ApiKey>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = app::list(&state, &caller, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |key| key.id.to_string(), |key| key)))
}

/// Deletes an API key, with the keys and invitations that it made, but for the key that asks. If workspace tokens were issued to one of
/// them, all of the account end. One of an owner's is an owner's to delete, and the account keeps an owner.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "delete_key",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is no longer valid")))]
pub(super) async fn delete(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    app::delete(&state, &caller, from, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
