//! The body of a request as a stream into the agent, piece by piece: nothing is collected here.

use super::session::Session;
use crate::channel::{Conversation, Sender};
use crate::limits;
use crate::problems::{ChannelFault, Refusal};
use ::channel::{Reply, Request};
use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use model::{Code, Problem};
use std::time::Duration;

/// Sends the request and then the body, and waits until init says that it is done. When the client goes away
/// in between, init sees the connection close before the end of the stream, and changes nothing.
pub async fn upload(session: &Session, request: &Request, body: Body) -> Result<(), Refusal> {
    let Conversation { mut frames, mut sender, hold: _hold } = session.converse(request).await?;
    let mut data = body.into_data_stream();
    let sent = tokio::select! {
        biased;
        // A reply before the end of the body is a refusal.
        early = frames.reply(Duration::MAX) => Sent::Refused(early),
        sent = pump(&mut data, &mut sender) => sent,
    };
    let reply = match sent {
        Sent::All => frames.reply(limits::LONG_REPLY_TIME).await,
        Sent::Refused(reply) => {
            swallow(&mut data).await;
            reply
        }
        Sent::Broken(fault) => {
            // Init hung up; perhaps it said why before.
            let reply = frames.reply(limits::CONNECT_TIME).await;
            swallow(&mut data).await;
            match reply {
                Err(ChannelFault::Refused(error)) => Err(ChannelFault::Refused(error)),
                _ => Err(fault),
            }
        }
        Sent::Client(problem) => return Err(problem.into()),
    };
    match reply {
        Ok(Reply::Done) => Ok(()),
        Ok(_) => Err(session.nonsense()),
        Err(fault) => Err(session.refusal(fault)),
    }
}

enum Sent {
    All,
    Refused(Result<Reply, ChannelFault>),
    Broken(ChannelFault),
    Client(Problem),
}

async fn pump(data: &mut BodyDataStream, sender: &mut Sender) -> Sent {
    loop {
        let sent = match tokio::time::timeout(limits::BODY_TIME, data.next()).await {
            Ok(Some(Ok(piece))) => sender.data(piece).await,
            Ok(None) => {
                return match sender.end().await {
                    Ok(()) => Sent::All,
                    Err(fault) => Sent::Broken(fault),
                };
            }
            Ok(Some(Err(_))) => return Sent::Client(Problem::invalid("body", "The body broke off.")),
            Err(_) => return Sent::Client(Problem::new(Code::Timeout, "The body did not come in time.")),
        };
        if let Err(fault) = sent {
            return Sent::Broken(fault);
        }
    }
}

/// Reads on for a while, because a connection that is closed on unread bytes loses the answer on its way.
async fn swallow(data: &mut BodyDataStream) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = data.next().await {
            bytes += piece.len();
            if bytes > limits::REFUSED_BODY {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(limits::REFUSED_TIME, reading).await;
}
