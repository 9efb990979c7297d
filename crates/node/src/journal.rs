//! The journal: one JSON file per agent, and one for the node itself.
//!
//! A file is replaced in one step: written beside and renamed. So after a crash of the node each file is whole, the old
//! one or the new one; what is left beside is removed when the journal is opened. Only what must outlive the machine's
//! own crash is synced as well: that an agent's life is over. For all else such a crash ends the boundaries too, and
//! control says again what should be.

use crate::local::{After, Local, Phase};
use model::{AgentId, Desired};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Records beneath `DATA/node`.
#[derive(Debug)]
pub(crate) struct Journal {
    root: PathBuf,
    agents: PathBuf,
    /// Held for as long as the journal is open, so that two nodes never act on one state.
    _lock: File,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another node has it.
    #[error("another node runs on {0}; stop it first, or give this one another `data` in node.toml")]
    Locked(PathBuf),
    /// A record is not one.
    #[error("the record {path} cannot be read; move it away if its agent is gone: {source}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// No room.
    #[error("the disk that holds {path} is full; free some space there")]
    Full {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk, in another way.
    #[error("could not {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            JournalError::Full { path: path.to_owned(), source }
        }
        _ => JournalError::Io { action, path: path.to_owned(), source },
    }
}

const TEMPORARY: &str = "new";

impl Journal {
    /// Opens the journal in the directory and makes it if need be. Only one process can have it open.
    pub(crate) fn open(root: &Path) -> Result<Self, JournalError> {
        let agents = root.join("agents");
        for directory in [root, &agents] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(failed("make", directory))?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            match errno {
                rustix::io::Errno::WOULDBLOCK => JournalError::Locked(root.to_owned()),
                errno => failed("lock", &path)(errno.into()),
            }
        })?;
        let journal = Self { root: root.to_owned(), agents, _lock: lock };
        journal.remove_torn()?;
        Ok(journal)
    }

    /// Every agent's record.
    pub(crate) fn load(&self) -> Result<BTreeMap<AgentId, Local>, JournalError> {
        Self::load_from(&self.agents)
    }

    /// One agent's record.
    pub(crate) fn agent(&self, agent: AgentId) -> Result<Option<Local>, JournalError> {
        read(&self.agents.join(format!("{}.json", agent.base32())))
    }

    /// Every agent's record, without being the node: it may write at the same time, and each file is whole.
    pub(crate) fn peek_agents(root: &Path) -> Result<BTreeMap<AgentId, Local>, JournalError> {
        Self::load_from(&root.join("agents"))
    }

    /// One of the node's own records, without being the node.
    pub(crate) fn peek<T: DeserializeOwned>(root: &Path, name: &str) -> Result<Option<T>, JournalError> {
        read(&root.join(name))
    }

    fn load_from(agents: &Path) -> Result<BTreeMap<AgentId, Local>, JournalError> {
        let mut records = BTreeMap::new();
        for path in list(agents)? {
            // One that is just being replaced.
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(agent) = name.strip_suffix(".json").and_then(|id| AgentId::from_base32(id).ok()) else {
                tracing::warn!(path = %path.display(), "this file in the journal is not a record; left alone");
                continue;
            };
            // Removed since it was listed: then there is no agent.
            let Some(record) = read::<Local>(&path)? else { continue };
            if record.desired.spec.id != agent {
                let error = <serde_json::Error as serde::de::Error>::custom("it is about another agent");
                return Err(JournalError::Damaged { path, source: error });
            }
            records.insert(agent, record);
        }
        Ok(records)
    }

    /// Writes an agent's record. One that says that its life is over is on disk when this returns; of an agent that is
    /// on its way to be destroyed, only that it arrived there.
    pub(crate) fn save(&self, record: &Local) -> Result<(), JournalError> {
        let name = format!("{}.json", record.desired.spec.id.base32());
        let over = match record.phase {
            Phase::Destroyed => true,
            Phase::Ending(After::Ended) | Phase::Ended => record.desired.desired != Desired::Destroyed,
            _ => false,
        };
        write(&self.agents, &name, record, if over { Sync::Now } else { Sync::Later })
    }

    /// Removes an agent's record.
    pub(crate) fn remove(&self, agent: AgentId) -> Result<(), JournalError> {
        let path = self.agents.join(format!("{}.json", agent.base32()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Reads one of the node's own records.
    pub(crate) fn read_own<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JournalError> {
        read(&self.root.join(name))
    }

    /// Writes one of the node's own records.
    pub(crate) fn write_own<T: Serialize>(&self, name: &str, value: &T) -> Result<(), JournalError> {
        write(&self.root, name, value, Sync::Now)
    }

    /// Writes one that the node can do without: a crash of the machine may leave the one before, or none.
    pub(crate) fn write_hint<T: Serialize>(&self, name: &str, value: &T) -> Result<(), JournalError> {
        write(&self.root, name, value, Sync::Later)
    }

    /// Where the node's own files are.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes what a crash left: of the node, a file that was being written; of the machine, one that was not synced.
    fn remove_torn(&self) -> Result<(), JournalError> {
        for directory in [&self.root, &self.agents] {
            for path in list(directory)? {
                let unfinished = path.extension().is_some_and(|extension| extension == TEMPORARY);
                let torn = directory == &self.agents && is_torn(&path).map_err(failed("read", &path))?;
                if torn {
                    tracing::warn!(path = %path.display(), "the machine crashed before this record was on disk; forgotten");
                }
                if unfinished || torn {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
        }
        Ok(())
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, JournalError> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(failed("list", directory))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, JournalError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| JournalError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn write<T: Serialize>(directory: &Path, name: &str, value: &T, when: Sync) -> Result<(), JournalError> {
    let path = directory.join(name);
    let bytes = serde_json::to_vec(value).map_err(|error| failed("encode", &path)(error.into()))?;
    replace(directory, name, &bytes, when)
}

/// When a file has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Before the call returns.
    Now,
    /// When the system gets to it.
    Later,
}

/// Whether a file is what a crash of the machine leaves of one that was not synced: nothing, its beginning, or zeroes in the
/// place of some blocks. A whole record ends with its brace and holds no zero.
fn is_torn(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    Ok(!bytes.trim_ascii_end().ends_with(b"}") || bytes.contains(&0))
}

/// Replaces a file in one step. It is readable by root alone.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8], when: Sync) -> Result<(), JournalError> {
    let path = directory.join(name);
    let beside = directory.join(format!("{name}.{TEMPORARY}"));
    let written = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            if when == Sync::Now { file.sync_all() } else { Ok(()) }
        })
        .and_then(|()| fs::rename(&beside, &path));
    if let Err(error) = written {
        // A full disk: the old record stands, and nothing is left beside it.
        let _ = fs::remove_file(&beside);
        return Err(failed("write", &path)(error));
    }
    if when == Sync::Now { sync(directory) } else { Ok(()) }
}

fn sync(directory: &Path) -> Result<(), JournalError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(failed("sync", directory))
}
