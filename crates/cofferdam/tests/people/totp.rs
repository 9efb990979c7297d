//! An authenticator (RFC 6238).

use aws_lc_rs::hmac;
use std::time::SystemTime;

/// The code of `steps` half minutes from now. One that was taken is good for nothing any more, and neither are those before it.
pub fn code(secret: &str, steps: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let step = i64::try_from(now / 30).unwrap() + steps;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &base32(secret));
    let mac = hmac::sign(&key, &step.to_be_bytes());
    let mac = mac.as_ref();
    let at = usize::from(mac[19] & 15);
    let number = u32::from_be_bytes(mac[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

fn base32(text: &str) -> Vec<u8> {
    let digits = text.bytes().map(|digit| match digit {
        b'A'..=b'Z' => digit - b'A',
        b'2'..=b'7' => digit - b'2' + 26,
        _ => panic!("{text} is not base32"),
    });
    let bits: Vec<u8> = digits.flat_map(|digit| (0..5).rev().map(move |bit| digit >> bit & 1)).collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit)).collect()
}
