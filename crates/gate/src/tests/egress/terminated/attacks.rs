//! Clients of HTTP/2 that mean harm: what they can make the gate hold and do is bounded, and others are served meanwhile.

use super::streams::{Frames, Heard, Sending, client, data, frames, request, serve, whole};
use super::*;
use crate::limits;
use bytes::Bytes;
use hyper::{Request, Response, body::Incoming};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::client::TlsStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, section 4.1).
pub fn two(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that no table keeps (RFC 7541, section 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    assert!(name.len() < 127 && value.len() < 127);
    [vec![0], text(name), text(value)].concat()
}

/// `GET` of a path.
fn asked(path: &str) -> Vec<u8> {
    [&[0x82, 0x87][..], &literal(":authority", NAME), &literal(":path", path)].concat()
}

/// A client that says what it likes, and never acknowledges a setting.
async fn raw(terminated: &Terminated) -> TlsStream<TcpStream> {
    let mut stream = terminated.shake(NAME, terminated.own.client(&["h2"])).await.unwrap();
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &two(SETTINGS, 0, 0, &[])[..]].concat();
    stream.write_all(&begin).await.unwrap();
    stream
}

/// The next frame: kind, stream and payload. None at the end.
pub async fn heard(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    in_time(stream.read_exact(&mut head)).await.ok()?;
    let [a, b, c, kind, _, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    in_time(stream.read_exact(&mut payload)).await.ok()?;
    Some((kind, u32::from_be_bytes(id), payload))
}

/// A server that answers nothing but `/ok`.
async fn mute(terminated: &Terminated) -> Heard {
    serve(terminated, async |request: Request<Incoming>| {
        if request.uri().path() != "/ok" {
            std::future::pending::<()>().await;
        }
        Response::new(whole("ok"))
    })
    .await
}

/// Others are served.
async fn is_served(terminated: &Terminated) {
    let mut client = client(terminated).await;
    let ok = request(&format!("https://{NAME}/ok"), whole(""));
    assert_eq!(in_time(client.send_request(ok)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let terminated = Terminated::new(bearer()).await;
    let heard_there = mute(&terminated).await;
    let mut client = raw(&terminated).await;
    let mut id = 1;
    // As much as it takes.
    for _ in 0..1000 {
        let mut many = Vec::new();
        for _ in 0..100 {
            many.extend(two(HEADERS, END_STREAM | END_HEADERS, id, &asked("/x")));
            many.extend(two(RESET, 0, id, &8_u32.to_be_bytes()));
            id += 2;
        }
        if client.write_all(&many).await.is_err() {
            break;
        }
    }
    while heard(&mut client).await.is_some() {}
    let most = limits::GIVEN_UP_AT_ONCE as usize + 2 * limits::STREAMS as usize;
    assert!(heard_there.lock().unwrap().len() < most);
    is_served(&terminated).await;
}

#[tokio::test]
async fn requests_that_are_taken_back_once_the_server_has_them_do_too() {
    let terminated = Terminated::new(bearer()).await;
    let heard_there = mute(&terminated).await;
    let mut client = raw(&terminated).await;
    let most = limits::GIVEN_UP_AT_ONCE as usize;
    for number in 0..4 * most {
        let id = u32::try_from(2 * number + 1).unwrap();
        let said = two(HEADERS, END_STREAM | END_HEADERS, id, &asked("/x"));
        if client.write_all(&said).await.is_err() {
            break;
        }
        let arrived = async {
            while heard_there.lock().unwrap().len() <= number {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(500), arrived).await.is_err() {
            break;
        }
        let _ = client.write_all(&two(RESET, 0, id, &8_u32.to_be_bytes())).await;
    }
    let came = heard_there.lock().unwrap().len();
    assert!((most..2 * most).contains(&came), "{came}");
    while heard(&mut client).await.is_some() {}
    is_served(&terminated).await;
}

#[tokio::test]
async fn headers_without_end_and_bombs_of_them_reach_nobody() {
    let terminated = Terminated::new(bearer()).await;
    let heard_there = mute(&terminated).await;
    // A head that goes on and on (VU#421644), in small pieces, in empty ones, and in large ones.
    for piece in [literal("x-a", "b"), Vec::new(), literal("x-a", &"b".repeat(100)).repeat(150)] {
        let mut client = raw(&terminated).await;
        client.write_all(&two(HEADERS, END_STREAM, 1, &asked("/x"))).await.unwrap();
        let more = two(CONTINUATION, 0, 1, &piece);
        let mut pieces = 0;
        while pieces < 20_000 && client.write_all(&more).await.is_ok() {
            pieces += 1;
        }
        let mut last = None;
        while let Some(frame) = heard(&mut client).await {
            last = Some(frame);
        }
        // With a fault, if there was time to say it.
        if let Some((GOAWAY, _, payload)) = last {
            assert_ne!(payload[4..8], [0; 4]);
        }
    }
    // One entry of the table that is referred to over and over: 16 KiB on the wire, 50 MB of headers.
    let mut client = raw(&terminated).await;
    let entry = [&[0x40, 1, b'x', 0x7f, 0x81, 0x17][..], &[b'y'; 3072]].concat();
    let bomb = [asked("/x"), entry, vec![0xbe; 12_000]].concat();
    client.write_all(&two(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await.unwrap();
    let ended = loop {
        match heard(&mut client).await {
            Some((HEADERS, 1, _) | (RESET, 1, _) | (GOAWAY, ..)) => break true,
            Some(_) => {}
            None => break true,
        }
    };
    assert!(ended && heard_there.lock().unwrap().is_empty());
    is_served(&terminated).await;
}

#[tokio::test]
async fn floods_of_frames_end_or_wait_and_others_are_served() {
    let terminated = Terminated::new(bearer()).await;
    mute(&terminated).await;
    let open = two(HEADERS, END_HEADERS, 1, &asked("/x"));
    for (before, one) in [
        (Vec::new(), two(PING, 0, 0, &[7; 8])),
        (Vec::new(), two(SETTINGS, 0, 0, &[])),
        // A window that changes for all streams.
        (
            open.clone(),
            [two(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]), two(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])].concat(),
        ),
        (open.clone(), two(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        (open.clone(), two(DATA, 0, 1, &[])),
        // All padding.
        (open.clone(), two(DATA, 8, 1, &[0])),
        (open.clone(), two(DATA, 0, 1, b"x")),
        (open, two(RESET, 0, 1, &8_u32.to_be_bytes())),
    ] {
        let mut client = raw(&terminated).await;
        client.write_all(&before).await.unwrap();
        let many = one.repeat((64 << 10) / one.len());
        let flood = async {
            let mut sent = 0;
            // What comes back is not read.
            while sent < 16 << 20 && client.write_all(&many).await.is_ok() {
                sent += many.len();
            }
            sent
        };
        let (sent, ()) = tokio::join!(
            // It waits for somebody who reads, or it is over.
            tokio::time::timeout(Duration::from_secs(3), flood),
            is_served(&terminated)
        );
        drop(sent);
        is_served(&terminated).await;
    }
}

#[tokio::test]
async fn acknowledgements_that_nobody_reads_are_not_kept() {
    let terminated = Terminated::new(bearer()).await;
    mute(&terminated).await;
    for one in [two(PING, 0, 0, &[7; 8]), two(SETTINGS, 0, 0, &[])] {
        let mut client = raw(&terminated).await;
        let many = one.repeat((64 << 10) / one.len());
        let mut sent = 0;
        // Sockets hold a few MiB; then nothing more is taken.
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(500), client.write_all(&many)).await
        {
            sent += many.len();
            assert!(sent < 64 << 20, "it takes whatever comes");
        }
    }
}

#[tokio::test]
async fn so_many_requests_at_a_time_and_no_more() {
    let terminated = Terminated::new(bearer()).await;
    let heard_there = mute(&terminated).await;
    let mut client = raw(&terminated).await;
    for number in 0..limits::STREAMS + 50 {
        let said = two(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &asked("/x"));
        client.write_all(&said).await.unwrap();
    }
    // What was written may only lie there yet.
    client.flush().await.unwrap();
    let mut refused = 0;
    while refused < 50 {
        if let (RESET, id, payload) = heard(&mut client).await.unwrap() {
            // REFUSED_STREAM: it may be sent again.
            assert!(id > 2 * limits::STREAMS && payload == 7_u32.to_be_bytes());
            refused += 1;
        }
    }
    drop(client);
    while heard_there.lock().unwrap().len() < limits::STREAMS as usize {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(heard_there.lock().unwrap().len(), limits::STREAMS as usize);

    // Nor on all connections of the agent together.
    let terminated = Terminated::new(bearer()).await;
    let heard_there = mute(&terminated).await;
    let mut pending = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..limits::REQUESTS_PER_AGENT.div_ceil(50) {
        let mut client = client_of(&terminated).await;
        for _ in 0..50 {
            pending.push(tokio::spawn(client.send_request(request(&format!("https://{NAME}/x"), whole("")))));
        }
        clients.push(client);
    }
    let over = pending.len() - limits::REQUESTS_PER_AGENT;
    let mut refused = 0;
    while refused < over {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (done, rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(|task| task.is_finished());
        pending = rest;
        for task in done {
            assert_eq!(task.await.unwrap().unwrap().status(), 429);
            refused += 1;
        }
    }
    assert_eq!(refused, over);
    assert!(heard_there.lock().unwrap().len() <= limits::REQUESTS_PER_AGENT);
    // Once they are over there is room again.
    for task in pending {
        task.abort();
    }
    drop(clients);
    loop {
        let ok = request(&format!("https://{NAME}/ok"), whole(""));
        match in_time(client_of(&terminated).await.send_request(ok)).await.unwrap().status().as_u16() {
            200 => break,
            status => assert_eq!(status, 429),
        }
    }
}

/// A client that needs nothing else to stay.
async fn client_of(terminated: &Terminated) -> hyper::client::conn::http2::SendRequest<Frames> {
    client(terminated).await
}

#[tokio::test]
async fn what_http_2_forbids_reaches_nobody() {
    let terminated = Terminated::new(bearer()).await;
    let heard_there = mute(&terminated).await;
    let with = |extra: Vec<u8>| [asked("/x"), extra].concat();
    let pseudo = |method: &str, path: &str| {
        [literal(":method", method), vec![0x87], literal(":authority", NAME), literal(":path", path)].concat()
    };
    for head in [
        // Of one connection of HTTP/1, so of no use but to be smuggled.
        with(literal("connection", "close")),
        with(literal("transfer-encoding", "chunked")),
        with(literal("upgrade", "websocket")),
        with(literal("te", "gzip")),
        with(literal("X-Capital", "x")),
        with(literal("x", "a\r\nhost: www.example.com")),
        with(literal("x\r\nhost", "www.example.com")),
        with(literal("x", "a\0")),
        // A pseudo-header behind another one, twice, or unknown.
        with([literal("x", "y"), literal(":path", "/y")].concat()),
        with(literal(":path", "/y")),
        with(literal(":other", "/y")),
        with(literal(":status", "200")),
        pseudo("GET /y HTTP/1.1\r\nx:", "/x"),
        pseudo("GET", "/x HTTP/1.1\r\nhost: www.example.com\r\n\r\n"),
        pseudo("GET", ""),
        pseudo("GET", "https://www.example.com/"),
        // A body of another length than is said.
        with(literal("content-length", "5")),
        // WebSocket over HTTP/2 (RFC 8441), which was not offered.
        [
            literal(":method", "CONNECT"),
            literal(":protocol", "websocket"),
            vec![0x87],
            literal(":authority", NAME),
            literal(":path", "/x"),
        ]
        .concat(),
    ] {
        let mut client = raw(&terminated).await;
        client.write_all(&two(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await.unwrap();
        loop {
            match heard(&mut client).await {
                // A refusal: 403, or 400.
                Some((HEADERS, 1, _) | (RESET, 1, _) | (GOAWAY, ..)) | None => break,
                Some(_) => {}
            }
        }
        let came = heard_there.lock().unwrap().clone();
        assert!(came.is_empty(), "{} {came:?}", head.escape_ascii());
    }
    is_served(&terminated).await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_waits_at_the_server() {
    let terminated = Terminated::new(bearer()).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    serve(&terminated, move |request: Request<Incoming>| {
        let (sending, body) = frames();
        if request.uri().path() == "/ok" {
            sending.send(data("ok")).unwrap();
        } else {
            tokio::spawn(pour(sending, count.clone()));
        }
        std::future::ready(Response::new(body))
    })
    .await;
    let mut client = raw(&terminated).await;
    // As large a window as there is.
    let window = 0x7fff_ffff_u32.to_be_bytes();
    let mut said = two(SETTINGS, 0, 0, &[&[0, 4][..], &window].concat());
    said.extend(two(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    for number in 0..limits::STREAMS {
        said.extend(two(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &asked("/x")));
    }
    client.write_all(&said).await.unwrap();
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::Relaxed);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    // Windows, buffers of streams, and what sockets hold.
    assert!(before < 64 << 20, "{before}");
    let mut other = client_of(&terminated).await;
    let ok = request(&format!("https://{NAME}/ok"), whole(""));
    assert_eq!(in_time(other.send_request(ok)).await.unwrap().status(), 200);
}

/// A piece of an answer, of which there are few that were not sent.
struct Piece(Vec<u8>, #[allow(dead_code, reason = "given back with this")] OwnedSemaphorePermit);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Sends as much as is taken.
async fn pour(sending: Sending, count: Arc<AtomicUsize>) {
    let room = Arc::new(Semaphore::new(2));
    loop {
        let piece = Piece(vec![0; 16 << 10], room.clone().acquire_owned().await.unwrap());
        if sending.send(data(Bytes::from_owner(piece))).is_err() {
            return;
        }
        count.fetch_add(16 << 10, Ordering::Relaxed);
    }
}
