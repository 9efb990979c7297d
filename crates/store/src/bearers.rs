//! Holders of API keys that were looked up a moment ago: a program that calls often is not looked up each time.
//!
//! A key that is deleted here is forgotten at once, and one that another process deletes as soon as that is heard. Whatever is not
//! heard, a key is good for [`KEPT`] more at most, and for a workspace token within that time.

use crate::keys::Bearer;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const KEPT: Duration = Duration::from_secs(1);
/// At most so many are remembered.
const MOST: usize = 1024;

#[derive(Default)]
pub(crate) struct Bearers(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Raised whenever keys were deleted: what was read before says nothing any more.
    generation: u64,
    by_hash: HashMap<String, (Instant, Bearer)>,
}

/// When something was read.
pub(crate) struct Reading {
    generation: u64,
    at: Instant,
}

impl Bearers {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom the hash stood for a moment ago; else what [`Self::remember`] wants to know, taken before it is looked up.
    pub(crate) fn find(&self, hash: &str) -> Result<Bearer, Reading> {
        let (known, at) = (self.lock(), Instant::now());
        match known.by_hash.get(hash) {
            Some((read, bearer)) if at < *read + KEPT => Ok(bearer.clone()),
            _ => Err(Reading { generation: known.generation, at }),
        }
    }

    pub(crate) fn remember(&self, hash: &str, bearer: &Bearer, reading: &Reading) {
        let mut known = self.lock();
        if known.generation != reading.generation {
            return;
        }
        if known.by_hash.len() >= MOST {
            known.by_hash.clear();
        }
        known.by_hash.insert(hash.to_owned(), (reading.at, bearer.clone()));
    }

    /// Called once keys were deleted, before anybody is told so.
    pub(crate) fn forget_all(&self) {
        let mut known = self.lock();
        known.generation += 1;
        known.by_hash.clear();
    }
}
