//! What control says of itself.

use super::openapi::DOCUMENT;
use crate::app::App;
use crate::auth::{Caller, Credential};
use crate::problems::Fault;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use model::people::WhoAmI;
use serde::Serialize;
use std::sync::Arc;

/// The answer to a health check.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Tells who asks, and in which account.
#[utoipa::path(get, path = "/v1/whoami", tag = "control", operation_id = "whoami",
    responses((status = 200, description = "The account and the caller", body = WhoAmI)))]
pub(super) async fn whoami(caller: Caller) -> axum::Json<WhoAmI> {
    let role = caller.role();
    let Caller { credential, account, account_name, standing, person: user, .. } = caller;
    let key = match credential {
        Credential::Key(key) => Some(key),
        Credential::Session(_) => None,
    };
    axum::Json(WhoAmI { account, account_name, role, key, scopes: standing.scopes.unwrap_or_default(), user })
}

/// Whether control and its database answer.
#[utoipa::path(get, path = "/v1/healthz", tag = "control", operation_id = "healthz", security(()),
    responses((status = 200, description = "They do", body = Health)))]
pub(super) async fn healthz(State(state): State<Arc<App>>) -> Result<axum::Json<Health>, Fault> {
    state.store.check().await?;
    Ok(axum::Json(Health { status: "ok" }))
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "control", operation_id = "openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}
