//! Images: root file systems named by the SHA-256 of one EROFS file.
//!
//! [`build`] makes one from Debian packages with mmdebstrap, [`import`] makes one from a root tarball or a container
//! image in a file, and both end in the same [`Store`]. Whatever the source, the archive is parsed as hostile: by a process of its own
//! ([`worker`]) under its own user, without capabilities, network, or any file but the archive it reads and the
//! image it writes. That process never unpacks anything: it keeps the tree in memory and writes the EROFS file itself, so
//! a path in an archive is never a path on the host, and owners are kept without privilege.
//!
//! A caller needs one thing beyond this library: its own program must run `image::worker::main(&job)` when
//! started as `PROGRAM image-worker JOB` (`cofferdam` has this as a hidden subcommand).

mod apt;
mod archive;
mod blobs;
mod build;
mod container;
mod erofs;
mod fetch;
mod import;
mod job;
mod oci;
mod outer;
mod packages;
mod prune;
mod pull;
mod record;
mod reference;
mod registry;
mod root;
mod signature;
mod source;
mod store;
mod tree;
mod user;
pub mod worker;

#[cfg(test)]
mod tests;

pub use build::{BuildError, BuildOptions, build};
pub use fetch::{RegistryCredentials, Rules};
pub use import::{ImportError, Imported, Limits, Source, Worker, import};
pub use prune::{Pruned, prune};
pub use pull::{PullError, PullOptions, Pulled, pull};
pub use reference::{Host, Reference, ReferenceError};
pub use signature::{Authority, AuthorityError, ParseKeyError, PublicKey, SignatureError, Signer};
pub use store::{Digest, Store, StoreError};
pub use user::{User, UserError, ensure_user};

/// How far a build or an import is. Sent whenever one of the two changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, in words for a person.
    pub stage: String,
    /// 0 to 100, never falling; `None` when the end cannot be known.
    pub percent: Option<u8>,
}
