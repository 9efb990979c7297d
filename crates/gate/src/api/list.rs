//! Lists that init sends in parts, passed on as one JSON array without holding more than one part.

use super::session::Session;
use crate::channel::Conversation;
use crate::limits;
use crate::problems::{ChannelFault, Refusal};
use ::channel::{Reply, Request};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use serde::Serialize;
use std::io;

/// How one kind of list is read.
pub struct Kind<W, M> {
    /// Takes the part out of a reply, and whether more follow.
    pub part: fn(Reply) -> Option<(Vec<W>, bool)>,
    /// Makes an entry of the API; those that make no sense are left out.
    pub entry: fn(W) -> Option<M>,
}

/// The whole list in memory, for those that init itself bounds.
pub async fn collect<W, M>(
    session: &Session,
    request: &Request,
    kind: Kind<W, M>,
) -> Result<Vec<M>, Refusal> {
    let mut talk = session.converse(request).await?;
    let mut all = Vec::new();
    // Init keeps a few hundred at most; a hostile one could go on for ever, with or without entries.
    for _ in 0..64 {
        let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
        let (part, more) = (kind.part)(reply).ok_or_else(|| session.nonsense())?;
        all.extend(part.into_iter().filter_map(kind.entry));
        if !more {
            return Ok(all);
        }
        if all.len() > 4096 {
            break;
        }
    }
    Err(session.nonsense())
}

/// Asks for a list and passes it on. The first part decides between an answer and a problem; a fault after it
/// cuts the answer off.
pub async fn array<W, M>(session: &Session, request: &Request, kind: Kind<W, M>) -> Result<Response, Refusal>
where
    W: Send + 'static,
    M: Serialize + Send + 'static,
{
    let mut talk = session.converse(request).await?;
    let first = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let first = (kind.part)(first).ok_or_else(|| session.nonsense())?;
    let parts = Parts { talk, kind, came: Some(first), sent: 0, parts: 0, first: true };
    let body = Body::from_stream(try_unfold(parts, Parts::next));
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], body).into_response())
}

struct Parts<W, M> {
    talk: Conversation,
    kind: Kind<W, M>,
    came: Option<(Vec<W>, bool)>,
    sent: usize,
    parts: usize,
    first: bool,
}

impl<W, M: Serialize> Parts<W, M> {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some((part, more)) = self.came.take() else { return Ok(None) };
        let mut text = Vec::new();
        for entry in part.into_iter().filter_map(self.kind.entry) {
            text.push(if std::mem::take(&mut self.first) { b'[' } else { b',' });
            serde_json::to_writer(&mut text, &entry)?;
        }
        self.sent += text.len();
        self.parts += 1;
        if more {
            if self.sent > limits::LIST_BYTES || self.parts > limits::LIST_PARTS {
                return Err(io::Error::other("the list has no end"));
            }
            self.came = Some(self.part().await.map_err(io::Error::other)?);
        } else {
            text.extend_from_slice(if self.first { b"[]" } else { b"]" });
        }
        Ok(Some((text.into(), self)))
    }

    async fn part(&mut self) -> Result<(Vec<W>, bool), ChannelFault> {
        let revoked = self.talk.hold.revoked.clone();
        let reply = tokio::select! {
            biased;
            () = revoked.cancelled() => return Err(ChannelFault::Revoked),
            reply = self.talk.frames.reply(limits::REPLY_TIME) => reply?,
        };
        (self.kind.part)(reply).ok_or(ChannelFault::Closed)
    }
}
