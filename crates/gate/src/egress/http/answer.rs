//! What clients are answered: what the server says, without what was put into the request; or why it was not asked.

use super::super::ongoing::Ongoing;
use super::super::secrets::scrub::Scrubber;
use crate::problems::to_json;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use model::{Code, Problem};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The body of an answer.
pub struct Answer {
    said: Said,
    /// It is a request under way for as long as this is there.
    #[allow(dead_code, reason = "ends with this")]
    ongoing: Option<Ongoing>,
}

enum Said {
    /// What the server says.
    Passed(Incoming),
    /// The same, without a value.
    Scrubbed {
        /// What the server says.
        body: Incoming,
        /// What takes it out.
        scrubber: Scrubber,
        /// What comes after all.
        trailers: Option<HeaderMap>,
        /// Whether the server said all.
        ended: bool,
    },
    /// What is said here.
    Own(Option<Bytes>),
}

impl Answer {
    /// What the server says.
    pub fn passed(body: Incoming) -> Self {
        Said::Passed(body).into()
    }

    /// To this request.
    pub fn of(self, ongoing: Ongoing) -> Self {
        Self { ongoing: Some(ongoing), ..self }
    }
}

impl From<Said> for Answer {
    fn from(said: Said) -> Self {
        Self { said, ongoing: None }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, scrubber, trailers, ended) = match &mut self.get_mut().said {
            Said::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Said::Passed(body) => return Pin::new(body).poll_frame(cx),
            Said::Scrubbed { body, scrubber, trailers, ended } => (body, scrubber, trailers, ended),
        };
        while !*ended {
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                *ended = true;
                break;
            };
            match frame?.into_data() {
                Ok(data) => {
                    let data = scrubber.push(data);
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Err(frame) => {
                    if let Ok(mut last) = frame.into_trailers() {
                        clean(&mut last, scrubber);
                        *trailers = Some(last);
                    }
                }
            }
        }
        let rest = scrubber.finish();
        if !rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.said {
            Said::Own(bytes) => bytes.is_none(),
            Said::Passed(body) => body.is_end_stream(),
            Said::Scrubbed { body, scrubber, trailers, .. } => {
                body.is_end_stream() && !scrubber.holds() && trailers.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.said {
            Said::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Said::Passed(body) => body.size_hint(),
            // What is held back is yet to come. The header says the length, where it is known.
            Said::Scrubbed { .. } => SizeHint::default(),
        }
    }
}

/// An answer without values.
pub fn scrubbed(answer: Response<Incoming>, scrubber: Scrubber) -> Result<Response<Answer>, Problem> {
    let (mut head, body) = answer.into_parts();
    if !body.is_end_stream() && is_encoded(&head.headers) {
        let detail = "The host encoded its answer though it was asked not to, and a credential cannot be looked \
                      for in it.";
        return Err(bad_gateway(detail).remedy("Ask for something that the host does not compress."));
    }
    clean(&mut head.headers, &scrubber);
    head.extensions.remove::<ReasonPhrase>();
    let said = Said::Scrubbed { body, scrubber, trailers: None, ended: false };
    Ok(Response::from_parts(head, said.into()))
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let other = |name, plain: &'static str| {
        let values = headers.get_all(name).iter();
        let mut words =
            values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        words.any(|word| !word.is_empty() && !word.eq_ignore_ascii_case(plain.as_bytes()))
    };
    other(header::CONTENT_ENCODING, "identity") || other(header::TRANSFER_ENCODING, "chunked")
}

fn clean(headers: &mut HeaderMap, scrubber: &Scrubber) {
    for value in headers.values_mut() {
        if let Some(clean) = scrubber.whole(value.as_bytes()) {
            // Stars can stand wherever something could.
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static(""));
        }
    }
}

/// The server is at fault.
pub fn bad_gateway(detail: impl Into<String>) -> Problem {
    Problem { status: StatusCode::BAD_GATEWAY.as_u16(), ..Problem::new(Code::Unavailable, detail) }
}

/// A problem as an answer; whether it is the last on its connection.
pub fn refusal(problem: &Problem, last: bool) -> Response<Answer> {
    let mut response = Response::new(Answer::from(Said::Own(Some(to_json(problem).into()))));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
