//! One TCP connection into an agent, over a WebSocket.

use crate::attach::{Socket, connect, ended};
use crate::error::{Error, root_cause};
use crate::workspace::Workspace;
use futures_util::{SinkExt, StreamExt};
use model::Problem;
use model::workspace::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Bytes, Message};

const BUFFER: usize = 32 << 10;

/// A connection to a port inside.
pub struct Relay {
    socket: Socket,
    origin: String,
}

impl Relay {
    pub(crate) async fn open(workspace: &Workspace, port: u16) -> Result<Self, Error> {
        let socket = connect(workspace, &["ports", &port.to_string()]).await?;
        Ok(Self { socket, origin: workspace.endpoint.origin().to_owned() })
    }

    /// Moves bytes both ways until both sides have ended.
    pub async fn run(
        self,
        mut local_read: impl AsyncRead + Unpin,
        mut local_write: impl AsyncWrite + Unpin,
    ) -> Result<(), Error> {
        let origin = self.origin;
        let (mut sink, mut stream) = self.socket.split();
        let inwards = async {
            let mut buffer = vec![0u8; BUFFER];
            loop {
                // A local side that fails has nothing more to say, which is what its end says too.
                let length = local_read.read(&mut buffer).await.unwrap_or(0);
                let mut message = Vec::with_capacity(length + 1);
                message.push(Stream::Stdin as u8);
                message.extend_from_slice(&buffer[..length]);
                let sent = sink.send(Message::binary(message)).await;
                sent.map_err(|error| Error::lost(&origin, root_cause(&error)))?;
                if length == 0 {
                    return Ok::<(), Error>(());
                }
            }
        };
        let outwards = async {
            loop {
                match stream.next().await {
                    Some(Ok(Message::Binary(message))) => {
                        let data: Bytes = message.slice(1.min(message.len())..);
                        if data.is_empty() {
                            let _ = local_write.shutdown().await;
                            return Ok(());
                        }
                        local_write.write_all(&data).await.map_err(|source| Error::Local {
                            attempt: "cannot write to the local connection".to_owned(),
                            source,
                        })?;
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Text(text))) => {
                        return Err(match serde_json::from_str::<Problem>(text.as_str()) {
                            Ok(problem) => Error::Problem(problem),
                            Err(error) => Error::protocol(&origin, error),
                        });
                    }
                    Some(Ok(Message::Close(_))) | None => {
                        let _ = local_write.shutdown().await;
                        return Ok(());
                    }
                    other => return Err(ended(&origin, other)),
                }
            }
        };
        // The inside decides when it is over; a local side that closed its half may still get an answer.
        tokio::pin!(inwards, outwards);
        tokio::select! {
            answer = &mut outwards => answer,
            sent = &mut inwards => {
                sent?;
                outwards.await
            }
        }
    }
}
