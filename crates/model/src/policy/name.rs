//! Names of hosts, in the one form in which they are compared.

use std::borrow::Cow;

/// The longest name in text, without the trailing dot (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
/// The longest label.
const MAX_LABEL: usize = 63;

/// A host's name in its normal form: lower case, A-labels (UTS #46), no trailing dot. `None` for what is no name, and for
/// an address however it is written: what some library would take for one must never be looked up as a name.
pub fn name(text: &str) -> Option<String> {
    // A longer one becomes no shorter: four bytes of UTF-8 are one character of an A-label at least.
    if text.len() > 4 * (MAX_NAME + 1) {
        return None;
    }
    let ascii = if needs_idna(text) {
        // What the mapping leaves is looked at below, so nothing needs to be denied here.
        idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?
    } else {
        Cow::Owned(text.to_ascii_lowercase())
    };
    let bare = ascii.strip_suffix('.').unwrap_or(&ascii);
    is_normal(bare).then(|| bare.to_owned())
}

/// Whether the text is a name in its normal form, its A-labels taken as they are.
fn is_normal(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('.').all(is_label) && !is_address(text)
}

/// Underscores are no part of host names (RFC 952), but the DNS has them, and so have services that people use.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether libraries could take it for an address of IPv4: the last label is a number, decimal, octal or hexadecimal (URL
/// standard, "ends in a number checker"). No top-level domain is.
fn is_address(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or(text);
    let hexadecimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    last.bytes().all(|byte| byte.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(hexadecimal)
}

fn needs_idna(text: &str) -> bool {
    let is_a_label = |label: &str| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    !text.is_ascii() || text.split('.').any(is_a_label)
}
