//! Inits that were taken over.

use super::world::*;
use crate::channel::take_frame;
use ::channel::{Decoder, ExecInfo, Hello, Kind, MAX_PAYLOAD, Reply, Request};
use bytes::BytesMut;
use futures_util::StreamExt;
use model::{Code, ExecId};
use proptest::prelude::*;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

/// In place of a status: the connection was cut. That is how a stream whose source turns out to be broken ends, and where
/// that is known at once it may come before the head was sent.
const CUT: u16 = 0;

/// All kinds of calls, each of which must come to an end that is an answer or a cut.
async fn all_calls(world: &World) -> Vec<u16> {
    let mut statuses = Vec::new();
    for rest in [
        "execs",
        "processes",
        "logs",
        "tar?path=/",
        "files?path=/",
        "files?path=/&view=stat",
        "files?path=/&view=list",
    ] {
        let Ok(answer) = world.get(rest).send().await else {
            statuses.push(CUT);
            continue;
        };
        statuses.push(answer.status().as_u16());
        if answer.status() == 503 {
            let (_, problem) = problem(answer).await;
            assert_eq!(problem.code, Code::Unavailable);
        } else {
            let _ = answer.bytes().await;
        }
    }
    let put =
        world.http.put(world.url("files?path=/a")).bearer_auth(world.token(&ALL)).body(vec![0; 3 << 20]);
    statuses.push(put.send().await.map_or(CUT, |answer| answer.status().as_u16()));
    let attach = format!("execs/{}/attach", ExecId::new());
    match world.websocket(&attach).await {
        Err(error) => statuses.push(refused(error).status),
        Ok(mut socket) => {
            while let Some(Ok(_)) = socket.next().await {}
            statuses.push(101);
        }
    }
    statuses
}

async fn always_unavailable<F, H>(init: F)
where
    F: Fn(Peer) -> H + Send + Sync + 'static,
    H: Future<Output = ()> + Send + 'static,
{
    let world = World::new(init).await;
    let statuses = all_calls(&world).await;
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
}

#[tokio::test]
async fn one_that_closes_at_once() {
    always_unavailable(async |_| {}).await;
}

#[tokio::test]
async fn one_that_closes_after_the_greeting() {
    always_unavailable(async |mut peer: Peer| drop(peer.request().await)).await;
}

#[tokio::test]
async fn one_that_speaks_nonsense() {
    always_unavailable(async |mut peer: Peer| {
        peer.bytes(b"HTTP/1.1 200 OK\r\n\r\n").await;
    })
    .await;
    always_unavailable(async |mut peer: Peer| {
        peer.bytes(&[255; 4096]).await;
    })
    .await;
    always_unavailable(async |mut peer: Peer| {
        peer.bytes(&[0; 4096]).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_lies_about_lengths() {
    always_unavailable(async |mut peer: Peer| {
        peer.request().await;
        peer.bytes(&u32::MAX.to_le_bytes()).await;
        peer.bytes(&[Kind::Reply as u8]).await;
        peer.closed().await;
    })
    .await;
    // Within the limit, and then nothing more.
    always_unavailable(async |mut peer: Peer| {
        peer.request().await;
        peer.bytes(&[0, 0, 16, 0, Kind::Reply as u8, b'{']).await;
    })
    .await;
}

#[tokio::test]
async fn one_of_another_version() {
    // Too new, and too old.
    for hello in [Hello { min: Hello::OURS.max + 1, max: 1001 }, Hello { min: 0, max: Hello::OURS.min - 1 }] {
        always_unavailable(move |mut peer: Peer| async move {
            peer.json(Kind::Hello, &hello).await;
            peer.closed().await;
        })
        .await;
    }
}

#[tokio::test]
async fn one_that_sends_the_wrong_kind() {
    for kind in [Kind::Hello, Kind::Request, Kind::Data0, Kind::Data1, Kind::Control, Kind::Event, Kind::End1]
    {
        always_unavailable(move |mut peer: Peer| async move {
            peer.request().await;
            peer.send(kind, b"{}").await;
            peer.closed().await;
        })
        .await;
    }
}

#[tokio::test]
async fn one_whose_replies_do_not_fit() {
    always_unavailable(async |mut peer: Peer| {
        peer.request().await;
        peer.reply(Reply::Pong { main: true, execs: 1 }).await;
        peer.closed().await;
    })
    .await;
    always_unavailable(async |mut peer: Peer| {
        peer.request().await;
        let deep = "[".repeat(MAX_PAYLOAD);
        peer.send(Kind::Reply, deep.as_bytes()).await;
        peer.closed().await;
    })
    .await;
    always_unavailable(async |mut peer: Peer| {
        peer.request().await;
        peer.send(Kind::Error, br#"{"kind":"surprise","message":1}"#).await;
        peer.closed().await;
    })
    .await;
}

#[tokio::test]
async fn one_whose_lists_have_no_end() {
    let world = World::new(async |mut peer: Peer| {
        let reply = match peer.request().await {
            Request::Execs => Reply::Execs { execs: Vec::new(), more: true },
            _ => {
                let name = "x".repeat(100_000);
                let info = ::channel::FileInfo {
                    name,
                    kind: ::channel::FileKind::Other,
                    size: u64::MAX,
                    mode: u32::MAX,
                    uid: u32::MAX,
                    gid: u32::MAX,
                    mtime: i64::MIN,
                    target: None,
                };
                Reply::Files { files: vec![info], more: true }
            }
        };
        while peer.reply(reply.clone()).await {}
    })
    .await;
    assert!(world.get("files?path=/&view=list").send().await.unwrap().bytes().await.is_err());
    let (status, problem) = problem(world.get("execs").send().await.unwrap()).await;
    assert_eq!((status, problem.code), (503, Code::Unavailable));
}

#[tokio::test]
async fn one_that_floods_an_attached_client() {
    let world = World::new(async |mut peer: Peer| {
        let Request::Attach { id } = peer.request().await else { return };
        let exec = ExecInfo { id, argv: Vec::new(), pid: -1, tty: true, exit: None };
        peer.reply(Reply::Attached { exec, offsets: [u64::MAX; 2] }).await;
        let mut empty = Vec::new();
        for _ in 0..10_000 {
            ::channel::encode(Kind::Data1, &[], &mut empty).unwrap();
        }
        for _ in 0..100 {
            peer.bytes(&empty).await;
        }
        peer.send(Kind::Data1, &vec![1; MAX_PAYLOAD]).await;
        // An end with data in it is none.
        peer.send(Kind::End1, b"x").await;
        peer.closed().await;
    })
    .await;
    let mut socket = world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap();
    let first = socket.next().await.unwrap().unwrap();
    assert_eq!(first.len(), MAX_PAYLOAD + 1, "a million empty frames are nothing");
    let Message::Text(text) = socket.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(serde_json::from_str::<model::Problem>(&text).unwrap().code, Code::Unavailable);
}

#[tokio::test]
async fn one_that_drips() {
    // Real time: the deadline for the greeting is short, and a byte now and then does not extend it.
    let world = World::new(async |mut peer: Peer| {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if !peer.bytes(&[2]).await {
                return;
            }
        }
    })
    .await;
    let began = std::time::Instant::now();
    let (status, _) = problem(world.get("execs").send().await.unwrap()).await;
    assert_eq!(status, 503);
    assert!(began.elapsed() < crate::limits::CONNECT_TIME * 2);
}

#[tokio::test]
async fn what_it_says_is_cleaned() {
    let world = World::new(async |mut peer: Peer| {
        peer.request().await;
        let message = format!("\x1b]0;owned\x07\u{202e}{}", "x".repeat(900_000));
        peer.error(::channel::ErrorKind::Internal, &message).await;
    })
    .await;
    let (_, problem) = problem(world.get("execs").send().await.unwrap()).await;
    assert!(problem.detail.chars().count() <= 300);
    assert!(problem.detail.chars().all(|letter| !letter.is_control() && letter != '\u{202e}'));
}

/// What a hostile init may send: frames of all kinds, with and without sense, cut anywhere.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![
        Just(br#"{"min":1,"max":1}"#.to_vec()),
        Just(br#""streaming""#.to_vec()),
        Just(br#""done""#.to_vec()),
        Just(br#"{"execs":{"execs":[],"more":true}}"#.to_vec()),
        Just(br#"{"files":{"files":[],"more":false}}"#.to_vec()),
        Just(
            br#"{"attached":{"exec":{"id":"x","argv":[],"pid":1,"tty":false,"exit":null},"offsets":[0,0]}}"#
                .to_vec()
        ),
        Just(br#"{"exited":{"code":-1}}"#.to_vec()),
        Just(br#"{"kind":"not_found","message":""}"#.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let length = prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let frame = (0u8..14, json, length).prop_map(|(kind, payload, length)| {
        let length = length.unwrap_or(payload.len() as u32);
        [&length.to_le_bytes()[..], &[kind], &payload].concat()
    });
    (proptest::collection::vec(frame, 0..8), any::<bool>(), any::<prop::sample::Index>()).prop_map(
        |(frames, hello, cut)| {
            let mut bytes = Vec::new();
            if hello {
                ::channel::encode_json(Kind::Hello, &Hello::OURS, &mut bytes).unwrap();
            }
            bytes.extend(frames.concat());
            let cut = cut.index(bytes.len() + 1).max(bytes.len() / 2);
            bytes.truncate(cut);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever init sends, every call ends, and the gate lives.
    #[test]
    fn no_bytes_of_an_init_hurt(bytes in frames()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(move |mut peer: Peer| {
                let bytes = bytes.clone();
                async move {
                    peer.bytes(&bytes).await;
                }
            })
            .await;
            for status in all_calls(&world).await {
                assert!(status < 500 || status == 503, "{status}");
            }
            assert!(!world.running.is_finished());
        });
    }
}

proptest! {
    /// The gate's own decoder agrees with the channel's, however the bytes are cut.
    #[test]
    fn both_decoders_agree(bytes in frames(), pieces in 1usize..64) {
        let (mut ours, mut theirs) = (BytesMut::new(), Decoder::new());
        'all: for piece in bytes.chunks(pieces) {
            ours.extend_from_slice(piece);
            theirs.push(piece);
            loop {
                match (take_frame(&mut ours), theirs.next()) {
                    (Ok(None), Ok(None)) => break,
                    (Ok(Some(a)), Ok(Some(b))) => {
                        prop_assert_eq!((a.kind, a.payload()), (b.kind, &b.payload[..]));
                        prop_assert_eq!(a.into_payload(), b.payload);
                    }
                    (Err(a), Err(b)) => {
                        prop_assert_eq!(a.to_string(), b.to_string());
                        break 'all;
                    }
                    (a, b) => prop_assert!(false, "{:?} {:?}", a.map(|f| f.map(|f| f.kind)), b),
                }
            }
        }
    }
}
