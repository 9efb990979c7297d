//! A boundary that is nobody's yet: made, whole, and waiting for its configuration.
//!
//! Init reads its configuration from a pipe before it does anything else, and node keeps the other end. So a blank has
//! run nothing, and one whose node dies reads the end of the pipe and ends: no blank outlives who made it.

use super::launch::agent;
use super::{Boundary, BoundaryRecord, EXIT_RECORD, PATIENCE, blank_dir};
use crate::cgroup::Group;
use crate::children::Watch;
use crate::error::LaunchError;
use crate::zygote::{Launched, Refusal};
use crate::{Shared, UidRange, files};
use jail::laps::Laps;
use jail::spec::{Identity, Launch, LaunchFds, Limits};
use model::{AgentSpec, BoundaryId, ByteSize, Resources, VolumeId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Connections that may wait for init to accept them.
const CHANNEL_BACKLOG: i32 = 128;
/// The channel's socket, until the agent's directory has it.
pub(super) const CHANNEL: &str = "channel";

/// What a blank is made for. What is not in here can still be fitted when an agent takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// The image.
    pub image_digest: String,
    /// Size of the volume.
    pub disk: ByteSize,
    /// Memory, which the sizes of `/tmp` and `/dev/shm` follow.
    pub memory: ByteSize,
    /// Whether the scratch layer is to last, and so is synced.
    pub keep_scratch: bool,
    /// Whose the home is: uid and gid inside.
    pub owner: (u32, u32),
}

impl Shape {
    /// The shape that an agent needs.
    pub fn of(spec: &AgentSpec) -> Self {
        let Identity { uid, gid } = agent(spec).ids;
        Self {
            image_digest: spec.image_digest.clone(),
            disk: spec.resources.disk,
            memory: spec.resources.memory,
            keep_scratch: spec.keep_scratch,
            owner: (uid, gid),
        }
    }

    /// Limits to wait under; those of the agent follow.
    fn resources(&self) -> Resources {
        Resources { memory: self.memory, disk: self.disk, ..Resources::default() }
    }
}

/// A boundary that waits. Dropped, it ends, and nothing of it is left.
#[derive(Debug)]
pub struct Blank {
    pub(super) id: BoundaryId,
    pub(super) shape: Shape,
    pub(super) lease: UidRange,
    /// The limits in force.
    pub(super) resources: Resources,
    pub(super) pid: u32,
    /// None once an agent has it.
    pidfd: Option<OwnedFd>,
    pub(super) landlock_abi: u32,
    /// Where init's configuration goes.
    pub(super) config: Option<File>,
    pub(super) group: Group,
    pub(super) dir: PathBuf,
    /// Its volume's file, as long as that is no agent's.
    pub(super) volume: Option<PathBuf>,
    pub(super) laps: Laps,
    /// An agent took it: from then on nothing here is the blank's to remove.
    pub(super) taken: bool,
    _watch: Watch,
}

impl Blank {
    /// What it was made for.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The ids that its processes have.
    pub fn lease(&self) -> UidRange {
        self.lease
    }

    /// Whether its init still waits.
    pub fn is_alive(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Some(pidfd) = &self.pidfd else { return false };
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ended| ended == 0)
    }
}

impl Blank {
    /// The agent's from now on.
    pub(super) fn into_boundary(mut self, shared: &Shared, record: BoundaryRecord) -> Boundary {
        self.taken = true;
        let pidfd = self.pidfd.take();
        Boundary::new(shared, record, pidfd)
    }
}

impl Drop for Blank {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        // With the pipe closed, init would end by itself; this is for not waiting, and for what never got so far.
        self.config = None;
        if let Err(error) = self.group.clear(PATIENCE) {
            tracing::error!(%error, "cannot remove the cgroup of a blank; the next sweep will");
        }
        if let Some(pidfd) = &self.pidfd {
            collect(pidfd);
        }
        let volume = self.volume.as_deref().map_or(Ok(()), files::remove);
        for result in [files::remove_dir(&self.dir), volume] {
            if let Err(error) = result {
                tracing::error!(%error, dir = %self.dir.display(), "cannot remove the files of a blank");
            }
        }
    }
}

/// Collects an init that was killed.
fn collect(pidfd: &OwnedFd) {
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// Removes what a blank has before it has an init.
struct Undo<'a> {
    group: &'a Group,
    dir: &'a Path,
    volume: Option<&'a Path>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Err(error) = self.group.clear(PATIENCE) {
            tracing::error!(%error, "cannot remove the cgroup of a launch that failed; the next sweep will");
        }
        let volume = self.volume.map_or(Ok(()), files::remove);
        for result in [files::remove_dir(self.dir), volume] {
            if let Err(error) = result {
                tracing::error!(%error, dir = %self.dir.display(), "cannot remove files of a launch that failed");
            }
        }
    }
}

/// Makes one on a volume of its own.
pub(crate) fn prepare(shared: &Shared, shape: &Shape, lease: UidRange) -> Result<Blank, LaunchError> {
    let id = BoundaryId::new();
    let volume = shared.volumes.create_blank(id, shape.disk)?;
    make(shared, id, shape, shape.resources(), lease, &volume, true)
}

/// Makes one on the volume that its agent has already.
pub(super) fn prepare_for(shared: &Shared, spec: &AgentSpec, lease: UidRange) -> Result<Blank, LaunchError> {
    let volume = volume_of(shared, spec.volume);
    make(shared, BoundaryId::new(), &Shape::of(spec), spec.resources, lease, &volume, false)
}

pub(super) fn volume_of(shared: &Shared, volume: VolumeId) -> PathBuf {
    shared.volumes.path(volume)
}

fn make(
    shared: &Shared,
    id: BoundaryId,
    shape: &Shape,
    resources: Resources,
    lease: UidRange,
    volume: &Path,
    own_volume: bool,
) -> Result<Blank, LaunchError> {
    resources.validate()?;
    let group = Group::new(&shared.cgroups, id);
    let dir = blank_dir(&shared.config, id);
    let own = own_volume.then_some(volume);
    let mut undo = Undo { group: &group, dir: &dir, volume: own, armed: true };
    let mut laps = Laps::start();
    shared.zygote.add_image(&shape.image_digest)?;
    let mounted = shared.volumes.mount(volume)?;
    laps.lap("mount the volume");
    group.create(&resources)?;
    let cgroups = group.procs()?;
    laps.lap("cgroups");
    let exit_record = make_dir(&dir)?;
    let path = dir.join(CHANNEL);
    let channel = listen_at(&path).map_err(|source| LaunchError::Channel { path, source })?;
    let (config, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| LaunchError::Config(error.into()))?;
    let init = File::open(&shared.init.path)
        .map_err(|source| LaunchError::Files { path: shared.init.path.clone(), source })?;
    let fds = LaunchFds { init: init.into(), volume: mounted, channel, exit_record, config, cgroups };
    let request = launch_request(shared.zygote.next_request(), id, shape, lease);
    laps.lap("channel, record, pipe");
    let Launched { pid, pidfd, landlock_abi, laps: within } =
        shared.zygote.launch(request, fds.into_vec())?.map_err(refused)?;
    laps.lap("boundary");
    laps.within(within);
    undo.armed = false;
    Ok(Blank {
        id,
        shape: shape.clone(),
        lease,
        resources,
        pid,
        pidfd: Some(pidfd),
        landlock_abi,
        config: Some(ours.into()),
        dir: undo.dir.to_owned(),
        volume: own.map(Path::to_owned),
        group: undo.group.clone(),
        laps,
        taken: false,
        _watch: Watch::new(pid),
    })
}

/// The zygote's refusal in words. Not every one has an error of the kernel behind it.
fn refused(refusal: Refusal) -> LaunchError {
    let source = (refusal.errno != 0).then(|| io::Error::from_raw_os_error(refusal.errno));
    let detail = match (refusal.detail.is_empty(), &source) {
        (false, _) => refusal.detail,
        (true, Some(source)) => source.to_string(),
        (true, None) => "the zygote does not say why".to_owned(),
    };
    LaunchError::Step { step: refusal.step, detail, source }
}

fn make_dir(dir: &Path) -> Result<OwnedFd, LaunchError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LaunchError::Files { path, source }
    };
    files::directory(dir, 0o711).map_err(failed(dir))?;
    let path = dir.join(EXIT_RECORD);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    file.map(OwnedFd::from).map_err(failed(&path))
}

/// Binds a listening socket that nobody but root can reach, for its directory is root's alone.
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    listen(&socket, CHANNEL_BACKLOG)?;
    Ok(socket)
}

fn launch_request(request: u64, id: BoundaryId, shape: &Shape, lease: UidRange) -> Launch {
    let memory = shape.memory.0;
    Launch {
        request,
        boundary: id.base32(),
        base_uid: lease.base,
        image: shape.image_digest.clone(),
        keep_scratch: shape.keep_scratch,
        owner: Identity { uid: shape.owner.0, gid: shape.owner.1 },
        // Both are charged to the agent's memory: small, so that files there do not end the agent.
        tmp_bytes: (memory / 4).clamp(8 << 20, 256 << 20),
        shm_bytes: (memory / 8).clamp(4 << 20, 64 << 20),
        limits: Limits::default(),
    }
}
