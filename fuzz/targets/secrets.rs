//! Values that are taken out of answers, placeholders that are found in requests, and fields that are put into bodies, however all of it
//! comes in pieces.

#![no_main]
#![allow(dead_code)]

// The gate as a whole brings a network stack that this has no use for.
#[path = "../../crates/gate/src/egress/secrets/body.rs"]
mod body;
#[path = "../../crates/gate/src/egress/secrets/forms.rs"]
mod forms;
#[path = "../../crates/gate/src/egress/secrets/placeholder.rs"]
mod placeholder;
#[path = "../../crates/gate/src/egress/secrets/scrub.rs"]
mod scrub;
mod seeds;

use body::Format;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use placeholder::Scanner;
use scrub::{Needles, Scrubber};
use std::sync::Arc;

/// As a value may be at worst: its ends are its beginnings.
const VALUE: &[u8] = b"aab/aab+aab/aab";

fn scrubbed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut scrubber = Scrubber::new(vec![Arc::new(Needles::of(VALUE))]);
    let mut out = Vec::new();
    for piece in pieces {
        out.extend(scrubber.push(Bytes::copy_from_slice(piece)));
    }
    out.extend(scrubber.finish());
    assert!(!scrubber.holds());
    out
}

fn scrub(text: &[u8], pieces: &[&[u8]]) {
    let out = scrubbed(pieces);
    assert_eq!(out.len(), text.len());
    for form in forms::all(VALUE) {
        assert!(!out.windows(form.len()).any(|window| window == &form[..]), "{}", out.escape_ascii());
    }
    // Nothing else is changed.
    assert!(text.iter().zip(&out).all(|(was, is)| was == is || *is == b'*'));
}

fn scan(text: &[u8], pieces: &[&[u8]]) {
    let mut scanner = Scanner::default();
    let found = pieces.iter().any(|piece| scanner.finds(piece));
    if placeholder::is_in(text) {
        assert!(found, "{}", text.escape_ascii());
    }
}

fn put(text: &[u8]) {
    for format in [Format::Form, Format::Json] {
        let Ok(once) = format.replace(text, "key", "a value") else { continue };
        // What is put in is there, once, and is all that is taken out again.
        let twice = format.replace(&once.body, "key", "another").expect("it is what it was");
        assert_eq!(twice.was, ["a value"]);
        assert_eq!(twice.rest, once.rest);
        if format == Format::Json {
            serde_json::from_slice::<serde::de::IgnoredAny>(&once.body).expect("it is JSON");
        }
    }
}

fuzz_target!(
    init: seeds::plant("secrets", [
        b"\x03aab/aab+aab/aab aab%2Faab%2Baab%2Faab YWFiL2FhYithYWIvYWFi".to_vec(),
        b"\x05cofferdam-placeholder-abc %63offerdam-placeholder-abc Y29mZmVyZGFtLXBsYWNlaG9sZGVyLQ==".to_vec(),
        b"\x01a=b&key=x&k%65y=y+z&&=".to_vec(),
        br#"{"key": "x", "n": 1e400, "k\u0065y": [1], "in": {"key": null}}"#.to_vec(),
    ]),
    |data: &[u8]| {
        let Some((step, text)) = data.split_first() else { return };
        let pieces: Vec<&[u8]> = text.chunks(usize::from(*step).max(1)).collect();
        scrub(text, &pieces);
        scan(text, &pieces);
        put(text);
    }
);
