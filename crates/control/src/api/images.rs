//! `/v1/images`

use super::extract::{Empty, Guards, Id, Json};
use super::query::{Query, page};
use crate::app::App;
use crate::app::images as app;
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use model::Problem;
use model::api::{GrantImage, Image, Page, RegisterImage};
use model::packages::ImageDiff;
use std::sync::Arc;

/// Makes an image known that lies in the content store of the nodes.
///
/// A name that is taken moves to the new content, under a new id; agents keep what they were made from.
#[utoipa::path(post, path = "/v1/images", tag = "images", operation_id = "register_image",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and request get the same image, for 24 hours")),
    request_body = RegisterImage,
    responses((status = 201, description = "The image", body = Image)))]
pub(super) async fn register(
    State(state): State<Arc<App>>,
    caller: Caller,
    guards: Guards,
    Json(request): Json<RegisterImage>,
) -> Result<(StatusCode, axum::Json<Image>), Fault> {
    let idempotency = guards.idempotency(caller.account, "register_image", &request)?;
    Ok((StatusCode::CREATED, axum::Json(app::register(&state, &caller, request, idempotency).await?)))
}

/// Lists images, newest first.
#[utoipa::path(get, path = "/v1/images", tag = "images", operation_id = "list_images",
    params(
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Image>)))]
pub(super) async fn list(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Image>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = state.store.images(caller.account, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |image| image.id.to_string(), |image| image)))
}

/// Shows an image.
#[utoipa::path(get, path = "/v1/images/{id}", tag = "images", operation_id = "get_image",
    params(("id" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The image", body = Image)))]
pub(super) async fn get(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    query: Query,
) -> Result<axum::Json<Image>, Fault> {
    query.only(&[])?;
    Ok(axum::Json(app::find(&state, &caller, &id).await?))
}

/// Tells what another image has installed other than this one, by name and version.
///
/// As the databases of dpkg and apk in both said when they were made; of others it is unknown, and said so.
#[utoipa::path(get, path = "/v1/images/{id}/diff", tag = "images", operation_id = "diff_images",
    params(("id" = String, Path, description = "Id or name of the one that is there; also an id that an agent was made of"),
        ("with" = String, Query, description = "Id or name of the other")),
    responses((status = 200, description = "What differs", body = ImageDiff)))]
pub(super) async fn diff(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    query: Query,
) -> Result<axum::Json<ImageDiff>, Fault> {
    query.only(&["with"])?;
    let missing = || Problem::invalid("with", "name the image to compare with");
    let with = query.text("with")?.ok_or_else(missing)?;
    Ok(axum::Json(app::diff(&state, &caller, &id, with).await?))
}

/// Lets another account have an image; for operators.
#[utoipa::path(post, path = "/v1/images/{id}/grant", tag = "images", operation_id = "grant_image",
    params(("id" = String, Path, description = "Its id or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request get the same image, for 24 hours")),
    request_body = GrantImage,
    responses((status = 201, description = "The other account's image", body = Image)))]
pub(super) async fn grant(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    guards: Guards,
    Json(request): Json<GrantImage>,
) -> Result<(StatusCode, axum::Json<Image>), Fault> {
    let idempotency = guards.idempotency(caller.account, "grant_image", &(&id, &request))?;
    Ok((StatusCode::CREATED, axum::Json(app::grant(&state, &caller, &id, request, idempotency).await?)))
}

/// Forgets an image that no living agent was made from.
#[utoipa::path(delete, path = "/v1/images/{id}", tag = "images", operation_id = "delete_image",
    params(("id" = String, Path, description = "Its id or name")),
    responses((status = 204, description = "It is forgotten")))]
pub(super) async fn delete(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    app::delete(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
