//! `/v1/agents/ID/policy`

use super::agents::answer_as;
use super::extract::{Guards, Id, Json};
use crate::app::{App, agents, policies as app};
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use model::policy::Policy;
use std::sync::Arc;

fn answer(agent: store::Agent) -> Response {
    let policy = agent.policy.unwrap_or_else(Policy::nothing);
    answer_as(StatusCode::OK, agent.policy_revision, &policy)
}

/// Shows what an agent may do now.
///
/// For one that has no policy it is the one that lets nothing pass, at revision 0.
#[utoipa::path(get, path = "/v1/agents/{id}/policy", tag = "agents", operation_id = "get_agent_policy",
    params(("id" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "Its policy", body = Policy, headers(("ETag" = String, description = "The policy's revision")))))]
pub(super) async fn get(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, Fault> {
    Ok(answer(agents::find(&state, &caller, &id).await?))
}

/// Gives an agent another policy, which holds for what it does from now on.
///
/// It comes whole: what is not in it is gone. With `If-Match`, only if nobody changed it since. The agent's generation stays.
#[utoipa::path(put, path = "/v1/agents/{id}/policy", tag = "agents", operation_id = "set_agent_policy",
    params(
        ("id" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Refused unless the policy is at this revision"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request act once, for 24 hours")),
    request_body = Policy,
    responses((status = 200, description = "Its policy from now on", body = Policy,
        headers(("ETag" = String, description = "The policy's revision")))))]
pub(super) async fn set(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    guards: Guards,
    Json(policy): Json<Policy>,
) -> Result<Response, Fault> {
    let idempotency = guards.idempotency(caller.account, "set_agent_policy", &(&id, &policy))?;
    let if_match = guards.if_match()?;
    Ok(answer(app::set(&state, &caller, &id, &policy, if_match, idempotency.as_ref()).await?))
}
