//! The exit record: a page that init shares with a file of the host, and no descriptor.
//!
//! Whoever takes init over can write to what init can write to. Through a descriptor that would be as much as the host's
//! memory holds; through the mapping it is this one page, since memory beyond the end of a file cannot be touched.

use super::sys::SharedPage;
use crate::spec::{EXIT_RECORD_MAX, Ended, ExitRecord};
use std::fs::File;
use std::io;

/// Where the record goes.
#[derive(Debug, Clone, Copy)]
pub struct Record(SharedPage);

impl Record {
    /// Makes the file as long as a record can be, and closes it.
    pub fn new(file: File) -> io::Result<Self> {
        file.set_len(EXIT_RECORD_MAX as u64)?;
        SharedPage::of(&file).map(Self)
    }

    /// Leaves the record; what is too long for it becomes a shorter one.
    pub fn write(self, mut reason: Ended) {
        if let Ended::NotStarted { detail } | Ended::InitFailed { detail } = &mut reason {
            // In JSON, one character takes at most twelve bytes.
            *detail = detail.chars().take(EXIT_RECORD_MAX / 16).collect();
        }
        let mut text = serde_json::to_vec(&ExitRecord { reason }).unwrap_or_default();
        text.push(b'\n');
        self.0.write(&text);
    }
}
