//! The zygote's own mount namespace: a tmpfs with nothing in it but images and empty places to mount on.
//!
//! Children start with a copy of it without the images, build theirs on the empty places, and let go of all this with
//! `pivot_root`. The names are short and mean nothing, because the overlay's options show them to the agent.

use super::system::System;
use crate::step::{Step, StepError};
use crate::sys::mount::{self, Change, DATA, Filesystem, PLAIN};
use crate::sys::{self, process};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Where images are, each under its digest.
const IMAGES: &str = "/i";
/// Where the machine's system is: with the images, so that children let go of it likewise.
const SYSTEM: &str = "/i/system";
/// Where a child mounts the image it uses.
pub const LOWER: &str = "/l";
/// Where a child mounts the volume.
pub const VOLUME: &str = "/v";
/// Where a child mounts the new root.
pub const NEW_ROOT: &str = "/n";
/// Where a child mounts a sysfs to take parts of.
pub const SYSFS: &str = "/s";
/// Where a child mounts a tmpfs with an empty file and an empty directory.
pub const EMPTY: &str = "/e";

/// Leaves the host's mounts. What is left of them is what agents without an image see, less what is `hidden`: if that
/// cannot be had, why not is kept for whoever asks for it.
pub fn enter(hidden: &[CString]) -> Result<Result<(), StepError>, StepError> {
    let step = "leaving the host's mounts";
    process::unshare(libc::CLONE_NEWNS).step(step)?;
    let host = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).step(step)?;
    mount::change(host.as_fd(), Change { private: true, recursive: true, ..Change::default() }).step(step)?;

    let system = System::take(host.as_fd());
    drop(host);

    let tmpfs = || Filesystem::new(c"tmpfs")?.set(c"mode", "0700")?.set(c"size", "1m")?.mount(DATA);
    let root = tmpfs().step("mounting the zygote's root")?;
    for place in [IMAGES, LOWER, VOLUME, NEW_ROOT, SYSFS, EMPTY] {
        let name = CString::new(&place[1..]).expect("no NUL in a constant");
        sys::mkdir_at(root.as_fd(), &name, 0o700).step("making the zygote's directories")?;
    }
    // Any directory does; a machine without /proc cannot run this program.
    let place = sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY).step(step)?;
    mount::attach(root.as_fd(), place.as_fd()).step(step)?;
    mount::enter_root(root.as_fd()).step(step)?;
    // A mount of its own, so that children let go of all images in one step.
    let images = tmpfs().step("mounting a place for images")?;
    open(IMAGES).and_then(|place| mount::attach(images.as_fd(), place.as_fd())).step(step)?;
    Ok(system.and_then(|system| {
        sys::mkdir_at(images.as_fd(), c"system", 0o755).step("making the zygote's directories")?;
        system.attach(open(SYSTEM).step(step)?.as_fd(), hidden)
    }))
}

/// A copy of the machine's system, for one boundary.
pub fn system() -> Result<OwnedFd, StepError> {
    let place = CString::new(SYSTEM).expect("no NUL in a constant");
    open("/")
        .and_then(|here| mount::copy_tree(here.as_fd(), &place, true))
        .step("copying the machine's system")
}

/// Lets go of the images in a child's copy of the mounts: one that waits must not keep an image that was removed.
pub fn leave_images() -> Result<(), StepError> {
    let path = CString::new(IMAGES).expect("no NUL in a constant");
    mount::detach(&path).step("letting go of the images")
}

/// Opens a directory of the zygote's root to mount on.
pub fn open(path: &str) -> io::Result<OwnedFd> {
    sys::open(&CString::new(path)?, libc::O_PATH | libc::O_DIRECTORY)
}

/// Whether a text can be the name of an image.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A copy of an image's mount, for one boundary.
pub fn image(digest: &str) -> Result<OwnedFd, StepError> {
    let step = "finding the image";
    if !is_digest(digest) {
        return Err(StepError::new(step, "its digest must be 64 hex digits"));
    }
    let copy = open("/").and_then(|here| mount::copy_tree(here.as_fd(), &image_path(digest), false));
    copy.step(step).map_err(|error| match error.errno {
        libc::ENOENT => StepError { detail: "it was never added".into(), ..error },
        _ => error,
    })
}

/// Where an image is attached.
fn image_path(digest: &str) -> CString {
    CString::new(format!("{IMAGES}/{digest}")).expect("digests have been checked")
}

/// Attaches the mount of an image.
pub fn add_image(digest: &str, fds: Vec<OwnedFd>) -> Result<(), StepError> {
    let step = "attaching the image";
    if !is_digest(digest) {
        return Err(StepError::new(step, "its digest must be 64 hex digits"));
    }
    let Ok([image]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err(StepError::new(step, "it must come with one descriptor"));
    };
    let path = image_path(digest);
    let here = open("/").step(step)?;
    if !sys::ensure_dir(here.as_fd(), &path, 0o700).step(step)? {
        return Ok(());
    }
    let attach = || {
        mount::change(image.as_fd(), Change { set: PLAIN | mount::MOUNT_ATTR_RDONLY, ..Change::default() })?;
        mount::attach(image.as_fd(), sys::open(&path, libc::O_PATH | libc::O_DIRECTORY)?.as_fd())
    };
    attach().step(step).inspect_err(|_| drop(sys::unlink_at(here.as_fd(), &path, libc::AT_REMOVEDIR)))
}

/// Lets go of an image; what is mounted from it stays.
pub fn remove_image(digest: &str) {
    if !is_digest(digest) {
        return;
    }
    let path = image_path(digest);
    // Not there is as good as removed.
    let _ = mount::detach(&path);
    if let Ok(here) = open("/") {
        let _ = sys::unlink_at(here.as_fd(), &path, libc::AT_REMOVEDIR);
    }
}
