//! The connection onwards, and what is asked over it.

use super::super::upstream;
use super::super::wire::Wire;
use super::outgoing::Outgoing;
use super::streams::Streams;
use super::{Proxy, host};
use crate::limits;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{Code, Problem};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

/// How the ends of two connections that belong together are one.
#[derive(Clone, Default)]
pub struct Ends {
    /// The connection onwards is over.
    pub over: CancellationToken,
    /// Whether its end may be that it is one of another protocol now.
    pub switching: Arc<AtomicBool>,
}

/// What requests go to.
pub enum Link {
    /// By HTTP/1: one after the other.
    One(Mutex<Onwards>),
    /// By HTTP/2: all at once.
    Two(Multiplexed),
    /// Nobody is there, and this is why.
    Nobody(Problem),
}

/// A connection by HTTP/2.
pub struct Multiplexed {
    sender: http2::SendRequest<Outgoing>,
    /// Whether anything was asked.
    used: AtomicBool,
    #[allow(dead_code, reason = "ends with this")]
    task: AbortOnDropHandle<()>,
    #[allow(dead_code, reason = "ends with this")]
    streams: DropGuard,
}

/// A connection by HTTP/1.
pub enum Onwards {
    /// Yet to be made.
    Nobody,
    /// Made, and nothing was said.
    Connected(TcpStream),
    /// Made.
    Speaking {
        /// Asks.
        sender: http1::SendRequest<Outgoing>,
        /// Whether anything was asked.
        used: bool,
        /// Ends with this.
        #[allow(dead_code, reason = "ends with this")]
        task: AbortOnDropHandle<()>,
    },
}

/// What came of a request.
pub struct Sent {
    /// The answer.
    pub answer: Response<Incoming>,
    /// Whether no other can be asked.
    pub closed: bool,
}

/// Why nothing came of it.
pub enum Failed {
    /// The client is told.
    Told(Problem),
    /// The connection is over, and it asks again if that does no harm.
    Broken(hyper::Error),
}

impl Link {
    /// In the clear, for the first request that passes, or over this.
    pub fn to_be_made(server: Option<TcpStream>) -> Self {
        Self::One(Mutex::new(server.map_or(Onwards::Nobody, Onwards::Connected)))
    }

    /// Over a connection that is there, by HTTP/1.
    pub async fn one<I>(server: I, ends: &Ends) -> hyper::Result<Self>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        Ok(Self::One(Mutex::new(speak(server, ends).await?)))
    }

    /// Over a connection that is there, by HTTP/2.
    pub async fn two<I>(server: I, ends: &Ends) -> hyper::Result<Self>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let (streams, all) = Streams::new();
        let mut http = http2::Builder::new(streams);
        http.timer(TokioTimer::new())
            .initial_stream_window_size(limits::SERVER_STREAM_WINDOW)
            .initial_connection_window_size(limits::SERVER_WINDOW)
            .max_header_list_size(limits::HEADER_LIST)
            .max_send_buf_size(limits::STREAM_BUFFER);
        let (sender, connection) = http.handshake(server).await?;
        let over = ends.over.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a server ended early");
            }
            over.cancel();
        });
        let task = AbortOnDropHandle::new(task);
        Ok(Self::Two(Multiplexed { sender, used: AtomicBool::new(false), task, streams: all }))
    }

    /// Asks. `upgrading` says whether the answer may be another protocol.
    pub async fn send(
        &self,
        proxy: &Proxy,
        request: hyper::Request<Outgoing>,
        upgrading: bool,
    ) -> Result<Sent, Failed> {
        let onwards = match self {
            Self::One(onwards) => onwards,
            Self::Two(onwards) => return onwards.send(proxy, request).await,
            Self::Nobody(problem) => return Err(Failed::Told(problem.clone())),
        };
        let mut onwards = onwards.lock().await;
        if !matches!(*onwards, Onwards::Speaking { .. }) {
            connect(proxy, &mut onwards).await.map_err(Failed::Told)?;
        }
        let Onwards::Speaking { sender, used, .. } = &mut *onwards else {
            return Err(Failed::Told(silent()));
        };
        let fresh = !std::mem::replace(used, true);
        // When the server closed a connection that was used before, so is the client's, without an answer: it asks again, if
        // that does no harm.
        let answered = match sender.ready().await {
            Ok(()) => {
                proxy.ends.switching.store(upgrading, Ordering::Relaxed);
                sender.send_request(request).await
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok(answer) => Ok(Sent { answer, closed: sender.is_closed() }),
            Err(error) if fresh => {
                tracing::debug!(%error, "a server did not answer a request");
                Err(Failed::Told(silent()))
            }
            Err(error) => Err(Failed::Broken(error)),
        }
    }
}

impl Multiplexed {
    async fn send(&self, proxy: &Proxy, mut request: hyper::Request<Outgoing>) -> Result<Sent, Failed> {
        host::name_authority(&mut request, proxy.flow.name().unwrap_or_default(), proxy.flow.port);
        let fresh = !self.used.swap(true, Ordering::Relaxed);
        let mut sender = self.sender.clone();
        let answered = match sender.ready().await {
            Ok(()) => sender.send_request(request).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(answer) => Ok(Sent { answer, closed: false }),
            Err(error) if fresh => {
                tracing::debug!(%error, "a server did not answer a request");
                Err(Failed::Told(silent()))
            }
            Err(error) => Err(Failed::Broken(error)),
        }
    }
}

/// Connects in the clear, and begins to speak HTTP.
async fn connect(proxy: &Proxy, onwards: &mut Onwards) -> Result<(), Problem> {
    let stream = match std::mem::replace(onwards, Onwards::Nobody) {
        Onwards::Connected(stream) => stream,
        _ => upstream::connect(&proxy.context, &proxy.flow).await.map_err(|error| {
            proxy.flow.failed(error.to_string());
            unreachable(&error)
        })?,
    };
    let wire = TokioIo::new(Wire::upstream(Arc::new(stream), proxy.flow.clone()));
    *onwards = speak(wire, &proxy.ends).await.map_err(|_| silent())?;
    Ok(())
}

async fn speak<I>(server: I, ends: &Ends) -> hyper::Result<Onwards>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.preserve_header_case(true).max_headers(limits::HTTP_HEADERS).max_buf_size(limits::HTTP_BUFFER);
    let (sender, connection) = http.handshake(server).await?;
    let Ends { over, switching } = ends.clone();
    let task = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a server ended early");
        }
        // Its end is that of the other one.
        if !switching.load(Ordering::Relaxed) {
            over.cancel();
        }
    });
    Ok(Onwards::Speaking { sender, used: false, task: AbortOnDropHandle::new(task) })
}

/// It was connected, and said nothing.
pub fn silent() -> Problem {
    Problem::new(Code::Unavailable, "The host closed the connection without an answer.")
        .remedy("Try again later.")
}

/// There is no connection.
pub fn unreachable(error: &upstream::UpstreamError) -> Problem {
    Problem::new(Code::Unavailable, format!("The host cannot be reached: {error}."))
        .remedy("Look at the name and the port; if they are right, try again later.")
}
