//! Reads a tar archive (POSIX ustar and pax, GNU long names) as hostile input into a [`Tree`] and an image.
//!
//! Every rule that an archive can break is checked here, before anything is believed: sizes against the limits,
//! paths against the tree, owners against the range that an agent has. Device nodes and FIFOs are passed over
//! and counted, and so are extended attributes: capabilities of files have no effect under `no_new_privs`, and an
//! `overlay.*` attribute in a lower layer would steer the overlay above it. Bits such as setuid are kept: they name ids of
//! the agent's own user namespace, and have no effect under `no_new_privs` either.

use crate::erofs::{SMALL, Writer};
use crate::import::Limits;
use crate::packages::{self, Databases};
use crate::tree::{Content, InsidePath, Kind, Layer, Meta, PathError};
use model::packages::Packages;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Seek, Write};

const BLOCK: usize = 512;
/// Ids inside an agent are 0 to this.
const MAX_ID: u64 = 65_535;
/// The longest pax header or GNU long name.
const MAX_HEADER: u64 = 1 << 20;
/// What names, links and small contents may take in memory.
const MAX_KEPT: u64 = 1 << 30;
/// Files whose content must be at hand once the archive was read, because it may have to be completed.
const KEPT: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];
const MAX_KEPT_FILE: u64 = 1 << 20;
/// The largest database of packages that is looked into.
const MAX_DATABASE: u64 = 16 << 20;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{} was refused: {error}", shown(.path))]
    Path { path: Vec<u8>, error: PathError },
    #[error("{} was refused: it is owned by {id}, and ids in an image are 0 to {MAX_ID}", shown(.path))]
    Owner { path: Vec<u8>, id: u64 },
    #[error("{} was refused: a symbolic link needs a target of 1 to 4095 bytes without a NUL", shown(.path))]
    LinkTarget { path: Vec<u8> },
    #[error("{} was refused: {what} cannot be imported", shown(.path))]
    Unsupported { path: Vec<u8>, what: &'static str },
    #[error("it has more than {0} entries")]
    TooManyEntries(u64),
    #[error("it is larger than {0} bytes when unpacked")]
    TooLarge(u64),
    #[error("its names, links and small files take more than {MAX_KEPT} bytes")]
    TooMuchKept,
    #[error("it ends too early: it was cut off, or a size in it is a lie")]
    Truncated,
    #[error("it is not a tar archive, or it is damaged: {0}")]
    Malformed(&'static str),
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    #[error("the image cannot be written: {error}{remedy}", error = .0, remedy = remedy(.0))]
    Write(io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; make room, or remove images (cofferdam image rm)",
        _ => "",
    }
}

/// A hostile name as one line of ASCII that a terminal can show.
pub(crate) fn shown(path: &[u8]) -> String {
    let end = path.len().min(200);
    let dots = if end < path.len() { "…" } else { "" };
    format!("`{}{dots}`", path[..end].escape_ascii())
}

/// What was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) skipped_nodes: u64,
    pub(crate) dropped_xattrs: u64,
    /// What is installed, if that could be read.
    #[serde(default)]
    pub(crate) packages: Option<Packages>,
}

/// What an archive stands for, and so by which rules it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// A whole root file system: every path once.
    Root,
    /// A layer of a container image: whiteouts take away, and as in tar(1) the last of several entries counts.
    Layer,
}

/// What may still be taken in, over all archives of one image.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    left: u64,
    kept: u64,
    nodes: u64,
    pub(crate) counts: Counts,
    pub(crate) databases: Databases,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            left: limits.bytes,
            kept: 0,
            nodes: 0,
            counts: Counts::default(),
            databases: Databases::default(),
        }
    }
}

/// Reads one whole archive.
pub(crate) fn read<W: Write + Seek>(
    from: impl Read,
    rules: Rules,
    budget: &mut Budget,
    image: &mut Writer<W>,
) -> Result<Layer, Refusal> {
    let mut archive = Archive {
        from: Metered { from, limit: budget.limits.bytes, left: budget.left },
        rules,
        image,
        layer: Layer::new(),
        budget,
    };
    while let Some(entry) = archive.next_entry()? {
        archive.admit(entry)?;
    }
    archive.drain()?;
    let Archive { from, layer, budget, .. } = archive;
    budget.left = from.left;
    budget.nodes += layer.len() as u64;
    Ok(layer)
}

struct Archive<'a, R: Read, W: Write + Seek> {
    from: Metered<R>,
    rules: Rules,
    image: &'a mut Writer<W>,
    layer: Layer,
    budget: &'a mut Budget,
}

/// A header with everything that came before it to extend it.
struct Entry {
    path: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    size: u64,
    meta: Meta,
}

/// Overrides from pax records and GNU long names for the header that follows.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    sparse: bool,
}

impl<R: Read, W: Write + Seek> Archive<'_, R, W> {
    /// The next header that describes an entry; `None` at the end of the archive.
    fn next_entry(&mut self) -> Result<Option<Entry>, Refusal> {
        let mut overrides = Overrides::default();
        loop {
            let mut block = [0; BLOCK];
            self.from.fill(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = tar::Header::from_byte_slice(&block);
            verify_checksum(header)?;
            let size = header.entry_size().map_err(|_| Refusal::Malformed("a size is not a number"))?;
            match block[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    self.budget.counts.dropped_xattrs += overrides.pax(&records)?;
                }
                b'g' => {
                    // Comments and the like. Global paths or sizes would be a strange thing, and are refused.
                    let records = self.extension(size)?;
                    let mut global = Overrides::default();
                    global.pax(&records)?;
                    if global.path.is_some() || global.link.is_some() || global.size.is_some() {
                        return Err(Refusal::Malformed("a global pax header names a path or a size"));
                    }
                }
                b'L' => overrides.path = Some(until_nul(&self.extension(size)?)),
                b'K' => overrides.link = Some(until_nul(&self.extension(size)?)),
                b'V' => self.skip(size)?,
                kind => return overrides.finish(header, kind, size).map(Some),
            }
        }
    }

    fn admit(&mut self, entry: Entry) -> Result<(), Refusal> {
        self.budget.counts.entries += 1;
        let most = self.budget.limits.entries;
        let nodes = self.budget.nodes + self.layer.len() as u64;
        if self.budget.counts.entries > most || nodes > most {
            return Err(Refusal::TooManyEntries(most));
        }
        self.keep((entry.path.len() + entry.link.len()) as u64)?;
        let refused = |error| Refusal::Path { path: entry.path.clone(), error };
        let path = self.path(&entry.path).map_err(refused)?;
        // As GNU tar reads it: before there was a type for them, directories were files with a final slash.
        let kind = match entry.kind {
            b'0' | 0 if entry.path.ends_with(b"/") => b'5',
            kind => kind,
        };
        if self.rules == Rules::Layer && self.layer.mark(&path).map_err(refused)? {
            // Only what claims to be a file has content to pass over.
            return if matches!(kind, b'0' | 0 | b'7') { self.pass_over(entry.size) } else { Ok(()) };
        }
        if self.rules == Rules::Layer && !matches!(kind, b'1' | b'5') {
            self.layer.tree.vacate(&path);
        }
        match kind {
            b'0' | 0 | b'7' => {
                self.layer.tree.check_vacant(&path).map_err(refused)?;
                let content = self.file(&path, entry.size)?;
                self.layer.tree.add(&path, entry.meta, Kind::File(content)).map_err(refused)?;
                return Ok(());
            }
            b'1' => {
                let target = self.path(&entry.link).map_err(refused)?;
                self.link(path, target).map_err(refused)?;
            }
            b'2' => {
                if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
                    return Err(Refusal::LinkTarget { path: entry.path });
                }
                let kind = Kind::Symlink(entry.link.into());
                let refused = |error| Refusal::Path { path: entry.path.clone(), error };
                self.layer.tree.add(&path, entry.meta, kind).map_err(refused)?;
            }
            b'3' | b'4' | b'6' => {
                self.layer.tree.add(&path, entry.meta, Kind::Skipped).map_err(refused)?;
                self.budget.counts.skipped_nodes += 1;
            }
            b'5' if self.rules == Rules::Layer => {
                self.layer.tree.redescribe(&path, entry.meta).map_err(refused)?;
            }
            b'5' => self.layer.tree.add_directory(&path, entry.meta).map_err(refused)?,
            b'S' => {
                return Err(Refusal::Unsupported { path: entry.path, what: "a sparse file (tar --sparse)" });
            }
            _ => return Err(Refusal::Unsupported { path: entry.path, what: "an entry of an unknown type" }),
        }
        // Some writers give a size to links and directories, but only files have content after the header. Whether
        // it is there cannot be known, so whoever reads on from a wrong place finds a wrong checksum.
        Ok(())
    }

    fn path(&self, raw: &[u8]) -> Result<InsidePath, PathError> {
        match self.rules {
            Rules::Root => InsidePath::parse(raw),
            Rules::Layer => InsidePath::parse_rooted(raw),
        }
    }

    fn link(&mut self, path: InsidePath, target: InsidePath) -> Result<(), PathError> {
        if self.rules == Rules::Layer {
            if path == target {
                return Ok(());
            }
            if self.layer.tree.find(&target).is_none() {
                self.layer.link_below(path, target);
                return Ok(());
            }
            self.layer.tree.vacate(&path);
        }
        let id = self.layer.tree.add_link(&path, &target)?;
        if self.layer.tree.node(id).kind == Kind::Skipped {
            self.budget.counts.skipped_nodes += 1;
        }
        Ok(())
    }

    /// A file's content and its padding, unread.
    fn pass_over(&mut self, size: u64) -> Result<(), Refusal> {
        if size > self.from.left {
            return Err(Refusal::TooLarge(self.budget.limits.bytes));
        }
        self.skip(size.next_multiple_of(BLOCK as u64))
    }

    /// Takes in the content that follows the header, and its padding.
    fn file(&mut self, path: &InsidePath, size: u64) -> Result<Content, Refusal> {
        if size > self.from.left {
            return Err(Refusal::TooLarge(self.budget.limits.bytes));
        }
        let wanted = KEPT.iter().any(|name| InsidePath::parse(name).as_ref() == Ok(path));
        let small = size <= SMALL || (wanted && size <= MAX_KEPT_FILE);
        let content = if small && self.budget.kept + size <= MAX_KEPT {
            self.budget.kept += size;
            let mut bytes = vec![0; size as usize];
            self.from.fill(&mut bytes)?;
            Content::Small(bytes)
        } else if let Some(database) = packages::database(path).filter(|_| size <= MAX_DATABASE) {
            // It goes into the image like any other; that it is also here changes no byte of that.
            let mut bytes = vec![0; size as usize];
            self.from.fill(&mut bytes)?;
            let content = self.image.content(&mut &bytes[..], size).map_err(Refusal::Write)?;
            self.budget.databases.keep(database, content.clone(), bytes);
            content
        } else {
            let mut source = Blamed { from: &mut self.from, failed: None };
            match self.image.content(&mut source, size) {
                Ok(content) => content,
                // The same error may be the archive's fault or the disk's.
                Err(error) => return Err(source.failed.take().unwrap_or(Refusal::Write(error))),
            }
        };
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(content)
    }

    /// The content of a header that extends the next one.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Refusal> {
        if size > MAX_HEADER {
            return Err(Refusal::Malformed("a pax header or a long name is larger than 1 MiB"));
        }
        let mut bytes = vec![0; size as usize];
        self.from.fill(&mut bytes)?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(bytes)
    }

    fn skip(&mut self, size: u64) -> Result<(), Refusal> {
        let mut left = size;
        let mut buffer = [0; BLOCK];
        while left > 0 {
            let count = left.min(BLOCK as u64) as usize;
            self.from.fill(&mut buffer[..count])?;
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads what follows the end mark, so that a packed archive's own checksum is verified.
    fn drain(&mut self) -> Result<(), Refusal> {
        io::copy(&mut self.from, &mut io::sink()).map(|_| ()).map_err(blame_read)
    }

    fn keep(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.budget.kept += bytes;
        if self.budget.kept > MAX_KEPT { Err(Refusal::TooMuchKept) } else { Ok(()) }
    }
}

impl Overrides {
    /// Takes in pax records, `LENGTH KEY=VALUE\n` each; how many extended attributes were among them.
    fn pax(&mut self, records: &[u8]) -> Result<u64, Refusal> {
        let mut rest = records;
        let mut xattrs = 0;
        while !rest.is_empty() {
            let malformed = Refusal::Malformed("a pax record is broken");
            let Some((key, value, after)) = pax_record(rest) else { return Err(malformed) };
            rest = after;
            let number = || number(value).ok_or(Refusal::Malformed("a pax number is broken"));
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                // Seconds, perhaps with a fraction, perhaps negative: then it counts as 1970.
                b"mtime" => {
                    let whole = value.split(|byte| *byte == b'.').next().and_then(self::number);
                    self.mtime = Some(whole.unwrap_or(0));
                }
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                key if key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.") => {
                    xattrs += 1
                }
                _ => {}
            }
        }
        Ok(xattrs)
    }

    fn finish(self, header: &tar::Header, kind: u8, size: u64) -> Result<Entry, Refusal> {
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        if self.sparse {
            return Err(Refusal::Unsupported { path, what: "a sparse file (tar --sparse)" });
        }
        let link = self.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let owner = |id: Option<u64>, own: io::Result<u64>| match id {
            Some(id) => Ok(id),
            None => own.map_err(|_| Refusal::Malformed("an owner is not a number")),
        };
        let (uid, gid) = (owner(self.uid, header.uid())?, owner(self.gid, header.gid())?);
        if let Some(id) = [uid, gid].into_iter().find(|id| *id > MAX_ID) {
            return Err(Refusal::Owner { path, id });
        }
        let mode = header.mode().map_err(|_| Refusal::Malformed("a mode is not a number"))?;
        let mtime = self.mtime.unwrap_or_else(|| header.mtime().unwrap_or(0));
        let meta = Meta {
            mode: (mode & 0o7777) as u16,
            uid: uid as u32,
            gid: gid as u32,
            mtime: mtime.min(u64::from(u32::MAX)),
        };
        Ok(Entry { path, link, kind, size: self.size.unwrap_or(size), meta })
    }
}

fn pax_record(from: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = from.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&from[..space])?).ok()?;
    let record = from.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &from[length..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// The sum of all bytes, those of the sum itself taken as spaces.
fn verify_checksum(header: &tar::Header) -> Result<(), Refusal> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = bytes[148..156].iter().map(|byte| u32::from(*byte)).sum();
    let expected = header.cksum().map_err(|_| Refusal::Malformed("a header has no checksum"))?;
    if sum - own + 8 * u32::from(b' ') == expected {
        Ok(())
    } else {
        Err(Refusal::Malformed("a header has a wrong checksum"))
    }
}

/// A reader that ends with an error once it gave as many bytes as it may.
struct Metered<R> {
    from: R,
    limit: u64,
    left: u64,
}

/// Marks the error of a reader that was asked for more than this.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct OverLimit(u64);

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        let over = || io::Error::other(OverLimit(self.limit));
        self.left = self.left.checked_sub(count as u64).ok_or_else(over)?;
        Ok(count)
    }
}

impl<R: Read> Metered<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.read_exact(buffer).map_err(blame_read)
    }
}

/// A reader that remembers that an error was its own.
struct Blamed<'a, R> {
    from: &'a mut R,
    failed: Option<Refusal>,
}

impl<R: Read> Read for Blamed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.from.read(buffer);
        match result {
            Ok(0) if !buffer.is_empty() => self.failed = Some(Refusal::Truncated),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => self.failed = Some(blame_read(error)),
        }
        Ok(0)
    }
}

pub(crate) fn blame_read(error: io::Error) -> Refusal {
    if let Some(OverLimit(limit)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Refusal::TooLarge(*limit);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Refusal::Truncated,
        _ => Refusal::Read(error),
    }
}
