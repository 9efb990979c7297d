//! Takes a value that was put into a request out of what the server answers, in the forms that are known ([`forms`](super::forms)):
//! stars come in its place, as many, so that lengths stay as they are.
//!
//! A server that means to give a value away can write it in a way that nobody looks for; it has the value anyway. This is for the ones
//! that repeat what they were asked.

use super::forms::{self, Form};
use bytes::Bytes;
use memchr::memmem::Finder;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The shortest value that is looked for: a shorter one is part of many texts.
pub const SHORTEST: usize = 8;

/// What may be the beginning of a value is held back once it is so long. Less goes on at once, so that a conversation does not stop
/// because somebody's last word ends as a value begins; of a value that follows all the rest is taken out.
const HELD: usize = 4;

const FILLER: u8 = b'*';

/// All forms of one value.
pub struct Needles(Vec<Form>);

impl Needles {
    /// Of this one, which is not shorter than [`SHORTEST`].
    pub fn of(value: &[u8]) -> Self {
        Self(forms::all(value))
    }

    /// Of none.
    pub fn none() -> Self {
        Self(Vec::new())
    }
}

/// What comes in pieces, without the values.
pub struct Scrubber {
    needles: Vec<Arc<Needles>>,
    /// The end of what came, as far as it may be the beginning of a value: as it came, and as it goes on.
    came: Zeroizing<Vec<u8>>,
    goes: Vec<u8>,
    /// How much of it went on already.
    gone: usize,
}

impl Scrubber {
    /// Without these.
    pub fn new(needles: Vec<Arc<Needles>>) -> Self {
        Self { needles, came: Zeroizing::default(), goes: Vec::new(), gone: 0 }
    }

    /// A whole text without them, if there was anything to take out.
    pub fn whole(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut found = false;
        let mut clean = text.to_vec();
        for form in self.forms() {
            found |= cover(text, form, &mut clean);
        }
        found.then_some(clean)
    }

    /// What goes on after the next piece came.
    pub fn push(&mut self, piece: Bytes) -> Bytes {
        if self.came.is_empty() && self.whole(&piece).is_none() && self.begun(&piece) == 0 {
            return piece;
        }
        self.came.extend_from_slice(&piece);
        self.goes.extend_from_slice(&piece);
        for needles in &self.needles {
            for form in &needles.0 {
                cover(&self.came, form, &mut self.goes);
            }
        }
        let begun = self.begun(&self.came);
        let (end, start) = (self.came.len(), self.came.len() - begun);
        let until = if begun >= HELD { start } else { end };
        let out = self.goes.get(self.gone..until).unwrap_or_default();
        let out = Bytes::copy_from_slice(out);
        self.gone = self.gone.max(until).saturating_sub(start);
        self.came.drain(..start);
        self.goes.drain(..start);
        out
    }

    /// What is left when nothing more comes.
    pub fn finish(&mut self) -> Bytes {
        let rest = Bytes::copy_from_slice(self.goes.get(self.gone..).unwrap_or_default());
        self.came.clear();
        self.goes.clear();
        self.gone = 0;
        rest
    }

    /// Whether there is anything left.
    pub fn holds(&self) -> bool {
        self.gone < self.goes.len()
    }

    fn forms(&self) -> impl Iterator<Item = &Form> {
        self.needles.iter().flat_map(|needles| &needles.0)
    }

    /// How much of the end of a text may be the beginning of a value.
    fn begun(&self, text: &[u8]) -> usize {
        self.forms().map(|form| overlap(text, form)).max().unwrap_or(0)
    }
}

/// Covers all that is in a text of one form in its copy; whether there is any.
fn cover(text: &[u8], form: &[u8], copy: &mut [u8]) -> bool {
    let finder = Finder::new(form);
    let (mut from, mut found) = (0, false);
    while let Some(at) = finder.find(text.get(from..).unwrap_or_default()) {
        let start = from + at;
        if let Some(covered) = copy.get_mut(start..start + form.len()) {
            covered.fill(FILLER);
        }
        (from, found) = (start + 1, true);
    }
    found
}

/// The longest end of a text with which a form begins, without all of it.
fn overlap(text: &[u8], form: &[u8]) -> usize {
    let longest = text.len().min(form.len().saturating_sub(1));
    let (Some(end), Some(first)) = (text.get(text.len() - longest..), form.first()) else { return 0 };
    let begins = |from: &usize| end.get(*from..).is_some_and(|rest| form.starts_with(rest));
    memchr::memchr_iter(*first, end).find(begins).map_or(0, |from| longest - from)
}

#[cfg(test)]
mod tests {
    use super::{Needles, Scrubber};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    const VALUE: &str = "sk-ant-s3cr3t/value+1";

    fn scrubber(value: &str) -> Scrubber {
        Scrubber::new(vec![Arc::new(Needles::of(value.as_bytes()))])
    }

    fn in_pieces<'a>(value: &str, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut scrubber = scrubber(value);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(scrubber.push(Bytes::copy_from_slice(piece)));
        }
        out.extend(scrubber.finish());
        out
    }

    #[test]
    fn a_value_is_taken_out_in_every_form_wherever_it_is_cut() {
        let stars = |count: usize| "*".repeat(count);
        for (echo, covered) in [
            (VALUE.to_owned(), stars(VALUE.len())),
            ("sk-ant-s3cr3t%2Fvalue%2B1".to_owned(), stars(VALUE.len() + 4)),
            ("sk-ant-s3cr3t\\/value+1".to_owned(), stars(VALUE.len() + 1)),
            (STANDARD.encode(VALUE), stars(VALUE.len() / 3 * 4)),
        ] {
            let text = format!("before {echo} after {echo}");
            let expected = format!("before {covered} after {covered}");
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let out = in_pieces(VALUE, [first, second].into_iter());
                // What could be the beginning of anything went on.
                let went = |position: usize| cut > position && cut - position < 4;
                let first_echo = "before ".len();
                let second_echo = first_echo + echo.len() + " after ".len();
                if went(first_echo) || went(second_echo) {
                    assert_eq!(out.len(), expected.len());
                    assert!(!String::from_utf8_lossy(&out).contains(&echo[3..]), "{cut}");
                } else {
                    assert_eq!(String::from_utf8_lossy(&out), expected, "{cut}");
                }
            }
        }
    }

    #[test]
    fn a_conversation_does_not_wait() {
        let mut scrubber = scrubber(VALUE);
        for said in ["yes", "s", "", "sk", "sk-", "sk-ant", "wer", "data: {}\n\n"] {
            let out = scrubber.push(Bytes::from(said));
            let expected = match said {
                "sk-ant" => "",
                "wer" => "sk-antwer",
                other => other,
            };
            assert_eq!(out, expected);
            assert_eq!(scrubber.holds(), said == "sk-ant");
        }
        // Nothing is copied where there is nothing.
        let piece = Bytes::from("nothing");
        assert_eq!(scrubber.push(piece.clone()).as_ptr(), piece.as_ptr());
    }

    proptest! {
        #[test]
        fn lengths_stay_and_no_value_is_left(
            value in "[ab]{8,12}",
            pieces in proptest::collection::vec("[ab]{0,20}", 0..12),
        ) {
            let whole: String = pieces.concat();
            let out = in_pieces(&value, pieces.iter().map(String::as_bytes));
            prop_assert_eq!(out.len(), whole.len());
            prop_assert!(!String::from_utf8_lossy(&out).contains(&value));
            // Whatever is changed is a star, and part of a value.
            let mut covered = vec![false; whole.len()];
            for start in 0..whole.len() {
                if whole[start..].starts_with(&value) {
                    covered[start..start + value.len()].fill(true);
                }
            }
            for (at, (was, is)) in whole.bytes().zip(&out).enumerate() {
                prop_assert!(was == *is || (*is == b'*' && covered[at]));
            }
        }
    }
}
