//! A process's streams over a WebSocket.

use crate::error::{Error, problem, root_cause};
use crate::workspace::Workspace;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use model::workspace::{CreateExec, Exec, ExecExit, FromAgent, FromClient, Stream};
use model::{ExecId, Problem};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The largest message that is accepted: frames inside are at most 1 MiB.
const MAX_MESSAGE: usize = 4 << 20;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An attached exec.
pub struct Attached {
    socket: Socket,
    origin: String,
}

/// What an attached exec sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Output; all of it when the exec has a terminal.
    Stdout(Bytes),
    /// Error output.
    Stderr(Bytes),
    /// So many bytes were written while nobody was attached, and are gone.
    Lost(u64),
    /// The process ended and all its output was sent.
    Exited(ExecExit),
}

/// Opens a WebSocket of the workspace API.
pub(crate) async fn connect(workspace: &Workspace, rest: &[&str]) -> Result<Socket, Error> {
    let origin = workspace.endpoint.origin();
    let mut url = workspace.endpoint.url(&workspace.path(rest));
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    url.set_scheme(scheme).map_err(|()| Error::protocol(origin, "it has no WebSocket address"))?;
    let mut request = url.as_str().into_client_request().map_err(|error| Error::protocol(origin, error))?;
    let protocols = format!("cofferdam.v1, bearer.{}", workspace.endpoint.token().unwrap_or_default());
    let protocols = HeaderValue::from_str(&protocols)
        .map_err(|_| Error::protocol(origin, "the token has characters that no token has"))?;
    request.headers_mut().insert("sec-websocket-protocol", protocols);
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    match tokio_tungstenite::connect_async_with_config(request, Some(config), true).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            Err(Error::Problem(problem(answer.status().as_u16(), body)))
        }
        Err(tungstenite::Error::Io(error)) => {
            Err(Error::Unreachable { url: origin.to_owned(), reason: error.to_string() })
        }
        Err(error) => Err(Error::protocol(origin, root_cause(&error))),
    }
}

/// What a text message says: a problem ends the session, whenever it comes.
fn read_text<T: serde::de::DeserializeOwned>(origin: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| match serde_json::from_str::<Problem>(text) {
        Ok(problem) => Error::Problem(problem),
        Err(_) => Error::protocol(origin, error),
    })
}

impl Attached {
    pub(crate) async fn start(workspace: &Workspace, create: &CreateExec) -> Result<(Exec, Self), Error> {
        let socket = connect(workspace, &["execs", "attach"]).await?;
        let origin = workspace.endpoint.origin().to_owned();
        let mut attached = Self { socket, origin };
        let create =
            serde_json::to_string(create).map_err(|error| Error::protocol(&attached.origin, error))?;
        let sent = attached.socket.send(Message::text(create)).await;
        sent.map_err(|error| Error::lost(&attached.origin, root_cause(&error)))?;
        loop {
            match attached.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let exec = read_text(&attached.origin, text.as_str())?;
                    return Ok((exec, attached));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return Err(ended(&attached.origin, other)),
            }
        }
    }

    pub(crate) async fn open(workspace: &Workspace, exec: ExecId) -> Result<Self, Error> {
        let socket = connect(workspace, &["execs", &exec.to_string(), "attach"]).await?;
        Ok(Self { socket, origin: workspace.endpoint.origin().to_owned() })
    }

    /// Both directions, to be used side by side.
    pub fn split(self) -> (AttachSender, AttachReceiver) {
        let (sink, stream) = self.socket.split();
        let sender = AttachSender { sink, origin: self.origin.clone() };
        (sender, AttachReceiver { stream, origin: self.origin })
    }
}

/// Why a socket gave no message of use.
pub(crate) fn ended(origin: &str, item: Option<Result<Message, tungstenite::Error>>) -> Error {
    match item {
        Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
            Error::lost(origin, frame.reason)
        }
        Some(Err(error)) => Error::lost(origin, root_cause(&error)),
        Some(Ok(Message::Text(_) | Message::Binary(_))) => {
            Error::protocol(origin, "a message came that has no place here")
        }
        _ => Error::lost(origin, "it closed the connection"),
    }
}

/// The direction to the process.
pub struct AttachSender {
    sink: SplitSink<Socket, Message>,
    origin: String,
}

impl AttachSender {
    async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.sink.send(message).await.map_err(|error| Error::lost(&self.origin, root_cause(&error)))
    }

    async fn control(&mut self, control: FromClient) -> Result<(), Error> {
        let text = serde_json::to_string(&control).map_err(|error| Error::protocol(&self.origin, error))?;
        self.send(Message::text(text)).await
    }

    /// Input for the process. Empty input is not sent: it would mean the end.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(Stream::Stdin as u8);
        message.extend_from_slice(data);
        self.send(Message::binary(message)).await
    }

    /// The end of the input.
    pub async fn end_stdin(&mut self) -> Result<(), Error> {
        self.send(Message::binary(vec![Stream::Stdin as u8])).await
    }

    /// The client's terminal has this size now.
    pub async fn resize(&mut self, rows: u16, cols: u16) -> Result<(), Error> {
        self.control(FromClient::Resize { rows, cols }).await
    }

    /// A signal for the process group.
    pub async fn signal(&mut self, signal: i32) -> Result<(), Error> {
        self.control(FromClient::Signal { signal }).await
    }

    /// Leaves; the process goes on.
    pub async fn close(mut self) {
        let _ = self.sink.close().await;
    }
}

/// The direction from the process.
pub struct AttachReceiver {
    stream: SplitStream<Socket>,
    origin: String,
}

impl AttachReceiver {
    /// The next thing that happens. After [`Incoming::Exited`] nothing follows.
    pub async fn next(&mut self) -> Result<Incoming, Error> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Binary(message))) => {
                    if let Some(incoming) = self.output(message)? {
                        return Ok(incoming);
                    }
                }
                Some(Ok(Message::Text(text))) => {
                    return Ok(match read_text(&self.origin, text.as_str())? {
                        FromAgent::Lost { bytes } => Incoming::Lost(bytes),
                        FromAgent::Exited(exit) => Incoming::Exited(exit),
                    });
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                other => return Err(ended(&self.origin, other)),
            }
        }
    }

    /// `None` for the end of one stream: what counts is the end of the process.
    fn output(&self, message: Bytes) -> Result<Option<Incoming>, Error> {
        let stream = message.first().copied().and_then(Stream::from_byte);
        let data = message.slice(1.min(message.len())..);
        match stream {
            Some(_) if data.is_empty() => Ok(None),
            Some(Stream::Stdout) => Ok(Some(Incoming::Stdout(data))),
            Some(Stream::Stderr) => Ok(Some(Incoming::Stderr(data))),
            Some(Stream::Stdin) | None => Err(Error::protocol(&self.origin, "it sent an unknown stream")),
        }
    }
}
