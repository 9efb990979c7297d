//! Placeholders in what an agent sends. Where none is bound, none passes, whoever's it is: they all begin in the same way.
//!
//! One is found as it is, percent-encoded in any way (once), and within base64. What a program compresses, encrypts or writes in
//! yet another way is not seen through; a placeholder is worth nothing to anybody.

use super::forms::{self, Form};
use memchr::memchr_iter;
use memchr::memmem::Finder;
use model::secret::PLACEHOLDER_PREFIX;
use std::sync::LazyLock;

/// The longest form: each character percent-encoded.
const LONGEST: usize = 3 * PLACEHOLDER_PREFIX.len();

static FINDERS: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    let [first, second, third] = forms::base64(PLACEHOLDER_PREFIX.as_bytes());
    let finder = |form: Form| Finder::new(&form[..]).into_owned();
    [Finder::new(PLACEHOLDER_PREFIX), finder(first), finder(second), finder(third)]
});

/// Whether there is one in a text.
pub fn is_in(text: &[u8]) -> bool {
    if FINDERS.iter().any(|finder| finder.find(text).is_some()) {
        return true;
    }
    // Decoding is only worth it where it could turn something into a part of one.
    let part = |at: usize| {
        let byte = forms::escaped(text.get(at + 1..).unwrap_or_default());
        byte.is_some_and(|byte| PLACEHOLDER_PREFIX.as_bytes().contains(&byte))
    };
    let [raw, ..] = &*FINDERS;
    memchr_iter(b'%', text).any(part) && raw.find(&forms::percent_decoded(text)).is_some()
}

/// Looks through a text that comes in pieces.
#[derive(Default)]
pub struct Scanner {
    /// The last of what came.
    tail: Vec<u8>,
}

impl Scanner {
    /// Whether there is one in what came so far. Only the beginning of it, which all have, can have been in what came before.
    pub fn finds(&mut self, piece: &[u8]) -> bool {
        const KEPT: usize = LONGEST - 1;
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(piece.get(..piece.len().min(KEPT)).unwrap_or_default());
            if is_in(&self.tail) {
                return true;
            }
        }
        if piece.len() >= KEPT {
            self.tail.clear();
            self.tail.extend_from_slice(piece.get(piece.len() - KEPT..).unwrap_or_default());
        } else if self.tail.is_empty() {
            self.tail.extend_from_slice(piece);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(KEPT));
        }
        is_in(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::{Scanner, is_in};
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use model::secret::PLACEHOLDER_PREFIX;

    fn every_byte_encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    fn hidden() -> Vec<String> {
        let one = format!("{PLACEHOLDER_PREFIX}0123456789abcdefghijklmnopqrstuv");
        let mut all = vec![one.clone(), one.replacen('o', "%6F", 1), one.replace('-', "%2d")];
        all.push(every_byte_encoded(&one));
        all.push(format!("%c{one}"));
        all.push(format!("%%%{}", every_byte_encoded(&one)));
        for before in ["", "x", "xy", "user:"] {
            all.push(STANDARD.encode(format!("{before}{one}")));
            all.push(URL_SAFE_NO_PAD.encode(format!("{before}{one}\u{ff}")));
        }
        all
    }

    #[test]
    fn it_is_found_in_every_form_and_in_every_two_or_more_pieces() {
        for form in hidden() {
            let text = format!("{}{form}{}", "before ".repeat(30), " after".repeat(30));
            assert!(is_in(text.as_bytes()), "{form}");
            for cut in 0..text.len() {
                let mut scanner = Scanner::default();
                let (first, second) = text.as_bytes().split_at(cut);
                assert!(scanner.finds(first) || scanner.finds(second), "{form} {cut}");
            }
            for size in [1, 2, 7, 64, 65, 66, 67] {
                let mut scanner = Scanner::default();
                assert!(text.as_bytes().chunks(size).any(|piece| scanner.finds(piece)), "{form} {size}");
            }
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for text in ["", "cofferdam-placeholder", "cofferdam", "%63%6f%66", "COFFERDAM-PLACEHOLDER-X", "100%"]
        {
            let mut scanner = Scanner::default();
            assert!(!is_in(text.as_bytes()) && !scanner.finds(text.as_bytes()), "{text}");
            assert!(!scanner.finds(b" and more"), "{text}");
        }
    }
}
