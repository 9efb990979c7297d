//! `tar?path=P`: whole trees, as archives that are made and unpacked inside the agent. The gate never looks
//! into one.

use super::input::Parameters;
use super::session::Session;
use super::{stream, upload};
use crate::limits;
use crate::problems::Refusal;
use ::channel::{Reply, Request};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// `GET tar`
pub async fn get(session: Session, mut query: Parameters) -> Result<Response, Refusal> {
    let request = Request::TarOut { path: query.path()?, user: query.user()? };
    query.end()?;
    let mut talk = session.converse(&request).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Streaming = reply else { return Err(session.nonsense()) };
    let kind = HeaderValue::from_static("application/x-tar");
    Ok(([(header::CONTENT_TYPE, kind)], stream::body(talk)).into_response())
}

/// `PUT tar`
pub async fn put(session: Session, mut query: Parameters, body: Body) -> Result<StatusCode, Refusal> {
    let request = Request::TarIn { path: query.path()?, user: query.user()? };
    query.end()?;
    upload::upload(&session, &request, body).await?;
    Ok(StatusCode::NO_CONTENT)
}
