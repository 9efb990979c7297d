//! Where a call for files may go.
//!
//! Nothing but the user's rights decides that, unless the agent has rules: then every path leads beneath one directory, by
//! openat2(2), whatever links there are and however they change meanwhile. What is found is named by its descriptor from
//! then on, so that nobody swaps it.

use crate::spec::FileRules;
use crate::sys::open_beneath;
use std::ffi::CString;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What a call may reach.
#[derive(Debug, Clone, Default)]
pub struct Places(pub Option<FileRules>);

/// A path to use as long as this is kept.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    _held: Option<OwnedFd>,
}

impl Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// Beneath, and not by the links of `/proc`.
const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;

impl Places {
    /// Whether there are rules.
    pub fn are_bounded(&self) -> bool {
        self.0.is_some()
    }

    /// The name itself, which may be a link or not be there: what leads to it is followed.
    pub fn of_name(&self, asked: &Path) -> io::Result<Place> {
        let Some((root, inside)) = self.beneath(asked)? else { return Ok(plain(asked)) };
        let (parent, name) = match (inside.parent(), inside.file_name()) {
            (Some(parent), Some(name)) => (parent, Path::new(name)),
            // The directory that everything is beneath.
            (None, _) => (Path::new(""), Path::new(".")),
            _ => return Err(self.outside()),
        };
        let parent = self.open(&root, parent, libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(Place { path: named(&parent).join(name), _held: Some(parent) })
    }

    /// What is there under the name, after every link.
    pub fn of_target(&self, asked: &Path) -> io::Result<Place> {
        let Some((root, inside)) = self.beneath(asked)? else { return Ok(plain(asked)) };
        let found = self.open(&root, &inside, libc::O_PATH)?;
        Ok(Place { path: named(&found), _held: Some(found) })
    }

    /// The directory that everything is beneath, and the way from there; `None` without rules.
    pub fn beneath(&self, asked: &Path) -> io::Result<Option<(OwnedFd, PathBuf)>> {
        let Some(rules) = &self.0 else { return Ok(None) };
        let inside = asked.strip_prefix(&rules.root).map_err(|_| self.outside())?.to_owned();
        if inside.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(self.outside());
        }
        let root = CString::new(rules.root.as_bytes())?;
        Ok(Some((crate::sys::open(&root, libc::O_PATH | libc::O_DIRECTORY)?, inside)))
    }

    fn open(&self, root: &OwnedFd, inside: &Path, flags: i32) -> io::Result<OwnedFd> {
        let path = CString::new(Path::new(".").join(inside).as_os_str().as_bytes())?;
        open_beneath(root.as_fd(), &path, flags, 0, BENEATH).map_err(|error| match error.raw_os_error() {
            Some(libc::EXDEV) => self.outside(),
            _ => error,
        })
    }

    fn outside(&self) -> io::Error {
        let root = self.0.as_ref().map_or("/", |rules| rules.root.as_str());
        io::Error::new(io::ErrorKind::InvalidInput, format!("paths of this agent lead beneath {root} alone"))
    }
}

fn plain(asked: &Path) -> Place {
    Place { path: asked.to_owned(), _held: None }
}

/// A path that means the very file that is open.
pub fn named(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
