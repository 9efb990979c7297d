//! `logs`: what the main process wrote. Init has it while the agent runs; afterwards node reads it from the volume, and
//! only the newest part.

use super::files::octets;
use super::input::Parameters;
use super::session::{self, Session};
use super::stream;
use crate::limits;
use crate::problems::Refusal;
use ::channel::{Reply, Request};
use axum::body::Body;
use axum::response::Response;
use model::gate_api::{Condition, MAX_LOGS};
use model::{Code, Problem};

/// `GET logs?follow=true&tail=BYTES`
pub async fn get(session: Session, mut query: Parameters) -> Result<Response, Refusal> {
    let (follow, tail) = (query.flag("follow")?, query.number("tail")?);
    query.end()?;
    if session.agent.condition == Condition::Stopped {
        return left(&session, tail.unwrap_or(MAX_LOGS)).await;
    }
    session::answers(session.agent.condition)?;
    let request = Request::Logs { follow, tail };
    let mut talk = session.converse(&request).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Streaming = reply else { return Err(session.nonsense()) };
    Ok(octets(stream::body(talk)))
}

/// What an agent that does not run left. There is nothing to follow.
async fn left(session: &Session, most: u64) -> Result<Response, Refusal> {
    let missing = || {
        Problem::new(Code::Unavailable, "The logs of the agent cannot be read now.")
            .remedy("It may be ending or starting: look at its state and try again.")
    };
    let logs = session.shared.logs(session.agent.id, most).await.ok_or_else(missing)?;
    let bytes = logs.into_bytes().ok_or_else(missing)?;
    Ok(octets(Body::from(bytes)))
}
