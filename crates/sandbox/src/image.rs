//! Images in the store, mounted at no place: EROFS, read-only, named by their content.

use crate::host::loop_device::{self, Access};
use crate::host::mount::{MountError, detached};
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a digest.
    #[error("{0:?} is not the SHA-256 of an image: 64 digits of 0-9 and a-f")]
    Digest(String),
    /// Not in the store.
    #[error("image {digest} is not on this node; build or import it again")]
    Missing {
        /// Which.
        digest: String,
    },
    /// Not what was stored.
    #[error(
        "image {digest} is damaged: {path} {how}; remove that file, then build or import the image again"
    )]
    Damaged {
        /// Which.
        digest: String,
        /// Its file.
        path: PathBuf,
        /// What shows it.
        how: &'static str,
    },
    /// Unreadable.
    #[error("cannot open the image {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No loop device.
    #[error("cannot get a loop device for image {digest}; is /dev/loop-control there (modprobe loop)?")]
    Loop {
        /// Which.
        digest: String,
        /// Why.
        source: io::Error,
    },
    /// Unmountable.
    #[error("cannot mount image {digest}: {said}")]
    Mount {
        /// Which.
        digest: String,
        /// What the kernel said.
        said: String,
        /// Why.
        source: io::Error,
    },
}

/// The image's file. Fails on anything that is no digest, so that no other path can be named.
pub(crate) fn path(images: &Path, digest: &str) -> Result<PathBuf, ImageError> {
    let is_digest =
        digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match is_digest {
        true => Ok(images.join(format!("{digest}.erofs"))),
        false => Err(ImageError::Digest(digest.chars().take(80).collect())),
    }
}

/// Fails when the image is not there, or not whole.
pub(crate) fn check(images: &Path, digest: &str) -> Result<(), ImageError> {
    open(images, digest).map(drop)
}

/// Mounts an image at no place.
pub(crate) fn mount(images: &Path, digest: &str) -> Result<OwnedFd, ImageError> {
    mount_file(&open(images, digest)?, digest).map(|(mount, _)| mount)
}

fn open(images: &Path, digest: &str) -> Result<File, ImageError> {
    let path = path(images, digest)?;
    let file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { digest: digest.to_owned() },
        _ => ImageError::Open { path: path.clone(), source },
    })?;
    match whole(&file) {
        Ok(()) => Ok(file),
        Err(how) => Err(ImageError::Damaged { digest: digest.to_owned(), path, how }),
    }
}

/// Whether a file is an EROFS image with all of its blocks: what the kernel finds out only when somebody reads them.
/// Its contents are not read; their digest was checked when they were stored.
fn whole(file: &File) -> Result<(), &'static str> {
    // The superblock, after fs/erofs/erofs_fs.h of Linux: its place, its first field, the size and number of blocks.
    const SUPERBLOCK: u64 = 1024;
    const MAGIC: u32 = 0xE0F5_E1E2;
    let mut superblock = [0; 64];
    file.read_exact_at(&mut superblock, SUPERBLOCK).map_err(|_| "is cut off")?;
    let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| superblock[at + byte]));
    if u32_at(0) != MAGIC {
        return Err("is no EROFS image");
    }
    let size = u64::from(u32_at(36)).checked_shl(superblock[12].into()).unwrap_or(u64::MAX);
    match file.metadata() {
        Ok(found) if found.len() >= size => Ok(()),
        _ => Err("is cut off"),
    }
}

/// Mounts an EROFS file, as it is where the kernel can (6.12), else over a loop device, and says which.
pub(crate) fn mount_file(file: &File, digest: &str) -> Result<(OwnedFd, &'static str), ImageError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let named = |fd: i32| format!("/proc/self/fd/{fd}");
    // Of the filesystem too, not of the mount alone: older kernels open its device for writing otherwise, and fail.
    let read_only = [("ro", "")];
    match detached("erofs", &named(file.as_raw_fd()), &read_only, attributes) {
        Ok(mount) => return Ok((mount, "from its file")),
        // Older kernels want a block device.
        Err(error) if error.source.raw_os_error() == Some(libc::ENOTBLK) => {}
        Err(error) => return Err(failed(digest, error)),
    }
    let device = loop_device::attach(file.as_fd(), Access::ReadOnly)
        .map_err(|source| ImageError::Loop { digest: digest.to_owned(), source })?;
    match detached("erofs", &named(device.fd().as_raw_fd()), &read_only, attributes) {
        Ok(mount) => Ok((mount, "over a loop device (this kernel cannot mount its file: before 6.12)")),
        Err(error) => Err(failed(digest, error)),
    }
}

fn failed(digest: &str, error: MountError) -> ImageError {
    ImageError::Mount { digest: digest.to_owned(), said: error.to_string(), source: error.source }
}
