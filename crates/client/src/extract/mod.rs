//! Unpacks a tar that came from inside an agent, beneath one directory and nowhere else.
//!
//! The tar is hostile, and the target may hold symbolic links that lead elsewhere. Every name is resolved by
//! the kernel with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` (openat2(2)), relative to the target's descriptor.
//! Files are created anew (`O_EXCL`), never opened for writing when they exist. Absent on purpose: owners,
//! devices, setuid, setgid and sticky bits, extended attributes, sparse files, links that lead out.

mod entry;
mod links;
#[cfg(test)]
mod tests;

use entry::{Kind, Member};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How much one extraction may make.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of file content.
    pub bytes: u64,
    /// Entries of any kind.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 1_000_000 }
    }
}

/// What an extraction made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Regular files, hard links included.
    pub files: u64,
    /// Directories that the tar named.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What was left out, and why. The names are as the tar had them: not fit for a terminal.
    pub skipped: Vec<(PathBuf, Skipped)>,
}

/// Why an entry was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// A symbolic link that leads, or could lead, out of the copied tree.
    LinkOut,
    /// A hard link to something that is not a file of this copy.
    HardLink,
    /// A device, a FIFO or something stranger.
    Special,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LinkOut => "a symbolic link that leads out of the copied tree",
            Self::HardLink => "a hard link to something outside of this copy",
            Self::Special => "not a file, directory or link",
        })
    }
}

/// Why an extraction was given up. What was extracted before stays.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The stream ended early, or the connection broke.
    #[error("the copy broke off: {0}")]
    Read(#[source] io::Error),
    /// The stream is not a tar that is accepted.
    #[error("the agent sent an archive that is refused: {0}")]
    Malformed(&'static str),
    /// A name that is absolute or has `..` in it.
    #[error("the agent sent an archive that is refused: an entry's name leads out of the target")]
    Escapes,
    /// The limit of bytes.
    #[error("the copy is larger than {0} bytes and was given up")]
    TooLarge(u64),
    /// The limit of entries.
    #[error("the copy has more than {0} entries and was given up")]
    TooMany(u64),
    /// A symbolic link or a file in the target, where a directory is needed.
    #[error(
        "the target has something that is not a directory where the copy needs one ({0:?}); remove it first"
    )]
    InTheWay(PathBuf),
    /// A directory in the target, where a file is needed.
    #[error("the target has a directory where the copy has a file ({0:?}); remove it first")]
    DirectoryInTheWay(PathBuf),
    /// The system refused.
    #[error("cannot {attempt} {path:?}: {source}")]
    Write {
        /// What was attempted.
        attempt: &'static str,
        /// On what, relative to the target.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What may follow an archive's end: programs fill up a record, of 10 KiB unless told otherwise.
const MAX_PADDING: u64 = 1 << 20;

/// Unpacks `tar` into the directory `target`, which must exist.
///
/// The first component of every name is what the agent called the copied thing; it is replaced by `rename`,
/// or dropped when `rename` is `None` (the content goes straight into `target`).
pub fn extract(
    tar: impl Read,
    target: &Path,
    rename: Option<&std::ffi::OsStr>,
    limits: Limits,
) -> Result<Extracted, ExtractError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let root = rustix::fs::openat(CWD, target, flags, Mode::empty())
        .map_err(|errno| failed("open", target, errno))?;
    let rename = rename.map(OsString::from);
    let mut extraction = Extraction {
        root,
        rename,
        limits,
        done: Extracted::default(),
        made: HashSet::new(),
        buffer: vec![0; 256 << 10],
    };
    let mut archive = tar::Archive::new(tar);
    let mut reader = entry::Reader::new();
    let mut count = 0u64;
    // Raw entries: the library would read names of any length into memory before anybody could object.
    for item in archive.entries().map_err(ExtractError::Read)?.raw(true) {
        let mut raw = item.map_err(ExtractError::Read)?;
        count += 1;
        if count > limits.entries {
            return Err(ExtractError::TooMany(limits.entries));
        }
        if let Some(member) = reader.read(&mut raw)? {
            extraction.member(member, &mut raw)?;
        }
    }
    // What broke off on the other side is known at the end of the stream only, which lies behind the archive's.
    let behind = io::copy(&mut archive.into_inner().take(MAX_PADDING + 1), &mut io::sink());
    if behind.map_err(ExtractError::Read)? > MAX_PADDING {
        return Err(ExtractError::Malformed("more follows after its end"));
    }
    Ok(extraction.done)
}

fn failed(attempt: &'static str, path: &Path, errno: Errno) -> ExtractError {
    ExtractError::Write { attempt, path: path.to_owned(), source: errno.into() }
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

struct Extraction {
    root: OwnedFd,
    rename: Option<OsString>,
    limits: Limits,
    done: Extracted,
    /// Device and inode of every file made here: the only things that a hard link may name.
    made: HashSet<(u64, u64)>,
    buffer: Vec<u8>,
}

impl Extraction {
    /// Where an entry goes, relative to the target; empty for the target itself. Together with how deep the
    /// entry lies in the copied tree, which bounds what its links may climb.
    fn place(&self, path: &[u8]) -> Result<(PathBuf, usize), ExtractError> {
        let mut components = entry::components(path).ok_or(ExtractError::Escapes)?;
        // A copy of `/` has no name: it is called `.`, which is no component.
        if !(path == b"." || path.starts_with(b"./")) {
            if components.is_empty() {
                return Err(ExtractError::Malformed("an entry has no name"));
            }
            components.remove(0);
        }
        let depth = components.len();
        Ok((self.rename.as_deref().into_iter().chain(components).collect(), depth))
    }

    fn member(&mut self, member: Member, content: &mut impl Read) -> Result<(), ExtractError> {
        let (place, depth) = self.place(&member.path)?;
        let Some(name) = place.file_name().map(ToOwned::to_owned) else {
            // The copied thing itself, with its content going straight into the target.
            return if member.kind == Kind::Directory {
                Ok(())
            } else {
                Err(ExtractError::Malformed("a single file came in place of a directory"))
            };
        };
        let parent_path = place.parent().unwrap_or(Path::new("")).to_owned();
        match member.kind {
            Kind::Directory => {
                self.directory(&place, member.mode)?;
                self.done.directories += 1;
            }
            Kind::File => {
                let parent = self.directory(&parent_path, 0o777)?;
                self.clear(&parent, &name, &place)?;
                self.file(&parent, &name, &place, &member, content)?;
            }
            Kind::Symlink => {
                // A link at depth 1 lies directly in the copied tree's root and may not climb at all.
                if depth == 0 || !links::stays_inside(&member.link, depth - 1) {
                    self.done.skipped.push((place, Skipped::LinkOut));
                    return Ok(());
                }
                let parent = self.directory(&parent_path, 0o777)?;
                self.clear(&parent, &name, &place)?;
                rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(&member.link), &parent, &*name)
                    .map_err(|errno| failed("make the link", &place, errno))?;
                self.done.links += 1;
            }
            Kind::HardLink => self.hard_link(&parent_path, &name, place, &member.link)?,
            Kind::Special => self.done.skipped.push((place, Skipped::Special)),
        }
        Ok(())
    }

    /// Opens a directory beneath the target, and makes what is missing of it.
    fn directory(&self, path: &Path, mode: u32) -> Result<OwnedFd, ExtractError> {
        let open = |at: BorrowedFd<'_>, path: &Path| {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
            rustix::fs::openat2(at, path, flags, Mode::empty(), BENEATH)
        };
        let whole = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match open(self.root.as_fd(), whole) {
            Err(Errno::NOENT) => {}
            Ok(directory) => return Ok(directory),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(ExtractError::InTheWay(path.to_owned())),
            Err(errno) => return Err(failed("open", path, errno)),
        }
        let mut at = open(self.root.as_fd(), Path::new(".")).map_err(|errno| failed("open", path, errno))?;
        let mut walked = PathBuf::new();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            walked.push(component);
            // Only the last is the entry's own; the owner keeps the right to remove what was copied.
            let mode = if components.peek().is_none() { mode | 0o700 } else { 0o777 };
            match rustix::fs::mkdirat(&at, component.as_os_str(), Mode::from_raw_mode(mode & 0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("make the directory", &walked, errno)),
            }
            at = match open(at.as_fd(), Path::new(component.as_os_str())) {
                Ok(next) => next,
                Err(Errno::LOOP | Errno::NOTDIR) => return Err(ExtractError::InTheWay(walked)),
                Err(errno) => return Err(failed("open", &walked, errno)),
            };
        }
        Ok(at)
    }

    /// Removes a file or link that has the name already: what it leads to is not touched.
    fn clear(&self, parent: &OwnedFd, name: &std::ffi::OsStr, place: &Path) -> Result<(), ExtractError> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => Err(ExtractError::DirectoryInTheWay(place.to_owned())),
            Err(errno) => Err(failed("replace", place, errno)),
        }
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        place: &Path,
        member: &Member,
        content: &mut impl Read,
    ) -> Result<(), ExtractError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(member.mode & 0o777 | 0o200);
        let file = rustix::fs::openat2(parent, name, flags, mode, BENEATH)
            .map_err(|errno| failed("create", place, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| failed("look at", place, errno))?;
        self.made.insert((stat.st_dev, stat.st_ino));
        let mut file = std::fs::File::from(file);
        let mut left = member.size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let length = match content.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(ExtractError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ExtractError::Read(error)),
            };
            self.done.bytes += length as u64;
            if self.done.bytes > self.limits.bytes {
                return Err(ExtractError::TooLarge(self.limits.bytes));
            }
            file.write_all(&self.buffer[..length]).map_err(|source| ExtractError::Write {
                attempt: "write",
                path: place.to_owned(),
                source,
            })?;
            left -= length as u64;
        }
        let modified = Timespec { tv_sec: member.mtime, tv_nsec: 0 };
        // A time that the file system cannot hold is not worth failing for.
        let _ =
            rustix::fs::futimens(&file, &Timestamps { last_access: modified, last_modification: modified });
        self.done.files += 1;
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent_path: &Path,
        name: &std::ffi::OsStr,
        place: PathBuf,
        link: &[u8],
    ) -> Result<(), ExtractError> {
        let (source, _) = self.place(link)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let known = rustix::fs::openat2(&self.root, &source, flags, Mode::empty(), BENEATH)
            .and_then(rustix::fs::fstat)
            .is_ok_and(|stat| self.made.contains(&(stat.st_dev, stat.st_ino)));
        let (Some(source_name), true) = (source.file_name(), known) else {
            self.done.skipped.push((place, Skipped::HardLink));
            return Ok(());
        };
        let source_parent = self.directory(source.parent().unwrap_or(Path::new("")), 0o777)?;
        let parent = self.directory(parent_path, 0o777)?;
        if source != place {
            self.clear(&parent, name, &place)?;
            rustix::fs::linkat(&source_parent, source_name, &parent, name, AtFlags::empty())
                .map_err(|errno| failed("make the link", &place, errno))?;
        }
        self.done.files += 1;
        Ok(())
    }
}
