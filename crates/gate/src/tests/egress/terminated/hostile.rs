//! Servers of HTTP/2 that mean harm, or only leave: what they can make the gate hold and tell is bounded, too.

use super::attacks::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PUSH_PROMISE, RESET, SETTINGS, heard,
    literal, two,
};
use super::streams::{Frames, all, client, data, frames, request, whole};
use super::*;
use hyper::client::conn::http2::SendRequest;

/// `:status 200`, as the static table has it.
const OK_HEAD: u8 = 0x88;

/// A server of one connection, which says what it likes.
struct Raw(server::TlsStream<TcpStream>);

impl Raw {
    /// The payload of the first settings that it is told.
    async fn begin(&mut self, settings: &[u8]) -> Vec<u8> {
        let mut preface = [0; 24];
        in_time(self.0.read_exact(&mut preface)).await.unwrap();
        assert!(preface.starts_with(b"PRI * HTTP/2.0"));
        let said = self.until(SETTINGS).await.1;
        self.say(&[two(SETTINGS, 0, 0, settings), two(SETTINGS, 1, 0, &[])].concat()).await;
        said
    }

    /// The next frame of this kind: its stream and payload.
    async fn until(&mut self, kind: u8) -> (u32, Vec<u8>) {
        loop {
            let (other, stream, payload) = heard(&mut self.0).await.expect("the connection ended");
            if other == kind {
                return (stream, payload);
            }
        }
    }

    async fn say(&mut self, frames: &[u8]) {
        self.0.write_all(frames).await.unwrap();
        self.0.flush().await.unwrap();
    }
}

struct Hostile {
    terminated: Terminated,
    server: Server,
}

impl Hostile {
    async fn new() -> Self {
        let terminated = Terminated::new(bearer()).await;
        let acceptor = terminated.known.server(&[NAME], &["h2"], |_| ());
        let server = Server { listener: terminated.world.host(NAME, 443).await, acceptor };
        Self { terminated, server }
    }

    async fn both(&self) -> (SendRequest<Frames>, Raw) {
        let (client, server) = tokio::join!(client(&self.terminated), self.server.accept());
        (client, Raw(server))
    }

    /// Others are served.
    async fn is_served(&self) {
        let (mut client, mut server) = self.both().await;
        let asking = client.send_request(asked("/ok"));
        let answering = async {
            server.begin(&[]).await;
            let (stream, _) = server.until(HEADERS).await;
            server.say(&two(HEADERS, END_HEADERS | END_STREAM, stream, &[OK_HEAD])).await;
        };
        let (answer, ()) = tokio::join!(in_time(asking), answering);
        assert_eq!(answer.unwrap().status(), 200);
    }
}

fn asked(path: &str) -> hyper::Request<Frames> {
    request(&format!("https://{NAME}{path}"), whole(""))
}

#[tokio::test]
async fn what_is_pushed_or_said_early_reaches_no_client() {
    let hostile = Hostile::new().await;
    // An answer before the answer is not passed on, whatever is in it.
    let (mut client, mut server) = hostile.both().await;
    let asking = tokio::spawn(client.send_request(asked("/x")));
    let settings = server.begin(&[]).await;
    // ENABLE_PUSH is off.
    assert!(settings.chunks(6).any(|setting| setting == [0, 2, 0, 0, 0, 0]), "{settings:?}");
    let (stream, _) = server.until(HEADERS).await;
    let early = [literal(":status", "103"), literal("link", &format!("</{VALUE}>"))].concat();
    server.say(&two(HEADERS, END_HEADERS, stream, &early)).await;
    server.say(&two(HEADERS, END_HEADERS, stream, &[OK_HEAD])).await;
    server.say(&two(DATA, END_STREAM, stream, VALUE.as_bytes())).await;
    let answer = in_time(asking).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("link")), (200, None));
    assert_eq!(all(answer.into_body()).await.unwrap().0, "*".repeat(VALUE.len()));

    // A push ends the connection, and the client hears of no other request than its own.
    let (mut client, mut server) = hostile.both().await;
    let asking = tokio::spawn(client.send_request(asked("/x")));
    server.begin(&[]).await;
    let (stream, _) = server.until(HEADERS).await;
    let promised = [&[0x82, 0x87][..], &literal(":authority", NAME), &literal(":path", "/pushed")].concat();
    server.say(&two(PUSH_PROMISE, END_HEADERS, stream, &[&[0, 0, 0, 2][..], &promised].concat())).await;
    let (_, fault) = server.until(GOAWAY).await;
    assert_eq!(fault[4..8], [0, 0, 0, 1]);
    assert!(in_time(asking).await.unwrap().is_ok_and(|answer| answer.status() == 503));
    hostile.is_served().await;
}

#[tokio::test]
async fn a_server_that_leaves_takes_the_client_along_and_answers_what_it_has() {
    let hostile = Hostile::new().await;
    let (mut client, mut server) = hostile.both().await;
    let asking = tokio::spawn(client.send_request(asked("/x")));
    server.begin(&[]).await;
    let (stream, _) = server.until(HEADERS).await;
    let leave = [&stream.to_be_bytes()[..], &[0; 4]].concat();
    server.say(&two(GOAWAY, 0, 0, &leave)).await;
    server.say(&two(HEADERS, END_HEADERS | END_STREAM, stream, &[OK_HEAD])).await;
    assert_eq!(in_time(asking).await.unwrap().unwrap().status(), 200);
    drop(server);
    // It hears that this connection is over, and nothing is lost on it.
    let leaves = async {
        while client.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time(leaves).await;
    // One that did not even look at a request.
    let (mut client, mut server) = hostile.both().await;
    let asking = tokio::spawn(client.send_request(asked("/x")));
    server.begin(&[]).await;
    server.until(HEADERS).await;
    server.say(&two(GOAWAY, 0, 0, &[0; 8])).await;
    drop(server);
    assert!(in_time(asking).await.unwrap().is_ok_and(|answer| answer.status() == 503));
    hostile.is_served().await;
}

#[tokio::test]
async fn answers_without_end_reach_nobody() {
    let hostile = Hostile::new().await;
    // Heads that go on and on, early answers that do, and a bomb of headers: 16 KiB on the wire, 50 MB of them.
    let entry = [&[0x40, 1, b'x', 0x7f, 0x81, 0x17][..], &[b'y'; 3072]].concat();
    let bomb = [vec![OK_HEAD], entry, vec![0xbe; 12_000]].concat();
    let early = |stream| two(HEADERS, END_HEADERS, stream, &literal(":status", "103"));
    let piece = literal("x-a", &"b".repeat(100)).repeat(150);
    for kind in 0..3 {
        let (mut client, mut server) = hostile.both().await;
        let asking = tokio::spawn(client.send_request(asked("/x")));
        server.begin(&[]).await;
        let (stream, _) = server.until(HEADERS).await;
        let (first, more) = match kind {
            0 => (two(HEADERS, 0, stream, &[OK_HEAD]), two(CONTINUATION, 0, stream, &piece)),
            1 => (Vec::new(), early(stream)),
            _ => (two(HEADERS, END_HEADERS | END_STREAM, stream, &bomb), Vec::new()),
        };
        server.say(&first).await;
        if kind == 1 {
            // They are taken as they come, and nothing of them is kept.
            for _ in 0..10_000 {
                server.say(&more).await;
            }
            server.say(&two(HEADERS, END_HEADERS | END_STREAM, stream, &[OK_HEAD])).await;
            assert_eq!(in_time(asking).await.unwrap().unwrap().status(), 200);
            continue;
        }
        let mut pieces = 0;
        while !more.is_empty() && pieces < 20_000 && server.0.write_all(&more).await.is_ok() {
            pieces += 1;
        }
        assert!(pieces < 20_000);
        let answer = in_time(asking).await.unwrap();
        assert!(!answer.is_ok_and(|answer| answer.status() == 200));
        hostile.is_served().await;
        drop(server);
    }
}

#[tokio::test]
async fn a_server_that_takes_nothing_has_the_client_wait() {
    let hostile = Hostile::new().await;
    let (mut client, mut server) = hostile.both().await;
    // A window of nothing for each request, before there is one.
    server.begin(&[0, 4, 0, 0, 0, 0]).await;
    server.until(SETTINGS).await;
    let (sending, body) = frames();
    let asking = tokio::spawn(client.send_request(request(&format!("https://{NAME}/x"), body)));
    let (stream, _) = server.until(HEADERS).await;
    for _ in 0..256 {
        sending.send(data(vec![0; 64 << 10])).unwrap();
    }
    drop(sending);
    // One byte is let through, and that is all that comes; another request of the same client is answered meanwhile.
    server.say(&two(8, 0, stream, &1_u32.to_be_bytes())).await;
    assert_eq!(server.until(DATA).await, (stream, vec![0]));
    let second = tokio::spawn(client.send_request(request(&format!("https://{NAME}/y"), frames().1)));
    let (other, _) = server.until(HEADERS).await;
    assert_ne!(other, stream);
    server.say(&two(HEADERS, END_HEADERS | END_STREAM, other, &[OK_HEAD])).await;
    assert_eq!(in_time(second).await.unwrap().unwrap().status(), 200);
    // A window that overflows is a fault of its own.
    server.say(&two(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes())).await;
    server.say(&two(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes())).await;
    loop {
        match heard(&mut server.0).await {
            Some((RESET, of, _)) => break assert_eq!(of, stream),
            Some((GOAWAY, ..)) | None => break,
            Some(_) => {}
        }
    }
    assert!(!in_time(asking).await.unwrap().is_ok_and(|answer| answer.status() == 200));
}
