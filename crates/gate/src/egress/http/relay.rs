//! What both say after they agreed on another protocol.

use super::super::connection::End;
use super::super::copy;
use super::super::flow::{Flow, Way};
use super::super::secrets::put::Refused;
use super::super::secrets::scrub::Scrubber;
use super::super::wire::Wire;
use super::websocket::{Frames, Wrong};
use crate::limits;
use bytes::{Bytes, BytesMut};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;

/// Both ends.
pub struct Upgrade {
    /// The agent's.
    pub client: OnUpgrade,
    /// The other.
    pub server: OnUpgrade,
    /// Whether it is in the clear, so that the kernel can pass it on.
    pub clear: bool,
    /// What takes out what was put into the request.
    pub scrubber: Option<Scrubber>,
}

/// Passes on what both say.
pub async fn relay(flow: &Flow, upgrade: Upgrade) -> Result<(), End> {
    let Upgrade { client, server, clear, scrubber } = upgrade;
    let (client, server) = tokio::try_join!(client, server).map_err(io::Error::other)?;
    if !clear {
        let (from_client, to_client) = split(TokioIo::new(client));
        let (from_server, to_server) = split(TokioIo::new(server));
        let out = one_way(flow, from_client, to_server, Look::For(Frames::default()));
        let back = one_way(flow, from_server, to_client, scrubber.map_or(Look::Nothing, Look::Out));
        return tokio::try_join!(out, back).map(drop);
    }
    let ((before_client, client), (before_server, server)) = (parts(client)?, parts(server)?);
    for bytes in before_client {
        // Counted when it was read.
        copy::send(&server, &bytes).await?;
    }
    for bytes in before_server {
        copy::send(&client, &bytes).await?;
        flow.moved(Way::In, bytes.len());
    }
    Ok(copy::both(&client, &server, flow).await?)
}

type Parts = ([Bytes; 2], Arc<TcpStream>);

fn parts(upgraded: Upgraded) -> io::Result<Parts> {
    let parts = upgraded.downcast::<TokioIo<Wire>>().map_err(|_| io::ErrorKind::InvalidData)?;
    let (before, stream) = parts.io.into_inner().into_parts();
    Ok(([parts.read_buf, before], stream))
}

/// What is done with what passes.
enum Look {
    /// Nothing.
    Nothing,
    /// Placeholders are looked for.
    For(Frames),
    /// Values are taken out.
    Out(Scrubber),
}

/// Passes on all that one says, and that it said all.
async fn one_way(
    flow: &Flow,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut look: Look,
) -> Result<(), End> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(limits::RELAY_BUFFER);
        let ended = from.read_buf(&mut buffer).await? == 0;
        let mut bytes = buffer.split().freeze();
        match &mut look {
            Look::Nothing => {}
            Look::For(frames) => frames.push(&bytes).map_err(|wrong| {
                if wrong == Wrong::Stray {
                    flow.request_refused(Refused::Stray.to_string());
                }
                End::Mismatch(wrong.words())
            })?,
            Look::Out(scrubber) if ended => bytes = scrubber.finish(),
            Look::Out(scrubber) => bytes = scrubber.push(bytes),
        }
        to.write_all(&bytes).await?;
        to.flush().await?;
        if ended {
            flow.half_closed();
            return Ok(to.shutdown().await?);
        }
    }
}
