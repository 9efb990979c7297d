//! `/v1/agents/ID/clone`

use super::agents::{answer_as, wire};
use super::extract::{Guards, Id, Json};
use crate::app::{App, clones as app};
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use model::api::Agent;
use model::clone::CloneAgent;
use std::sync::Arc;

/// Makes a copy of an agent.
///
/// The copy has the disk of its source as it is when the node gets to it, and all that the source was made with; it is on the same node,
/// and starts. A source that runs stands still while its disk is copied. What tells agents apart is not copied: tokens, the
/// authority that it trusts, its scratch layer with its machine id, its log, its address, its past. With `image` it has that one.
#[utoipa::path(post, path = "/v1/agents/{id}/clone", tag = "agents", operation_id = "clone_agent",
    params(
        ("id" = String, Path, description = "Id or name of the source"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request act once, for 24 hours"),
    ),
    request_body = CloneAgent,
    responses((status = 201, description = "The clone, not yet running", body = Agent,
        headers(("ETag" = String, description = "Its generation"), ("Location" = String, description = "Its path")))))]
pub(super) async fn clone(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    guards: Guards,
    Json(request): Json<CloneAgent>,
) -> Result<Response, Fault> {
    let idempotency = guards.idempotency(caller.account, "clone_agent", &(&id, &request))?;
    let agent = app::clone(&state, &caller, &id, &request, idempotency).await?;
    let location = format!("/v1/agents/{}", agent.spec.id);
    let mut response = answer_as(StatusCode::CREATED, agent.generation, &wire(agent));
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(&location).expect("an id is ASCII"));
    Ok(response)
}
