//! `logs`: what the main process wrote.

use super::files::octets;
use super::input::Parameters;
use super::session::Session;
use super::stream;
use crate::limits;
use crate::problems::Refusal;
use ::channel::{Reply, Request};
use axum::response::Response;

/// `GET logs?follow=true&tail=BYTES`
pub async fn get(session: Session, mut query: Parameters) -> Result<Response, Refusal> {
    let request = Request::Logs { follow: query.flag("follow")?, tail: query.number("tail")? };
    query.end()?;
    let mut talk = session.converse(&request).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Streaming = reply else { return Err(session.nonsense()) };
    Ok(octets(stream::body(talk)))
}
