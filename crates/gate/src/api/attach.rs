//! `execs/X/attach` and `execs/attach`: the streams of an exec over a WebSocket.
//!
//! A client that goes away detaches: the exec goes on.

use super::convert;
use super::execs::exec_request;
use super::input::{self, ExecParam};
use super::session::Session;
use super::websocket::{self, Client, End, Relay, Upgrade};
use crate::channel::Conversation;
use crate::limits;
use crate::problems::{self, Refusal};
use ::channel::{Reply, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use model::workspace::{CreateExec, Exec};
use model::{Code, ExecId, Problem};

/// Where the streams that follow begin.
const OFFSETS: HeaderName = HeaderName::from_static("cofferdam-exec-offset");

/// `GET execs/X/attach`, a WebSocket.
pub async fn attach(
    session: Session,
    ExecParam(id): ExecParam,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    let mut talk = session.converse(&Request::Attach { id: id.to_string() }).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Attached { offsets: [out, err], .. } = reply else { return Err(session.nonsense()) };
    let mut response = upgrade.accept(move |socket| websocket::relay(socket, talk, Relay::Exec));
    if let Ok(offsets) = HeaderValue::from_str(&format!("{out},{err}")) {
        response.headers_mut().insert(OFFSETS, offsets);
    }
    Ok(response)
}

/// `GET execs/attach`, a WebSocket: starts an exec and attaches to it in one round trip.
pub async fn create(session: Session, upgrade: Upgrade) -> Response {
    upgrade.accept(async move |socket| {
        let mut client = Client::new(socket);
        let revoked = session.agent.life.revoked.clone();
        let begun = tokio::select! {
            biased;
            () = revoked.cancelled() => Err(problems::revoked().into()),
            begun = begin(&session, &mut client) => begun,
        };
        match begun {
            Ok(talk) => client.relay(talk, Relay::Exec).await,
            Err(Refusal(problem)) => client.finish(End::Refused(*problem)).await,
        }
    })
}

async fn begin(session: &Session, client: &mut Client) -> Result<Conversation, Refusal> {
    let first = tokio::time::timeout(limits::FIRST_MESSAGE_TIME, client.text()).await;
    let late = |_| Problem::new(Code::Timeout, "The first message did not come in time.");
    let missing = || Problem::invalid("body", "The first message must be a text: what to start, as JSON.");
    let first = first.map_err(late)?.ok_or_else(missing)?;
    let wanted: CreateExec = input::from_json(first.as_bytes())?;
    let (id, argv) = (ExecId::new(), wanted.argv.clone());
    let request = Request::Exec(Box::new(exec_request(id, wanted, true)?));
    let mut talk = session.converse(&request).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Attached { exec: info, .. } = reply else { return Err(session.nonsense()) };
    let exec = Exec { id, argv, pid: info.pid, tty: info.tty, exit: info.exit.map(convert::exit) };
    // A client that is gone by now is noticed by the relay.
    client.say(&exec).await;
    Ok(talk)
}
