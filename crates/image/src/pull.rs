//! Gets an image from a registry: manifest, configuration and layers by their digests, each verified as it comes, then the
//! same confined worker as for an import makes the image of them.
//!
//! Three kinds of process share the work, so that none has all of it: one speaks with the registry and has no files; one
//! parses documents or layers and has no network; this one has both, and parses nothing but what
//! tells whose a signature is.

use crate::Progress;
use crate::blobs::Blobs;
use crate::fetch::{Failed, FailedKind, RegistryCredentials, Rules, Setup};
use crate::import::{ImportError, Imported, Limits, Running, Worker};
use crate::job::{Blob, Job};
use crate::oci::MAX_DEPTH;
use crate::record::Record;
use crate::reference::{Host, Reference};
use crate::registry::Registry;
use crate::signature::{SignatureError, Signer};
use crate::store::{Digest, Store};
use crate::worker::Parsed;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsFd;

/// Room that a pull leaves on the disk.
const SPARE: u64 = 256 << 20;

/// What to pull, and under which rules.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// What.
    pub reference: Reference,
    /// What to show to its registry.
    pub credentials: Option<RegistryCredentials>,
    /// What the operator allows.
    pub rules: Rules,
    /// Whose signature the image needs; `None` for nobody's.
    pub signed_by: Option<Signer>,
}

/// An image that came from a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What the store has now.
    pub image: Imported,
    /// The digest that the tag leads to: what a pin names.
    pub digest: Digest,
    /// Bytes of layers that were downloaded for it, and not there before.
    pub downloaded: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry keeps it from this caller.
    #[error("{0}")]
    Denied(String),
    /// The registry has none.
    #[error("{0}")]
    Missing(String),
    /// The image, or the way to it, is at fault.
    #[error("{0}")]
    Refused(String),
    /// The registry cannot be reached, or has no time.
    #[error("{0}")]
    Unavailable(String),
    /// Content that is not what it was asked for by.
    #[error("{host} answers with something else than the {what}; somebody on the way may have changed it")]
    Lied {
        /// What it should have been.
        what: String,
        /// The registry.
        host: Host,
    },
    /// There is no signature that counts.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The import of what came.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl From<Failed> for PullError {
    fn from(failed: Failed) -> Self {
        match failed.kind {
            FailedKind::Denied => Self::Denied(failed.why),
            FailedKind::Missing => Self::Missing(failed.why),
            FailedKind::Refused | FailedKind::Broken => Self::Refused(failed.why),
            FailedKind::Passing => Self::Unavailable(failed.why),
        }
    }
}

/// Pulls an image into the store.
pub fn pull(
    options: &PullOptions,
    store: &Store,
    worker: &Worker,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pulled, PullError> {
    let reference = &options.reference;
    let stage = |stage: String, percent| Progress { stage, percent };
    progress(stage(format!("asking {}", reference.registry), Some(0)));
    let setup = Setup {
        registry: reference.registry.clone(),
        repository: reference.repository.clone(),
        rules: options.rules.clone(),
        credentials: options.credentials.clone(),
    };
    let mut registry = Registry::connect(worker, &setup)?;
    let (digest, bytes) = match &reference.digest {
        Some(digest) => (digest.clone(), registry.manifest_by_digest(digest, None)?),
        None => registry.manifest(reference.tag.as_deref().unwrap_or("latest"))?,
    };
    let image = resolve(&mut registry, worker, &digest, bytes)?;
    if let Some(signer) = &options.signed_by {
        progress(stage("looking for a signature".to_owned(), Some(1)));
        signer.require(&mut registry, worker, &[&digest, &image.manifest])?;
    }
    let blobs = Blobs::open(store).map_err(ImportError::Store)?;
    if let Some(image) = known(&mut registry, &blobs, store, &image, &reference.registry)? {
        progress(stage("there already".to_owned(), Some(100)));
        return Ok(Pulled { image, digest, downloaded: 0 });
    }
    let config = registry.small(&image.config)?;
    let layers = download(&mut registry, &blobs, store, &image, limits, progress)?;
    drop(registry);

    let imported = unpack(&config, &image.layers, &layers.files, store, worker, limits, progress)?;
    let record = Record::of(&imported, &image);
    record.write(store, &imported.digest).map_err(ImportError::Store)?;
    progress(stage("pulled".to_owned(), Some(100)));
    Ok(Pulled { image: imported, digest, downloaded: layers.downloaded })
}

/// One image of a registry, as its manifest has it.
pub(crate) struct Found {
    pub(crate) manifest: Digest,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

/// From what the tag leads to, through indexes, to this machine's manifest.
fn resolve(
    registry: &mut Registry,
    worker: &Worker,
    digest: &Digest,
    bytes: Vec<u8>,
) -> Result<Found, PullError> {
    let (mut digest, mut bytes) = (digest.clone(), bytes);
    for _ in 0..MAX_DEPTH {
        match parse(worker, &Job::Document {}, &bytes)? {
            Parsed::Manifest { config, layers } => return Ok(Found { manifest: digest, config, layers }),
            Parsed::Index { chosen } => {
                bytes = registry.manifest_by_digest(&chosen.digest, Some(chosen.size))?;
                digest = chosen.digest;
            }
            _ => break,
        }
    }
    Err(PullError::Refused(crate::oci::Unusable::TooDeep.to_string()))
}

/// Has a document read by a worker that can do nothing else.
pub(crate) fn parse(worker: &Worker, job: &Job, bytes: &[u8]) -> Result<Parsed, PullError> {
    let file = handed_over(bytes).map_err(ImportError::Handing)?;
    match Running::parse(job, &file, worker) {
        Ok(parsed) => Ok(parsed),
        Err(ImportError::Refused(why)) => Err(PullError::Refused(format!("the image was refused: {why}"))),
        Err(error) => Err(error.into()),
    }
}

fn handed_over(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("document", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The image, where it was made before and this caller may have all of it.
fn known(
    registry: &mut Registry,
    blobs: &Blobs,
    store: &Store,
    image: &Found,
    host: &Host,
) -> Result<Option<Imported>, PullError> {
    let Some((digest, record)) = Record::find(store, &image.manifest).map_err(ImportError::Store)? else {
        return Ok(None);
    };
    let Some(size) = store.size(&digest).map_err(ImportError::Store)? else { return Ok(None) };
    for layer in &image.layers {
        if !blobs.came_from(&layer.digest, host) || !registry.may_have(&layer.digest)? {
            return Ok(None);
        }
    }
    Ok(Some(record.imported(digest, size)))
}

struct Layers {
    files: Vec<File>,
    downloaded: u64,
}

fn download(
    registry: &mut Registry,
    blobs: &Blobs,
    store: &Store,
    image: &Found,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Layers, PullError> {
    let total: u64 = image.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    let missing = image.layers.iter().filter(|layer| blobs.get(&layer.digest, layer.size).is_none());
    let missing: u64 = missing.map(|layer| layer.size).fold(0, u64::saturating_add);
    if total > limits.bytes {
        let most = limits.bytes;
        return Err(PullError::Refused(format!(
            "the image was refused: its layers have {total} bytes, and images.bytes in node.toml allows {most}"
        )));
    }
    let free = store.free().map_err(ImportError::Store)?;
    if missing.saturating_add(SPARE) > free {
        return Err(PullError::Refused(format!(
            "the layers take {} MiB, and {} MiB are free on the disk of {}; make room (`cofferdam image prune`)",
            missing >> 20,
            free >> 20,
            store.dir().display()
        )));
    }
    let mut files = Vec::with_capacity(image.layers.len());
    let (mut before, mut downloaded) = (0, 0);
    for layer in &image.layers {
        let had = blobs.get(&layer.digest, layer.size).is_some();
        let file = registry.layer(layer, blobs, &mut |bytes| {
            let all = before + bytes;
            let percent = (all.min(total) * 70 / total.max(1)) as u8;
            let stage = format!("downloading ({} of {} MiB)", all >> 20, total.div_ceil(1 << 20));
            progress(Progress { stage, percent: Some(percent.max(2)) });
        })?;
        before += layer.size;
        if !had {
            downloaded += layer.size;
        }
        files.push(file);
    }
    Ok(Layers { files, downloaded })
}

fn unpack(
    config: &[u8],
    layers: &[Blob],
    files: &[File],
    store: &Store,
    worker: &Worker,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, PullError> {
    let config = handed_over(config).map_err(ImportError::Handing)?;
    let total: u64 = layers.iter().map(|layer| layer.size).sum();
    let mut handed = vec![config.as_fd()];
    handed.extend(files.iter().map(AsFd::as_fd));
    let job = Job::Layers { limits: *limits, layers: layers.to_vec() };
    let mut running = Running::start_into(&job, &handed, store, worker)?;
    let done = running.wait(&mut |bytes| {
        let percent = 70 + (bytes.min(total) * 29 / total.max(1)) as u8;
        progress(Progress { stage: "unpacking".to_owned(), percent: Some(percent) });
    });
    match done.and_then(|done| running.commit(store, done)) {
        Ok(imported) => Ok(imported),
        Err(ImportError::Refused(why)) => Err(PullError::Refused(format!("the image was refused: {why}"))),
        Err(error) => Err(error.into()),
    }
}
