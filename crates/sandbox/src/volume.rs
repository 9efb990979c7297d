//! Volumes: an agent's one disk, a sparse ext4 image with a size of its own.
//!
//! Only the host's kernel writes the filesystem's structure, and only while exactly one loop device holds the
//! file's lock. What is inside is the agent's: nothing here ever looks, and `logs` only at what init wrote.

use crate::files;
use crate::host::flush;
use crate::host::lock;
use crate::host::loop_device::{self, Access};
use crate::host::mount::{MountError, detached};
use jail::layout::{VOLUME_DIRS, VOLUME_LOGS, VOLUME_OLD, VOLUME_UPPER};
use model::{BoundaryId, ByteSize, VolumeId};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom, fallocate, openat2, renameat_with};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The smallest volume: below it ext4's own structures leave little.
pub const MINIMUM_VOLUME: ByteSize = ByteSize(64 << 20);

/// How long a mount waits for the volume's last user: the kernel lets go of a dead agent's mounts a moment
/// after its last process.
const RELEASE_TIME: Duration = Duration::from_secs(10);

/// Volumes are made in whole blocks.
const BLOCK: u64 = 4096;

const TRASH: &str = ".trash";
const BLANK: &str = ".blank";
const TEMPLATE: &str = ".template";
const SUFFIX: &str = ".ext4";
/// The end of names of files that are being made; they are locked while they are.
pub(crate) const PARTIAL: &str = ".partial";

/// Why something could not be done to a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Too small.
    #[error("a volume of {size} is too small; the smallest is {MINIMUM_VOLUME}")]
    TooSmall {
        /// What was asked for.
        size: ByteSize,
    },
    /// Not there.
    #[error("volume {id} does not exist")]
    Missing {
        /// Which.
        id: String,
    },
    /// There already, and different.
    #[error("volume {id} exists with {found}, not with {size}")]
    OtherSize {
        /// Which.
        id: VolumeId,
        /// Its size.
        found: ByteSize,
        /// What was asked for.
        size: ByteSize,
    },
    /// In use.
    #[error("volume {id} is still in use by another boundary")]
    Busy {
        /// Which.
        id: String,
    },
    /// No room.
    #[error(
        "the disk that holds {path} is full; free some space there, or move the volumes to a larger disk"
    )]
    Full {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `mkfs.ext4` cannot be run.
    #[error("cannot run mkfs.ext4; install it: apt-get install e2fsprogs")]
    NoMkfs(#[source] io::Error),
    /// `mkfs.ext4` refused.
    #[error("mkfs.ext4 could not make a volume of {size}: {said}")]
    Mkfs {
        /// What was asked for.
        size: ByteSize,
        /// What it wrote.
        said: String,
    },
    /// No loop device.
    #[error("cannot get a loop device for volume {id}; is /dev/loop-control there (modprobe loop)?")]
    Loop {
        /// Which.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// No mount.
    #[error("cannot mount volume {id}: {said}")]
    Mount {
        /// Which.
        id: String,
        /// What the kernel said.
        said: String,
        /// Why.
        source: io::Error,
    },
    /// Any file operation.
    #[error("cannot {what} {path}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl VolumeError {
    /// A full disk and a quota get the words that help.
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full { path, source },
            _ => Self::File { what, path, source },
        }
    }
}

/// The directory of volumes.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// One lock per size, so that a template is made once while other sizes go on.
    templates: Mutex<HashMap<u64, Arc<Mutex<()>>>>,
}

impl Store {
    /// Makes the directories.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        for path in [dir.to_owned(), dir.join(TRASH), dir.join(BLANK), dir.join(TEMPLATE)] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        Ok(Self { dir: dir.to_owned(), templates: Mutex::default() })
    }

    /// The volume's file.
    pub(crate) fn path(&self, id: VolumeId) -> PathBuf {
        self.dir.join(format!("{}{SUFFIX}", id.base32()))
    }

    /// Directories in which half-made files may have been left.
    pub(crate) fn workshops(&self) -> [PathBuf; 2] {
        [self.dir.clone(), self.dir.join(TEMPLATE)]
    }

    /// Where volumes wait that are nobody's yet. None of them outlives its node.
    pub(crate) fn blanks(&self) -> PathBuf {
        self.dir.join(BLANK)
    }

    /// The file of a volume that is nobody's yet.
    pub(crate) fn blank_path(&self, id: BoundaryId) -> PathBuf {
        self.blanks().join(format!("{}{SUFFIX}", id.base32()))
    }

    /// Makes an empty volume that is nobody's yet; its file.
    pub(crate) fn create_blank(&self, id: BoundaryId, size: ByteSize) -> Result<PathBuf, VolumeError> {
        let path = self.blank_path(id);
        let made = self.make(&path, size);
        made.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(path)
    }

    /// Makes a blank's volume an agent's. It is in use, and stays so.
    pub(crate) fn take_blank(&self, blank: &Path, id: VolumeId) -> Result<(), VolumeError> {
        let path = self.path(id);
        renameat_with(CWD, blank, CWD, &path, RenameFlags::NOREPLACE)
            .map_err(|error| VolumeError::file("put in place", &path)(error.into()))
    }

    pub(crate) fn create(&self, id: VolumeId, size: ByteSize) -> Result<(), VolumeError> {
        let path = self.path(id);
        match fs::metadata(&path) {
            Ok(found) if found.len() == whole_blocks(size).0 => return Ok(()),
            Ok(found) => return Err(VolumeError::OtherSize { id, found: ByteSize(found.len()), size }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(VolumeError::file("read", &path)(error)),
        }
        if self.make(&path, size)? { Ok(()) } else { self.create(id, size) }
    }

    /// Makes a volume's file; `false` when it is there, made by another in the meantime.
    fn make(&self, path: &Path, size: ByteSize) -> Result<bool, VolumeError> {
        if size < MINIMUM_VOLUME {
            return Err(VolumeError::TooSmall { size });
        }
        let size = whole_blocks(size);
        let template = self.template(size)?;
        let Some(mut partial) = Partial::create(path)? else { return Ok(false) };
        copy(&template, &partial.file, size.0)
            .and_then(|()| partial.file.sync_data())
            .map_err(VolumeError::file("write the volume", path))?;
        partial.finish(path).map(|()| true)
    }

    /// An empty filesystem of this size, made on first use.
    fn template(&self, size: ByteSize) -> Result<File, VolumeError> {
        let lock = {
            let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
            templates.entry(size.0).or_default().clone()
        };
        let _making = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(TEMPLATE).join(format!("{}{SUFFIX}", size.0));
        match File::open(&path) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(VolumeError::file("open", &path)(error)),
        }
        if let Some(mut partial) = Partial::create(&path)? {
            partial.file.set_len(size.0).map_err(VolumeError::file("make the volume template", &path))?;
            make_filesystem(&partial.path, size, &self.tree()?)?;
            partial.finish(&path)?;
        }
        File::open(&path).map_err(VolumeError::file("open", &path))
    }

    /// The directory that is copied into a template: what every boundary would make in a new volume.
    fn tree(&self) -> Result<PathBuf, VolumeError> {
        let tree = self.dir.join(TEMPLATE).join("tree");
        let made = || {
            let place = |name: &CStr| tree.join(OsStr::from_bytes(name.to_bytes()));
            for (name, mode) in VOLUME_DIRS {
                files::directory(&place(name), mode)?;
            }
            let empty =
                |name| OpenOptions::new().append(true).create(true).mode(0o600).open(place(name)).map(drop);
            VOLUME_LOGS.into_iter().try_for_each(empty)
        };
        fs::DirBuilder::new()
            .recursive(true)
            .create(&tree)
            .and_then(|()| made())
            .map_err(VolumeError::file("make", &tree))?;
        Ok(tree)
    }

    /// Mounts the volume at no place. The mount and its loop device last as long as the descriptor or
    /// anything that the mount was attached to.
    pub(crate) fn mount(&self, path: &Path) -> Result<OwnedFd, VolumeError> {
        self.mount_within(path, RELEASE_TIME)
    }

    /// Makes a volume that begins as another one is now, without its scratch layer and its log. It is all there once this returns, or
    /// nothing is. Whoever has the other one stands still, or nobody has it: what is written meanwhile would be half of it there.
    /// Doing it again changes nothing.
    pub(crate) fn clone(&self, from: VolumeId, to: VolumeId) -> Result<(), VolumeError> {
        let (source, target) = (self.path(from), self.path(to));
        let file = File::open(&source).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => VolumeError::Missing { id: from.base32() },
            _ => VolumeError::file("open", &source)(error),
        })?;
        let Some(mut partial) = Partial::create(&target)? else { return Ok(()) };
        let size = file.metadata().map_err(VolumeError::file("read", &source))?.len();
        // While nobody has it, nobody gets it: a copy of what is being mounted would be of no moment.
        let _held = self.settle(&source)?;
        copy(&file, &partial.file, size).map_err(VolumeError::file("copy the volume to", &target))?;
        // Its own file is locked already: the device takes that very description.
        let lent = partial.file.try_clone().map_err(VolumeError::file("open", &target))?;
        let begun = self.attach(lent, &partial.path).and_then(|volume| {
            let begun = begin_anew(&volume).and_then(|()| write_back(&volume).map(drop));
            begun.map_err(VolumeError::file("begin the copy", &target))
        });
        begun
            .and_then(|()| partial.file.sync_all().map_err(VolumeError::file("write the volume", &target)))?;
        partial.finish(&target)
    }

    /// Has all that was written to a volume in its file. The lock is that of one that nobody had.
    fn settle(&self, path: &Path) -> Result<Option<File>, VolumeError> {
        let failed = |source| VolumeError::File { what: "write back", path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        if lock::exclusive(&file, Duration::ZERO).map_err(failed)? {
            return Ok(Some(file));
        }
        let Some(device) = loop_device::of(path).map_err(failed)? else {
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Err(VolumeError::Busy { id });
        };
        // The same filesystem once more, not another one: the kernel knows it by its device.
        let source = device.display().to_string();
        let mount = detached("ext4", &source, &[], MountAttrFlags::MOUNT_ATTR_NODEV)
            .map_err(|error| failed(error.source))?;
        let root = write_back(&mount).map_err(failed)?;
        // What the journal has goes to its place now: later, the copy would have some of it from before and some from after.
        flush::journal(root.as_fd()).map_err(failed)?;
        Ok(None)
    }

    /// The same, and somebody else may have it for so long.
    pub(crate) fn mount_within(&self, path: &Path, limit: Duration) -> Result<OwnedFd, VolumeError> {
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => VolumeError::Missing { id: id.clone() },
                _ => VolumeError::file("open", path)(error),
            })?;
        // The loop device keeps this very open description, and with it the lock, until it is cleared: two
        // mounts of one ext4 would destroy it.
        if !lock::exclusive(&file, limit).map_err(VolumeError::file("lock", path))? {
            return Err(VolumeError::Busy { id });
        }
        self.attach(file, path)
    }

    /// Mounts a volume whose lock is held by this description of its file.
    fn attach(&self, file: File, path: &Path) -> Result<OwnedFd, VolumeError> {
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let device = loop_device::attach(file.as_fd(), Access::ReadWrite)
            .map_err(|source| VolumeError::Loop { id: id.clone(), source })?;
        // The name of the source shows in the agent's own mount table: this one says nothing of the host.
        let source = format!("/proc/self/fd/{}", device.fd().as_raw_fd());
        // `noinit_itable`: no kernel thread that writes zeroes into the sparse file. `discard`: what the
        // agent deletes is given back to the host's disk. `no_prefetch_block_bitmaps`, which kernels have since 5.13: no
        // thread that reads all that the agent will never ask for.
        let options = [("noinit_itable", ""), ("discard", ""), ("no_prefetch_block_bitmaps", "")];
        detached("ext4", &source, &options, MountAttrFlags::MOUNT_ATTR_NODEV).map_err(|error: MountError| {
            VolumeError::Mount { id, said: error.to_string(), source: error.source }
        })
    }

    pub(crate) fn trash(&self, id: VolumeId) -> Result<(), VolumeError> {
        let path = self.path(id);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let target = self.dir.join(TRASH).join(format!("{}.{now}{SUFFIX}", id.base32()));
        match fs::rename(&path, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(VolumeError::file("move to the trash", &path)),
        }
    }

    pub(crate) fn empty_trash(&self, older_than: Duration) -> Vec<Result<VolumeId, VolumeError>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let trash = self.dir.join(TRASH);
        let entries = match fs::read_dir(&trash) {
            Ok(entries) => entries,
            Err(error) => return vec![Err(VolumeError::file("read", &trash)(error))],
        };
        let mut results = Vec::new();
        for entry in entries.flatten() {
            let Some((id, since)) = entry.file_name().to_str().and_then(trashed) else { continue };
            if now.saturating_sub(since) < older_than.as_secs() {
                continue;
            }
            let path = entry.path();
            results.push(fs::remove_file(&path).map(|()| id).map_err(VolumeError::file("delete", &path)));
        }
        results
    }
}

/// Reads a name in the trash: the volume, and when it was moved there.
fn trashed(name: &str) -> Option<(VolumeId, u64)> {
    let (id, since) = name.strip_suffix(SUFFIX)?.split_once('.')?;
    Some((VolumeId::from_base32(id).ok()?, since.parse().ok()?))
}

/// A file that is being made beside its final name: gone again unless it is finished. It is locked, so that
/// a sweep can tell it from one whose maker died.
struct Partial {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Partial {
    /// Begins to make `target`; `None` when it is there, made by another in the meantime.
    fn create(target: &Path) -> Result<Option<Self>, VolumeError> {
        let mut path = target.as_os_str().to_owned();
        path.push(PARTIAL);
        let path = PathBuf::from(path);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(VolumeError::file("make", &path))?;
            if !lock::exclusive(&file, RELEASE_TIME).map_err(VolumeError::file("lock", &path))? {
                let source = io::Error::from(io::ErrorKind::ResourceBusy);
                return Err(VolumeError::File { what: "be the only one to make", path, source });
            }
            // Whoever held the lock before may have put the file in its place, or removed it.
            if !same_file(&file, &path) {
                continue;
            }
            let partial = Self { path, file, finished: false };
            if target.exists() {
                return Ok(None);
            }
            // A dead maker may have left some of it.
            partial.file.set_len(0).map_err(VolumeError::file("write", &partial.path))?;
            return Ok(Some(partial));
        }
    }

    fn finish(&mut self, target: &Path) -> Result<(), VolumeError> {
        renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE)
            .map_err(|error| VolumeError::file("put in place", target)(error.into()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a path still names an open file.
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

fn whole_blocks(size: ByteSize) -> ByteSize {
    ByteSize(size.0 / BLOCK * BLOCK)
}

fn make_filesystem(path: &Path, size: ByteSize, tree: &Path) -> Result<(), VolumeError> {
    // A journal of the default size would be 64 MiB of host disk per agent and more.
    let journal = if size.0 < 256 << 20 { "size=4" } else { "size=16" };
    // `encrypt` lets the customer's key in later; no blocks are reserved for a root that is not there, nor for growing: a
    // volume keeps its size, and those blocks were nearly all that is written for a new one.
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-O", "encrypt,^resize_inode", "-J", journal])
        .args(["-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"])
        .arg("-d")
        .args([tree, path])
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(VolumeError::NoMkfs)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if said.contains("No space left") {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        return Err(VolumeError::Full { path: path.to_owned(), source });
    }
    Err(VolumeError::Mkfs { size, said })
}

/// Has all that was written to a mounted volume go to its device; its root, opened.
fn write_back(volume: impl AsFd) -> io::Result<OwnedFd> {
    // The descriptor of a detached mount is none to work with.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(volume, c".", flags, Mode::empty())?;
    rustix::fs::syncfs(&root)?;
    Ok(root)
}

/// Takes from a copy what it is not to have: its source's log, and its scratch layer, which goes to what the next start deletes. No name
/// here is one that an agent could have made.
fn begin_anew(volume: impl AsFd) -> io::Result<()> {
    let beneath = |name: &CStr, flags: OFlags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(&volume, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
    };
    for name in VOLUME_LOGS {
        match beneath(name, OFlags::WRONLY | OFlags::NONBLOCK) {
            Ok(log) => rustix::fs::ftruncate(&log, 0)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::fs::mkdirat(&volume, VOLUME_OLD, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Its source may be a copy itself, of which nothing was deleted yet.
    for number in 0.. {
        let aside = format!("old/copied-{number}");
        match renameat_with(&volume, VOLUME_UPPER, &volume, aside.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            // A source that never ran has none.
            Ok(()) | Err(Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Copies a sparse file as sparsely: by sharing blocks where the filesystem can, else data only.
fn copy(from: &File, to: &File, size: u64) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(size)?;
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data after here.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        // Reserving the data's blocks first makes a full disk fail here, before anything is written.
        match fallocate(to, rustix::fs::FallocateFlags::KEEP_SIZE, start, end - start) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let (mut source, mut target) = (start, start);
        while source < end {
            let left = usize::try_from(end - source).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), left)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        at = end;
    }
}
