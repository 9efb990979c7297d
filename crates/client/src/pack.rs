//! Packs a file or a tree of this side for its way into an agent.
//!
//! Symbolic links are packed as links, never followed. Sockets, FIFOs and devices are left out and reported.
//! Owners are not packed: inside, everything belongs to the user who unpacks.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// What was packed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Sockets, FIFOs, devices.
    pub skipped: Vec<PathBuf>,
}

/// Why packing was given up.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something on this side cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The other side went away; it has the reason.
    #[error("the agent stopped reading: {0}")]
    Write(#[source] io::Error),
}

/// Writes `source` as a tar whose first component is `name`, or whose content lies at its top when `name` is
/// `None`. `progress` is told of every file's size.
pub fn pack(
    source: &Path,
    name: Option<&OsStr>,
    out: impl Write,
    mut progress: impl FnMut(u64),
) -> Result<Packed, PackError> {
    let mut builder = Builder::new(out);
    let mut packed = Packed::default();
    let metadata = fs::symlink_metadata(source).map_err(|error| unreadable(source, error))?;
    // What is copied into "." has no entry of its own: the directory there keeps its mode.
    let mut pending = match name {
        Some(name) => vec![(source.to_owned(), PathBuf::from(name), metadata)],
        None => children(source, Path::new(""))?,
    };
    while let Some((path, inside, metadata)) = pending.pop() {
        if !add(&mut builder, &path, &inside, &metadata)? {
            packed.skipped.push(path);
            continue;
        }
        packed.entries += 1;
        if metadata.is_file() {
            packed.bytes += metadata.len();
            progress(metadata.len());
        }
        if metadata.is_dir() {
            pending.extend(children(&path, &inside)?);
        }
    }
    let mut out = builder.into_inner().map_err(PackError::Write)?;
    out.flush().map_err(PackError::Write)?;
    Ok(packed)
}

fn unreadable(path: &Path, source: io::Error) -> PackError {
    PackError::Read { path: path.to_owned(), source }
}

/// What a directory holds, in reverse order of names: the caller takes from the end.
fn children(directory: &Path, inside: &Path) -> Result<Vec<(PathBuf, PathBuf, Metadata)>, PackError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| unreadable(directory, error))? {
        let entry = entry.map_err(|error| unreadable(directory, error))?;
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, error))?;
        found.push((path, inside.join(entry.file_name()), metadata));
    }
    found.sort_by(|a, b| b.1.cmp(&a.1));
    Ok(found)
}

/// Adds one entry; `false` when it is of a kind that is left out.
fn add<W: Write>(
    builder: &mut Builder<W>,
    path: &Path,
    inside: &Path,
    metadata: &Metadata,
) -> Result<bool, PackError> {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|error| unreadable(path, error))?;
        header.set_entry_type(EntryType::Symlink);
        builder.append_link(&mut header, inside, target).map_err(PackError::Write)?;
    } else if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        builder.append_data(&mut header, inside, io::empty()).map_err(PackError::Write)?;
    } else if kind.is_file() {
        // Not following links and not blocking: the file may have been replaced since it was listed.
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| unreadable(path, error))?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        let content = Exactly { file, left: metadata.len() };
        builder.append_data(&mut header, inside, content).map_err(PackError::Write)?;
    } else {
        debug_assert!(kind.is_socket() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device());
        return Ok(false);
    }
    Ok(true)
}

/// A file that grows or shrinks while it is read would shift all that follows in the archive: it is cut, or
/// the copy fails.
struct Exactly {
    file: File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..want])?;
        if length == 0 {
            return Err(io::Error::other("a file became shorter while it was copied"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}
