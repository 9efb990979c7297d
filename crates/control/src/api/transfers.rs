//! `/v1/agents/ID/transfer`

use super::agents::{answer_as, wire};
use super::extract::{Guards, Id, Json};
use crate::app::{App, transfers as app};
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use model::transfer::{TransferAgent, TransferredAgent};
use std::sync::Arc;

/// Gives an agent to another account that the caller belongs to, too.
///
/// For admins of the account that has it, in a session, with a fresh proof. What was used until then stays with this account. The agent
/// ends here and starts there, on the same node with the same disk and image; tokens of its workspace end, and it loses the secrets
/// that it was given. If anything keeps it here, the problem lists all of it, and nothing changes.
#[utoipa::path(post, path = "/v1/agents/{id}/transfer", tag = "agents", operation_id = "transfer_agent",
    params(
        ("id" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Refused unless the agent is at this generation"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request act once, for 24 hours"),
    ),
    request_body = TransferAgent,
    responses((status = 200, description = "The agent, on its way in the other account", body = TransferredAgent,
        headers(("ETag" = String, description = "Its generation")))))]
pub(super) async fn transfer(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    guards: Guards,
    Json(request): Json<TransferAgent>,
) -> Result<Response, Fault> {
    let idempotency = guards.idempotency(caller.account, "transfer_agent", &(&id, &request))?;
    let moved = app::transfer(&state, &caller, &id, &request, guards.if_match()?, idempotency).await?;
    let generation = moved.agent.generation;
    let body = TransferredAgent { agent: wire(moved.agent), from: moved.from, unbound: moved.unbound };
    Ok(answer_as(StatusCode::OK, generation, &body))
}
