//! A container image in one tar: an OCI layout (`oci-layout`, `index.json`, `blobs/`) or what `docker save` writes
//! (`manifest.json`, and layers as files). The members are found first, and read where they lie.

use crate::archive::{self, Counts};
use crate::container::{self, Packed};
use crate::import::Limits;
use crate::job::Blob;
use crate::oci::{self, Config, Document, MAX_DEPTH, MAX_DOCUMENT, Manifest};
use model::image::ImageConfig;
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: usize = 512;
/// Members of such a tar: a few for each layer.
const MAX_MEMBERS: usize = 10_000;
/// Links from one layer of `docker save` to another.
const MAX_LINKS: usize = 8;

/// So much of an archive's start is looked at to tell what it is.
pub(crate) const SNIFF: usize = 64 << 10;

/// Whether this is the start of a container image and not of a root file system: the very first member tells.
pub(crate) fn is_container(start: &[u8]) -> bool {
    let mut at = 0;
    while let Some(block) = start.get(at..at + BLOCK) {
        let header = tar::Header::from_byte_slice(block);
        let Ok(size) = header.entry_size() else { return false };
        let Ok(size) = usize::try_from(size.min(SNIFF as u64)) else { return false };
        let path = header.path_bytes();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        // What extends the next header, and the folder itself.
        if matches!(block[156], b'x' | b'g' | b'L' | b'K') || path.is_empty() || path == b"." {
            at += BLOCK + size.next_multiple_of(BLOCK);
            continue;
        }
        let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let digits = first.strip_suffix(b".json").or(first.strip_suffix(b".tar")).unwrap_or(first);
        let known = [&b"oci-layout"[..], b"index.json", b"manifest.json", b"repositories", b"blobs"];
        return known.contains(&first) || (digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit));
    }
    false
}

enum Member {
    File { at: u64, size: u64 },
    Link(String),
}

/// The members by their names.
struct Outer<'a> {
    file: &'a File,
    members: HashMap<String, Member>,
    /// Bytes of layers that were read, for whoever waits.
    read: &'a Cell<u64>,
    report: &'a dyn Fn(u64),
}

/// Makes an image of the container image in `file`, which is no longer packed. An error is a sentence for the user.
pub(crate) fn import<W: Write + Seek>(
    file: &File,
    tag: Option<&str>,
    limits: &Limits,
    image: W,
    report: &dyn Fn(u64),
) -> Result<(Counts, ImageConfig), String> {
    let read = Cell::new(0);
    let outer = Outer { file, members: members(file)?, read: &read, report };
    if outer.members.contains_key("index.json") {
        outer.layout(tag, limits, image)
    } else {
        outer.saved(tag, limits, image)
    }
}

fn members(mut file: &File) -> Result<HashMap<String, Member>, String> {
    let damaged = |error: io::Error| format!("the archive is damaged: {}", one_line(&error.to_string()));
    file.rewind().map_err(damaged)?;
    let mut archive = tar::Archive::new(file);
    let mut members = HashMap::new();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if members.len() >= MAX_MEMBERS {
            return Err(format!("the archive holds more than {MAX_MEMBERS} files"));
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = normal(&name);
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular => Member::File { at: entry.raw_file_position(), size: entry.size() },
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                Member::Link(normal(&format!("{parent}/{}", String::from_utf8_lossy(&target))))
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                Member::Link(normal(&String::from_utf8_lossy(&target)))
            }
            _ => continue,
        };
        members.insert(name, member);
    }
    Ok(members)
}

/// A name within the archive, however it is spelled; one that leads out of it is one that nothing has.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return "..".to_owned(),
            ".." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(300).collect()
}

impl<'a> Outer<'a> {
    fn open(&self, name: &str) -> Result<Slice<'a>, String> {
        let mut name = normal(name);
        for _ in 0..MAX_LINKS {
            match self.members.get(&name) {
                Some(Member::File { at, size }) => {
                    let (at, left) = (*at, *size);
                    return Ok(Slice { file: self.file, at, left, read: self.read, report: self.report });
                }
                Some(Member::Link(target)) => name.clone_from(target),
                None => return Err(format!("the archive has no {}", archive::shown(name.as_bytes()))),
            }
        }
        Err(format!("the links of {} lead nowhere", archive::shown(name.as_bytes())))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, String> {
        let slice = self.open(name)?;
        if slice.left > MAX_DOCUMENT {
            return Err(format!("{} is larger than {MAX_DOCUMENT} bytes", archive::shown(name.as_bytes())));
        }
        let size = slice.left;
        let mut bytes = Vec::new();
        slice.take(size).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn blob(&self, blob: &Blob) -> Result<Vec<u8>, String> {
        let name = format!("blobs/sha256/{}", blob.digest);
        container::verified(self.document(&name)?, blob)
            .map_err(|why| format!("{} was refused: {why}", archive::shown(name.as_bytes())))
    }

    fn layout<W: Write + Seek>(
        &self,
        tag: Option<&str>,
        limits: &Limits,
        image: W,
    ) -> Result<(Counts, ImageConfig), String> {
        let manifest = self.manifest(tag)?;
        let words = |error: oci::Unusable| error.to_string();
        let layers = manifest.layers().map_err(words)?;
        let config = self.blob(&manifest.config.blob().map_err(words)?)?;
        let config = Config::parse(&config, layers.len()).map_err(words)?;
        let layers = layers.into_iter().map(|claim| {
            let reader = Box::new(self.open(&format!("blobs/sha256/{}", claim.digest))?);
            Ok(Packed { reader, claim: Some(claim) })
        });
        container::assemble(config, layers, limits, image)
    }

    fn manifest(&self, tag: Option<&str>) -> Result<Manifest, String> {
        let words = |error: oci::Unusable| error.to_string();
        let mut bytes = self.document("index.json")?;
        // The tag names something in the outermost index; those further in are for machines.
        let mut tag = tag;
        for _ in 0..MAX_DEPTH {
            match oci::document(&bytes).map_err(words)? {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(manifests) => {
                    let chosen = oci::choose(&manifests, tag.take()).map_err(words)?;
                    bytes = self.blob(&chosen.blob().map_err(words)?)?;
                }
            }
        }
        Err(oci::Unusable::TooDeep.to_string())
    }

    fn saved<W: Write + Seek>(
        &self,
        tag: Option<&str>,
        limits: &Limits,
        image: W,
    ) -> Result<(Counts, ImageConfig), String> {
        let words = |error: oci::Unusable| error.to_string();
        let saved = oci::saved(&self.document("manifest.json")?, tag).map_err(words)?;
        if saved.layers.len() > crate::job::MAX_LAYERS {
            return Err(oci::Unusable::TooManyLayers(saved.layers.len()).to_string());
        }
        let config = Config::parse(&self.document(&saved.config)?, saved.layers.len()).map_err(words)?;
        let layers = saved.layers.iter().map(|name| {
            // Older versions name layers by no digest; those of the unpacked ones are in the configuration.
            let digits =
                Path::new(name).file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let slice = self.open(name)?;
            let claim = digits.map(|digest| Blob { digest, size: slice.left });
            Ok(Packed { reader: Box::new(slice), claim })
        });
        container::assemble(config, layers, limits, image)
    }
}

/// One member. It reads at its own place, so that several can be open.
struct Slice<'a> {
    file: &'a File,
    at: u64,
    left: u64,
    read: &'a Cell<u64>,
    report: &'a dyn Fn(u64),
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        self.read.set(self.read.get() + count as u64);
        (self.report)(self.read.get());
        Ok(count)
    }
}
