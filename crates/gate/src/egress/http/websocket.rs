//! What an agent says in a WebSocket (RFC 6455, section 5), looked through for placeholders: frames are unmasked, and the parts of a
//! message are read as one. What is no frame, or could mean something else to the server, does not pass; nothing is changed.
//!
//! No extension is ever agreed on where this is used, so that no payload is compressed.

use super::super::secrets::placeholder::Scanner;

/// A client's frames, as they come.
#[derive(Default)]
pub struct Frames {
    at: At,
    /// Whether a message has begun and not ended.
    open: bool,
    /// Looks through messages, one after the other.
    messages: Scanner,
    /// Looks through one frame that may stand in the midst of a message.
    control: Scanner,
    /// Looks through what comes as it is, whatever the key is.
    raw: Scanner,
}

enum At {
    /// In a head, of which this is there.
    Head(Vec<u8>),
    /// In a payload.
    Payload { control: bool, key: [u8; 4], left: u64 },
}

impl Default for At {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

/// Why it does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// There is a placeholder.
    Stray,
    /// It is not what a client sends in a WebSocket.
    Malformed,
}

impl Wrong {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Stray => "a placeholder is in the WebSocket",
            Self::Malformed => "what it says is no WebSocket",
        }
    }
}

impl Frames {
    /// What comes next.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Wrong> {
        if self.raw.finds(bytes) {
            return Err(Wrong::Stray);
        }
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Head(head) => {
                    head.push(*first);
                    bytes = rest;
                    if let Some(next) = self.head()? {
                        self.at = next;
                    }
                }
                At::Payload { control, key, left } => {
                    let some = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (payload, rest) = bytes.split_at(some);
                    let plain: Vec<u8> =
                        payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
                    key.rotate_left(some % 4);
                    *left -= some as u64;
                    bytes = rest;
                    let over = *left == 0;
                    let scanner = if *control { &mut self.control } else { &mut self.messages };
                    if scanner.finds(&plain) {
                        return Err(Wrong::Stray);
                    }
                    if over {
                        self.at = At::default();
                    }
                }
            }
        }
        Ok(())
    }

    /// What comes behind the head, if all of it is there.
    fn head(&mut self) -> Result<Option<At>, Wrong> {
        let At::Head(head) = &self.at else { return Ok(None) };
        let Some((&[first, second], rest)) = head.split_first_chunk() else { return Ok(None) };
        let (last, reserved, kind) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
        let (masked, short) = (second & 0x80 != 0, second & 0x7f);
        let long = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let control = kind >= 8;
        let known = match kind {
            0 => self.open,
            1 | 2 => !self.open,
            8..=10 => last && long == 0,
            _ => false,
        };
        if reserved != 0 || !masked || !known {
            return Err(Wrong::Malformed);
        }
        let (Some(length), Some(key)) = (rest.get(..long), rest.get(long..).and_then(<[u8]>::first_chunk))
        else {
            return Ok(None);
        };
        let left = match long {
            0 => short.into(),
            _ => length.iter().fold(0, |left: u64, byte| left << 8 | u64::from(*byte)),
        };
        let key = *key;
        if control {
            self.control = Scanner::default();
        } else {
            self.open = !last;
        }
        Ok(Some(if left == 0 { At::default() } else { At::Payload { control, key, left } }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Wrong};

    const ONE: &str = "cofferdam-placeholder-abcdefghijklmnopqrstuvwxyz234567";

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    /// Whole, and in pieces of every small size.
    fn check(bytes: &[u8], expected: Result<(), Wrong>) {
        for size in (1..20).chain([bytes.len().max(1)]) {
            let mut frames = Frames::default();
            let said = bytes.chunks(size).try_for_each(|piece| frames.push(piece));
            assert_eq!(said, expected, "{size} {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn placeholders_are_found_in_frames_and_across_them() {
        check(&frame(0x81, ONE.as_bytes()), Err(Wrong::Stray));
        check(&frame(0x82, &[&[0; 70_000], ONE.as_bytes()].concat()), Err(Wrong::Stray));
        check(&frame(0x89, ONE.as_bytes()), Err(Wrong::Stray));
        for cut in 1..22 {
            let (one, two) = ONE.as_bytes().split_at(cut);
            // With a ping in the midst.
            let apart = [frame(0x01, one), frame(0x89, b"ping"), frame(0x00, b""), frame(0x80, two)].concat();
            check(&apart, Err(Wrong::Stray));
        }
        // A key that has it on the wire as it is, and one that does so where the payload is something else.
        let raw = [&[0x81, 0x80 | 54, 0, 0, 0, 0][..], ONE.as_bytes()].concat();
        check(&raw, Err(Wrong::Stray));
        check(&[&[0x81, 0x80 | 54, 1, 2, 3, 4][..], ONE.as_bytes()].concat(), Err(Wrong::Stray));
    }

    #[test]
    fn everything_else_passes() {
        let all = [
            frame(0x81, b""),
            frame(0x01, b"cofferdam-"),
            frame(0x8a, b"placeholder-x"),
            frame(0x80, b"dam"),
            frame(0x82, &[0xff; 70_000]),
            frame(0x88, b"\x03\xe8"),
        ];
        check(&all.concat(), Ok(()));
    }

    #[test]
    fn what_is_no_frame_does_not_pass() {
        for bytes in [
            // Not masked.
            &b"\x81\x05Hello"[..],
            // Compressed, or another extension.
            &frame(0xc1, b"x"),
            &frame(0xa1, b"x"),
            // No such kind.
            &frame(0x83, b"x"),
            &frame(0x8b, b"x"),
            // The rest of nothing, and another one before the rest.
            &frame(0x80, b"x"),
            &[frame(0x01, b"x"), frame(0x81, b"y")].concat(),
            // A ping in parts, or a long one.
            &frame(0x09, b"x"),
            &frame(0x89, &[0; 126]),
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            check(bytes, Err(Wrong::Malformed));
        }
    }
}
