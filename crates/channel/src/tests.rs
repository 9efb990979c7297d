//! Round trips, limits, and bytes that mean nothing.

use super::*;
use proptest::prelude::*;

fn frames(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        while let Some(frame) = decoder.next()? {
            found.push(frame);
        }
    }
    Ok(found)
}

fn kind() -> impl Strategy<Value = Kind> {
    (1u8..=12).prop_map(|byte| Kind::from_byte(byte).expect("all of them are kinds"))
}

#[test]
fn every_kind_reads_back_and_no_other_byte_does() {
    for byte in 0..=u8::MAX {
        assert_eq!(Kind::from_byte(byte).map(|kind| kind as u8), (1..=12).contains(&byte).then_some(byte));
    }
}

#[test]
fn the_longest_payload_passes_and_one_more_byte_does_not() {
    let mut out = Vec::new();
    encode(Kind::Data1, &vec![7; MAX_PAYLOAD], &mut out).expect("at the limit");
    assert_eq!(frames(&out, 4096).expect("whole")[0].payload.len(), MAX_PAYLOAD);

    let before = out.len();
    let error = encode(Kind::Data1, &vec![7; MAX_PAYLOAD + 1], &mut out).expect_err("over the limit");
    assert!(matches!(error, FrameError::TooLarge { length } if length == MAX_PAYLOAD + 1));
    assert_eq!(out.len(), before, "a refused frame leaves nothing behind");
}

#[test]
fn a_claimed_length_allocates_nothing_and_stays_an_error() {
    let mut decoder = Decoder::new();
    decoder.push(&u32::MAX.to_le_bytes());
    decoder.push(&[Kind::Data0 as u8]);
    assert!(matches!(decoder.next(), Err(FrameError::TooLarge { .. })));
    decoder.push(&vec![0; 1 << 20]);
    assert!(decoder.buffered() <= HEADER, "bytes after an error are thrown away");
    assert!(decoder.next().is_err());

    let mut decoder = Decoder::new();
    decoder.push(&u32::try_from(MAX_PAYLOAD).expect("small").to_le_bytes());
    decoder.push(&[Kind::Data0 as u8]);
    assert!(decoder.next().expect("not yet whole").is_none());
    assert_eq!(decoder.buffered(), HEADER);
}

#[test]
fn versions_agree_on_the_newest_common_one() {
    let check = |a: (u32, u32), b: (u32, u32), expected| {
        let (a, b) = (Hello { min: a.0, max: a.1 }, Hello { min: b.0, max: b.1 });
        assert_eq!(a.agree(b), expected);
        assert_eq!(b.agree(a), expected);
    };
    check((1, 1), (1, 1), Some(1));
    check((1, 2), (1, 1), Some(1));
    check((2, 3), (1, 2), Some(2));
    check((2, 3), (1, 1), None);
    check((5, 1), (1, 9), None);
}

#[test]
fn the_wire_form_does_not_change_by_accident() {
    let check = |request: &Request, expected: &str| {
        assert_eq!(serde_json::to_string(request).expect("plain"), expected);
    };
    check(&Request::Ping, r#""ping""#);
    check(&Request::Attach { id: "exe_1".into() }, r#"{"attach":{"id":"exe_1"}}"#);
    check(&Request::Port { port: 80 }, r#"{"port":{"port":80}}"#);
    let read: Request = serde_json::from_str(r#"{"read":{"path":"/a"}}"#).expect("defaults");
    assert_eq!(read, Request::Read { path: "/a".into(), offset: 0, length: None, user: None });
    let exec: Request = serde_json::from_str(r#"{"exec":{"id":"x","argv":["true"]}}"#).expect("defaults");
    assert!(matches!(exec, Request::Exec(exec) if !exec.attach && exec.tty.is_none()));
    assert!(serde_json::from_str::<Request>(r#"{"exec":{"id":"x","argv":["true"],"hook":1}}"#).is_err());
}

#[test]
fn a_frame_of_another_kind_is_named() {
    let frame = Frame { kind: Kind::Data1, payload: b"{}".to_vec() };
    let error = frame.expect::<Hello>(Kind::Hello).expect_err("another kind");
    assert!(error.to_string().contains("Data1"));
}

proptest! {
    #[test]
    fn frames_read_back_whatever_the_pieces(
        sent in prop::collection::vec((kind(), prop::collection::vec(any::<u8>(), 0..600)), 0..8),
        piece in 1usize..700,
    ) {
        let mut out = Vec::new();
        for (kind, payload) in &sent {
            encode(*kind, payload, &mut out).expect("small");
        }
        let found: Vec<_> = frames(&out, piece).expect("whole").into_iter().map(|f| (f.kind, f.payload)).collect();
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn messages_read_back(
        id in "[a-z0-9_]{1,64}", argv in prop::collection::vec(any::<String>(), 0..5),
        env in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        timeout_ms in any::<Option<u64>>(), rows in any::<u16>(), attach in any::<bool>(),
    ) {
        let request = Request::Exec(Box::new(ExecRequest {
            id, argv, env, cwd: None, user: Some(User::Root), tty: Some(Size { rows, cols: 80 }), stdin: true,
            timeout_ms, output_limit: None, attach,
        }));
        let mut out = Vec::new();
        encode_json(Kind::Request, &request, &mut out).expect("small");
        let frames = frames(&out, 11).expect("whole");
        prop_assert_eq!(frames[0].expect::<Request>(Kind::Request).expect("the same type"), request);
    }

    #[test]
    fn any_bytes_neither_panic_nor_pile_up(bytes in prop::collection::vec(any::<u8>(), 0..4096), piece in 1usize..512) {
        let mut decoder = Decoder::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Ok(Some(frame)) = decoder.next() {
                prop_assert!(frame.payload.len() <= MAX_PAYLOAD);
                let _ = frame.json::<Request>();
                let _ = frame.json::<Reply>();
                let _ = frame.json::<Event>();
            }
            prop_assert!(decoder.buffered() <= HEADER + MAX_PAYLOAD + piece.len());
            prop_assert!(decoder.buffered() <= bytes.len());
        }
    }

    #[test]
    fn any_json_is_read_or_refused(text in any::<String>()) {
        let _ = serde_json::from_str::<Request>(&text);
        let _ = serde_json::from_str::<Reply>(&text);
        let _ = serde_json::from_str::<Control>(&text);
    }
}
