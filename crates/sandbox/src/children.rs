//! Children of this process that end: each is collected once, by whoever needs to know how it ended.
//!
//! The node is child subreaper, so whatever a dead zygote had begun becomes its child too. That is collected
//! here; what somebody watches is left to them.

use crate::procfs;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::collections::HashMap;
use std::fs;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// How many watch a pid. One table, because children belong to the process and not to a part of it.
static WATCHED: LazyLock<Mutex<HashMap<u32, usize>>> = LazyLock::new(Mutex::default);

fn watched() -> MutexGuard<'static, HashMap<u32, usize>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as it lives, the child is left for its holder to collect.
#[derive(Debug)]
pub(crate) struct Watch(u32);

impl Watch {
    pub(crate) fn new(pid: u32) -> Self {
        *watched().entry(pid).or_default() += 1;
        Self(pid)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = watched();
        if let Some(watchers) = watched.get_mut(&self.0) {
            *watchers -= 1;
            if *watchers == 0 {
                watched.remove(&self.0);
            }
        }
    }
}

/// Collects ended children that nobody watches, and counts them. They are told by their name: that of the stored init
/// binary, and further on the way that of a blank, of init and of a probe. Children of other kinds belong to whoever started them.
pub(crate) fn reap_orphans(init_digest: &str) -> usize {
    // The kernel keeps 15 characters of a name.
    let name = init_digest.get(..15).unwrap_or(init_digest);
    let us = std::process::id();
    let mut reaped = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        let Ok(stat) = procfs::read(entry.path().join("stat")) else { continue };
        let ended = procfs::identity(&stat).is_some_and(|(of, state, parent)| {
            (of == name || matches!(of, "blank" | "init" | "probe")) && state == "Z" && parent == us
        });
        if !ended || watched().contains_key(&pid) {
            continue;
        }
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let collected = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            reaped += usize::from(matches!(collected, Ok(Some(_))));
        }
    }
    reaped
}
