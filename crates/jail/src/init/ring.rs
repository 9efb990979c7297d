//! What is kept of one output stream, addressed by its offset from the start of the process.

use std::collections::VecDeque;

/// The most that is kept of one stream.
pub const CAPACITY: usize = 256 << 10;

/// The end of a stream, as far as it is kept. Grows with what is written, up to [`CAPACITY`].
#[derive(Debug, Default)]
pub struct Ring {
    data: VecDeque<u8>,
    /// Offset of the oldest byte that is kept.
    start: u64,
    /// The furthest that any client has got.
    delivered: u64,
    /// Bytes that no client got and that are gone, until somebody is told.
    lost: u64,
}

impl Ring {
    /// Offset of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset after the newest byte.
    pub fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }

    /// How many bytes are kept.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// How many more bytes fit before the client that is furthest behind would miss some.
    pub fn room(&self, slowest: Option<u64>) -> usize {
        let Some(cursor) = slowest else { return CAPACITY };
        let waiting = self.end().saturating_sub(cursor.max(self.start));
        CAPACITY.saturating_sub(usize::try_from(waiting).unwrap_or(usize::MAX))
    }

    /// Adds output; the oldest bytes make room.
    pub fn push(&mut self, bytes: &[u8]) {
        let excess = (self.data.len() + bytes.len()).saturating_sub(CAPACITY);
        let old = excess.min(self.data.len());
        self.drop_oldest(old);
        // Only a caller that reads more than the capacity at once has anything to skip here.
        let skip = excess - old;
        self.data.extend(bytes.get(skip..).unwrap_or_default());
        self.start += skip as u64;
        self.lost += skip as u64;
    }

    /// A piece that begins at the offset, or at the oldest byte if that is later. Empty at the end.
    pub fn piece(&self, from: u64) -> &[u8] {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let (front, back) = self.data.as_slices();
        match front.get(skip..) {
            Some(piece) if !piece.is_empty() => piece,
            _ => skip.checked_sub(front.len()).and_then(|skip| back.get(skip..)).unwrap_or_default(),
        }
    }

    /// A client got everything before the offset.
    pub fn deliver(&mut self, offset: u64) {
        self.delivered = self.delivered.max(offset.min(self.end()));
    }

    /// How many bytes are gone that nobody got, and forgets them: the caller tells a client.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Lets go of so many of the oldest bytes, for the sake of others, or of all. Says how many there were.
    pub fn give_up(&mut self, most: usize) -> usize {
        let count = most.min(self.data.len());
        self.drop_oldest(count);
        self.shrink();
        count
    }

    /// Gives unused memory back, once nothing more is written.
    pub fn shrink(&mut self) {
        self.data.shrink_to_fit();
    }

    fn drop_oldest(&mut self, count: usize) {
        self.data.drain(..count);
        let start = self.start + count as u64;
        self.lost += start.saturating_sub(self.start.max(self.delivered));
        self.start = start;
    }
}
