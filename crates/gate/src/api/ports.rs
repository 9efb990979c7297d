//! `ports/N`: a relay to a TCP port on the agent's loopback.

use super::input::PortParam;
use super::session::Session;
use super::websocket::{self, Relay, Upgrade};
use crate::limits;
use crate::problems::Refusal;
use ::channel::{Reply, Request};
use axum::response::Response;

/// `GET ports/N`, a WebSocket.
pub async fn relay(
    session: Session,
    PortParam(port): PortParam,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    let mut talk = session.converse(&Request::Port { port }).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Streaming = reply else { return Err(session.nonsense()) };
    Ok(upgrade.accept(move |socket| websocket::relay(socket, talk, Relay::Port)))
}
