//! `/v1/quota` and `/v1/accounts/ID/quota`.

use super::extract::{Id, Json};
use crate::app::App;
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use model::quota::{AccountQuota, Quota};
use model::{AccountId, Problem};
use std::sync::Arc;

/// Tells what all agents of the account may have together, and what they have.
#[utoipa::path(get, path = "/v1/quota", tag = "people", operation_id = "get_quota",
    responses((status = 200, description = "Limits, and what is used of them", body = AccountQuota)))]
pub(super) async fn show(
    State(state): State<Arc<App>>,
    caller: Caller,
) -> Result<axum::Json<AccountQuota>, Fault> {
    Ok(axum::Json(state.store.quota(caller.account).await?))
}

/// Says what all agents of an account may have together; for operators. What it has already stays.
#[utoipa::path(put, path = "/v1/accounts/{id}/quota", tag = "people", operation_id = "set_quota", request_body = Quota,
    params(("id" = String, Path, description = "Id of the account")),
    responses((status = 200, description = "Its limits", body = Quota)))]
pub(super) async fn set(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    Json(quota): Json<Quota>,
) -> Result<axum::Json<Quota>, Fault> {
    if let Some(field) = quota.fault() {
        return Err(Problem::invalid(field, "expected a number of cores, 0 or more").into());
    }
    caller.proved(state.store.now())?;
    let account: AccountId = id.parse().map_err(|_| Fault::missing("account", &id))?;
    Fault::or_missing(state.store.set_quota(caller.actor(), account, &quota).await, "account", &id)?;
    Ok(axum::Json(quota))
}
