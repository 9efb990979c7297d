//! What a confined worker is asked to do, and how it gets the files that it works on: as descriptors over the socket
//! that is its standard input. The job itself is an argument, so that `ps` shows it; it never holds a secret.

use crate::import::Limits;
use crate::store::Digest;
use rustix::io::IoSliceMut;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Layers that one image may have. Docker's own limit is 127.
pub(crate) const MAX_LAYERS: usize = 200;
/// The kernel's own limit for one message is 253.
const MAX_FILES: usize = MAX_LAYERS + 8;

/// One run of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Job {
    /// A tar of a root file system. Files: the archive, the image.
    Root {
        /// What it may hold.
        limits: Limits,
    },
    /// A tar of a root file system or of a container image, whichever it is. Files: the archive, the image, and one
    /// for the archive once it is unpacked.
    Archive {
        /// What it may hold.
        limits: Limits,
        /// Which image, where it holds several.
        tag: Option<String>,
    },
    /// Layers of a container image. Files: the image, its configuration, the layers from the lowest up.
    Layers {
        /// What they may hold together.
        limits: Limits,
        /// The layers' digests and sizes as they are packed.
        layers: Vec<Blob>,
    },
    /// What a registry answered for a tag or a digest. Files: the document.
    Document {},
    /// The signatures in a manifest that cosign wrote. Files: the manifest.
    Signatures {},
    /// The digest that a signature's payload vouches for. Files: the payload.
    Payload {},
    /// Fetches from a registry; what, it is told on its standard input. No files.
    Fetch {},
}

/// Content by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blob {
    /// SHA-256.
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
}

/// The two ends: the caller's, and the one that becomes a worker's standard input.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends files to a worker.
pub(crate) fn send(socket: impl AsFd, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files for one message"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives them.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    Ok(files)
}
