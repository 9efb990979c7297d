//! Reads tar members from raw entries, with bounds on everything that is kept in memory.
//!
//! Formats: ustar, GNU long names (`L`, `K`), POSIX.1-2001 extended headers (`x`, `g`). GNU sparse files and
//! multi-volume archives are refused: nothing that is asked for writes them.

use super::ExtractError;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use tar::EntryType;

/// The longest name that is accepted, as PATH_MAX has it.
const MAX_NAME: u64 = 4096;
/// The longest extended header that is accepted.
const MAX_EXTENDED: u64 = 64 << 10;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Special,
}

/// One member of the archive.
#[derive(Debug)]
pub(super) struct Member {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    pub mtime: i64,
}

/// Collects the entries that only describe the next one.
#[derive(Default)]
pub(super) struct Reader {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The member that this entry is; `None` when it only describes the next.
    pub(super) fn read<R: Read>(
        &mut self,
        raw: &mut tar::Entry<'_, R>,
    ) -> Result<Option<Member>, ExtractError> {
        let header = raw.header();
        let kind = header.entry_type();
        let size = header.entry_size().map_err(|_| ExtractError::Malformed("a size is not a number"))?;
        match kind {
            EntryType::GNULongName => {
                self.path = Some(text(raw, size)?);
                return Ok(None);
            }
            EntryType::GNULongLink => {
                self.link = Some(text(raw, size)?);
                return Ok(None);
            }
            EntryType::XHeader => {
                self.extended(&bounded(raw, size, MAX_EXTENDED)?)?;
                return Ok(None);
            }
            EntryType::XGlobalHeader => return Ok(None),
            _ => {}
        }
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::GNUSparse => return Err(ExtractError::Malformed("sparse files are not accepted")),
            _ => Kind::Special,
        };
        let path = self.path.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self
            .link
            .take()
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        // Old archives mark a directory by a slash at the end of a regular entry's name.
        let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Directory } else { kind };
        Ok(Some(Member {
            path,
            link,
            kind,
            mode: header.mode().unwrap_or(0o644) & 0o777,
            size: if kind == Kind::File { size } else { 0 },
            mtime: header.mtime().ok().and_then(|mtime| i64::try_from(mtime).ok()).unwrap_or(0),
        }))
    }

    fn extended(&mut self, records: &[u8]) -> Result<(), ExtractError> {
        for record in tar::PaxExtensions::new(records) {
            let record = record.map_err(|_| ExtractError::Malformed("an extended header is not valid"))?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                // The header's own size delimits the content here; another one would be read two ways.
                b"size" => return Err(ExtractError::Malformed("a size stands in an extended header")),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(ExtractError::Malformed("sparse files are not accepted"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bounded(raw: &mut impl Read, size: u64, limit: u64) -> Result<Vec<u8>, ExtractError> {
    if size > limit {
        return Err(ExtractError::Malformed("a name or an extended header is too long"));
    }
    let mut bytes = Vec::new();
    raw.take(limit).read_to_end(&mut bytes).map_err(ExtractError::Read)?;
    Ok(bytes)
}

fn text(raw: &mut impl Read, size: u64) -> Result<Vec<u8>, ExtractError> {
    let mut bytes = bounded(raw, size, MAX_NAME + 1)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// The components of a name; `None` when it is absolute, climbs, or is nothing that a file can be called.
pub(super) fn components(path: &[u8]) -> Option<Vec<&OsStr>> {
    if path.starts_with(b"/") || path.len() as u64 > MAX_NAME || path.contains(&0) {
        return None;
    }
    path.split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(|component| (component != b".." && component.len() <= 255).then(|| OsStr::from_bytes(component)))
        .collect()
}
