//! WebSockets between a client and one conversation with init: exec streams and port relays.
//!
//! Both directions run side by side, each only as fast as its receiver: nothing is read from init while the
//! client does not take it, and nothing from the client while init does not.

use super::session::{self, SUBPROTOCOL};
use super::{convert, execs, input};
use crate::channel::{Conversation, Frame, Frames, Sender};
use crate::limits;
use crate::problems::{ChannelFault, Refusal};
use ::channel::{Control, Event, Kind, Size};
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use model::workspace::{FromAgent, FromClient, Stream};
use model::{Code, Problem};
use serde::Serialize;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::{Instant, MissedTickBehavior};

/// A request to become a WebSocket of ours.
pub struct Upgrade(WebSocketUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let offered = session::subprotocols(&parts.headers).any(|name| name == SUBPROTOCOL);
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await.ok().filter(|_| offered);
        let upgrade = upgrade.ok_or_else(|| {
            Problem::new(Code::Validation, "This resource is a WebSocket.")
                .remedy(format!("Ask for an upgrade with the subprotocol {SUBPROTOCOL}."))
        })?;
        Ok(Self(
            upgrade
                .protocols([SUBPROTOCOL])
                .max_message_size(limits::MESSAGE)
                .max_frame_size(limits::MESSAGE)
                .read_buffer_size(64 << 10)
                .write_buffer_size(limits::CLIENT_BUFFER)
                .max_write_buffer_size(8 * limits::MESSAGE),
        ))
    }
}

impl Upgrade {
    /// Answers the request and goes on with the WebSocket.
    pub fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        serve: impl FnOnce(WebSocket) -> F + Send + 'static,
    ) -> Response {
        self.0.on_upgrade(serve)
    }
}

/// What is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// The streams of an exec.
    Exec,
    /// A TCP connection.
    Port,
}

/// Why a relay ends.
pub enum End {
    /// In order: the process or the connection ended and all was sent.
    Done,
    /// The client went away.
    Gone,
    /// The conversation with init failed.
    Fault(ChannelFault),
    /// The client did something wrong, or was refused.
    Refused(Problem),
}

/// Relays until one side ends.
pub async fn relay(socket: WebSocket, talk: Conversation, relay: Relay) {
    Client::new(socket).relay(talk, relay).await;
}

/// The client's side.
pub struct Client {
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
}

impl Client {
    /// Takes over an upgraded connection.
    pub fn new(socket: WebSocket) -> Self {
        let (sink, stream) = socket.split();
        Self { sink, stream }
    }

    /// The next message, if it is a text.
    pub async fn text(&mut self) -> Option<Utf8Bytes> {
        loop {
            match self.stream.next().await?.ok()? {
                Message::Text(text) => return Some(text),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) | Message::Close(_) => return None,
            }
        }
    }

    /// Sends a text message. That the client is gone shows when it is read from.
    pub async fn say<T: Serialize>(&mut self, value: &T) {
        let _ = self.sink.send(json(value)).await;
    }

    /// Relays until one side ends, and closes.
    pub async fn relay(mut self, talk: Conversation, relay: Relay) {
        let Conversation { mut frames, mut sender, hold } = talk;
        let sending = AtomicBool::new(false);
        let end = tokio::select! {
            biased;
            () = hold.revoked.cancelled() => End::Fault(ChannelFault::Revoked),
            end = outward(&mut frames, &mut self.sink, relay, &sending) => end,
            end = inward(&mut self.stream, &mut sender, relay, &sending) => end,
        };
        // Init sees the end before the client's farewell, which may take a while.
        drop((frames, sender, hold));
        self.finish(end).await;
    }

    /// Says why, and closes.
    pub async fn finish(mut self, end: End) {
        let problem = match end {
            End::Gone => return,
            End::Done => None,
            End::Fault(fault) => Some(*Refusal::from(fault).0),
            End::Refused(problem) => Some(problem),
        };
        let code = problem.as_ref().map_or(1000, |problem| 4000 + problem.status);
        let farewell = async {
            if let Some(problem) = &problem {
                self.sink.feed(json(problem)).await?;
            }
            let reason = problem.as_ref().map_or("", |problem| problem.code.as_str());
            self.sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await
        };
        if farewell.await.is_err() {
            return;
        }
        // Closing on unread bytes would reset the connection and lose what the client has not read yet.
        let emptying = async { while let Some(Ok(_)) = self.stream.next().await {} };
        let _ = tokio::time::timeout(limits::CLOSE_TIME, emptying).await;
    }
}

fn json<T: Serialize>(value: &T) -> Message {
    Message::Text(serde_json::to_string(value).unwrap_or_default().into())
}

type Sink = SplitSink<WebSocket, Message>;

/// From init to the client, with pings in between. `sending` says that the client is being waited for.
async fn outward(frames: &mut Frames, sink: &mut Sink, relay: Relay, sending: &AtomicBool) -> End {
    let mut pings = tokio::time::interval_at(Instant::now() + limits::PING_EVERY, limits::PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut next = tokio::select! {
            biased;
            _ = pings.tick() => None,
            frame = frames.next() => match frame {
                Ok(Some(frame)) => Some(frame),
                // A port's connection may simply end; an exec's says so first.
                Ok(None) if relay == Relay::Port => return End::Done,
                Ok(None) => return End::Fault(ChannelFault::Closed),
                Err(fault) => return End::Fault(fault),
            },
        };
        sending.store(true, Ordering::Relaxed);
        if next.is_none() && sink.feed(Message::Ping(Bytes::new())).await.is_err() {
            return End::Gone;
        }
        // All that came with one read goes out with as few writes.
        let mut ended = None;
        while let Some(frame) = next.take() {
            let message = match translate(frame, relay) {
                Ok(Said::Nothing) => None,
                Ok(Said::Message(message)) => Some(message),
                Ok(Said::Last(message)) => {
                    ended = Some(End::Done);
                    Some(message)
                }
                Err(fault) => {
                    ended = Some(End::Fault(fault));
                    None
                }
            };
            if let Some(message) = message
                && sink.feed(message).await.is_err()
            {
                return End::Gone;
            }
            if ended.is_none() {
                match frames.ready() {
                    Ok(ready) => next = ready,
                    Err(error) => ended = Some(End::Fault(error.into())),
                }
            }
        }
        if sink.flush().await.is_err() {
            return End::Gone;
        }
        sending.store(false, Ordering::Relaxed);
        if let Some(end) = ended {
            return end;
        }
    }
}

/// What a frame from init is for the client.
enum Said {
    Nothing,
    Message(Message),
    Last(Message),
}

fn translate(frame: Frame, relay: Relay) -> Result<Said, ChannelFault> {
    let (out, err) = match relay {
        Relay::Exec => (Stream::Stdout, Some(Stream::Stderr)),
        Relay::Port => (Stream::Stdin, None),
    };
    let empty = frame.payload().is_empty();
    let stream = match (frame.kind, err) {
        (Kind::Data1 | Kind::End1, _) => out,
        (Kind::Data2 | Kind::End2, Some(err)) => err,
        (Kind::Event, Some(_)) => {
            return Ok(match frame.expect(Kind::Event)? {
                Event::Lost { bytes } => Said::Message(json(&FromAgent::Lost { bytes })),
                Event::Exited(exit) => Said::Last(json(&FromAgent::Exited(convert::exit(exit)))),
            });
        }
        _ => return Err(frame.fault(Kind::Data1)),
    };
    // An empty message would be the end of the stream, and an end that carries data would not be one.
    match (frame.kind, empty) {
        (Kind::Data1 | Kind::Data2, true) => Ok(Said::Nothing),
        (Kind::End1 | Kind::End2, false) => Err(frame.fault(Kind::Data1)),
        _ => Ok(Said::Message(Message::Binary(frame.into_message(stream)))),
    }
}

/// From the client to init.
async fn inward(
    stream: &mut SplitStream<WebSocket>,
    sender: &mut Sender,
    relay: Relay,
    sending: &AtomicBool,
) -> End {
    // Once init takes nothing any more, the client's messages are still read, because its farewell is one. Why
    // init stopped is what it says in the other direction.
    let mut deaf = false;
    let mut ended = false;
    loop {
        let message = match tokio::time::timeout(limits::SILENCE, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => return End::Gone,
            // It may have had no ping to answer, because it does not read what waits for it.
            Err(_) if sending.load(Ordering::Relaxed) => continue,
            Err(_) => return End::Gone,
        };
        let sent = match message {
            Message::Close(_) => return End::Gone,
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Text(text) if relay == Relay::Exec => match control(&text) {
                Ok(control) if !deaf => sender.control(&control).await,
                Ok(_) => continue,
                Err(problem) => return End::Refused(problem),
            },
            Message::Text(_) => {
                return End::Refused(Problem::invalid("message", "A relay has no text messages."));
            }
            Message::Binary(data) => {
                if data.first() != Some(&(Stream::Stdin as u8)) {
                    let detail = "A binary message must begin with the byte 0, which is stdin.";
                    return End::Refused(Problem::invalid("message", detail));
                }
                if ended || deaf {
                    continue;
                }
                let data = data.slice(1..);
                ended = data.is_empty();
                if ended { sender.end().await } else { sender.data(data).await }
            }
        };
        deaf |= sent.is_err();
    }
}

fn control(text: &str) -> Result<Control, Problem> {
    match input::from_json(text.as_bytes())? {
        FromClient::Resize { rows, cols } => Ok(Control::Resize(Size { rows, cols })),
        FromClient::Signal { signal } => {
            execs::check_signal(signal)?;
            Ok(Control::Signal { signal })
        }
    }
}
