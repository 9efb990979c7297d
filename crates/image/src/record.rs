//! What is remembered of an image beside it: which layers it was made of, so that they are kept as long as it is, and of
//! which manifest, so that pulling the same again finds it.

use crate::import::Imported;
use crate::pull::Found;
use crate::store::{Digest, Store, StoreError};
use model::image::ImageConfig;
use model::packages::Packages;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;

/// Raised whenever the same layers would give another image, or more would be known of it.
const FORMAT: u32 = 2;
const SUFFIX: &str = ".json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    manifests: Vec<Digest>,
    pub(crate) layers: Vec<Digest>,
    config: ImageConfig,
    entries: u64,
    skipped_nodes: u64,
    dropped_xattrs: u64,
    #[serde(default)]
    packages: Option<Packages>,
}

impl Record {
    pub(crate) fn of(imported: &Imported, found: &Found) -> Self {
        Self {
            format: FORMAT,
            manifests: vec![found.manifest.clone()],
            layers: found.layers.iter().map(|layer| layer.digest.clone()).collect(),
            config: imported.config.clone(),
            entries: imported.entries,
            skipped_nodes: imported.skipped_nodes,
            dropped_xattrs: imported.dropped_xattrs,
            packages: imported.packages.clone(),
        }
    }

    pub(crate) fn imported(self, digest: Digest, size: u64) -> Imported {
        let Self { config, entries, skipped_nodes, dropped_xattrs, packages, .. } = self;
        Imported { digest, size, entries, skipped_nodes, dropped_xattrs, config, packages }
    }

    /// Keeps it beside the image. Of the same image made of another manifest, the last is remembered whole.
    pub(crate) fn write(&self, store: &Store, image: &Digest) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let path = store.dir().join(format!("{image}{SUFFIX}"));
            let mut fresh = tempfile::NamedTempFile::with_prefix_in(".record-", store.dir())?;
            serde_json::to_writer(&mut fresh, self)?;
            fresh.as_file().sync_data()?;
            fresh.persist(path)?;
            Ok(())
        };
        write().map_err(|source| store.error("write what an image was made of", source))
    }

    /// All that there are.
    pub(crate) fn all(store: &Store) -> Result<Vec<(Digest, Self)>, StoreError> {
        let read = || -> io::Result<Vec<(Digest, Self)>> {
            let mut records = Vec::new();
            for entry in fs::read_dir(store.dir())? {
                let name = entry?.file_name();
                let Some(Ok(image)) =
                    name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).map(str::parse)
                else {
                    continue;
                };
                // One that cannot be read is worth nothing, and no harm.
                if let Ok(record) = serde_json::from_slice(&fs::read(store.dir().join(&name))?) {
                    records.push((image, record));
                }
            }
            Ok(records)
        };
        read().map_err(|source| store.error("read what images were made of", source))
    }

    /// The image that was made of a manifest, as it would be made today.
    pub(crate) fn find(store: &Store, manifest: &Digest) -> Result<Option<(Digest, Self)>, StoreError> {
        let all = Self::all(store)?;
        Ok(all.into_iter().find(|(_, record)| record.format == FORMAT && record.manifests.contains(manifest)))
    }

    /// Forgets that of an image.
    pub(crate) fn remove(store: &Store, image: &Digest) -> io::Result<()> {
        match fs::remove_file(store.dir().join(format!("{image}{SUFFIX}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
