//! The system user `cofferdam-image`, who parses archives and builds images, and owns nothing.
//!
//! Images are built in a user namespace, so it also has a range of subordinate ids (subuid(5)), right below those
//! that agents get. No file outlives a build under one of them.

use std::fs::File;
use std::io;
use std::process::Command;

const NAME: &str = "cofferdam-image";
/// The 65,536 ids below 0x70000000, where the agents' ranges begin.
const SUBORDINATE: (u32, u32) = (0x6fff_0000, 65_536);

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of its group.
    pub gid: u32,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A file of the user database cannot be read.
    #[error("cannot read {path} to look up the user {NAME}")]
    Read {
        /// Which.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program that makes users cannot be run.
    #[error("cannot run {program} for the user {NAME}; install the package passwd")]
    Run {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program that makes users refused.
    #[error("{program} failed for the user {NAME}: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it printed.
        said: String,
    },
}

/// Finds the user, or makes it. Its subordinate ids are made where they are missing. Needs root for that.
pub fn ensure_user() -> Result<User, UserError> {
    // One at a time: of two that make the user at once, one would be told that the file is locked.
    let lock = File::open("/etc/passwd");
    if let Ok(lock) = &lock {
        // Without the lock it is only less sure.
        let _ = rustix::fs::flock(lock, rustix::fs::FlockOperation::LockExclusive);
    }
    let user = match find()? {
        Some(user) => user,
        None => {
            let home = ["--home-dir", "/nonexistent", "--no-create-home", "--shell", "/usr/sbin/nologin"];
            run("useradd", &[&["--system", "--user-group"], &home[..], &[NAME]].concat())?;
            let missing = || UserError::Failed { program: "useradd", said: "it is not there".to_owned() };
            find()?.ok_or_else(missing)?
        }
    };
    let (first, count) = SUBORDINATE;
    let range = format!("{first}-{}", first + count - 1);
    if !has_subordinates("/etc/subuid")? {
        run("usermod", &["--add-subuids", &range, NAME])?;
    }
    if !has_subordinates("/etc/subgid")? {
        run("usermod", &["--add-subgids", &range, NAME])?;
    }
    Ok(user)
}

fn find() -> Result<Option<User>, UserError> {
    let passwd = read("/etc/passwd")?;
    Ok(passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(NAME)).then_some(())?;
        Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }))
}

fn has_subordinates(path: &'static str) -> Result<bool, UserError> {
    Ok(read(path)?.lines().any(|line| line.split(':').next() == Some(NAME)))
}

fn read(path: &'static str) -> Result<String, UserError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|source| UserError::Read { path, source }),
    }
}

fn run(program: &'static str, arguments: &[&str]) -> Result<(), UserError> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|source| UserError::Run { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(UserError::Failed { program, said })
}
