//! The same by HTTP/2: requests side by side on one connection.

use super::*;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub type Sending = UnboundedSender<Frame<Bytes>>;

/// A body that a test sends piece by piece.
pub struct Frames(UnboundedReceiver<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

pub fn frames() -> (Sending, Frames) {
    let (sending, frames) = unbounded_channel();
    (sending, Frames(frames))
}

pub fn data(text: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(text.into())
}

pub fn whole(text: &str) -> Frames {
    let (sending, frames) = frames();
    sending.send(data(text.to_owned())).unwrap();
    frames
}

pub async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    in_time(std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await
}

/// All of a body, and its trailers.
pub async fn all(mut body: Incoming) -> Result<(String, HeaderMap), hyper::Error> {
    let (mut text, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = next(&mut body).await {
        match frame?.into_data() {
            Ok(data) => text.extend(data),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    Ok((String::from_utf8(text).unwrap(), trailers))
}

/// What a server heard: target and `authorization`.
pub type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// A server that answers all requests in this way.
pub async fn serve<A, F>(terminated: &Terminated, answer: A) -> Heard
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Frames>> + Send + 'static,
{
    let heard = Heard::default();
    let acceptor = terminated.known.server(&[NAME], &["h2"], |_| ());
    let server = Server { listener: terminated.world.host(NAME, 443).await, acceptor };
    let heard_ = heard.clone();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = server.listener.accept().await else { return };
            let Ok(stream) = server.acceptor.accept(stream).await else { continue };
            let (heard, answer) = (heard_.clone(), answer.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let of = |name| request.headers().get(name).map_or("", |value| value.to_str().unwrap());
                assert_eq!(of("host"), "");
                heard.lock().unwrap().push((request.uri().to_string(), of("authorization").to_owned()));
                let answering = answer(request);
                async move { Ok::<_, Infallible>(answering.await) }
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                let _ = serving.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    heard
}

pub async fn client(terminated: &Terminated) -> SendRequest<Frames> {
    let stream = terminated.shake(NAME, terminated.own.client(&["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let shaking = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = shaking.await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn request(uri: &str, body: Frames) -> Request<Frames> {
    Request::post(uri).version(Version::HTTP_2).body(body).unwrap()
}

async fn echo(request: Request<Incoming>) -> Response<Frames> {
    let authorization = request.headers().get("authorization").cloned();
    let body = all(request.into_body()).await.map(|(body, _)| body).unwrap_or_default();
    let said = authorization.as_ref().map_or("", |value| value.to_str().unwrap());
    let mut response = Response::new(whole(&format!("{said} {body}")));
    if let Some(value) = authorization {
        response.headers_mut().insert("x-echo", value);
    }
    response
}

#[tokio::test]
async fn requests_pass_side_by_side_and_none_for_another_host() {
    let terminated = Terminated::new(bearer()).await;
    let heard = serve(&terminated, echo).await;
    let mut client = client(&terminated).await;
    let stars = "*".repeat(VALUE.len());
    let mut pending = Vec::new();
    for number in 0..50 {
        let mut request = request(&format!("https://{NAME}/{number}?q"), whole(&format!("body {number}")));
        let value = format!("Bearer {PLACEHOLDER}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        pending.push(client.send_request(request));
    }
    for (number, answering) in pending.into_iter().enumerate() {
        let answer = in_time(answering).await.unwrap();
        assert_eq!(answer.headers()["x-echo"], format!("Bearer {stars}"));
        assert_eq!(all(answer.into_body()).await.unwrap().0, format!("Bearer {stars} body {number}"));
    }
    let mut asked = heard.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked.len(), 50);
    assert_eq!(asked[0], (format!("https://{NAME}/0?q"), format!("Bearer {VALUE}")));

    // The same name is shown to all, but each request says for whom it is.
    for (uri, host, status) in [
        ("https://www.example.com/", None, 403),
        ("https://api.example.com:8443/", None, 403),
        ("https://u@api.example.com/", None, 403),
        ("https://api.example.com/", Some("www.example.com"), 403),
        ("http://api.example.com/", None, 400),
    ] {
        let mut request = request(uri, whole(""));
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let answer = in_time(client.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), status, "{uri} {host:?}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let connect = Request::connect("www.example.com:443").body(whole("")).unwrap();
    assert_eq!(in_time(client.send_request(connect)).await.unwrap().status(), 403);
    assert_eq!(heard.lock().unwrap().len(), 50);
    // What was refused took nothing from the rest.
    let answer = client.send_request(request(&format!("https://{NAME}/"), whole(""))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn calls_that_stream_both_ways_and_end_with_trailers_pass() {
    let terminated = Terminated::new(bearer()).await;
    serve(&terminated, async |request: Request<Incoming>| {
        assert_eq!(request.headers()["te"], "trailers");
        let (sending, frames) = frames();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = next(&mut body).await {
                let frame = match frame.into_data() {
                    Ok(said) => data(said),
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        trailers.insert("grpc-message", VALUE.parse().unwrap());
                        Frame::trailers(trailers)
                    }
                };
                sending.send(frame).unwrap();
            }
        });
        Response::new(frames)
    })
    .await;
    let mut client = client(&terminated).await;
    let (sending, body) = frames();
    let mut call = request(&format!("https://{NAME}/package.Service/Method"), body);
    call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = in_time(client.send_request(call)).await.unwrap().into_body();
    for number in 0..5 {
        sending.send(data(format!("message {number}"))).unwrap();
        let heard = next(&mut answer).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(heard, format!("message {number}"));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-own", HeaderValue::from_static("y"));
    sending.send(Frame::trailers(trailers)).unwrap();
    let (rest, trailers) = all(answer).await.unwrap();
    assert_eq!(
        (rest.as_str(), &trailers["grpc-status"], &trailers["x-own"]),
        ("", &"0".parse().unwrap(), &"y".parse().unwrap())
    );
    assert_eq!(trailers["grpc-message"], "*".repeat(VALUE.len()));
}

#[tokio::test]
async fn both_sides_speak_the_same_version() {
    let terminated = Terminated::new(bearer()).await;
    let listener = terminated.world.host(NAME, 443).await;
    // The server's word counts.
    for (server, expected) in
        [(&["http/1.1"][..], "http/1.1"), (&[], "http/1.1"), (&["h2", "http/1.1"], "h2")]
    {
        let acceptor = terminated.known.server(&[NAME], server, |_| ());
        let config = terminated.own.client(&["h2", "http/1.1"]);
        let accepting = async { acceptor.accept(accept(&listener).await).await };
        let (client, upstream) = tokio::join!(terminated.shake(NAME, config), accepting);
        let chosen = client.unwrap().get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen.as_deref(), Some(expected.as_bytes()));
        drop(upstream);
    }
    // Nothing is translated for a client that speaks nothing else.
    for server in [&["http/1.1"][..], &[]] {
        let acceptor = terminated.known.server(&[NAME], server, |_| ());
        let accepting = async { acceptor.accept(accept(&listener).await).await };
        let config = terminated.own.client(&["h2"]);
        let (client, _upstream) = tokio::join!(terminated.shake(NAME, config), accepting);
        let shaking =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client.unwrap()));
        let (mut sender, connection) = shaking.await.unwrap();
        tokio::spawn(connection);
        let answer =
            in_time(sender.send_request(request(&format!("https://{NAME}/"), whole("")))).await.unwrap();
        assert_eq!(answer.status(), 502);
    }
}

#[tokio::test]
async fn a_placeholder_ends_its_request_and_no_other() {
    let terminated = Terminated::new(bearer()).await;
    let heard = serve(&terminated, echo).await;
    let mut client = client(&terminated).await;
    let (good, good_body) = frames();
    let good_answer = client.send_request(request(&format!("https://{NAME}/good"), good_body));
    let (bad, bad_body) = frames();
    let bad_answer = client.send_request(request(&format!("https://{NAME}/bad"), bad_body));
    for sending in [&good, &bad] {
        sending.send(data("cofferdam-")).unwrap();
    }
    while heard.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    bad.send(data("placeholder-abc")).unwrap();
    assert_eq!(in_time(bad_answer).await.unwrap().status(), 403);
    good.send(data("dam")).unwrap();
    drop(good);
    let (said, _) = all(in_time(good_answer).await.unwrap().into_body()).await.unwrap();
    assert!(said.ends_with("cofferdam-dam"), "{said}");
    // In a head it is refused at once.
    let mut stray = request(&format!("https://{NAME}/"), whole(""));
    stray.headers_mut().insert("x-key", PLACEHOLDER.parse().unwrap());
    assert_eq!(in_time(client.send_request(stray)).await.unwrap().status(), 403);
    assert_eq!(heard.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_change_of_policy_cuts_whatever_is_under_way() {
    let only = |paths: &[&str]| {
        with_rules(json!([{"action": "allow", "host": NAME, "protocol": "tls", "paths": paths}]), json!([]))
    };
    let mut terminated = Terminated::new(only(&["/a", "/b"])).await;
    serve(&terminated, async |request: Request<Incoming>| {
        let (sending, frames) = frames();
        sending.send(data("begun")).unwrap();
        if request.uri().path() == "/a" {
            // Goes on.
            tokio::spawn(async move { sending.closed().await });
        }
        Response::new(frames)
    })
    .await;
    let mut client = client(&terminated).await;
    let mut first =
        client.send_request(request(&format!("https://{NAME}/a"), whole(""))).await.unwrap().into_body();
    assert_eq!(next(&mut first).await.unwrap().unwrap().into_data().unwrap(), "begun");
    let second = client.send_request(request(&format!("https://{NAME}/b"), whole(""))).await.unwrap();
    assert_eq!(all(second.into_body()).await.unwrap().0, "begun");
    // The last request is still allowed, the one before it is not.
    terminated.world.set(Some(only(&["/b"]))).await;
    assert!(next(&mut first).await.unwrap().is_err());
}
