//! The codec: `u32` little-endian length of the payload, one byte of kind, payload.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the payload of every frame.
pub const HEADER: usize = 5;

/// The longest payload, in bytes. A longer one is an error on both sides; data is sent in smaller pieces.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// A decoder gives memory above this back as soon as it is empty.
const KEPT: usize = 64 << 10;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::Hello`] as JSON: first in both directions.
    Hello = 1,
    /// [`crate::Request`] as JSON, from the client.
    Request = 2,
    /// [`crate::Reply`] as JSON, from init.
    Reply = 3,
    /// Bytes into the agent: stdin, file content, port.
    Data0 = 4,
    /// Bytes out of the agent: stdout or a terminal, file content, port.
    Data1 = 5,
    /// Bytes out of the agent: stderr.
    Data2 = 6,
    /// Nothing more follows on stream 0. No payload.
    End0 = 7,
    /// Nothing more follows on stream 1. No payload.
    End1 = 8,
    /// Nothing more follows on stream 2. No payload.
    End2 = 9,
    /// [`crate::Control`] as JSON, from the client of an attached exec.
    Control = 10,
    /// [`crate::Event`] as JSON, from init to an attached client.
    Event = 11,
    /// [`crate::ChannelError`] as JSON, from init; the last frame of the connection.
    Error = 12,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Hello,
        Self::Request,
        Self::Reply,
        Self::Data0,
        Self::Data1,
        Self::Data2,
        Self::End0,
        Self::End1,
        Self::End2,
        Self::Control,
        Self::Event,
        Self::Error,
    ];

    /// Reads the kind's byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One frame, taken off the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Reads the payload as JSON of the type that the kind stands for.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        from_json(self.kind, &self.payload)
    }

    /// Fails unless the frame is of this kind, then reads it as JSON.
    pub fn expect<T: DeserializeOwned>(&self, kind: Kind) -> Result<T, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Unexpected { expected: kind, found: self.kind });
        }
        self.json()
    }
}

fn from_json<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|source| FrameError::Json { kind, source })
}

/// Bytes that are no frame, or a frame that makes no sense here. The connection cannot be used any further.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The payload is longer than [`MAX_PAYLOAD`].
    #[error("a channel frame of {length} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLarge {
        /// Its (claimed) length.
        length: usize,
    },
    /// The kind is not one of this version.
    #[error("a channel frame is of the unknown kind {kind}")]
    UnknownKind {
        /// The byte.
        kind: u8,
    },
    /// The payload is not what the kind demands.
    #[error("the payload of a channel frame {kind:?} cannot be read")]
    Json {
        /// Its kind.
        kind: Kind,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Another kind of frame was due.
    #[error("a channel frame {found:?} came where {expected:?} was due")]
    Unexpected {
        /// What was due.
        expected: Kind,
        /// What came.
        found: Kind,
    },
}

/// Appends a frame to `out`. On an error `out` is unchanged.
pub fn encode(kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= MAX_PAYLOAD => length,
        _ => return Err(FrameError::TooLarge { length: payload.len() }),
    };
    out.reserve(HEADER + payload.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends a frame whose payload is `value` as JSON. On an error `out` is unchanged.
pub fn encode_json<T: Serialize>(kind: Kind, value: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let payload = serde_json::to_vec(value).map_err(|source| FrameError::Json { kind, source })?;
    encode(kind, &payload, out)
}

/// Turns a stream of bytes into frames.
///
/// It holds what was pushed and not yet taken, so a caller that takes every frame before it pushes again holds
/// less than one frame and its last read. After an error the stream has lost its rhythm: the same error class is
/// returned again, and pushed bytes are thrown away.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    broken: bool,
}

impl Decoder {
    /// An empty one. Allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came off the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait here, as whole frames or parts of one.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Takes the next whole frame, if there is one.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end where this one waits for bytes")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        Ok(self.next_borrowed()?.map(|(kind, payload)| Frame { kind, payload: payload.to_vec() }))
    }

    /// The same without copying the payload.
    pub fn next_borrowed(&mut self) -> Result<Option<(Kind, &[u8])>, FrameError> {
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        let Some(&[a, b, c, d, kind]) = waiting.first_chunk::<HEADER>() else {
            if waiting.is_empty() {
                self.reset();
            }
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            self.broken = true;
            return Err(FrameError::TooLarge { length });
        }
        let Some(kind) = Kind::from_byte(kind) else {
            self.broken = true;
            return Err(FrameError::UnknownKind { kind });
        };
        let begin = self.start + HEADER;
        if self.buffer.len() < begin + length {
            return Ok(None);
        }
        self.start = begin + length;
        Ok(self.buffer.get(begin..begin + length).map(|payload| (kind, payload)))
    }

    fn reset(&mut self) {
        self.start = 0;
        if self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        } else {
            self.buffer.clear();
        }
    }
}
