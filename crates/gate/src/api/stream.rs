//! A stream out of the agent as the body of an answer. What breaks it cuts the connection, so that no client
//! takes a part for the whole.

use crate::channel::Conversation;
use crate::problems::ChannelFault;
use ::channel::Kind;
use axum::body::{Body, Bytes};
use futures_util::stream::try_unfold;
use std::io;

/// `Data1` frames until `End1`.
pub fn body(talk: Conversation) -> Body {
    Body::from_stream(try_unfold(talk, |mut talk| async move {
        match next(&mut talk).await {
            Ok(Some(data)) => Ok(Some((data, talk))),
            Ok(None) => Ok(None),
            Err(fault) => Err(io::Error::other(fault)),
        }
    }))
}

async fn next(talk: &mut Conversation) -> Result<Option<Bytes>, ChannelFault> {
    loop {
        let frame = tokio::select! {
            biased;
            () = talk.hold.revoked.cancelled() => return Err(ChannelFault::Revoked),
            frame = talk.frames.due() => frame?,
        };
        match frame.kind {
            // An empty piece would end nothing and help nobody.
            Kind::Data1 if frame.payload().is_empty() => {}
            Kind::Data1 => return Ok(Some(frame.into_payload())),
            Kind::End1 => return Ok(None),
            _ => return Err(frame.fault(Kind::Data1)),
        }
    }
}
