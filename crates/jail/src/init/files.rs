//! Files, as the user of the request sees them. Runs in workers only.

use super::errors::{of_io, refuse};
use super::tar;
use super::worker::Link;
use channel::{ChannelError, ErrorKind, FileInfo, FileKind, Kind, Reply};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Entries in one reply. A name has at most 255 bytes and a link 4095, each up to six times that in JSON.
const PAGE: usize = 32;

/// Bits that a request may set.
const MODE: u32 = 0o7777;

/// Refuses what is no absolute path.
pub fn absolute(path: &str) -> Result<&Path, ChannelError> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(Path::new(path))
    } else {
        Err(refuse(ErrorKind::Invalid, "the path must be absolute and hold no NUL byte"))
    }
}

fn failed<'a>(verb: &'a str, path: &'a Path) -> impl Fn(io::Error) -> ChannelError + 'a {
    move |error| of_io(&format!("could not {verb} {}", path.display()), &error)
}

fn info(name: &Path, path: &Path, meta: &Metadata) -> FileInfo {
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let target = if kind == FileKind::Symlink { fs::read_link(path).ok() } else { None };
    FileInfo {
        name: name.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned()),
        kind,
        size: meta.len(),
        mode: meta.mode() & MODE,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: meta.mtime(),
        target: target.map(|target| target.to_string_lossy().into_owned()),
    }
}

/// [`channel::Request::Stat`].
pub fn stat(link: &mut Link, path: &str) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let place = link.places.of_name(path).map_err(failed("look at", path))?;
    let meta = fs::symlink_metadata(&place).map_err(failed("look at", path))?;
    link.say(Kind::Reply, &Reply::File(info(path, &place, &meta)))
}

/// [`channel::Request::List`].
pub fn list(link: &mut Link, path: &str) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let place = link.places.of_target(path).map_err(failed("list", path))?;
    let mut files = Vec::new();
    for entry in fs::read_dir(&place).map_err(failed("list", path))? {
        let entry = entry.map_err(failed("list", path))?;
        // What vanished meanwhile is not there.
        let Ok(meta) = entry.metadata() else { continue };
        if files.len() == PAGE {
            link.say(Kind::Reply, &Reply::Files { files: std::mem::take(&mut files), more: true })?;
        }
        files.push(info(&entry.path(), &entry.path(), &meta));
    }
    link.say(Kind::Reply, &Reply::Files { files, more: false })
}

/// Opens a regular file for reading, and nothing else: opening a FIFO would wait, and reading a device may never
/// end.
pub fn open_regular(path: &Path, flags: i32) -> io::Result<(File, Metadata)> {
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok((file, meta))
}

/// [`channel::Request::Read`].
pub fn read(link: &mut Link, path: &str, offset: u64, length: Option<u64>) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let place = link.places.of_target(path).map_err(failed("read", path))?;
    let (mut file, meta) = open_regular(&place, 0).map_err(failed("read", path))?;
    if offset > 0 {
        file.seek(io::SeekFrom::Start(offset)).map_err(failed("read", path))?;
    }
    link.say(Kind::Reply, &Reply::File(info(path, &place, &meta)))?;
    let mut outgoing = link.outgoing();
    io::copy(&mut file.take(length.unwrap_or(u64::MAX)), &mut outgoing)
        .and_then(|_| outgoing.flush())
        .map_err(failed("read", path))?;
    drop(outgoing);
    link.end()
}

/// A file that is not there under its name yet, and is gone unless it gets it.
struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// [`channel::Request::Write`].
pub fn write(link: &mut Link, path: &str, mode: Option<u32>) -> Result<(), ChannelError> {
    let asked = absolute(path)?;
    if mode.is_some_and(|mode| mode & !MODE != 0) {
        return Err(refuse(
            ErrorKind::Invalid,
            "mode holds more than permission bits; give at most 7777 octal",
        ));
    }
    let wrong = failed("write", asked);
    let place = link.places.of_name(asked).map_err(&wrong)?;
    // A link to a file stands for the file, unless there are rules: then it is replaced.
    let path = match link.places.are_bounded() {
        true => place.to_path_buf(),
        false => fs::canonicalize(asked).unwrap_or_else(|_| asked.to_owned()),
    };
    let (Some(parent), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(wrong(io::ErrorKind::IsADirectory.into()));
    };
    let old = match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => return Err(wrong(io::ErrorKind::IsADirectory.into())),
        Ok(meta) if meta.is_file() || meta.is_symlink() => Some(meta).filter(Metadata::is_file),
        Ok(_) => return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))),
        Err(_) => None,
    };
    let draft = Draft { path: parent.join(format!(".cofferdam-{}", std::process::id())), kept: false };
    // An orphan of an earlier worker of the same pid, one that was killed.
    let _ = fs::remove_file(&draft.path);
    let mut draft = draft;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.path).map_err(&wrong)?;
    io::copy(&mut link.incoming(), &mut file).map_err(&wrong)?;
    if let Some(old) = &old {
        // As the owner this is no change, as root it keeps the owner; anybody else replaces the file by their own.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    let mode = mode.or_else(|| old.map(|old| old.mode() & MODE)).unwrap_or(0o644);
    file.set_permissions(Permissions::from_mode(mode)).map_err(&wrong)?;
    fs::rename(&draft.path, &path).map_err(&wrong)?;
    draft.kept = true;
    link.done()
}

/// [`channel::Request::Mkdir`].
pub fn mkdir(link: &mut Link, path: &str) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let made = match link.places.beneath(path).map_err(failed("make the directory", path))? {
        Some((root, inside)) => tar::directory(root.as_fd(), &inside).map(drop),
        None => fs::create_dir_all(path),
    };
    made.map_err(failed("make the directory", path))?;
    link.done()
}

/// [`channel::Request::Move`].
pub fn rename(link: &mut Link, path: &str, to: &str) -> Result<(), ChannelError> {
    let (path, to) = (absolute(path)?, absolute(to)?);
    let places = link.places.of_name(path).and_then(|from| Ok((from, link.places.of_name(to)?)));
    places.and_then(|(from, to)| fs::rename(from, to)).map_err(failed("move", path))?;
    link.done()
}

/// [`channel::Request::Remove`].
pub fn remove(link: &mut Link, path: &str, recursive: bool) -> Result<(), ChannelError> {
    let path = absolute(path)?;
    let place = link.places.of_name(path).map_err(failed("remove", path))?;
    let meta = fs::symlink_metadata(&place).map_err(failed("remove", path))?;
    match (meta.is_dir(), recursive) {
        (true, true) => fs::remove_dir_all(&place),
        (true, false) => fs::remove_dir(&place),
        (false, _) => fs::remove_file(&place),
    }
    .map_err(failed("remove", path))?;
    link.done()
}
