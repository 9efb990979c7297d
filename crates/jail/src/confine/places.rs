//! Parts of the host's tree in a root that holds nothing else, under the same names.

use crate::step::{Step, StepError};
use crate::sys;
use crate::sys::mount::{self, Change, MOUNT_ATTR_RDONLY, PLAIN};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Links that are followed before a loop is assumed, as in the kernel.
const LINKS_MAX: usize = 40;

/// One mount: an absolute path without links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    writable: bool,
    directory: bool,
}

/// All mounts, and the links that lead to them: `/lib` is `usr/lib` on most machines, and programs ask for `/lib`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// By path, so that what is beneath another place comes after it.
    pub mounts: BTreeMap<PathBuf, Place>,
    /// By path: what the link says.
    pub links: BTreeMap<PathBuf, OsString>,
}

fn c_path(path: &Path) -> CString {
    // Paths come from arguments and from the kernel: neither can hold a NUL.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

impl Places {
    /// Follows every path of the host, link by link.
    pub fn resolve<'a>(wanted: impl Iterator<Item = &'a (PathBuf, bool)>) -> Result<Self, StepError> {
        let mut places = Self::default();
        for (path, writable) in wanted {
            let step = format!("looking up {}", path.display());
            let real = places.follow(path).step(&step)?;
            let directory = std::fs::metadata(&real).step(&step)?.is_dir();
            let place = Place { path: real.clone(), writable: *writable, directory };
            // Named twice, as /lib and /usr/lib may be: writable if either is.
            let entry = places.mounts.entry(real).or_insert(place);
            entry.writable |= writable;
        }
        places.drop_covered();
        Ok(places)
    }

    /// Drops what its nearest place above shows in the same way already.
    fn drop_covered(&mut self) {
        let covered = |place: &Place| {
            let above = place.path.ancestors().skip(1).find_map(|path| self.mounts.get(path));
            above.is_some_and(|above| above.writable == place.writable)
        };
        let spare: Vec<PathBuf> =
            self.mounts.values().filter(|place| covered(place)).map(|place| place.path.clone()).collect();
        self.mounts.retain(|path, _| !spare.contains(path));
    }

    fn follow(&mut self, path: &Path) -> std::io::Result<PathBuf> {
        let mut rest: Vec<OsString> =
            path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
        let mut real = PathBuf::from("/");
        let mut followed = 0;
        while let Some(part) = rest.pop() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => real = PathBuf::from("/"),
                Some(Component::ParentDir) => drop(real.pop()),
                Some(Component::Normal(name)) => {
                    let next = real.join(name);
                    if !std::fs::symlink_metadata(&next)?.is_symlink() {
                        real = next;
                        continue;
                    }
                    followed += 1;
                    if followed > LINKS_MAX {
                        return Err(sys::errno(libc::ELOOP));
                    }
                    let goal = std::fs::read_link(&next)?;
                    rest.extend(goal.components().rev().map(|part| part.as_os_str().to_owned()));
                    self.links.insert(next, goal.into_os_string());
                }
                _ => {}
            }
        }
        Ok(real)
    }

    /// Detached copies of all mounts, those beneath a place included, with what may be done in them.
    pub fn copy(&self) -> Result<Vec<(&Place, OwnedFd)>, StepError> {
        let host = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).step("opening the host's root")?;
        let copy = |place: &Place| {
            let copy = mount::copy_tree(host.as_fd(), &c_path(&place.path), true)?;
            let set = PLAIN | if place.writable { 0 } else { MOUNT_ATTR_RDONLY };
            mount::change(copy.as_fd(), Change { set, recursive: true, ..Change::default() })?;
            Ok(copy)
        };
        let step = |place: &Place| format!("copying the mount of {}", place.path.display());
        self.mounts.values().map(|place| Ok((place, copy(place).step(&step(place))?))).collect()
    }

    /// Makes the links that are not in one of the mounts anyway.
    pub fn link(&self, root: BorrowedFd<'_>) -> Result<(), StepError> {
        for (path, goal) in &self.links {
            let step = format!("making the link {}", path.display());
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let dir = make_directories(root, parent).step(&step)?;
            match sys::symlink_at(&c_path(Path::new(goal)), dir.as_fd(), &c_path(Path::new(name))) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EROFS)) => {}
                other => other.step(&step)?,
            }
        }
        Ok(())
    }
}

impl Place {
    /// A directory that is mounted on and comes from elsewhere.
    pub fn directory(path: &str) -> Self {
        Self { path: path.into(), writable: false, directory: true }
    }

    /// Attaches a detached mount at this path of a new root.
    pub fn attach(&self, root: BorrowedFd<'_>, mounted: BorrowedFd<'_>) -> Result<(), StepError> {
        let attach = || {
            let target = if self.directory {
                make_directories(root, &self.path)?
            } else {
                let parent = make_directories(root, self.path.parent().unwrap_or(Path::new("/")))?;
                let name = c_path(Path::new(self.path.file_name().unwrap_or(OsStr::new("."))));
                match sys::open_at(
                    parent.as_fd(),
                    &name,
                    libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY,
                    0o644,
                ) {
                    Err(error) if !matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EROFS)) => {
                        return Err(error);
                    }
                    _ => sys::open_at(parent.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0)?,
                }
            };
            mount::attach(mounted, target.as_fd())
        };
        attach().step(&format!("mounting {}", self.path.display()))
    }
}

/// Opens an absolute path in the new root; what is missing is made. No part of it may be a link.
fn make_directories(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let mut dir = sys::open_at(root, c".", flags, 0)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let name = c_path(Path::new(name));
        sys::ensure_dir(dir.as_fd(), &name, 0o755)?;
        dir = sys::open_at(dir.as_fd(), &name, flags, 0)?;
    }
    Ok(dir)
}
