//! What an agent says first where TLS is expected, however it comes in pieces.

#![no_main]
#![allow(dead_code)]

// The gate as a whole brings a network stack that this has no use for.
#[path = "../../crates/gate/src/egress/hello.rs"]
mod hello;
mod seeds;

use hello::{Hello, MAX_HELLO, hello};
use libfuzzer_sys::fuzz_target;

/// A hello with these extensions, in records of so many bytes.
fn seed(extensions: &[u8], size: usize) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(extensions)].concat();
    let message = [&[1, 0][..], &long(&body)].concat();
    message.chunks(size).flat_map(|piece| [&[22, 3, 1][..], &long(piece)].concat()).collect()
}

fuzz_target!(
    init: {
        let sni = b"\0\0\0\x0e\0\x0c\0\0\x09a.example";
        seeds::plant("hello", [
            seed(b"", 1000),
            seed(sni, 1000),
            seed(sni, 7),
            seed(&[&sni[..], b"\xfe\x0d\0\x01x\0\x10\0\x05\0\x03\x02h2"].concat(), 1000),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ]);
    },
    |data: &[u8]| {
        let whole = hello(data);
        if let Hello::Tls { sni: Some(name), .. } = &whole {
            assert_eq!(model::policy::name(name).as_ref(), Some(name));
        }
        assert!(data.len() < MAX_HELLO || whole != Hello::More);
        // What was said of less is said of all.
        let step = (data.len() / 64).max(1);
        for cut in (0..data.len()).step_by(step) {
            let early = hello(&data[..cut]);
            assert!(early == Hello::More || early == whole, "{early:?} and then {whole:?}");
        }
    }
);
