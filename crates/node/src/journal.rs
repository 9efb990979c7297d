//! The journal: one JSON file per agent, and one for the node itself.
//!
//! A file is replaced in one step: written beside and renamed. So after a crash of the node each file is whole, the old
//! one or the new one; what is left beside is removed when the journal is opened.
//!
//! An agent's record is written to memory that outlives the node (`run`) before anything is done, and a moment later to
//! disk, once for all that happened meanwhile. Only what must outlive the machine's own crash is on disk, and synced, at
//! once: that an agent's life is over; what changes its policy or ends its tokens is synced when it comes there. For all else
//! such a crash ends the boundaries too, and control says again what should be.

mod behind;

use crate::fleet::lock;
use crate::local::{After, Local, Phase};
use behind::Behind;
use model::{AgentId, Desired};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Records beneath `DATA/node`, and `RUN/journal`.
#[derive(Debug)]
pub(crate) struct Journal {
    root: PathBuf,
    places: Places,
    behind: Behind,
    /// Of each agent that was saved: the epoch of its tokens, and the revision of its policy.
    grants: Mutex<BTreeMap<AgentId, (u64, u64)>>,
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

/// Bytes that a disk has free, or it is full.
const RESERVE: u64 = 1 << 20;

/// In `DATA/node` and in `RUN/journal`: whose records those in memory are. A node that knows of no records in memory takes
/// the first for a file that was being written, and removes it: what it did then is not in memory.
const OWNER: &str = "live.new";

/// Where the agents' records are.
#[derive(Debug, Clone)]
struct Places {
    /// In memory: as new as can be.
    live: PathBuf,
    /// On disk: a moment older.
    disk: PathBuf,
}

impl Places {
    fn new(root: &Path, run: &Path) -> Self {
        Self { live: run.join("journal"), disk: root.join("agents") }
    }

    /// What is known of each agent, as bytes.
    fn read(&self, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>, JournalError> {
        for path in [self.live.join(name), self.disk.join(name)] {
            match fs::read(&path) {
                Ok(bytes) => return Ok(Some((path, bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        Ok(None)
    }

    fn load(&self) -> Result<BTreeMap<AgentId, Local>, JournalError> {
        let mut names = BTreeSet::new();
        for path in list(&self.live)?.into_iter().chain(list(&self.disk)?) {
            // One that is just being replaced.
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if agent_of(name).is_none() {
                tracing::warn!(path = %path.display(), "this file in the journal is not a record; left alone");
                continue;
            }
            names.insert(name.to_owned());
        }
        let mut records = BTreeMap::new();
        for (name, agent) in names.iter().filter_map(|name| Some((name, agent_of(name)?))) {
            // Removed since it was listed: then there is no agent.
            let Some((path, bytes)) = self.read(name)? else { continue };
            let record: Local = parse(&path, &bytes)?;
            if record.desired.spec.id != agent {
                let error = <serde_json::Error as serde::de::Error>::custom("it is about another agent");
                return Err(JournalError::Damaged { path, source: error });
            }
            records.insert(agent, record);
        }
        Ok(records)
    }

    /// Forgets what is in memory unless this journal wrote it since the machine started.
    fn own(&self, root: &Path) -> Result<(), JournalError> {
        let (ours, theirs) = (root.join(OWNER), self.live.join(OWNER));
        let boot = crate::machine::boot_id().map_err(failed("read the boot id for", &theirs))?;
        let owner = read_text(&ours)?.filter(|owner| owner.starts_with(&boot));
        if owner.is_some() && owner == read_text(&theirs)? {
            return Ok(());
        }
        for path in list(&self.live)? {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        let random = getrandom::u64().map_err(|error| failed("name", &theirs)(error.into()))?;
        let owner = format!("{boot} {random:016x}");
        fs::write(&theirs, &owner).map_err(failed("write", &theirs))?;
        fs::write(&ours, &owner).map_err(failed("write", &ours))
    }
}

/// What may be taken from an agent by a higher number.
fn granted(record: &Local) -> (u64, u64) {
    (record.desired.token_epoch, record.desired.policy_revision)
}

fn file_name(agent: AgentId) -> String {
    format!("{}.json", agent.base32())
}

fn agent_of(name: &str) -> Option<AgentId> {
    AgentId::from_base32(name.strip_suffix(".json")?).ok()
}

impl Journal {
    /// Opens the journal in the directory, with what is in memory beneath `run`, and makes it if need be. Only one process
    /// can have it open.
    pub(crate) fn open(root: &Path, run: &Path) -> Result<Self, JournalError> {
        let places = Places::new(root, run);
        for directory in [root, &places.disk, &places.live] {
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
        places.own(root)?;
        remove_torn(root, false)?;
        remove_torn(&places.live, false)?;
        remove_torn(&places.disk, true)?;
        let behind = Behind::start(places.clone()).map_err(failed("start the writer of", root))?;
        // A node that was killed may not have come to it.
        for path in list(&places.live)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            agent_of(name).into_iter().for_each(|agent| behind.add(agent, Sync::Later));
        }
        Ok(Self { root: root.to_owned(), places, behind, grants: Mutex::default(), _lock: lock })
    }

    /// Every agent's record.
    pub(crate) fn load(&self) -> Result<BTreeMap<AgentId, Local>, JournalError> {
        let records = self.places.load()?;
        *lock(&self.grants) = records.iter().map(|(agent, record)| (*agent, granted(record))).collect();
        Ok(records)
    }

    /// One agent's record.
    pub(crate) fn agent(&self, agent: AgentId) -> Result<Option<Local>, JournalError> {
        let found = self.places.read(&file_name(agent))?;
        found.map(|(path, bytes)| parse(&path, &bytes)).transpose()
    }

    /// Every agent's record, without being the node: it may write at the same time, and each file is whole.
    pub(crate) fn peek_agents(root: &Path, run: &Path) -> Result<BTreeMap<AgentId, Local>, JournalError> {
        Places::new(root, run).load()
    }

    /// One of the node's own records, without being the node.
    pub(crate) fn peek<T: DeserializeOwned>(root: &Path, name: &str) -> Result<Option<T>, JournalError> {
        read(&root.join(name))
    }

    /// Writes an agent's record. One that says that its life is over is on disk when this returns; of an agent that is
    /// on its way to be destroyed, only that it arrived there.
    pub(crate) fn save(&self, record: &Local) -> Result<(), JournalError> {
        let agent = record.desired.spec.id;
        let over = match record.phase {
            Phase::Destroyed => true,
            Phase::Ending(After::Ended) | Phase::Ended => record.desired.desired != Desired::Destroyed,
            _ => false,
        };
        if !over {
            self.has_room()?;
        }
        let name = file_name(agent);
        let bytes = encode(&self.places.live.join(&name), record)?;
        replace(&self.places.live, &name, &bytes, Sync::Later)?;
        if over {
            self.behind.skip(agent);
            replace(&self.places.disk, &name, &bytes, Sync::Now)?;
        } else {
            // What was taken from an agent must not come back with the machine while control is away.
            let granted = granted(record);
            let before = lock(&self.grants).insert(agent, granted);
            let changed = before.is_some_and(|before| before != granted);
            self.behind.add(agent, if changed { Sync::Now } else { Sync::Later });
        }
        Ok(())
    }

    /// Whether what is in memory will find room on the disk. Nothing is begun that will not.
    fn has_room(&self) -> Result<(), JournalError> {
        let disk = &self.places.disk;
        let free = rustix::fs::statvfs(disk).map_err(|errno| failed("look at", disk)(errno.into()))?;
        match free.f_bfree.saturating_mul(free.f_frsize) {
            0..RESERVE => Err(failed("write", disk)(io::ErrorKind::StorageFull.into())),
            _ => Ok(()),
        }
    }

    /// Removes an agent's record.
    pub(crate) fn remove(&self, agent: AgentId) -> Result<(), JournalError> {
        self.behind.skip(agent);
        lock(&self.grants).remove(&agent);
        for place in [&self.places.disk, &self.places.live] {
            let path = place.join(file_name(agent));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
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
}

/// Removes what a crash left: of the node, a file that was being written; of the machine, one that was not synced.
fn remove_torn(directory: &Path, on_disk: bool) -> Result<(), JournalError> {
    for path in list(directory)? {
        let name = path.file_name().unwrap_or_default();
        let unfinished = path.extension().is_some_and(|extension| extension == TEMPORARY) && name != OWNER;
        let torn = on_disk && is_torn(&path).map_err(failed("read", &path))?;
        if torn {
            tracing::warn!(path = %path.display(), "the machine crashed before this record was on disk; forgotten");
        }
        if unfinished || torn {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, JournalError> {
    match fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(failed("list", directory)),
    }
}

fn read_text(path: &Path) -> Result<Option<String>, JournalError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(bytes).map_err(|source| JournalError::Damaged { path: path.to_owned(), source })
}

fn encode<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, JournalError> {
    serde_json::to_vec(value).map_err(|error| failed("encode", path)(error.into()))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, JournalError> {
    match fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn write<T: Serialize>(directory: &Path, name: &str, value: &T, when: Sync) -> Result<(), JournalError> {
    let bytes = encode(&directory.join(name), value)?;
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
