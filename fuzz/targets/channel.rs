//! Bytes from an init that was taken over: frames in pieces, and every message in them.

#![no_main]

mod seeds;

use channel::{ChannelError, Control, Decoder, Event, Hello, Kind, MAX_PAYLOAD, Reply, Request};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is accepted can be said again, and means the same.
fn message<T: DeserializeOwned + Serialize>(payload: &[u8]) {
    let Ok(first) = serde_json::from_slice::<T>(payload) else { return };
    let text = serde_json::to_vec(&first).expect("plain data");
    let second: T = serde_json::from_slice(&text).expect("what was said is understood");
    assert_eq!(serde_json::to_vec(&second).expect("plain data"), text);
}

fuzz_target!(
    init: {
        let mut seeds = Vec::new();
        let mut seed = |kind, text: &str| {
            let mut out = vec![7];
            channel::encode(kind, text.as_bytes(), &mut out).expect("small");
            seeds.push(out);
        };
        seed(Kind::Hello, r#"{"min":1,"max":1}"#);
        seed(Kind::Request, r#"{"exec":{"id":"exe_1","argv":["sh"],"env":{"A":"b"},"user":"root","tty":{"rows":1,"cols":2}}}"#);
        seed(Kind::Request, r#"{"read":{"path":"/a","offset":1,"length":2}}"#);
        seed(Kind::Request, r#"{"logs":{"follow":true,"tail":5}}"#);
        seed(Kind::Reply, r#"{"execs":{"execs":[{"id":"exe_1","argv":[],"pid":1,"tty":false,"exit":{"code":1,"cause":"timeout"}}],"more":false}}"#);
        seed(Kind::Reply, r#"{"file":{"name":"a","kind":"symlink","size":1,"mode":511,"uid":0,"gid":0,"mtime":-1,"target":"b"}}"#);
        seed(Kind::Control, r#"{"resize":{"rows":1,"cols":1}}"#);
        seed(Kind::Event, r#"{"exited":{"code":3}}"#);
        seed(Kind::Error, r#"{"kind":"not_found","message":"m"}"#);
        seed(Kind::Data1, "output");
        seeds::plant("channel", seeds);
    },
    |data: &[u8]| {
        let Some((&piece, stream)) = data.split_first() else { return };
        let mut decoder = Decoder::new();
        for piece in stream.chunks(usize::from(piece).max(1)) {
            decoder.push(piece);
            while let Ok(Some(frame)) = decoder.next() {
                assert!(frame.payload.len() <= MAX_PAYLOAD);
                message::<Hello>(&frame.payload);
                message::<Request>(&frame.payload);
                message::<Reply>(&frame.payload);
                message::<Control>(&frame.payload);
                message::<Event>(&frame.payload);
                message::<ChannelError>(&frame.payload);
            }
            assert!(decoder.buffered() <= stream.len());
        }
    }
);
