//! `files?path=P`: one file or directory inside the agent.

use super::convert;
use super::input::{self, Json, Parameters};
use super::list::{self, Kind};
use super::session::Session;
use super::{stream, upload};
use crate::limits;
use crate::problems::Refusal;
use ::channel::{Reply, Request};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::Problem;
use model::workspace::FileOp;

/// `GET files`: content, or what `view` says.
pub async fn get(session: Session, mut query: Parameters) -> Result<Response, Refusal> {
    let (path, user, view) = (query.path()?, query.user()?, query.take("view")?);
    query.end()?;
    match view.as_deref().unwrap_or("content") {
        "content" => {
            let request = Request::Read { path, offset: 0, length: None, user };
            let mut talk = session.converse(&request).await?;
            let reply =
                talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
            let Reply::File(_) = reply else { return Err(session.nonsense()) };
            // The size it claims is not passed on as Content-Length: the file may change, and init may lie.
            Ok(octets(stream::body(talk)))
        }
        "stat" => {
            let reply = session.ask(&Request::Stat { path, user }, limits::REPLY_TIME).await?;
            let Reply::File(info) = reply else { return Err(session.nonsense()) };
            Ok(axum::Json(convert::file(info)).into_response())
        }
        "list" => {
            let part = |reply| match reply {
                Reply::Files { files, more } => Some((files, more)),
                _ => None,
            };
            let kind = Kind { part, entry: convert::file };
            list::array(&session, &Request::List { path, user }, kind).await
        }
        _ => Err(Problem::invalid("view", "`view` must be `content`, `stat` or `list`.").into()),
    }
}

/// `PUT files`: the body becomes the content.
pub async fn put(session: Session, mut query: Parameters, body: Body) -> Result<StatusCode, Refusal> {
    let request = Request::Write { path: query.path()?, mode: query.mode()?, user: query.user()? };
    query.end()?;
    upload::upload(&session, &request, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST files`: what is not content.
pub async fn change(
    session: Session,
    mut query: Parameters,
    Json(op): Json<FileOp>,
) -> Result<StatusCode, Refusal> {
    let (path, user) = (query.path()?, query.user()?);
    query.end()?;
    let request = match op {
        FileOp::Mkdir => Request::Mkdir { path, user },
        FileOp::Move { to } => Request::Move { path, to: input::check_path("to", to)?, user },
    };
    session.order(&request, limits::REPLY_TIME).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE files`
pub async fn remove(session: Session, mut query: Parameters) -> Result<StatusCode, Refusal> {
    let (path, recursive, user) = (query.path()?, query.flag("recursive")?, query.user()?);
    query.end()?;
    session.order(&Request::Remove { path, recursive, user }, limits::LONG_REPLY_TIME).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An answer whose body is bytes that nothing on the way should interpret.
pub fn octets(body: Body) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
