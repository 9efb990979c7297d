//! Finding and removing what agents left behind whose node died: by name, and only of the dead.

use crate::cgroup::Group;
use crate::host::lock;
use crate::volume::{PARTIAL, same_file};
use crate::{Shared, children, container, files};
use model::{AgentId, BoundaryId};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names of the entries of a directory; none when it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|found| found.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// The boundary that a directory is named after.
fn boundary_of(path: &Path) -> Option<BoundaryId> {
    BoundaryId::from_base32(path.file_name()?.to_str()?).ok()
}

/// The agent that a directory is named after.
fn agent_of(path: &Path) -> Option<AgentId> {
    AgentId::from_base32(path.file_name()?.to_str()?).ok()
}

pub(crate) fn living(shared: &Shared) -> Vec<AgentId> {
    let alive = |agent: &AgentId| {
        container::find(shared, *agent).is_some_and(|record| is_populated(shared, record.boundary))
    };
    agents(shared).into_iter().filter(alive).collect()
}

fn is_populated(shared: &Shared, boundary: BoundaryId) -> bool {
    Group::new(&shared.cgroups, boundary).is_populated()
}

/// Agents that have runtime files.
fn agents(shared: &Shared) -> BTreeSet<AgentId> {
    entries(&shared.config.run.join("agents")).iter().filter_map(|path| agent_of(path)).collect()
}

/// Boundaries that have cgroups.
fn in_cgroups(shared: &Shared) -> BTreeSet<BoundaryId> {
    shared
        .cgroups
        .parents()
        .iter()
        .flat_map(|parent| entries(parent))
        .filter_map(|path| boundary_of(&path))
        .collect()
}

pub(crate) fn sweep(shared: &Shared, keep: &[AgentId]) -> Vec<String> {
    let mut said = Vec::new();
    match children::reap_orphans(&shared.init.digest) {
        0 => {}
        count => said.push(format!("collected {count} ended processes that nobody waited for")),
    }
    blanks(shared, &mut said);
    let sockets = sockets(&shared.config.run.join("gates"));
    let mut found = agents(shared);
    found.extend(sockets.iter().map(|(agent, _)| *agent));
    let mut known = BTreeSet::new();
    for agent in found {
        let record = container::find(shared, agent);
        let boundary = record.map(|record| record.boundary);
        let alive = boundary.is_some_and(|boundary| is_populated(shared, boundary));
        if keep.contains(&agent) || alive {
            known.extend(boundary);
            if !keep.contains(&agent) {
                said.push(format!("{agent} is unknown but alive: left alone"));
            }
            continue;
        }
        let run = container::agent_dir(&shared.config, agent);
        if run.exists() {
            note(&mut said, path_text(&run), fs::remove_dir_all(&run).map_err(text), true);
        }
        for (_, socket) in sockets.iter().filter(|(of, _)| *of == agent) {
            note(&mut said, path_text(socket), files::remove(socket).map_err(text), true);
        }
    }
    for boundary in in_cgroups(shared).difference(&known) {
        if is_populated(shared, *boundary) {
            said.push(format!("{boundary} is unknown but alive: left alone"));
            continue;
        }
        let removed = Group::new(&shared.cgroups, *boundary).remove();
        note(&mut said, format!("cgroups of {boundary}"), removed.map_err(text), false);
    }
    let mut workshops = shared.volumes.workshops().to_vec();
    workshops.push(shared.config.init_store.clone());
    for path in workshops.iter().flat_map(|dir| entries(dir)) {
        if path.extension() == Some(OsStr::new(&PARTIAL[1..])) {
            match remove_abandoned(&path) {
                Ok(false) => {}
                Ok(true) => note(&mut said, path_text(&path), Ok(()), true),
                Err(error) => note(&mut said, path_text(&path), Err(error.to_string()), true),
            }
        }
    }
    said
}

/// Blanks that a dead node left: no agent ever had them, so they may be ended.
fn blanks(shared: &Shared, said: &mut Vec<String>) {
    let found = entries(&shared.config.run.join("blanks"));
    // A runtime in the one may still make the other's cgroups and put a process there, until it is ended itself.
    for boundary in found.iter().filter_map(|dir| boundary_of(dir)) {
        let _ = Group::new(&shared.cgroups, boundary).clear(container::PATIENCE);
    }
    for dir in found {
        let ended = match boundary_of(&dir) {
            Some(boundary) => Group::new(&shared.cgroups, boundary).clear(container::PATIENCE).map_err(text),
            None => Ok(()),
        };
        let removed = ended.and_then(|()| fs::remove_dir_all(&dir).map_err(text));
        note(said, path_text(&dir), removed, true);
    }
    for volume in entries(&shared.volumes.blanks()) {
        note(said, path_text(&volume), files::remove(&volume).map_err(text), true);
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// One line on one item, so that a failure stops nothing else. Removing what was not there is no news.
fn note(said: &mut Vec<String>, what: String, result: Result<(), String>, news: bool) {
    match result {
        Ok(()) if news => said.push(format!("removed {what}")),
        Ok(()) => {}
        Err(error) => said.push(format!("cannot remove {what}: {error}")),
    }
}

/// The channels' sockets: `gates/ACCOUNT/AGENT.sock`.
fn sockets(gates: &Path) -> Vec<(AgentId, PathBuf)> {
    let named = |path: PathBuf| {
        let agent =
            path.file_name()?.to_str()?.strip_suffix(".sock").and_then(|id| AgentId::from_base32(id).ok());
        agent.map(|agent| (agent, path))
    };
    entries(gates).iter().flat_map(|account| entries(account)).filter_map(named).collect()
}

/// Removes a half-made file unless its maker still holds its lock.
fn remove_abandoned(path: &Path) -> io::Result<bool> {
    let file = fs::File::open(path)?;
    if !lock::exclusive(&file, Duration::ZERO)? || !same_file(&file, path) {
        return Ok(false);
    }
    fs::remove_file(path).map(|()| true)
}
