//! The ladder of boundaries, seen from the host: volumes, image mounts, cgroups, the zygote, and what is
//! observed of a running agent.
//!
//! This is a blocking library. It acts on what it is told and keeps no journal: the node does. Everything a
//! launch makes is either nameless (detached mounts, loop devices that clear themselves) or is found again by
//! the agent's id, so that [`Sandbox::sweep`] can remove what a dead node left behind. It never ends a
//! process but by a pidfd or by `cgroup.kill` of the agent's own cgroup, and it looks inside a volume
//! for nothing but the logs of an agent that ended.

pub mod apparmor;
mod cgroup;
mod children;
mod container;
pub mod doctor;
mod error;
mod files;
mod given;
mod host;
mod image;
mod inspect;
mod logs;
mod network;
mod oci;
mod probe;
mod procfs;
mod sweep;
mod systemd;
mod volume;
mod zygote;

#[cfg(test)]
mod tests;

pub use cgroup::{CgroupError, is_cgroup_path};
pub use container::{Blank, Boundary, BoundaryRecord, Form, Proof, Shape};
pub use error::{BoundaryError, LaunchError, StartError};
pub use given::{Given, wiped_json};
pub use image::ImageError;
pub use network::{Doors, SteerError};
pub use oci::{DIRECTORIES, RuntimeError};
pub use probe::ProbeError;
pub use systemd::{SystemdError, version as systemd_version};
pub use volume::{MINIMUM_VOLUME, VolumeError};
pub use zygote::ZygoteError;

use jail::layout::HIDDEN;
use model::{AgentId, ByteSize, VolumeId};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where things are. All directories are made when missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Runtime directory, such as `/run/cofferdam`; agents are below `agents/`.
    pub run: PathBuf,
    /// Images: `SHA256.erofs`.
    pub images: PathBuf,
    /// Volumes: `ID.ext4`, with `.trash/` and `.template/` beside them.
    pub volumes: PathBuf,
    /// Copies of the jail binary, each by the SHA-256 of its content: running agents pin theirs.
    pub init_store: PathBuf,
    /// The cgroup in each hierarchy that agents are below, as [`is_cgroup_path`] has it.
    pub cgroup: String,
    /// The `cofferdam-jail` binary.
    pub jail: PathBuf,
    /// Directories of the platform's besides those above, which no agent sees.
    pub hidden: Vec<PathBuf>,
    /// Where OCI runtimes are looked for: [`DIRECTORIES`].
    pub runtimes: Vec<PathBuf>,
}

impl Config {
    /// All that no agent sees, as it is found from the root.
    pub(crate) fn hidden(&self) -> Vec<PathBuf> {
        let own = [&self.run, &self.images, &self.volumes, &self.init_store];
        let all = own.into_iter().chain(&self.hidden).map(PathBuf::as_path).chain(HIDDEN.map(Path::new));
        all.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned())).collect()
    }

    /// The same with every other name that a mount gives it on this machine.
    pub(crate) fn hidden_names(&self) -> std::io::Result<Vec<PathBuf>> {
        let own = procfs::own_mounts()?;
        let host: Vec<_> = procfs::mounts(&own.table).collect();
        let names = |path: PathBuf| {
            let others = procfs::names(&path, &host, &host);
            [path].into_iter().chain(others)
        };
        Ok(self.hidden().into_iter().flat_map(names).collect())
    }
}

/// A range of 65,536 host uids and gids, leased to one agent while it runs, or as long as there is one that is an OS user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UidRange {
    /// The first id: root inside, where there is one.
    pub base: u32,
}

impl UidRange {
    /// Ids in every range.
    pub const COUNT: u32 = 65_536;
}

/// Makes and finds boundaries. Shared freely between threads.
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    cgroups: cgroup::Tree,
    volumes: volume::Store,
    zygote: zygote::Keeper,
    init: files::InitBinary,
}

impl Sandbox {
    /// Makes the directories and the parent cgroups, stores the init binary by its content, becomes the
    /// child subreaper and starts the zygote.
    pub fn new(config: Config) -> Result<Self, StartError> {
        container::start(config).map(|shared| Self { shared: Arc::new(shared) })
    }

    /// Makes an empty volume. Doing it again with the same size changes nothing.
    pub fn create_volume(&self, id: VolumeId, size: ByteSize) -> Result<(), VolumeError> {
        self.shared.volumes.create(id, size)
    }

    /// Makes a volume that begins as a copy of another, which nobody has, or whose boundary is frozen: blocks are shared where the
    /// filesystem can, else what is not empty is copied. The scratch layer and the log are left out. All of it is there then, or
    /// nothing; one that is there is left as it is.
    pub fn copy_volume(&self, from: VolumeId, to: VolumeId) -> Result<(), VolumeError> {
        self.shared.volumes.clone(from, to)
    }

    /// Whether the volume is there (and not in the trash).
    pub fn has_volume(&self, id: VolumeId) -> bool {
        self.shared.volumes.path(id).exists()
    }

    /// What the main process wrote that had the volume last: the newest `most` bytes. For a volume that no boundary has.
    pub fn logs(&self, id: VolumeId, most: u64) -> Result<Vec<u8>, VolumeError> {
        logs::read(&self.shared.volumes, id, most)
    }

    /// Moves a volume to the trash. One that is not there is fine: it was moved before.
    pub fn trash_volume(&self, id: VolumeId) -> Result<(), VolumeError> {
        self.shared.volumes.trash(id)
    }

    /// Deletes what has been in the trash for longer than `older_than`, each on its own, and says what it
    /// deleted and what it could not.
    pub fn empty_trash(&self, older_than: Duration) -> Vec<Result<VolumeId, VolumeError>> {
        self.shared.volumes.empty_trash(older_than)
    }

    /// Whether the image's file is in the store.
    pub fn has_image(&self, digest: &str) -> bool {
        image::path(&self.shared.config.images, digest).is_ok_and(|path| path.exists())
    }

    /// Makes the boundary of an agent and starts its init. The volume must have been created.
    ///
    /// `channel` is where the agent's channel listens: its directory must exist; the socket is made 0660
    /// `root:channel_owner_gid`. On failure nothing is left behind, and what the agent is given beside its spec is left nowhere.
    pub fn launch(
        &self,
        spec: &model::AgentSpec,
        given: &Given,
        lease: UidRange,
        channel_owner_gid: u32,
        channel: &Path,
        blank: Option<Blank>,
    ) -> Result<Boundary, LaunchError> {
        container::launch(&self.shared, spec, given, lease, channel_owner_gid, channel, blank)
    }

    /// Makes a boundary that waits for an agent. Dropping it ends it.
    pub fn prepare(&self, form: &Form, lease: UidRange) -> Result<Blank, LaunchError> {
        container::prepare(&self.shared, form, lease)
    }

    /// Looks again at a boundary that waits. What it lacks now it may have lost while nobody looked: it is to be ended then.
    pub fn look_at(&self, blank: &mut Blank, shape: &Shape) -> Result<(), LaunchError> {
        blank.prove(&self.shared, shape)
    }

    /// Takes over a boundary that an earlier process launched; `None` if its init is gone.
    pub fn adopt(&self, record: &BoundaryRecord) -> Result<Option<Boundary>, BoundaryError> {
        container::adopt(&self.shared, record)
    }

    /// A boundary whose init is gone, for [`Boundary::exit_reason`] and [`Boundary::cleanup`] alone. If it lives
    /// after all, it is taken over, and `cleanup` refuses. Whatever else is in the agent's cgroup, such as a launch
    /// that nobody finished, `cleanup` ends.
    pub fn remains(&self, record: &BoundaryRecord) -> Boundary {
        container::remains(&self.shared, record)
    }

    /// The record of the agent's last launch, as it was written beside the agent's runtime files: for a
    /// node that died between the launch and its own journal.
    pub fn find(&self, agent: AgentId) -> Option<BoundaryRecord> {
        container::find(&self.shared, agent)
    }

    /// Agents that have live processes under our cgroup, whether anybody knows them or not.
    pub fn living(&self) -> Vec<AgentId> {
        sweep::living(&self.shared)
    }

    /// Removes what is left of agents that are dead and not in `keep`: cgroups, runtime files, sockets; and
    /// half-made volumes. Says, one line each, what was removed or could not be. Living agents are never
    /// touched.
    pub fn sweep(&self, keep: &[AgentId]) -> Vec<String> {
        sweep::sweep(&self.shared, keep)
    }

    /// The zygote's process id, if it lives: for tests and status.
    pub fn zygote_pid(&self) -> Option<u32> {
        self.shared.zygote.pid()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }
}
