//! `/v1/secrets`, and the keys that they are under. What came in as a value is in no answer, and in no problem.

use super::extract::{Empty, Guards, Id, Json, Private};
use super::query::{Query, page};
use crate::app::App;
use crate::app::secrets::{self as app, rekey};
use crate::auth::Caller;
use crate::peer::Client;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use model::api::Page;
use model::secret::{CreateSecret, RotateSecret, Secret, SetHosts};
use std::sync::Arc;

/// Keeps a value for agents. It never comes back.
#[utoipa::path(post, path = "/v1/secrets", tag = "secrets", operation_id = "create_secret",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and request make one secret, for 24 hours")),
    request_body = CreateSecret,
    responses((status = 201, description = "The secret, without its value", body = Secret)))]
pub(super) async fn create(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    guards: Guards,
    Private(request): Private<CreateSecret>,
) -> Result<(StatusCode, axum::Json<Secret>), Fault> {
    let made = app::create(&state, &caller, from, &request, guards.idempotency_key()?).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// Lists secrets, newest first, without their values.
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets", operation_id = "list_secrets",
    params(
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Secret>)))]
pub(super) async fn list(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Secret>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = state.store.secrets(caller.account, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |secret| secret.id.to_string(), |secret| secret)))
}

/// Shows a secret, without its value.
#[utoipa::path(get, path = "/v1/secrets/{id}", tag = "secrets", operation_id = "get_secret",
    params(("id" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The secret", body = Secret)))]
pub(super) async fn get(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
) -> Result<axum::Json<Secret>, Fault> {
    Ok(axum::Json(app::find(&state, &caller, &id).await?))
}

/// Gives a secret another value, which takes the place of the one before.
///
/// Requests have it at once. Agents that are given the secret itself have it from their next start on.
#[utoipa::path(post, path = "/v1/secrets/{id}/rotate", tag = "secrets", operation_id = "rotate_secret",
    params(
        ("id" = String, Path, description = "Its id or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request act once, for 24 hours")),
    request_body = RotateSecret,
    responses((status = 200, description = "The secret, of its next version", body = Secret)))]
pub(super) async fn rotate(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Id(id): Id,
    guards: Guards,
    Private(request): Private<RotateSecret>,
) -> Result<axum::Json<Secret>, Fault> {
    Ok(axum::Json(app::rotate(&state, &caller, from, &id, &request, guards.idempotency_key()?).await?))
}

/// Says which hosts a secret may go to. Refused while an agent has it for others.
#[utoipa::path(put, path = "/v1/secrets/{id}/hosts", tag = "secrets", operation_id = "set_secret_hosts",
    params(("id" = String, Path, description = "Its id or name")),
    request_body = SetHosts,
    responses((status = 200, description = "The secret", body = Secret)))]
pub(super) async fn set_hosts(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    Json(request): Json<SetHosts>,
) -> Result<axum::Json<Secret>, Fault> {
    Ok(axum::Json(app::set_hosts(&state, &caller, &id, &request).await?))
}

/// Deletes a secret with its value. Refused while an agent has it that is not being destroyed.
#[utoipa::path(delete, path = "/v1/secrets/{id}", tag = "secrets", operation_id = "delete_secret",
    params(("id" = String, Path, description = "Its id or name")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn delete(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    app::delete(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes another key for the account's secrets, and encrypts them anew. Agents go on with what they have.
#[utoipa::path(post, path = "/v1/data-key/rotate", tag = "secrets", operation_id = "rotate_data_key",
    responses((status = 204, description = "All secrets of the account are under the new key")))]
pub(super) async fn rotate_data_key(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    _: Empty,
) -> Result<StatusCode, Fault> {
    to_its_end(async move { rekey::account(&state, &caller, from).await }).await
}

/// Makes another key that wraps the keys of all accounts; for operators.
#[utoipa::path(post, path = "/v1/wrapping-key/rotate", tag = "secrets", operation_id = "rotate_wrapping_key",
    responses((status = 204, description = "The keys of all accounts are wrapped by the new key, and the one before is forgotten")))]
pub(super) async fn rotate_wrapping_key(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    _: Empty,
) -> Result<StatusCode, Fault> {
    to_its_end(async move { rekey::installation(&state, &caller, from).await }).await
}

/// Goes on with it also when whoever asked for it does not wait.
async fn to_its_end(
    work: impl Future<Output = Result<(), Fault>> + Send + 'static,
) -> Result<StatusCode, Fault> {
    tokio::spawn(work).await.map_err(|error| Fault::internal(&error))??;
    Ok(StatusCode::NO_CONTENT)
}
