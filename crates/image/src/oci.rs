//! The documents of container images: index, manifest and configuration, of OCI (image-spec 1.1) and of Docker (manifest
//! version 2, schema 2), which differ in names of media types only. Read in a confined worker, and nowhere else.
//!
//! Only what decides something is read. Everything is a claim until its digest was taken.

use crate::job::Blob;
use crate::signature::{MAX_SIGNATURES, Signed};
use crate::store::Digest;
use crate::worker::Parsed;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The longest document that is read. The specification asks registries to take 4 MiB.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Manifests that an index may list.
const MAX_MANIFESTS: usize = 1000;
/// How deep indexes may lie in each other.
pub(crate) const MAX_DEPTH: usize = 4;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What cosign writes (its SIGNATURE_SPEC).
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Why a document cannot be used; for the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("its {0} is not valid: {1}")]
    Syntax(&'static str, String),
    #[error(
        "it is in the format of Docker's first registry (schema version 1), which cannot be verified; push it again with a current tool"
    )]
    SchemaOne,
    #[error("its manifest is ambiguous: it could be read as an index and as an image")]
    Ambiguous,
    #[error("it is no container image, but {0}")]
    NoImage(String),
    #[error("a digest in it is {0}, and only sha256 is known here")]
    Algorithm(String),
    #[error("it has nothing for linux/{wanted}; it has {}", .there.join(", "))]
    Platform { wanted: &'static str, there: Vec<String> },
    #[error("it was made for {os}/{architecture}, and this machine is linux/{wanted}")]
    WrongMachine { os: String, architecture: String, wanted: &'static str },
    #[error("it lists more than {MAX_MANIFESTS} manifests")]
    TooManyManifests,
    #[error("its indexes lie more than {MAX_DEPTH} deep in each other")]
    TooDeep,
    #[error("it holds several images: {}; say which with --tag", .0.join(", "))]
    Several(Vec<String>),
    #[error("it holds no image {wanted}; it holds {}", .there.join(", "))]
    NoSuchTag { wanted: String, there: Vec<String> },
    #[error("it has {layers} layers, and its configuration speaks of {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("it has {0} layers, more than {most}", most = crate::job::MAX_LAYERS)]
    TooManyLayers(usize),
    #[error("its layer {0} is encrypted")]
    Encrypted(usize),
    #[error("its layer {0} is not distributed with it, but fetched from elsewhere")]
    Foreign(usize),
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Descriptor {
    /// Its digest and size, as claimed.
    pub(crate) fn blob(&self) -> Result<Blob, Unusable> {
        Ok(Blob { digest: sha256(&self.digest)?, size: self.size })
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(|key| self.annotations.as_ref()?.get(key))
    }
}

/// The digits of `sha256:DIGITS`.
pub(crate) fn sha256(text: &str) -> Result<Digest, Unusable> {
    let shown = || text.chars().filter(char::is_ascii_graphic).take(100).collect();
    let digits = text.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
    digits.ok_or_else(|| Unusable::Algorithm(shown()))
}

/// What a registry answers for a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// Manifests to choose from.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, Unusable> {
    // The parser's words may quote the document; where they do is enough to find the place.
    serde_json::from_slice(bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        let kind = match error.classify() {
            serde_json::error::Category::Data => "something is of the wrong kind or missing at",
            serde_json::error::Category::Eof => "it ends too early at",
            _ => "it is not JSON at",
        };
        Unusable::Syntax(what, format!("{kind} {place}"))
    })
}

/// Reads an index or a manifest.
pub(crate) fn document(bytes: &[u8]) -> Result<Document, Unusable> {
    let either: Either = parse("manifest", bytes)?;
    if either.schema_version == 1 {
        return Err(Unusable::SchemaOne);
    }
    // A document that is both would be one image to those who check it and another to those who run it.
    let is_index = either.media_type.contains("index") || either.media_type.contains("manifest.list");
    let is_manifest = !either.media_type.is_empty() && !is_index;
    match (either.manifests, either.config, either.layers) {
        (Some(manifests), None, None) if !is_manifest => {
            if manifests.len() > MAX_MANIFESTS {
                return Err(Unusable::TooManyManifests);
            }
            Ok(Document::Index(manifests))
        }
        (None, Some(config), Some(layers)) if !is_index => {
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (Some(_), _, _) => Err(Unusable::Ambiguous),
        _ => Err(Unusable::Syntax("manifest", "it has neither manifests nor layers".to_owned())),
    }
}

impl Document {
    /// What matters of it, for who has to fetch it.
    pub(crate) fn parsed(&self) -> Result<Parsed, Unusable> {
        match self {
            Self::Index(manifests) => Ok(Parsed::Index { chosen: choose(manifests, None)?.blob()? }),
            Self::Manifest(manifest) => {
                Ok(Parsed::Manifest { config: manifest.config.blob()?, layers: manifest.layers()? })
            }
        }
    }
}

/// The signatures that a manifest of cosign's lists.
pub(crate) fn signatures(bytes: &[u8]) -> Result<Vec<Signed>, Unusable> {
    let Document::Manifest(manifest) = document(bytes)? else { return Ok(Vec::new()) };
    let signed = manifest.layers.iter().filter(|layer| layer.media_type == SIMPLE_SIGNING);
    let found = signed.take(MAX_SIGNATURES).filter_map(|layer| {
        let annotation = |name: &str| layer.annotations.as_ref()?.get(name).cloned();
        let signature = annotation("dev.cosignproject.cosign/signature")?;
        let [certificate, chain, bundle] =
            ["certificate", "chain", "bundle"].map(|name| annotation(&format!("dev.sigstore.cosign/{name}")));
        Some(layer.blob().map(|payload| Signed { payload, signature, certificate, chain, bundle }))
    });
    found.collect()
}

/// The digest that a payload of cosign's names.
pub(crate) fn payload(bytes: &[u8]) -> Result<Digest, Unusable> {
    #[derive(Deserialize)]
    struct Payload {
        critical: Critical,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "docker-manifest-digest")]
        digest: String,
    }
    let payload: Payload = parse("signature", bytes)?;
    sha256(&payload.critical.image.digest)
}

impl Manifest {
    /// The layers, once they are known to be layers.
    pub(crate) fn layers(&self) -> Result<Vec<Blob>, Unusable> {
        if self.layers.len() > crate::job::MAX_LAYERS {
            return Err(Unusable::TooManyLayers(self.layers.len()));
        }
        let checked = self.layers.iter().zip(1..).map(|(layer, number)| {
            let kind = layer.media_type.as_str();
            if kind.contains("encrypted") {
                return Err(Unusable::Encrypted(number));
            }
            if kind.contains("nondistributable") || kind.contains("foreign") {
                return Err(Unusable::Foreign(number));
            }
            let known =
                ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
            if !kind.is_empty() && !known.iter().any(|known| kind.starts_with(known)) {
                let kind: String = kind.chars().filter(char::is_ascii_graphic).take(100).collect();
                return Err(Unusable::NoImage(format!("an artifact with content of the type {kind}")));
            }
            layer.blob()
        });
        checked.collect()
    }
}

/// This machine's architecture, as images name it (Go's GOARCH).
pub(crate) const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    b"x86" => "386",
    _ => std::env::consts::ARCH,
};

/// The manifest for this machine, of those with this tag where one is asked for.
pub(crate) fn choose<'a>(manifests: &'a [Descriptor], tag: Option<&str>) -> Result<&'a Descriptor, Unusable> {
    let names = |descriptors: &[&Descriptor]| -> Vec<String> {
        let mut names: Vec<String> = descriptors.iter().flat_map(|one| one.names()).map(printable).collect();
        names.sort();
        names.dedup();
        names.truncate(20);
        names
    };
    let all: Vec<&Descriptor> = manifests.iter().collect();
    let tagged: Vec<&Descriptor> = match tag {
        None => all,
        Some(tag) => {
            let matches = |name: &String| is_called(name, tag);
            let tagged: Vec<_> = all.iter().copied().filter(|one| one.names().any(matches)).collect();
            if tagged.is_empty() {
                return Err(Unusable::NoSuchTag { wanted: tag.to_owned(), there: names(&all) });
            }
            tagged
        }
    };
    // What says nothing of a machine, or says that it is for none, is taken where there is nothing better.
    let fits = |one: &&&Descriptor| match &one.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == ARCHITECTURE,
        None => false,
    };
    let mut fitting: Vec<&Descriptor> = tagged.iter().filter(fits).copied().collect();
    if fitting.is_empty() {
        fitting = tagged.iter().filter(|one| one.platform.is_none()).copied().collect();
    }
    // Plain variants first: v8 of arm64 is every arm64.
    fitting.sort_by_key(|one| match one.platform.as_ref().and_then(|platform| platform.variant.as_deref()) {
        None | Some("" | "v1" | "v8") => 0,
        Some(_) => 1,
    });
    let Some(first) = fitting.first() else {
        let mut there: Vec<String> = tagged
            .iter()
            .filter_map(|one| one.platform.as_ref())
            .map(|platform| printable(format!("{}/{}", platform.os, platform.architecture)))
            .collect();
        there.dedup();
        there.truncate(20);
        return Err(Unusable::Platform { wanted: ARCHITECTURE, there });
    };
    if tag.is_none() && first.platform.is_none() && fitting.iter().any(|one| one.digest != first.digest) {
        return Err(Unusable::Several(names(&fitting)));
    }
    Ok(first)
}

/// Whether somebody who says `wanted` means `name`: all of it, the part after a registry, or the tag alone.
fn is_called(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with(['/', ':']))
}

fn printable(text: impl AsRef<str>) -> String {
    text.as_ref().chars().filter(char::is_ascii_graphic).take(100).collect()
}

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Settings>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// What programs in it are started with. Docker writes `null` for what is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Settings {
    pub(crate) user: Option<String>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
}

impl Config {
    /// Reads it; it has to be for this machine and for so many layers.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, Unusable> {
        let config: Self = parse("configuration", bytes)?;
        let elsewhere = |own: &str, wanted: &str| !own.is_empty() && own != wanted;
        if elsewhere(&config.os, "linux") || elsewhere(&config.architecture, ARCHITECTURE) {
            let [os, architecture] = [&config.os, &config.architecture].map(printable);
            return Err(Unusable::WrongMachine { os, architecture, wanted: ARCHITECTURE });
        }
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers {
            return Err(Unusable::LayerCount { layers, diff_ids });
        }
        Ok(config)
    }

    /// The digests of the layers, unpacked.
    pub(crate) fn diff_ids(&self) -> Result<Vec<Digest>, Unusable> {
        self.rootfs.diff_ids.iter().map(|text| sha256(text)).collect()
    }

    /// What programs are started with.
    pub(crate) fn settings(self) -> Settings {
        self.config.unwrap_or_default()
    }
}

/// One image in `manifest.json` of `docker save`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) layers: Vec<String>,
}

/// Reads `manifest.json` of `docker save`.
pub(crate) fn saved(bytes: &[u8], tag: Option<&str>) -> Result<Saved, Unusable> {
    let mut images: Vec<Saved> = parse("manifest.json", bytes)?;
    let tags = |images: &[Saved]| -> Vec<String> {
        images.iter().flat_map(|image| image.repo_tags.iter().flatten()).map(printable).take(20).collect()
    };
    let index = match tag {
        Some(wanted) => images.iter().position(|image| {
            let matches = |name: &String| is_called(name, wanted);
            image.repo_tags.iter().flatten().any(matches)
        }),
        None if images.len() > 1 => return Err(Unusable::Several(tags(&images))),
        None => Some(0).filter(|_| !images.is_empty()),
    };
    match index {
        Some(index) => Ok(images.swap_remove(index)),
        None => Err(Unusable::NoSuchTag { wanted: tag.unwrap_or("at all").to_owned(), there: tags(&images) }),
    }
}
