//! Paths of HTTP requests: `*` is one segment, `**` at the end is the rest.
//!
//! Servers do not agree on what some paths mean: `/a/../b`, `//b`, `/a%2fb`. A pattern that allows never covers such a path, and one
//! that denies always does.

/// What a path pattern says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Covers {
    /// It is for it.
    Yes,
    /// It is not for it.
    No,
    /// Nobody knows what the server will make of the path.
    Unclear,
}

/// Why a text is no pattern of paths: what is wrong, and what to do.
pub(super) fn fault(pattern: &str) -> Option<(&'static str, &'static str)> {
    let Some(inner) = pattern.strip_prefix('/') else {
        return Some(("does not begin with a slash", "write the whole path, as in `/repos/**`"));
    };
    if pattern.contains(['?', '#', '\\']) || pattern.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Some((
            "has what is no part of a path",
            "write the path without query, blanks and backslashes",
        ));
    }
    let count = inner.split('/').count();
    for (index, segment) in inner.split('/').enumerate() {
        let last = index + 1 == count;
        match segment {
            "**" if !last => return Some(("has `**` before its end", "`**` stands only at the end")),
            "*" | "**" => {}
            _ if segment.contains('*') => {
                return Some((
                    "has a star within a segment",
                    "`*` is a whole segment, as in `/repos/*/issues`",
                ));
            }
            "" if !last => return Some(("has an empty segment", "write single slashes")),
            _ if matches!(read(segment), Segment::Unclear) => {
                return Some((
                    "does not mean the same to all servers",
                    "write it without `.`, `..` and `%2f`",
                ));
            }
            _ => {}
        }
    }
    None
}

/// Whether a pattern without [`fault`] is for a request's path.
pub(super) fn covers(pattern: &str, path: &str) -> Covers {
    let Some(inner) = path.strip_prefix('/') else { return Covers::Unclear };
    let count = inner.split('/').count();
    let mut unclear = path.contains(['?', '#']);
    for (index, segment) in inner.split('/').enumerate() {
        unclear |= matches!(read(segment), Segment::Unclear) || (segment.is_empty() && index + 1 < count);
    }
    if unclear {
        return Covers::Unclear;
    }
    let mut segments = inner.split('/');
    for wanted in pattern.strip_prefix('/').unwrap_or(pattern).split('/') {
        if wanted == "**" {
            return Covers::Yes;
        }
        let fits = segments.next().is_some_and(|segment| match wanted {
            "*" => !segment.is_empty(),
            _ => read(wanted) == read(segment),
        });
        if !fits {
            return Covers::No;
        }
    }
    if segments.next().is_none() { Covers::Yes } else { Covers::No }
}

/// A segment as a server reads it.
#[derive(PartialEq, Eq)]
enum Segment {
    Is(Vec<u8>),
    Unclear,
}

fn read(segment: &str) -> Segment {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            // Two digits are a byte.
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Segment::Unclear,
        }
    }
    let odd = |byte: &u8| matches!(byte, b'/' | b'\\' | b'%' | b';' | 0..0x20 | 0x7f);
    if bytes == b"." || bytes == b".." || bytes.iter().any(odd) {
        return Segment::Unclear;
    }
    Segment::Is(bytes)
}
