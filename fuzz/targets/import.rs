//! An archive that becomes an image: refused, or an image within its limits.

#![no_main]

mod seeds;

use image::Limits;
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

/// What an image may be larger than what it holds: blocks, inodes, and the directories that every root gets.
const OVERHEAD: usize = 4 << 20;

fuzz_target!(
    init: seeds::plant("import", seeds::archives()),
    |data: &[u8]| {
        let limits = Limits { bytes: 1 << 20, entries: 200 };
        let mended = seeds::with_checksums(data);
        let mut image = Vec::new();
        match image::worker::convert_for_fuzzing(mended.as_slice(), Cursor::new(&mut image), &limits) {
            Ok(()) => assert!(image.len() <= limits.bytes as usize + OVERHEAD, "{} bytes", image.len()),
            Err(why) => assert!(!why.chars().any(char::is_control) && why.len() < 4000, "{why:?}"),
        }
    }
);
