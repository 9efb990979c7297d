//! The client of an agent's init: one connection for each call.
//!
//! All that comes is hostile: frames are bounded, first answers have a deadline, nothing is believed about
//! sizes or order, and what is held of one connection stays below one frame and one read.

use crate::limits;
use crate::problems::ChannelFault;
use crate::state::{Agent, InUse};
use ::channel::{ChannelError, FrameError, HEADER, Hello, Kind, MAX_PAYLOAD, Reply, Request};
use bytes::{Buf, Bytes, BytesMut};
use model::crowd::Seat;
use model::workspace::Stream;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// A frame from init. The byte of its kind is kept in front of the payload, so that a WebSocket message is made
/// of it without a copy.
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    raw: BytesMut,
}

impl Frame {
    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.raw.get(1..).unwrap_or_default()
    }

    /// The payload, without a copy.
    pub fn into_payload(mut self) -> Bytes {
        self.raw.advance(1);
        self.raw.freeze()
    }

    /// The stream's byte and then the payload, without a copy.
    pub fn into_message(mut self, stream: Stream) -> Bytes {
        if let Some(first) = self.raw.first_mut() {
            *first = stream as u8;
        }
        self.raw.freeze()
    }

    /// The payload as JSON, if the frame is of the kind that is due. An error frame becomes the error it names.
    pub fn expect<T: DeserializeOwned>(&self, due: Kind) -> Result<T, ChannelFault> {
        if self.kind == Kind::Error && due != Kind::Error {
            let error: ChannelError = self.expect(Kind::Error)?;
            return Err(ChannelFault::Refused(error));
        }
        if self.kind != due {
            return Err(FrameError::Unexpected { expected: due, found: self.kind }.into());
        }
        serde_json::from_slice(self.payload())
            .map_err(|source| FrameError::Json { kind: self.kind, source }.into())
    }

    /// What is wrong with a frame that has no place here: the error it names, or itself.
    pub fn fault(&self, due: Kind) -> ChannelFault {
        match self.expect::<serde::de::IgnoredAny>(due) {
            Err(fault) => fault,
            Ok(_) => FrameError::Unexpected { expected: due, found: self.kind }.into(),
        }
    }
}

/// Takes the first whole frame off `buffer`, if there is one.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(&[a, b, c, d, kind]) = buffer.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLarge { length });
    }
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind { kind })?;
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let mut raw = buffer.split_to(HEADER + length);
    raw.advance(HEADER - 1);
    Ok(Some(Frame { kind, raw }))
}

/// Frames from init.
pub struct Frames {
    io: OwnedReadHalf,
    buffer: BytesMut,
    last: usize,
}

impl Frames {
    fn new(io: OwnedReadHalf) -> Self {
        Self { io, buffer: BytesMut::new(), last: 0 }
    }

    /// A frame that has come already.
    pub fn ready(&mut self) -> Result<Option<Frame>, FrameError> {
        take_frame(&mut self.buffer)
    }

    /// The next frame; `None` when init closed the connection between two frames. May be dropped at any time
    /// without losing bytes.
    pub async fn next(&mut self) -> Result<Option<Frame>, ChannelFault> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            let size = if self.last >= limits::READ_SMALL { limits::READ_LARGE } else { limits::READ_SMALL };
            if self.buffer.capacity() - self.buffer.len() < size / 2 {
                self.buffer.reserve(size);
            }
            self.last = self.io.read_buf(&mut self.buffer).await?;
            if self.last == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ChannelFault::Closed) };
            }
        }
    }

    /// The next frame, which must come.
    pub async fn due(&mut self) -> Result<Frame, ChannelFault> {
        self.next().await?.ok_or(ChannelFault::Closed)
    }

    /// The next frame as a reply, within the time.
    pub async fn reply(&mut self, time: Duration) -> Result<Reply, ChannelFault> {
        let frame = tokio::time::timeout(time, self.due()).await.map_err(|_| ChannelFault::Slow)??;
        frame.expect(Kind::Reply)
    }
}

/// Frames to init.
pub struct Sender {
    io: OwnedWriteHalf,
}

impl Sender {
    /// Sends bytes of stream 0, in as many frames as they need.
    pub async fn data(&mut self, mut data: Bytes) -> Result<(), ChannelFault> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_PAYLOAD));
            let header = header(Kind::Data0, piece.len());
            self.io.write_all_buf(&mut Buf::chain(header.as_slice(), piece)).await?;
        }
        Ok(())
    }

    /// Ends stream 0.
    pub async fn end(&mut self) -> Result<(), ChannelFault> {
        Ok(self.io.write_all(&header(Kind::End0, 0)).await?)
    }

    /// Sends a control message.
    pub async fn control(&mut self, message: &::channel::Control) -> Result<(), ChannelFault> {
        let mut out = Vec::new();
        ::channel::encode_json(Kind::Control, message, &mut out)?;
        Ok(self.io.write_all(&out).await?)
    }
}

fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    // No caller has more than MAX_PAYLOAD, which fits.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c, d, kind as u8]
}

/// A conversation with init about one request.
pub struct Conversation {
    /// What init says after its hello.
    pub frames: Frames,
    /// What init hears after the request.
    pub sender: Sender,
    /// Holds what the conversation occupies.
    pub hold: Hold,
}

/// What a conversation occupies, and what cuts it.
pub struct Hold {
    /// Cut when the token's epoch or the agent is gone.
    pub revoked: CancellationToken,
    /// Of the client's connection.
    pub seat: Option<Arc<Seat<CancellationToken>>>,
    _permit: OwnedSemaphorePermit,
    _in_use: InUse,
}

/// Connects to the agent, greets, and sends the request.
pub async fn converse(agent: &Agent, in_use: InUse, request: &Request) -> Result<Conversation, ChannelFault> {
    let permit = agent.life.connections.clone().try_acquire_owned().map_err(|_| ChannelFault::Connections)?;
    let hold = Hold { revoked: agent.life.revoked.clone(), seat: None, _permit: permit, _in_use: in_use };
    let greeting = greeting(request)?;
    let begin = async {
        let (socket, written) = connect(&agent.channel, &greeting).map_err(ChannelFault::Connect)?;
        let (reading, mut writing) =
            UnixStream::from_std(socket).map_err(ChannelFault::Connect)?.into_split();
        let wrote = writing.write_all(greeting.get(written..).unwrap_or_default()).await;
        let mut frames = Frames::new(reading);
        // An init that is full says so and hangs up without reading: what it said counts more than the failed
        // write.
        let hello = frames.due().await.map_err(|fault| wrote.err().map_or(fault, ChannelFault::Io))?;
        let hello: Hello = hello.expect(Kind::Hello)?;
        hello.agree(Hello::OURS).ok_or(ChannelFault::Version)?;
        Ok::<_, ChannelFault>((frames, Sender { io: writing }))
    };
    let begun = tokio::time::timeout(limits::CONNECT_TIME, begin).await;
    let (frames, sender) = begun.map_err(|_| ChannelFault::Slow)??;
    Ok(Conversation { frames, sender, hold })
}

/// Connects, and writes as much of the greeting as there is room for: before anything else is done, so that init finds
/// it when it finds the connection. A socket whose queue is full refuses at once, as it does for everybody.
fn connect(path: &Path, greeting: &[u8]) -> io::Result<(std::os::unix::net::UnixStream, usize)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    // What did not go now is tried again, and then its failure is seen.
    let written = rustix::net::send(&socket, greeting, SendFlags::NOSIGNAL).unwrap_or(0);
    Ok((socket.into(), written))
}

fn greeting<T: Serialize>(request: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    ::channel::encode_json(Kind::Hello, &Hello::OURS, &mut out)?;
    ::channel::encode_json(Kind::Request, request, &mut out)?;
    Ok(out)
}
