//! Removing what nobody needs: images that are not in use, and layers that no image which is left was made of.

use crate::blobs::Blobs;
use crate::record::Record;
use crate::store::{Digest, Store, StoreError};
use std::collections::HashSet;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images.
    pub images: Vec<Digest>,
    /// Bytes on the disk, layers included.
    pub bytes: u64,
}

/// Removes all images but those in use. The caller holds the store alone ([`Store::hold_alone`]), and asked what is in use
/// only then.
pub fn prune(store: &Store, in_use: &dyn Fn(&Digest) -> bool) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned::default();
    for (digest, size) in store.list()? {
        if in_use(&digest) {
            continue;
        }
        Record::remove(store, &digest).map_err(|source| store.error("remove an image", source))?;
        store.remove(&digest)?;
        pruned.bytes += size;
        pruned.images.push(digest);
    }
    let left = Record::all(store)?;
    let layers: HashSet<Digest> = left.into_iter().flat_map(|(_, record)| record.layers).collect();
    pruned.bytes += Blobs::open(store)?.retain(&|digest| layers.contains(digest))?;
    Ok(pruned)
}
