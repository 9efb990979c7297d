//! How a text looks where it was written in another way: as people's programs do it without a thought.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

/// A form that a text is looked for in. It may be one of a secret.
pub type Form = Zeroizing<Vec<u8>>;

/// What is the same in the base64 of every text with this in it, by where it begins: at the first, second or third byte of a group.
/// The characters at both ends also depend on what is beside it, so they are left out.
pub fn base64(text: &[u8]) -> [Form; 3] {
    [0, 1, 2].map(|before| {
        let padded = Zeroizing::new([&[0; 2][..before], text].concat());
        let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(&*padded));
        let (from, to) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        Zeroizing::new(encoded.as_bytes().get(from..to).unwrap_or_default().to_vec())
    })
}

/// A text as it is, and in all forms that are known: base64 in both alphabets, percent-encoded as several libraries do it, and as in a
/// string of JSON. Each once.
pub fn all(text: &[u8]) -> Vec<Form> {
    let mut forms = vec![Zeroizing::new(text.to_vec())];
    for standard in base64(text) {
        let mut for_urls = standard.clone();
        for byte in for_urls.iter_mut() {
            *byte = match *byte {
                b'+' => b'-',
                b'/' => b'_',
                other => other,
            };
        }
        // Its `+` and `/` once more, as they are written in addresses and in strings of JSON.
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            forms.push(percent(&standard, b"", false, digits));
        }
        forms.extend([json(&standard, true), standard, for_urls]);
    }
    // Besides letters, digits, `-`, `_` and `.`: RFC 3986, that without `/`, browsers, and forms.
    for kept in [&b"~"[..], b"~/", b"~!*'()", b"*"] {
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            forms.push(percent(text, kept, kept == b"*", digits));
        }
    }
    forms.extend([json(text, false), json(text, true)]);
    // JSON as Go writes it, and as .NET does; HTML as people write it, and as Go does.
    forms.push(replaced(
        text,
        &[("\"", "\\\""), ("\\", "\\\\"), ("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e")],
    ));
    let by_net = [
        ("\"", "\\u0022"),
        ("\\", "\\\\"),
        ("&", "\\u0026"),
        ("'", "\\u0027"),
        ("+", "\\u002B"),
        ("<", "\\u003C"),
        (">", "\\u003E"),
        ("`", "\\u0060"),
    ];
    forms.push(replaced(text, &by_net));
    forms.push(replaced(
        text,
        &[("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#39;")],
    ));
    forms.push(replaced(
        text,
        &[("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#x27;")],
    ));
    forms.push(replaced(
        text,
        &[("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&#34;"), ("'", "&#39;"), ("+", "&#43;")],
    ));
    forms.retain(|form| !form.is_empty());
    let mut once: Vec<Form> = Vec::new();
    for form in forms {
        if !once.contains(&form) {
            once.push(form);
        }
    }
    once
}

fn percent(text: &[u8], kept: &[u8], plus: bool, digits: &[u8; 16]) -> Form {
    let mut form = Zeroizing::new(Vec::with_capacity(3 * text.len()));
    for &byte in text {
        match byte {
            b' ' if plus => form.push(b'+'),
            b'-' | b'_' | b'.' => form.push(byte),
            _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => form.push(byte),
            _ => form.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]),
        }
    }
    form
}

/// With single characters written otherwise.
fn replaced(text: &[u8], by: &[(&str, &str)]) -> Form {
    let mut form = Zeroizing::new(Vec::with_capacity(6 * text.len()));
    for byte in text {
        match by.iter().find(|(from, _)| from.as_bytes() == [*byte]) {
            Some((_, to)) => form.extend(to.as_bytes()),
            None => form.push(*byte),
        }
    }
    form
}

fn json(text: &[u8], slashes: bool) -> Form {
    let mut form = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    for &byte in text {
        match byte {
            b'"' | b'\\' => form.extend([b'\\', byte]),
            b'/' if slashes => form.extend(b"\\/"),
            b'\n' => form.extend(b"\\n"),
            b'\r' => form.extend(b"\\r"),
            b'\t' => form.extend(b"\\t"),
            _ => form.push(byte),
        }
    }
    form
}

/// A text of which percent-encoding was taken off once; what only looks like that stays.
pub fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, more @ ..] = rest {
        match (first, escaped(more)) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = more;
            }
        }
    }
    decoded
}

/// The byte that two hexadecimal digits stand for.
pub fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| digits.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::{all, base64, percent_decoded};
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    #[test]
    fn base64_is_found_wherever_it_begins() {
        let value = b"sk-ant-0123456789~~??>>";
        for before in ["", "x", "xy", "user:", "some user:", "abcd"] {
            for after in ["", "\n", "zz", "more"] {
                let text = [before.as_bytes(), value, after.as_bytes()].concat();
                for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    let found = all(value).iter().any(|form| encoded.contains(str::from_utf8(form).unwrap()));
                    assert!(found, "{before:?} {after:?} {encoded}");
                }
            }
        }
        assert!(base64(b"12345678").iter().all(|form| form.len() >= 8));
    }

    #[test]
    fn other_forms_are_known() {
        let forms = all(b"a b/c+d\"e*~");
        for form in [
            "a b/c+d\"e*~",
            "a%20b%2Fc%2Bd%22e%2A~",
            "a%20b%2fc%2bd%22e%2a~",
            "a%20b/c%2Bd%22e%2A~",
            "a%20b%2Fc%2Bd%22e*~",
            "a+b%2Fc%2Bd%22e*%7E",
            "a b/c+d\\\"e*~",
            "a b\\/c+d\\\"e*~",
            "a b/c\\u002Bd\\u0022e*~",
            "a b/c&#43;d&#34;e*~",
            "a b/c+d&quot;e*~",
        ] {
            assert!(forms.iter().any(|known| ***known == *form.as_bytes()), "{form}");
        }
        // Of a plain one there are few.
        assert_eq!(all(b"sk-ant-0123456789").len(), 4);
    }

    #[test]
    fn percent_encoding_is_taken_off_once() {
        for (text, expected) in [
            ("", ""),
            ("a%41%4a%4A", "aAJJ"),
            ("%%41%", "%A%"),
            ("%4", "%4"),
            ("%zz%2541", "%zz%41"),
            ("%4%41", "%4A"),
        ] {
            assert_eq!(percent_decoded(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }
}
