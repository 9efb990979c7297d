//! Bodies of requests on their way out.

use super::super::flow::Flow;
use super::super::secrets::body::Format;
use super::super::secrets::placeholder::Scanner;
use super::super::secrets::put::{self, Put, Refused};
use crate::limits;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use model::{Code, Problem};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use zeroize::Zeroizing;

/// What is sent.
pub enum Outgoing {
    /// As it comes, looked through for placeholders.
    Stream {
        /// What comes.
        body: Incoming,
        /// What looks.
        scanner: Scanner,
        /// Whose it is.
        flow: Arc<Flow>,
        /// Whether there was one.
        watched: Watched,
    },
    /// All of it at once.
    Whole(Option<Bytes>),
}

/// A whole body, which takes its place until the last byte of it was sent.
struct Held {
    bytes: Zeroizing<Vec<u8>>,
    #[allow(dead_code, reason = "ends with this")]
    places: Places,
    #[allow(dead_code, reason = "ends with this")]
    taken: DropGuard,
}

/// The places of a body among those of its agent and of all.
pub type Places = [Option<OwnedSemaphorePermit>; 2];

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether a placeholder was found in a body while it was passed on.
#[derive(Clone, Default)]
pub struct Watched(Arc<AtomicBool>);

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// It did on the client's side.
    #[error("the client's body broke off")]
    Broken(#[from] hyper::Error),
    /// It holds a placeholder.
    #[error("a placeholder in the body")]
    Stray,
}

impl Watched {
    /// Whether there was one.
    pub fn is_stray(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Outgoing {
    /// A body that is passed on as it comes.
    pub fn stream(body: Incoming, scanner: Scanner, flow: Arc<Flow>, watched: Watched) -> Self {
        Self::Stream { body, scanner, flow, watched }
    }

    /// This one, and what is cancelled once the server has all of it.
    pub fn whole(body: Vec<u8>, places: Places) -> (Self, CancellationToken) {
        let taken = CancellationToken::new();
        let held = Held { bytes: body.into(), places, taken: taken.clone().drop_guard() };
        (Self::Whole(Some(Bytes::from_owner(held))), taken)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = OutgoingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutgoingError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { body, scanner, flow, watched } => {
                let Some(frame) = ready!(Pin::new(body).poll_frame(cx)) else { return Poll::Ready(None) };
                let frame = frame?;
                let stray = match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(data), _) => scanner.finds(data),
                    (_, Some(trailers)) => put::is_in_trailers(trailers),
                    _ => false,
                };
                if stray {
                    watched.0.store(true, Ordering::Relaxed);
                    flow.request_refused(Refused::Stray.to_string());
                    return Poll::Ready(Some(Err(OutgoingError::Stray)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream { body, .. } => body.size_hint(),
        }
    }
}

/// How a body is written into which something is to be put.
pub fn format(put: &Put, parts: &Parts) -> Option<Format> {
    if put.fields.is_empty() || parts.headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    Format::of(parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
}

/// Reads a whole body, once there is a place for it.
pub async fn read(
    mut body: Incoming,
    own: &Arc<Semaphore>,
    all: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Places), Problem> {
    let too_large = || {
        let detail = "The body is too large to put a credential into it.";
        Problem::new(Code::TooLarge, detail).remedy("Send at most 1 MiB.")
    };
    let reading = async {
        // Never closed.
        let own = own.clone().acquire_owned().await.ok();
        let places = [own, all.clone().acquire_owned().await.ok()];
        let mut whole = Vec::new();
        if body.size_hint().lower() > limits::PUT_BODY as u64 {
            return Err(too_large());
        }
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|_| {
                Problem::new(Code::Validation, "The body broke off.").remedy("Send all of it.")
            })?;
            let Some(data) = frame.data_ref() else { continue };
            if whole.len() + data.len() > limits::PUT_BODY {
                return Err(too_large());
            }
            whole.extend_from_slice(data);
        }
        Ok((whole, places))
    };
    timeout(limits::PUT_BODY_TIME, reading).await.unwrap_or_else(|_| {
        let detail = "The body did not come in time to put a credential into it.";
        Err(Problem::new(Code::Timeout, detail).remedy("Send it at once."))
    })
}

/// Waits until it has been too long since a body was there for the server to take.
pub async fn not_taken(taken: Option<CancellationToken>) -> Problem {
    match taken {
        Some(taken) if timeout(limits::PUT_BODY_TIME, taken.cancelled()).await.is_err() => {
            let detail = "The host did not take the body in time.";
            Problem::new(Code::Timeout, detail).remedy("Try again later.")
        }
        _ => std::future::pending().await,
    }
}

/// A body of this length comes.
pub fn say_length(headers: &mut HeaderMap, length: usize) {
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::TRAILER);
    headers.remove(header::EXPECT);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
}
