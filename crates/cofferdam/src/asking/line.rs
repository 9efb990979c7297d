//! An answer while it is typed.

use model::egress::Decision;

/// The longest word, with room for a slip of the finger.
const LONGEST: usize = 16;

const INTERRUPT: u8 = 0x03;
const ESCAPE: u8 = 0x1b;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// What a typed line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// This is decided.
    Decided(Decision),
    /// Nobody is to be asked here any more.
    Stop,
    /// Nothing that is known here.
    Unclear,
}

/// What typing led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// A line.
    Line(Said),
    /// Ctrl-C, of a terminal in raw mode.
    Interrupt,
}

/// A line that is typed. Of a terminal in raw mode nobody else shows what is typed, or takes it back.
#[derive(Debug, Default)]
pub struct Line {
    text: String,
    raw: bool,
}

impl Line {
    /// A line of a terminal that is in raw mode, or is not.
    pub fn new(raw: bool) -> Self {
        Self { text: String::new(), raw }
    }

    /// Takes a piece of input: what the terminal is to show of it, and whether that ends the line. What follows the end in the
    /// same piece is dropped.
    pub fn push(&mut self, piece: &[u8]) -> (String, Option<Typed>) {
        let mut shown = String::new();
        // Arrows, reports of the mouse, and what the terminal answers to whoever asked it.
        if self.raw && piece.first() == Some(&ESCAPE) {
            return (shown, None);
        }
        for &byte in piece {
            match byte {
                b'\r' | b'\n' => {
                    let said = said(&std::mem::take(&mut self.text));
                    return (shown, Some(Typed::Line(said)));
                }
                INTERRUPT if self.raw => return (shown, Some(Typed::Interrupt)),
                byte if BACKSPACE.contains(&byte) => {
                    shown.push_str(self.text.pop().map_or("", |_| "\x08 \x08"));
                }
                b' '..=b'~' if self.text.len() < LONGEST => {
                    self.text.push(char::from(byte));
                    shown.push(char::from(byte));
                }
                _ => {}
            }
        }
        if !self.raw {
            shown.clear();
        }
        (shown, None)
    }
}

fn said(line: &str) -> Said {
    match line.trim().to_ascii_lowercase().as_str() {
        "o" | "once" => Said::Decided(Decision::Once),
        "a" | "agent" => Said::Decided(Decision::Agent),
        "w" | "always" => Said::Decided(Decision::Always),
        "d" | "deny" => Said::Decided(Decision::Deny),
        "s" | "stop" => Said::Stop,
        _ => Said::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: bool, pieces: &[&[u8]], shown: &str, expected: Option<Typed>) {
        let mut line = Line::new(raw);
        let mut all = String::new();
        let mut typed = None;
        for piece in pieces {
            let (more, done) = line.push(piece);
            all.push_str(&more);
            typed = typed.or(done);
        }
        assert_eq!((&*all, typed), (shown, expected), "{pieces:?}");
    }

    #[test]
    fn keys_and_words_are_answers() {
        let line = |said| Some(Typed::Line(said));
        let decided = |decision| line(Said::Decided(decision));
        check(true, &[b"o\r"], "o", decided(Decision::Once));
        check(true, &[b"al", b"ways", b"\r"], "always", decided(Decision::Always));
        check(true, &[b" Agent \r"], " Agent ", decided(Decision::Agent));
        check(true, &[b"o", b"\x7f", b"d\r"], "o\x08 \x08d", decided(Decision::Deny));
        check(true, &[b"\x7f\x7f\r"], "", line(Said::Unclear));
        check(true, &[b"s\r"], "s", line(Said::Stop));
        check(false, &[b"once\n"], "once", decided(Decision::Once));
        check(false, &[b"on"], "", None);
    }

    #[test]
    fn nothing_but_a_whole_answer_is_one() {
        check(true, &[b"o"], "o", None);
        check(true, &[b"\r"], "", Some(Typed::Line(Said::Unclear)));
        check(true, &[b"y\r"], "y", Some(Typed::Line(Said::Unclear)));
        check(true, &[b"ls -la\r"], "ls -la", Some(Typed::Line(Said::Unclear)));
        check(true, &[b"a\rw\r"], "a", Some(Typed::Line(Said::Decided(Decision::Agent))));
        check(true, &[b"o\x03"], "o", Some(Typed::Interrupt));
        check(true, &[b"\x1b[A", b"\x1b[<0;1;1M", b"\x1b[24;80R"], "", None);
        check(true, &[b"\x00\x04\x10\xff"], "", None);
        check(true, &[&[b'a'; 100], b"\r"], &"a".repeat(LONGEST), Some(Typed::Line(Said::Unclear)));
    }
}
