//! `processes`: what runs inside, as the agent's own /proc says it.

use super::convert;
use super::list::{self, Kind};
use super::session::Session;
use crate::problems::Refusal;
use ::channel::{Reply, Request};
use axum::response::Response;

/// `GET processes`
pub async fn list(session: Session) -> Result<Response, Refusal> {
    let part = |reply| match reply {
        Reply::Processes { processes, more } => Some((processes, more)),
        _ => None,
    };
    list::array(&session, &Request::Processes, Kind { part, entry: convert::process }).await
}
