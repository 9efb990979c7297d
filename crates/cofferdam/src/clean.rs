//! Makes text from agents fit for a terminal: nothing that it contains can move the cursor, change a title,
//! or answer as if it were the person at the keyboard.

/// Whether a terminal may act on it, or a reader may be deceived by it.
fn is_dangerous(c: char) -> bool {
    // Bidirectional controls (Unicode technical report 36): they show text in an order that it does not have.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line for a table or a message: every control character is written out.
pub fn text(text: &str) -> String {
    if !text.contains(is_dangerous) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_dangerous(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

/// A path for a message.
pub fn path(path: &std::path::Path) -> String {
    text(&path.to_string_lossy())
}

/// Cleans a stream of output piece by piece. Newlines, carriage returns and tabs pass; other control
/// characters are shown as cat(1) `-v` shows them (`^[` for escape); what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Filter {
    /// The start of a character that the next piece completes.
    held: Vec<u8>,
}

impl Filter {
    /// The piece as it may be written.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(piece);
        let mut clean = Vec::with_capacity(whole.len() + 16);
        let mut rest = &whole[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    push_clean(&mut clean, valid);
                    return clean;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    push_clean(&mut clean, std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(length) => {
                            clean.extend_from_slice("\u{fffd}".as_bytes());
                            rest = &after[length..];
                        }
                        None => {
                            self.held = after.to_vec();
                            return clean;
                        }
                    }
                }
            }
        }
    }

    /// What is left at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        if std::mem::take(&mut self.held).is_empty() { Vec::new() } else { "\u{fffd}".as_bytes().to_vec() }
    }
}

fn push_clean(clean: &mut Vec<u8>, text: &str) {
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => clean.push(c as u8),
            '\0'..='\u{1f}' => clean.extend_from_slice(&[b'^', c as u8 + 0x40]),
            '\u{7f}' => clean.extend_from_slice(b"^?"),
            c if is_dangerous(c) => clean.extend(c.escape_default().map(|c| c as u8)),
            c => clean.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(pieces: &[&[u8]]) -> String {
        let mut filter = Filter::default();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| filter.push(piece)).collect();
        out.extend(filter.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_for_tables_has_no_control_characters() {
        assert_eq!(text("plain ä ✓"), "plain ä ✓");
        assert_eq!(text("a\x1b]0;title\x07\nb"), "a\\u{1b}]0;title\\u{7}\\nb");
        assert_eq!(text("\u{9b}31m\u{202e}x"), "\\u{9b}31m\\u{202e}x");
    }

    #[test]
    fn streams_keep_text_and_lose_escapes() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"line\n\ttab\r\n"], "line\n\ttab\r\n"),
            (&[b"\x1b[31mred\x1b[0m"], "^[[31mred^[[0m"),
            (&[b"\x07\x08\x7f\0"], "^G^H^?^@"),
            (&["gr\u{fc}n".as_bytes()], "grün"),
            (&[b"gr\xc3", b"\xbcn"], "grün"),
            (&[b"\xe2\x9c", b"\x93"], "✓"),
            (&[b"\x9b31m"], "\u{fffd}31m"),
            (&[b"\xc2", b"\x9b31m"], "\\u{9b}31m"),
            (&[b"cut \xe2\x9c"], "cut \u{fffd}"),
            (&["\u{202e}".as_bytes()], "\\u{202e}"),
        ];
        for (pieces, expected) in cases {
            assert_eq!(filtered(pieces), *expected);
        }
    }
}
