//! `stats`: what the agent uses. Node reads it from the cgroups; nothing from inside is asked.

use super::session::Session;
use crate::problems::Refusal;
use axum::Json;
use model::gate_api::Condition;
use model::workspace::Stats;
use model::{Code, Problem};

/// `GET stats`
pub async fn get(session: Session) -> Result<Json<Stats>, Refusal> {
    if session.agent.condition == Condition::Stopped {
        return Err(Problem::new(Code::WrongState, "The agent does not run.")
            .remedy("Start it first.")
            .into());
    }
    let stats = session.shared.stats(session.agent.id).await;
    let missing =
        || Problem::new(Code::Unavailable, "The node has no numbers for the agent now.").remedy("Try again.");
    Ok(Json(stats.ok_or_else(missing)?))
}
