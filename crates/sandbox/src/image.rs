//! Images in the store, mounted at no place: EROFS, read-only, named by their content.

use crate::host::loop_device::{self, Access};
use crate::host::mount::{MountError, detached};
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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

/// Mounts an image at no place.
pub(crate) fn mount(images: &Path, digest: &str) -> Result<OwnedFd, ImageError> {
    let path = path(images, digest)?;
    let file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { digest: digest.to_owned() },
        _ => ImageError::Open { path: path.clone(), source },
    })?;
    mount_file(&file, digest).map(|(mount, _)| mount)
}

/// Mounts an EROFS file, as it is where the kernel can (6.12), else over a loop device, and says which.
pub(crate) fn mount_file(file: &File, digest: &str) -> Result<(OwnedFd, &'static str), ImageError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let named = |fd: i32| format!("/proc/self/fd/{fd}");
    match detached("erofs", &named(file.as_raw_fd()), &[], attributes) {
        Ok(mount) => return Ok((mount, "from its file")),
        // Older kernels want a block device.
        Err(error) if error.source.raw_os_error() == Some(libc::ENOTBLK) => {}
        Err(error) => return Err(failed(digest, error)),
    }
    let device = loop_device::attach(file.as_fd(), Access::ReadOnly)
        .map_err(|source| ImageError::Loop { digest: digest.to_owned(), source })?;
    match detached("erofs", &named(device.fd().as_raw_fd()), &[], attributes) {
        Ok(mount) => Ok((mount, "over a loop device")),
        Err(error) => Err(failed(digest, error)),
    }
}

fn failed(digest: &str, error: MountError) -> ImageError {
    ImageError::Mount { digest: digest.to_owned(), said: error.to_string(), source: error.source }
}
