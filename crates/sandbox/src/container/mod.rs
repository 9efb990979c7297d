//! Levels 0 to 2: launching a boundary, taking it over, pausing, ending and clearing it away.

pub(crate) mod blank;
mod boundary;
mod launch;

pub(crate) use blank::prepare;
pub use blank::{Blank, Form, Shape};
pub(crate) use boundary::printable;
pub use boundary::{Boundary, Proof};
pub(crate) use launch::launch;

use crate::apparmor::{self, Offer};
use crate::error::{BoundaryError, StartError};
use crate::files::{self, InitBinary};
use crate::{Config, Shared, cgroup, procfs, volume, zygote};
use jail::oci::kernel::Seen;
use model::agent::Level;
use model::{AgentId, BoundaryId, Driver, VolumeId};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long freezing, thawing and ending may take. They take milliseconds, unless the disk hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Names below `RUN/agents/ID/`.
pub(crate) const EXIT_RECORD: &str = "exit";
const RECORD: &str = "boundary.json";

/// What tells one boundary from every other: node journals it, and can take the boundary over with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundaryRecord {
    /// The name of its cgroups.
    pub boundary: BoundaryId,
    /// Whose it is.
    pub agent: AgentId,
    /// Its init.
    pub pid: u32,
    /// When init started, in clock ticks since boot: with `boot_id` it tells init from a later process
    /// with the same pid.
    pub start_time: u64,
    /// The boot of the machine it was launched in.
    pub boot_id: String,
    /// The first id of its range: root inside, where there is one.
    pub base_uid: u32,
    /// SHA-256 of the init binary that it runs.
    pub init_digest: String,
    /// How it is isolated. Records of nodes that knew one level have none.
    #[serde(default = "container", skip_serializing_if = "is_container")]
    pub level: Level,
    /// The image it runs from, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Its disk.
    pub volume: VolumeId,
    /// Where its channel listens.
    pub channel: PathBuf,
    /// The Landlock ABI in force around it; 0 = none.
    pub landlock_abi: u32,
    /// Who made it. Records of nodes that knew one driver have none.
    #[serde(default, skip_serializing_if = "is_builtin")]
    pub driver: Driver,
    /// What init saw of its kernel before anything of the agent ran, where that is not the host's. `pid` is the guard's then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Seen>,
}

fn container() -> Level {
    Level::Container
}

fn is_builtin(driver: &Driver) -> bool {
    *driver == Driver::Builtin
}

fn is_container(level: &Level) -> bool {
    *level == Level::Container
}

pub(crate) fn start(config: Config) -> Result<Shared, StartError> {
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    if !cgroup::is_cgroup_path(&config.cgroup) {
        return Err(StartError::CgroupName(config.cgroup));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Directory { path, source }
    };
    files::directory(&config.run, 0o711).map_err(failed(&config.run))?;
    let agents = config.run.join("agents");
    files::directory(&agents, 0o711).map_err(failed(&agents))?;
    let blanks = config.run.join("blanks");
    // Nobody but root may reach a channel that is no agent's yet.
    files::directory(&blanks, 0o700).map_err(failed(&blanks))?;
    let volumes = volume::Store::open(&config.volumes).map_err(failed(&config.volumes))?;
    let init = InitBinary::store(&config.jail, &config.init_store)
        .map_err(|source| StartError::Init { path: config.jail.clone(), source })?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| StartError::Subreaper(error.into()))?;
    let cgroups = cgroup::Tree::open(&config.cgroup)?;
    match apparmor::offer() {
        Offer::Loaded => tracing::info!("containers are in the AppArmor profile"),
        Offer::Absent(why) => tracing::info!(why, "containers are in no AppArmor profile"),
        Offer::Refused(why) => {
            tracing::error!(why, "there will be no containers without the AppArmor profile")
        }
    }
    // The stored copy: replacing the installed binary changes nothing for this node until it restarts.
    let hidden = config.hidden_names().map_err(failed(Path::new("/proc/self/mountinfo")))?;
    let zygote = zygote::Keeper::start(&init.path, &config.images, hidden)?;
    Ok(Shared { config, cgroups, volumes, zygote, init })
}

pub(crate) fn agent_dir(config: &Config, agent: AgentId) -> PathBuf {
    config.run.join("agents").join(agent.base32())
}

pub(crate) fn blank_dir(config: &Config, boundary: BoundaryId) -> PathBuf {
    config.run.join("blanks").join(boundary.base32())
}

pub(crate) fn remains(shared: &Shared, record: &BoundaryRecord) -> Boundary {
    // A caller that is wrong about its being dead must not end it by clearing away.
    let written = find(shared, record.agent);
    let alive = [Some(record), written.as_ref()]
        .into_iter()
        .flatten()
        .find_map(|candidate| adopt(shared, candidate).ok().flatten());
    // What was written beside the boundary knows its cgroups best.
    alive.unwrap_or_else(|| Boundary::new(shared, written.unwrap_or_else(|| record.clone()), None))
}

pub(crate) fn find(shared: &Shared, agent: AgentId) -> Option<BoundaryRecord> {
    let json = fs::read(agent_dir(&shared.config, agent).join(RECORD)).ok()?;
    let record: BoundaryRecord = serde_json::from_slice(&json).ok()?;
    (record.agent == agent).then_some(record)
}

pub(crate) fn adopt(shared: &Shared, record: &BoundaryRecord) -> Result<Option<Boundary>, BoundaryError> {
    let failed = |what: &'static str| {
        let agent = record.agent;
        move |source| BoundaryError::Process { agent, what, source }
    };
    if procfs::boot_id().map_err(failed("find"))? != record.boot_id {
        return Ok(None);
    }
    let Some(pid) = i32::try_from(record.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(failed("open the init of")(error.into())),
    };
    // Read with the descriptor held: a pid that was given to another process meanwhile shows here.
    let same = match procfs::process_start_time(record.pid) {
        Ok(start_time) => start_time == record.start_time,
        Err(_) => false,
    };
    let found = Boundary::new(shared, record.clone(), Some(pidfd));
    Ok((same && found.is_alive()).then_some(found))
}
