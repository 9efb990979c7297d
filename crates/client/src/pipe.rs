//! Bytes between asynchronous network code and blocking archive code, with backpressure.

use crate::error::Error;
use crate::http::ByteStream;
use futures_util::Stream;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Bytes;

const DEPTH: usize = 8;
const CHUNK: usize = 64 << 10;

/// The reading end. `Read` blocks: use it on a thread that may.
pub struct PipeReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

/// The writing end. `Write` blocks: use it on a thread that may. Dropping it is the end of the stream,
/// so a writer that gave up must call [`PipeWriter::fail`].
pub struct PipeWriter {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    pending: Vec<u8>,
}

/// A pipe.
pub fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, chunks) = mpsc::channel(DEPTH);
    (
        PipeWriter { chunks: sender, pending: Vec::with_capacity(CHUNK) },
        PipeReader { chunks, current: Bytes::new() },
    )
}

impl PipeReader {
    /// The same as a stream, for a request's body.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures_util::stream::unfold(self.chunks, |mut chunks| async move {
            let chunk = chunks.recv().await?;
            Some((chunk, chunks))
        })
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

impl PipeWriter {
    /// Ends the stream with an error, so that the other side does not take a part for the whole.
    pub fn fail(self, error: io::Error) {
        let _ = self.chunks.blocking_send(Err(error));
    }

    fn push(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        self.chunks.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(data);
        if self.pending.len() >= CHUNK {
            self.push()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

/// Reads a body from blocking code; must be called within a runtime. `progress` is told of every piece.
pub fn reader_from(mut body: ByteStream, mut progress: impl FnMut(u64) + Send + 'static) -> PipeReader {
    let (sender, chunks) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        loop {
            let item = match body.next().await {
                Ok(Some(chunk)) => {
                    progress(chunk.len() as u64);
                    Ok(chunk)
                }
                Ok(None) => return,
                Err(error) => Err(io::Error::other(error_text(&error))),
            };
            let last = item.is_err();
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    PipeReader { chunks, current: Bytes::new() }
}

fn error_text(error: &Error) -> String {
    error.to_string()
}
