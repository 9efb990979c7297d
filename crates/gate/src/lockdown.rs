//! What the gate gives up before it serves: everything but its sockets, its memory and its threads.
//!
//! Two locks are closed here, the process's own memory and all files. The third, on system calls, was closed by
//! whoever started the gate (`cofferdam-jail confine`) and is only looked for: agents can use up the kernel's room for
//! the filters of others, so that a process without privileges may find none left for its own. After all of it the
//! process cannot open a file, start a program, make a socket that is not a unix socket, write to executable memory,
//! signal anybody outside, or be traced by its own user.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use std::path::{Path, PathBuf};

/// Which lock could not be closed. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    /// The directory of the agents' sockets cannot be opened.
    #[error(
        "cannot open {path}, where the agents' sockets should be: node must make it before it starts the gate"
    )]
    Sockets {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: landlock::PathFdError,
    },
    /// The process stayed dumpable, or kept rights to gain privileges.
    #[error("cannot make the process undumpable and without new privileges")]
    Process(#[source] rustix::io::Errno),
    /// Landlock refused.
    #[error("cannot restrict the process with Landlock")]
    Landlock(#[from] RulesetError),
    /// The kernel has no Landlock.
    #[error(
        "the kernel does not enforce Landlock: add `landlock` to its `lsm=` boot parameter, or use Linux 5.13 or later"
    )]
    NoLandlock,
    /// No filter stops what must be stopped.
    #[error(
        "no seccomp filter confines this process: the gate is started by node, through `cofferdam-jail confine`"
    )]
    NoFilter,
}

/// Closes all locks; none can be opened again. Call it while the process has one thread: Landlock binds only
/// the calling thread and those that it starts.
pub fn lockdown(sockets_dir: &Path) -> Result<(), LockdownError> {
    raise_descriptor_limit();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(LockdownError::Process)?;
    rustix::thread::set_no_new_privs(true).map_err(LockdownError::Process)?;
    landlock(sockets_dir)?;
    under_a_filter()
}

/// That there is a filter, and that it stops what a gate must never do.
fn under_a_filter() -> Result<(), LockdownError> {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    use rustix::thread::{SecureComputingMode, secure_computing_mode};
    let filtered = matches!(secure_computing_mode(), Ok(SecureComputingMode::Filter));
    let refused = matches!(socket(AddressFamily::INET, SocketType::STREAM, None), Err(Errno::PERM));
    if filtered && refused { Ok(()) } else { Err(LockdownError::NoFilter) }
}

/// Each client takes two descriptors. Failing leaves the limit as it is, and [`crate::server`] counts with that.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

fn landlock(sockets_dir: &Path) -> Result<(), LockdownError> {
    let sockets = PathFd::new(sockets_dir)
        .map_err(|source| LockdownError::Sockets { path: sockets_dir.to_owned(), source })?;
    // The oldest version is demanded; what newer kernels can (network, scopes, sockets by path) is taken where
    // it is there. The seccomp filter covers the network on all.
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(|_| LockdownError::NoLandlock)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V9))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        // No file is read even there; connecting is a right of its own in the newest Landlock only. The rule
        // holds the directory itself: it may not be replaced while the gate lives.
        .add_rule(PathBeneath::new(sockets, AccessFs::ResolveUnix | AccessFs::ReadDir))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(LockdownError::NoLandlock),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}
