//! Finding and removing what agents left behind whose node died: by name, and only of the dead.

use crate::cgroup::Group;
use crate::host::lock;
use crate::volume::{PARTIAL, same_file};
use crate::{Shared, children, container, files};
use model::AgentId;
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

/// The agent that a directory is named after.
fn agent_of(path: &Path) -> Option<AgentId> {
    AgentId::from_base32(path.file_name()?.to_str()?).ok()
}

pub(crate) fn living(shared: &Shared) -> Vec<AgentId> {
    in_cgroups(shared)
        .into_iter()
        .filter(|&agent| Group::new(&shared.cgroups, agent).is_populated())
        .collect()
}

fn in_cgroups(shared: &Shared) -> BTreeSet<AgentId> {
    shared
        .cgroups
        .parents()
        .iter()
        .flat_map(|parent| entries(parent))
        .filter_map(|path| agent_of(&path))
        .collect()
}

pub(crate) fn sweep(shared: &Shared, keep: &[AgentId]) -> Vec<String> {
    let mut said = Vec::new();
    match children::reap_orphans(&shared.init.digest) {
        0 => {}
        count => said.push(format!("collected {count} ended processes that nobody waited for")),
    }
    let with_files = entries(&shared.config.run.join("agents"));
    let sockets = sockets(&shared.config.run.join("gates"));
    let mut agents = in_cgroups(shared);
    agents.extend(with_files.iter().filter_map(|path| agent_of(path)));
    agents.extend(sockets.iter().map(|(agent, _)| *agent));
    for agent in agents {
        if keep.contains(&agent) {
            continue;
        }
        let group = Group::new(&shared.cgroups, agent);
        if group.is_populated() {
            said.push(format!("{agent} is unknown but alive: left alone"));
            continue;
        }
        note(
            &mut said,
            format!("cgroups of {agent}"),
            group.remove().map_err(|error| error.to_string()),
            false,
        );
        let run = container::agent_dir(&shared.config, agent);
        if run.exists() {
            note(
                &mut said,
                path_text(&run),
                fs::remove_dir_all(&run).map_err(|error| error.to_string()),
                true,
            );
        }
        for (_, socket) in sockets.iter().filter(|(of, _)| *of == agent) {
            note(
                &mut said,
                path_text(socket),
                files::remove(socket).map_err(|error| error.to_string()),
                true,
            );
        }
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
