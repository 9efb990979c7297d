//! Counts of a sliding window for any number of keys, in memory of a fixed size.
//!
//! A window slides by two counters, of this window and of the one before, the latter weighed by how much of it still lies within. Keys
//! share counters: each has one in each of [`ROWS`] rows, and the lowest is believed (a count-min sketch: Cormode and Muthukrishnan,
//! 2005). So a key's own count is never forgotten for a flood of others. What such a flood can do is have a count seem higher than
//! it is, and which keys meet in a counter is known to nobody outside.

use std::hash::{BuildHasher, Hash, RandomState};
use time::OffsetDateTime;

const ROWS: usize = 4;
/// Counters of a row: with as many keys that are each counted once, nine in ten still have a counter of their own.
const COLUMNS: usize = 8192;

pub(super) struct Sketch {
    /// Of the window, in milliseconds.
    length: u64,
    /// Each packed as in [`Counter`]: memory that nobody wrote to yet is taken from nobody.
    cells: Vec<u64>,
    keys: RandomState,
}

/// How often something was counted in a window, and in the one before.
#[derive(Clone, Copy)]
struct Counter {
    window: u32,
    current: u16,
    before: u16,
}

impl Counter {
    fn unpack(cell: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = cell.to_be_bytes();
        Self {
            window: u32::from_be_bytes([a, b, c, d]),
            current: u16::from_be_bytes([e, f]),
            before: u16::from_be_bytes([g, h]),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.window) << 32 | u64::from(self.current) << 16 | u64::from(self.before)
    }

    /// The same seen from another window.
    fn at(self, window: u32) -> Self {
        let (current, before) = match window.checked_sub(self.window) {
            Some(0) => (self.current, self.before),
            Some(1) => (0, self.current),
            // Long ago; or a clock was set back, and nobody waits for longer than a window for that.
            _ => (0, 0),
        };
        Self { window, current, before }
    }

    /// For how many milliseconds one more would be too many; `into` of the window have passed.
    fn wait(self, most: u16, into: u64, length: u64) -> u64 {
        let (current, before, most) =
            (u64::from(self.current), u64::from(self.before), u64::from(most.max(1)));
        if current < most {
            // As soon as `before * (length - t) <= (most - 1 - current) * length`.
            let left = ((most - 1 - current) * length).checked_div(before).unwrap_or(length);
            return length.saturating_sub(left).saturating_sub(into);
        }
        // Not in this window; in the next, `current` is what was before.
        length - into + length.saturating_sub((most - 1) * length / current)
    }
}

impl Sketch {
    /// For a window of so many seconds.
    pub(super) fn new(seconds: u32) -> Self {
        let length = u64::from(seconds) * 1000;
        Self { length, cells: vec![0; ROWS * COLUMNS], keys: RandomState::new() }
    }

    /// The window that it is, and how many milliseconds of it have passed.
    fn window(&self, now: OffsetDateTime) -> (u32, u64) {
        let now = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        // Never 0, which is what cells hold that nobody wrote to.
        (u32::try_from(now / self.length + 1).unwrap_or(u32::MAX), now % self.length)
    }

    fn places(&self, key: &impl Hash) -> [usize; ROWS] {
        std::array::from_fn(|row| {
            let column = usize::try_from(self.keys.hash_one((row, key)) % COLUMNS as u64).unwrap_or(0);
            row * COLUMNS + column
        })
    }

    /// For how many seconds one more would be above `most`; `None` if it is not.
    pub(super) fn wait(&self, key: &impl Hash, most: u16, now: OffsetDateTime) -> Option<u64> {
        let (window, into) = self.window(now);
        let waits = self
            .places(key)
            .map(|place| Counter::unpack(self.cells[place]).at(window).wait(most, into, self.length));
        let wait = waits.into_iter().min().unwrap_or(0);
        (wait > 0).then(|| wait.div_ceil(1000))
    }

    /// Counts one more.
    pub(super) fn count(&mut self, key: &impl Hash, now: OffsetDateTime) {
        let (window, _) = self.window(now);
        for place in self.places(key) {
            let counter = Counter::unpack(self.cells[place]).at(window);
            self.cells[place] = Counter { current: counter.current.saturating_add(1), ..counter }.pack();
        }
    }
}

#[cfg(test)]
impl Sketch {
    pub(super) fn cells(&self) -> usize {
        self.cells.capacity()
    }
}
