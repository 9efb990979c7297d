//! Bytes from one connection to another, within the kernel: `splice(2)` through a pipe that is held only while something
//! is in it.

use super::flow::{Flow, Way};
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;

/// Asked of one call. A pipe holds so many pieces of memory and not so many bytes, and pieces from the network are large.
const AT_ONCE: usize = 1 << 20;

/// Empty pipes that a thread keeps.
const KEPT: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// An empty one.
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write })
    }

    /// It is empty again.
    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < KEPT {
                pipes.push(self);
            }
        });
    }
}

/// Passes on all that each says to the other, until both said all.
pub async fn both(client: &TcpStream, upstream: &TcpStream, flow: &Flow) -> io::Result<()> {
    let (out, back) = (one_way(client, upstream, flow, Way::Out), one_way(upstream, client, flow, Way::In));
    tokio::try_join!(out, back).map(drop)
}

/// Passes on all that `from` says, and that it said all.
pub async fn one_way(from: &TcpStream, to: &TcpStream, flow: &Flow, way: Way) -> io::Result<()> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        from.readable().await?;
        let pipe = Pipe::take()?;
        let taken =
            from.try_io(Interest::READABLE, || Ok(splice(from, None, &pipe.write, None, AT_ONCE, flags)?));
        let mut left = match taken {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                pipe.give_back();
                continue;
            }
            Err(error) => return Err(error),
        };
        if left == 0 {
            pipe.give_back();
            break;
        }
        if flow.moved(way, left) {
            // It is cut before this is passed on.
            yield_now().await;
        }
        while left > 0 {
            match to.try_io(Interest::WRITABLE, || Ok(splice(&pipe.read, None, to, None, left, flags)?)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(passed) => left -= passed,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        flow.alive();
        pipe.give_back();
        consume_budget().await;
    }
    flow.half_closed();
    match rustix::net::shutdown(to, Shutdown::Write) {
        // It is gone already.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends all of it.
pub async fn send(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
