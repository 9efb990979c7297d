//! Trees as tar archives, both ways. Runs in workers only.
//!
//! Out: regular files, directories and links (as links); sockets, FIFOs and devices are left out. In: the same, and
//! an entry that would land outside of the target, or is none of these, refuses the rest of the archive.

use super::errors::{of_io, refuse};
use super::files::{absolute, open_regular};
use super::places::{Places, named};
use super::worker::Link;
use ::tar::{Archive, Builder, EntryType, Header};
use channel::{ChannelError, ErrorKind, Kind, Reply};
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

/// [`channel::Request::TarOut`].
pub fn pack(link: &mut Link, path: &str) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let failed = |error: io::Error| of_io(&format!("could not pack {}", path.display()), &error);
    // What is asked for by name is followed when it is a link, as cp does; what is beneath is not.
    // With rules it is not followed: the way there could be another by then.
    let places = link.places.clone();
    let path = &match places.are_bounded() {
        true => path.to_owned(),
        false => fs::canonicalize(path).map_err(failed)?,
    };
    let meta = places.of_name(path).and_then(fs::symlink_metadata).map_err(failed)?;
    if !meta.is_dir() && !meta.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file and no directory",
        )));
    }
    link.say(Kind::Reply, &Reply::Streaming)?;
    // Dropped it would write an archive's end, and half an archive would pass for a whole one.
    let mut builder = ManuallyDrop::new(Builder::new(link.outgoing()));
    let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut pending = vec![(path.clone(), name)];
    while let Some((path, name)) = pending.pop() {
        pack_one(&mut builder, &places, &path, &name, &mut pending)
            .map_err(|error| of_io(&format!("could not pack {}", path.display()), &error))?;
    }
    ManuallyDrop::into_inner(builder)
        .into_inner()
        .and_then(|mut outgoing| outgoing.flush())
        .map_err(failed)?;
    link.end()
}

fn header(meta: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(size);
    header
}

fn pack_one<W: Write>(
    builder: &mut Builder<W>,
    places: &Places,
    path: &Path,
    name: &Path,
    pending: &mut Vec<(PathBuf, PathBuf)>,
) -> io::Result<()> {
    let place = places.of_name(path);
    let meta = match place.as_ref().map_err(copied).and_then(fs::symlink_metadata) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    if meta.is_symlink() {
        let target = fs::read_link(place?)?;
        return builder.append_link(&mut header(&meta, EntryType::Symlink, 0), name, target);
    }
    if meta.is_dir() {
        builder.append_data(&mut header(&meta, EntryType::Directory, 0), name, io::empty())?;
        for entry in fs::read_dir(places.of_target(path)?)? {
            let entry = entry?;
            let inner = path.join(entry.file_name());
            // Other file systems are part of the tree (the home is one), but those of the kernel have no end.
            if meta.dev() == entry.metadata()?.dev() || !is_kernels(&inner) {
                pending.push((inner, name.join(entry.file_name())));
            }
        }
        return Ok(());
    }
    if !meta.is_file() {
        return Ok(());
    }
    let (file, meta) = open_regular(&place?, libc::O_NOFOLLOW)?;
    // The file may change while it is read; the archive must have exactly as much as it said.
    let size = meta.len();
    let exact = file.take(size).chain(io::repeat(0)).take(size);
    builder.append_data(&mut header(&meta, EntryType::Regular, size), name, exact)
}

fn is_kernels(path: &Path) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|tree| path == Path::new(tree))
}

/// [`channel::Request::TarIn`].
pub fn unpack(link: &mut Link, path: &str) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let failed = |error: io::Error| {
        let attempt = format!("could not unpack into {}", path.display());
        // The library calls so what it cannot read as an archive.
        if error.kind() == io::ErrorKind::Other {
            return refuse(ErrorKind::Invalid, format!("{attempt}: {error}"));
        }
        of_io(&attempt, &error)
    };
    let target = match link.places.beneath(path).map_err(failed)? {
        Some((root, inside)) => directory(root.as_fd(), &inside)
            .and_then(|target| target.ok_or_else(|| io::ErrorKind::PermissionDenied.into()))
            .map_err(failed)?,
        None => fs::create_dir_all(path).and_then(|()| File::open(path)).map_err(failed)?,
    };
    let bounded = link.places.are_bounded();
    let mut incoming = link.incoming();
    {
        let mut archive = Archive::new(&mut incoming);
        let mut directories = Vec::new();
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = entry.path().map_err(failed)?.into_owned();
            check_name(&name)?;
            match entry.header().entry_type() {
                // Their modes come last, or a read-only one could not be filled.
                EntryType::Directory => {
                    let opened =
                        directory(target.as_fd(), &name).map_err(|error| outside(&name, error, failed))?;
                    directories.push((entry, opened));
                    continue;
                }
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Symlink => {}
                // Where it leads is looked up by its path.
                EntryType::Link if bounded => return Err(refused(&name, "is a hard link")),
                EntryType::Link => {
                    check_name(&entry.link_name().map_err(failed)?.unwrap_or_default())?;
                }
                EntryType::XGlobalHeader => continue,
                other => return Err(refused(&name, &format!("is of the kind {other:?}"))),
            }
            if bounded {
                unpack_beneath(&target, &name, &mut entry).map_err(|error| outside(&name, error, failed))?;
            } else if !entry.unpack_in(path).map_err(|error| failed(cause(&name, &error)))? {
                return Err(refused(&name, "leads outside of the target"));
            }
        }
        while let Some((mut directory, opened)) = directories.pop() {
            match &opened {
                _ if !bounded => drop(directory.unpack_in(path).map_err(failed)?),
                Some(opened) => {
                    let mode = directory.header().mode().map_err(failed)? & 0o777;
                    opened.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
                }
                None => {}
            }
            // The library leaves their times alone, and filling them has moved those.
            let seconds = Duration::from_secs(directory.header().mtime().map_err(failed)?);
            if let (Some(opened), Some(time)) = (opened, SystemTime::UNIX_EPOCH.checked_add(seconds)) {
                opened.set_modified(time).map_err(failed)?;
            }
        }
    }
    // Padding after the archive's end.
    io::copy(&mut incoming, &mut io::sink()).map_err(failed)?;
    link.done()
}

/// Unpacks a file or a link into the directory that its name leads to now, whatever becomes of that name.
fn unpack_beneath<R: Read>(target: &File, name: &Path, entry: &mut ::tar::Entry<'_, R>) -> io::Result<()> {
    let Some(last) = name.file_name() else { return Ok(()) };
    let parent = directory(target.as_fd(), name.parent().unwrap_or(Path::new("")))?;
    let parent = parent.ok_or(io::ErrorKind::PermissionDenied)?;
    entry.unpack(named(&parent).join(last)).map(drop).map_err(|error| cause(name, &error))
}

/// What the library says of an entry is where it wanted to have it. Why it could not is behind that.
fn cause(name: &Path, error: &io::Error) -> io::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    io::Error::new(error.kind(), format!("{}: {cause}", name.display()))
}

/// The same error once more.
fn copied(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

const PLACE: i32 = libc::O_PATH | libc::O_DIRECTORY;

/// Opens a directory beneath another, name by name: through no link at all.
pub(super) fn open_stepwise(from: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let mut place = crate::sys::open_at(from, c".", PLACE, 0)?;
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    for part in path.components().filter(|part| *part != Component::CurDir) {
        let Component::Normal(name) = part else { return Err(io::Error::from_raw_os_error(libc::EXDEV)) };
        let name = CString::new(name.as_bytes())?;
        place = crate::sys::open_at(place.as_fd(), &name, PLACE | libc::O_NOFOLLOW, 0)?;
    }
    crate::sys::open_at(place.as_fd(), c".", flags | libc::O_NOFOLLOW, 0)
}

/// Makes a directory beneath the target with what is missing above it, whatever links there are. Back comes the directory;
/// none when its owner may not open it, which then keeps its time.
pub fn directory(target: BorrowedFd<'_>, name: &Path) -> io::Result<Option<File>> {
    let open = |path: &CStr, flags| {
        match crate::sys::open_beneath(target, path, flags, 0, libc::RESOLVE_BENEATH) {
            // gVisor has no openat2.
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => open_stepwise(target, path, flags),
            opened => opened,
        }
    };
    let mut path = PathBuf::from(".");
    let mut place = open(c".", PLACE)?;
    for part in name.components().filter(|part| matches!(part, Component::Normal(_))) {
        path.push(part);
        let whole = CString::new(path.as_os_str().as_bytes())?;
        place = match open(&whole, PLACE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                crate::sys::mkdir_at(place.as_fd(), &CString::new(part.as_os_str().as_bytes())?, 0o777)?;
                open(&whole, PLACE)?
            }
            found => found?,
        };
    }
    let whole = CString::new(path.as_os_str().as_bytes())?;
    match open(&whole, libc::O_RDONLY | libc::O_DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(|opened| Some(File::from(opened))),
    }
}

fn outside(name: &Path, error: io::Error, failed: impl Fn(io::Error) -> ChannelError) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::EXDEV | libc::ELOOP) => refused(name, "leads outside of the target"),
        _ => failed(error),
    }
}

fn check_name(name: &Path) -> Result<(), ChannelError> {
    if name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        Ok(())
    } else {
        Err(refused(name, "leads outside of the target"))
    }
}

fn refused(name: &Path, why: &str) -> ChannelError {
    refuse(ErrorKind::Invalid, format!("the archive is refused: its entry {} {why}", name.display()))
}
