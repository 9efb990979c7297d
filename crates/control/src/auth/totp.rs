//! Codes of six digits that change every 30 seconds (RFC 6238, on HMAC-SHA-1 as every authenticator has it).

use aws_lc_rs::{constant_time, hmac};
use model::people::Email;
use model::secret::SecretValue;

/// Bytes of a seed: as many as the hash has (RFC 4226, section 4).
pub(crate) const SEED: usize = 20;
const STEP: i64 = 30;
/// How many steps a clock may be off, either way.
const SKEW: i64 = 1;

fn code(seed: &[u8], step: i64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, seed);
    let mac = hmac::sign(&key, &step.to_be_bytes());
    let mac = mac.as_ref();
    let at = usize::from(mac[mac.len() - 1] & 0xf);
    let number = u32::from_be_bytes([mac[at] & 0x7f, mac[at + 1], mac[at + 2], mac[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

/// The code of now; for tests that play an authenticator.
#[cfg(test)]
pub(crate) fn current(seed: &[u8], now: i64) -> String {
    code(seed, now.div_euclid(STEP))
}

/// The step that a code is of, if it is behind `last`. `now` is in seconds since 1970.
pub(crate) fn verify(seed: &[u8], given: &str, now: i64, last: i64) -> Option<i64> {
    let given: String = given.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    let now = now.div_euclid(STEP);
    let same = |step: i64| {
        constant_time::verify_slices_are_equal(code(seed, step).as_bytes(), given.as_bytes()).is_ok()
    };
    (now - SKEW..=now + SKEW).find(|step| *step > last && same(*step))
}

/// Base32 of RFC 4648 without padding, which is how people and authenticators read a seed.
pub(crate) fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    (0..(bytes.len() * 8).div_ceil(5))
        .map(|digit| {
            let value = (0..5).fold(0u8, |value, place| value << 1 | bit(digit * 5 + place));
            char::from(ALPHABET[usize::from(value)])
        })
        .collect()
}

/// What authenticators read from a picture (the `otpauth` scheme). Whatever of an address a URI might mean something by is escaped.
pub(crate) fn uri(email: &Email, secret: &SecretValue) -> SecretValue {
    let label: String = email
        .as_str()
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    SecretValue::new(format!("otpauth://totp/Cofferdam:{label}?secret={}&issuer=Cofferdam", secret.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_6238() {
        let seed = b"12345678901234567890";
        for (at, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(current(seed, at), expected);
            assert_eq!(verify(seed, expected, at, 0), Some(at / 30));
        }
    }

    #[test]
    fn a_code_is_good_around_its_time_and_not_behind_one_that_was_taken() {
        let seed = b"12345678901234567890";
        let now = 1_234_567_890;
        let check = |at: i64, last, expected| {
            assert_eq!(verify(seed, &current(seed, at), now, last).is_some(), expected, "{at} {last}");
        };
        check(now, 0, true);
        check(now - 30, 0, true);
        check(now + 30, 0, true);
        check(now - 60, 0, false);
        check(now + 60, 0, false);
        check(now, now / 30, false);
        check(now - 30, now / 30, false);
        check(now + 30, now / 30, true);
        assert_eq!(verify(seed, "005 924", now, 0), Some(now / 30));
        for wrong in ["", "5924", "0059240", "00592", "abcdef"] {
            assert_eq!(verify(seed, wrong, now, 0), None);
        }
    }

    #[test]
    fn base32_as_in_rfc_4648() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), expected);
        }
    }
}
