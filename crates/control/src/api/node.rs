//! `/node/v1`: what nodes call. Not in the OpenAPI document: it belongs to this version of the two of them.

use super::extract::{Id, Json, Whole};
use super::query::Query;
use crate::app::App;
use crate::app::node_calls as app;
use crate::app::secrets::deliver;
use crate::auth::{Bearer, NodeCaller};
use crate::peer::Client;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use model::egress::EgressReport;
use model::node_api::{
    CallbackToken, DesiredState, Enroll, Enrolled, ImagesInUse, ObservedState, SealedSecrets, SecretsRequest,
    TokenRequest,
};
use std::sync::Arc;
use std::time::Duration;

const MAX_WAIT: u64 = 60;

pub(super) async fn enroll(
    State(state): State<Arc<App>>,
    Bearer(token): Bearer,
    from: Client,
    Json(request): Json<Enroll>,
) -> Result<axum::Json<Enrolled>, Fault> {
    Ok(axum::Json(app::enroll(&state, from, &token, request).await?))
}

pub(super) async fn token(
    State(state): State<Arc<App>>,
    from: Client,
    Json(request): Json<TokenRequest>,
) -> Result<axum::Json<CallbackToken>, Fault> {
    Ok(axum::Json(app::token(&state, from, request).await?))
}

pub(super) async fn desired(
    State(state): State<Arc<App>>,
    caller: NodeCaller,
    query: Query,
) -> Result<axum::Json<DesiredState>, Fault> {
    query.only(&["rev", "wait", "epoch"])?;
    let rev = query.number("rev", 0, i64::MAX.unsigned_abs())?.unwrap_or(0);
    let wait = query.number("wait", 0, MAX_WAIT)?.unwrap_or(0);
    let epoch = query.number("epoch", 0, i64::MAX.unsigned_abs())?;
    Ok(axum::Json(app::desired(&state, caller.node, rev, epoch, Duration::from_secs(wait)).await?))
}

pub(super) async fn observed(
    State(state): State<Arc<App>>,
    caller: NodeCaller,
    Json(report): Json<ObservedState>,
) -> Result<StatusCode, Fault> {
    app::observed(&state, caller.node, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn egress(
    State(state): State<Arc<App>>,
    caller: NodeCaller,
    Whole(report): Whole<EgressReport>,
) -> Result<StatusCode, Fault> {
    app::egress(&state, caller.node, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn secrets(
    State(state): State<Arc<App>>,
    caller: NodeCaller,
    Id(id): Id,
    Json(request): Json<SecretsRequest>,
) -> Result<axum::Json<SealedSecrets>, Fault> {
    Ok(axum::Json(deliver::deliver(&state, caller.node, &id, &request).await?))
}

pub(super) async fn images(
    State(state): State<Arc<App>>,
    _: NodeCaller,
    query: Query,
) -> Result<axum::Json<ImagesInUse>, Fault> {
    query.only(&[])?;
    Ok(axum::Json(app::images(&state).await?))
}
