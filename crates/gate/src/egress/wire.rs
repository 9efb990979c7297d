//! A connection as HTTP reads and writes it: what was read of it before comes first, and what moves is counted.

use super::flow::{Flow, Way};
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One end.
pub struct Wire {
    before: Bytes,
    stream: Arc<TcpStream>,
    flow: Arc<Flow>,
    /// Only one of the two ends counts.
    counts: bool,
}

impl Wire {
    /// The agent's end, of which this was read.
    pub fn client(before: Vec<u8>, stream: Arc<TcpStream>, flow: Arc<Flow>) -> Self {
        Self { before: before.into(), stream, flow, counts: true }
    }

    /// The other end.
    pub fn upstream(stream: Arc<TcpStream>, flow: Arc<Flow>) -> Self {
        Self { before: Bytes::new(), stream, flow, counts: false }
    }

    /// The connection, and what was read of it and not yet taken.
    pub fn into_parts(self) -> (Bytes, Arc<TcpStream>) {
        (self.before, self.stream)
    }

    fn moved(&self, way: Way, bytes: usize) {
        if self.counts {
            self.flow.moved(way, bytes);
        } else {
            self.flow.alive();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let had = buf.filled().len();
        if self.before.is_empty() {
            loop {
                ready!(self.stream.poll_read_ready(cx))?;
                match self.stream.try_read_buf(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => break read.map(drop)?,
                }
            }
        } else {
            let some = self.before.len().min(buf.remaining());
            buf.put_slice(self.before.get(..some).unwrap_or_default());
            self.before.advance(some);
        }
        self.moved(Way::Out, buf.filled().len() - had);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write)?))
    }
}

impl Wire {
    fn write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    let written = written?;
                    self.moved(Way::In, written);
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }
}
