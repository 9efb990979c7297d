//! A boundary that is nobody's yet: made as far as it goes without knowing whose it will be, and waiting.
//!
//! A bare one has its process in its cgroups, its namespaces, its ids, and a volume, and waits for the zygote to name an
//! image. A whole one runs init, which reads its configuration from a pipe before it does anything else. Neither has run
//! anything of anybody, and neither outlives who made it: the one ends with the zygote, the other when node's end of the
//! pipe closes.

use super::launch::agent;
use super::{Boundary, BoundaryRecord, EXIT_RECORD, PATIENCE, Proof, blank_dir};
use crate::cgroup::Group;
use crate::children::{self, Watch};
use crate::error::LaunchError;
use crate::inspect::{self, Places, Subject};
use crate::network::{self, Doors};
use crate::oci::Made;
use crate::zygote::{Begun, Launched, Prepared, Refusal, ZygoteError};
use crate::{Shared, UidRange, apparmor, files, procfs, systemd};
use jail::laps::Laps;
use jail::oci::kernel::Seen;
use jail::spec::{Identity, Launch, PrepareFds, Root};
use model::agent::Level;
use model::evidence::{Evidence, missing};
use model::{AgentSpec, BoundaryId, ByteSize, Driver, Resources};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// Connections that may wait for init to accept them.
const CHANNEL_BACKLOG: i32 = 128;
/// A process that ends has no namespaces any more a little before it is seen to have ended.
const ENDING: Duration = Duration::from_millis(200);
/// The channel's socket, until the agent's directory has it.
pub(crate) const CHANNEL: &str = "channel";

/// What a blank is made for. What is not in here can still be fitted when an agent takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// How it is isolated.
    #[serde(default = "super::container")]
    pub level: Level,
    /// Who makes it.
    #[serde(default)]
    pub driver: Driver,
    /// The image, from [`Level::Container`] up.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// Size of the volume.
    pub disk: ByteSize,
    /// Memory, which the sizes of `/tmp` and `/dev/shm` follow.
    pub memory: ByteSize,
    /// Whether the scratch layer is to last, and so is synced.
    pub keep_scratch: bool,
    /// Whose the home is: uid and gid inside.
    pub owner: (u32, u32),
    /// At level 0 the first of the ids that all agents of an account share; those of others come with the blank.
    #[serde(default)]
    pub base_uid: Option<u32>,
}

impl Shape {
    /// The shape that an agent needs, but for ids that are there before it.
    pub fn of(spec: &AgentSpec) -> Self {
        let Identity { uid, gid } = agent(spec).ids;
        Self {
            level: spec.level,
            driver: spec.driver.unwrap_or_default(),
            image_digest: spec.image_digest.clone(),
            disk: spec.resources.disk,
            memory: spec.resources.memory,
            keep_scratch: spec.keep_scratch,
            owner: (uid, gid),
            base_uid: None,
        }
    }

    /// Limits to wait under; those of the agent follow.
    fn resources(&self) -> Resources {
        Resources { memory: self.memory, disk: self.disk, ..Resources::default() }
    }
}

/// What can be made ahead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Everything but the image, with a volume of this size.
    Bare(ByteSize),
    /// Everything.
    Whole(Shape),
}

/// A boundary that waits. Dropped, it ends, and nothing of it is left.
pub struct Blank {
    pub(super) id: BoundaryId,
    pub(super) lease: UidRange,
    /// The limits in force.
    pub(super) resources: Resources,
    pub(super) pid: u32,
    /// Nothing where somebody else than the zygote made it.
    begun: Option<Begun>,
    /// The ABI of Landlock around it, once it has an image.
    pub(super) landlock_abi: Option<u32>,
    /// The kernel that its init is under, if that is not the host's.
    pub(super) kernel: Option<Seen>,
    /// Where init's configuration goes.
    pub(super) config: Option<File>,
    pub(super) laps: Laps,
    pub(super) traces: Traces,
    /// Its volume, until it is mounted inside.
    mount: Option<OwnedFd>,
    /// Where all arrives that leaves it, if it has a network of its own.
    doors: Option<Doors>,
    /// What was seen of it once it was whole.
    pub(super) proof: Option<Proof>,
    _watch: Watch,
}

impl std::fmt::Debug for Blank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blank")
            .field("id", &self.id)
            .field("landlock_abi", &self.landlock_abi)
            .finish_non_exhaustive()
    }
}

impl Blank {
    /// The ids that its processes have.
    pub fn lease(&self) -> UidRange {
        self.lease
    }

    /// Whether its process still waits.
    pub fn is_alive(&self) -> bool {
        self.traces.lives_for(Duration::ZERO)
    }

    /// Ends it and removes all of it. Its ids are free once that is done.
    pub fn end(&mut self) -> Result<(), LaunchError> {
        self.traces.remove()
    }

    /// One that a runtime made, around an init that waits for its configuration.
    pub(crate) fn made(
        traces: Traces,
        lease: UidRange,
        resources: Resources,
        pid: u32,
        made: Made,
        config: File,
        laps: Laps,
    ) -> Self {
        Self {
            id: traces.id,
            lease,
            resources,
            pid,
            begun: None,
            landlock_abi: Some(made.landlock_abi),
            kernel: made.kernel,
            config: Some(config),
            laps,
            traces,
            mount: None,
            doors: made.doors,
            proof: None,
            _watch: Watch::new(pid),
        }
    }

    /// Looks at one that is whole as at an agent's, so that whoever takes it need not wait for that.
    pub(crate) fn prove(&mut self, shared: &Shared, shape: &Shape) -> Result<(), LaunchError> {
        let at = SystemTime::now();
        let subject = Subject {
            pid: self.pid,
            start_time: procfs::process_start_time(self.pid).map_err(LaunchError::DiedAtOnce)?,
            base_uid: self.lease.base,
            level: shape.level,
            landlock_abi: self.landlock_abi.unwrap_or_default(),
            driver: shape.driver,
            kernel: self.kernel.as_ref(),
        };
        let volume = shared.volumes.blank_path(self.id);
        let hidden = hidden(shared, shape.level);
        let places = Places { volume: &volume, hidden: &hidden };
        let evidence = inspect::inspect(subject, &self.traces.group, places, || self.is_alive());
        require(shape.level, &evidence)?;
        self.proof = Some(Proof { evidence, at });
        Ok(())
    }

    /// Whether it was looked at within this time. A clock that was set back says no.
    pub fn was_seen(&self, within: Duration) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.at.elapsed().is_ok_and(|age| age <= within))
    }

    /// What was seen longer ago than this does not count: whoever takes it looks at all of it.
    pub fn forget(&mut self, before: Duration) {
        if !self.was_seen(before) {
            self.proof = None;
        }
    }

    /// The agent's from now on.
    pub(super) fn into_boundary(mut self, shared: &Shared, record: BoundaryRecord, proof: Proof) -> Boundary {
        self.traces.kept = true;
        let pidfd = self.traces.pidfd.take();
        let mut boundary = Boundary::new(shared, record, pidfd);
        boundary.proof = Some(proof);
        boundary.doors = Mutex::new(self.doors.take());
        boundary
    }
}

/// What there is of a boundary outside of it. Dropped, its process is ended and all of it removed, unless it is an
/// agent's.
pub(crate) struct Traces {
    pub(crate) id: BoundaryId,
    pub(crate) group: Group,
    pub(crate) dir: PathBuf,
    /// Its volume's file, as long as that is no agent's.
    pub(super) volume: Option<PathBuf>,
    pub(crate) pidfd: Option<OwnedFd>,
    /// It is not ours to remove, or it is removed.
    kept: bool,
}

impl Traces {
    /// Of a boundary that is not begun.
    pub(crate) fn new(shared: &Shared, id: BoundaryId) -> Self {
        let (group, dir) = (Group::new(&shared.cgroups, id), blank_dir(&shared.config, id));
        Self { id, group, dir, volume: None, pidfd: None, kept: false }
    }

    /// Makes its cgroups, its directory and all that is in there, and returns init's descriptors and node's end of the pipe
    /// for init's configuration.
    pub(crate) fn lay_out(
        &self,
        shared: &Shared,
        resources: &Resources,
    ) -> Result<(PrepareFds<OwnedFd>, File), LaunchError> {
        self.group.create(resources)?;
        let cgroups = self.group.places()?;
        let exit_record = make_dir(&self.dir)?;
        let path = self.dir.join(CHANNEL);
        let channel = listen_at(&path).map_err(|source| LaunchError::Channel { path, source })?;
        let (config, ours) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| LaunchError::Config(error.into()))?;
        let init = File::open(&shared.init.path)
            .map_err(|source| LaunchError::Files { path: shared.init.path.clone(), source })?;
        Ok((PrepareFds { init: init.into(), channel, exit_record, config, cgroups }, ours.into()))
    }

    /// Whether its process is there, and still so after this time.
    fn lives_for(&self, time: Duration) -> bool {
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        let Some(pidfd) = &self.pidfd else { return false };
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&time)).is_ok_and(|ended| ended == 0)
    }

    fn remove(&mut self) -> Result<(), LaunchError> {
        if self.kept {
            return Ok(());
        }
        if let Some(pidfd) = &self.pidfd {
            // Its process is the first of its pid namespace: with it all others are gone.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        // What somebody whom it ends had started is this process's then.
        let started = children::open(self.group.processes());
        self.group.clear(PATIENCE)?;
        children::collect(started, PATIENCE);
        let volume = self.volume.as_deref().map_or(Ok(()), files::remove);
        let path = self.dir.clone();
        files::remove_dir(&self.dir).and(volume).map_err(|source| LaunchError::Files { path, source })?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::error!(%error, dir = %self.dir.display(), "a blank is not removed whole; the next sweep will");
        }
    }
}

/// Makes one ahead.
pub(crate) fn prepare(shared: &Shared, form: &Form, lease: UidRange) -> Result<Blank, LaunchError> {
    let (driver, disk, resources, host_network) = match form {
        Form::Bare(disk) => {
            (Driver::Builtin, *disk, Resources { disk: *disk, ..Resources::default() }, false)
        }
        Form::Whole(shape) => (shape.driver, shape.disk, shape.resources(), shape.level == Level::Workspace),
    };
    let mut blank = begin(shared, &resources, lease, driver, Some(disk), host_network)?;
    if let Form::Whole(shape) = form {
        let volume = shared.volumes.blank_path(blank.id);
        complete(shared, &mut blank, shape, &volume)?;
        blank.prove(shared, shape)?;
    }
    Ok(blank)
}

/// Begins one, with a volume of its own if there is a size for it.
pub(super) fn begin(
    shared: &Shared,
    resources: &Resources,
    lease: UidRange,
    driver: Driver,
    disk: Option<ByteSize>,
    host_network: bool,
) -> Result<Blank, LaunchError> {
    resources.validate()?;
    let id = BoundaryId::new();
    let unit = (driver == Driver::Systemd).then(|| systemd::name(id));
    let mut laps = Laps::start();
    let mut traces = Traces::new(shared, id);
    let mut mount = None;
    if let Some(disk) = disk {
        let volume = shared.volumes.create_blank(id, disk)?;
        mount = Some(shared.volumes.mount(traces.volume.insert(volume))?);
        laps.lap("make and mount a volume");
    }
    let (fds, config) = traces.lay_out(shared, resources)?;
    laps.lap("cgroups, channel, record, pipe");
    let Prepared { begun, pid, pidfd, laps: within } =
        shared.zygote.prepare(lease.base, host_network, unit.as_deref(), fds)?.map_err(refused)?;
    traces.pidfd = Some(pidfd);
    laps.lap("namespaces and ids");
    laps.within(within);
    let doors = match host_network {
        true => None,
        false => match network::own_doors(pid) {
            // It waits for the zygote, and ended with it.
            Err(_) if !traces.lives_for(ENDING) => return Err(ZygoteError::Died.into()),
            made => made?,
        },
    };
    laps.lap("steering and doors");
    Ok(Blank {
        id,
        lease,
        resources: *resources,
        pid,
        begun: Some(begun),
        landlock_abi: None,
        kernel: None,
        config: Some(config),
        laps,
        traces,
        mount,
        doors,
        proof: None,
        _watch: Watch::new(pid),
    })
}

/// Gives it its image or the machine's system, on the volume that it has mounted, or else on this one. Returns the ABI of Landlock around it.
pub(super) fn complete(
    shared: &Shared,
    blank: &mut Blank,
    shape: &Shape,
    volume: &Path,
) -> Result<u32, LaunchError> {
    let mount = blank.mount.take().map_or_else(|| shared.volumes.mount(volume), Ok)?;
    blank.laps.lap("mount the volume");
    let launch = |request| launch_request(request, shape);
    let begun = blank.begun.as_ref().ok_or(ZygoteError::Died)?;
    let Launched { landlock_abi, laps } = shared.zygote.launch(begun, launch, mount)?.map_err(refused)?;
    blank.laps.lap("image and volume");
    blank.laps.within(laps);
    blank.landlock_abi = Some(landlock_abi);
    Ok(landlock_abi)
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

/// What an agent of this level must not see of the machine's system.
pub(super) fn hidden(shared: &Shared, level: Level) -> Vec<PathBuf> {
    if level.has_image() { Vec::new() } else { shared.config.hidden() }
}

/// Nothing of an agent runs in a boundary that lacks what its level demands.
pub(super) fn require(level: Level, evidence: &[Evidence]) -> Result<(), LaunchError> {
    match missing(level, evidence) {
        lacking if lacking.is_empty() => Ok(()),
        lacking => Err(LaunchError::Unproven { level, lacking }),
    }
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

pub(crate) fn launch_request(request: u64, shape: &Shape) -> Launch {
    let memory = shape.memory.0;
    let root = match shape.level {
        // The zygote refuses what is no digest.
        Level::Container => Root::Image {
            digest: shape.image_digest.clone().unwrap_or_default(),
            keep_scratch: shape.keep_scratch,
        },
        level => Root::System { rail: level == Level::Workspace },
    };
    Launch {
        request,
        root,
        owner: Identity { uid: shape.owner.0, gid: shape.owner.1 },
        apparmor: shape.level.has_image() && *apparmor::offer() == apparmor::Offer::Loaded,
        // Both are charged to the agent's memory: small, so that files there do not end the agent.
        tmp_bytes: (memory / 4).clamp(8 << 20, 256 << 20),
        shm_bytes: (memory / 8).clamp(4 << 20, 64 << 20),
    }
}
