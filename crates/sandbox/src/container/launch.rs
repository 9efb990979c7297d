//! Making a boundary, step by step, so that a failure at any of them leaves nothing.

use super::{Boundary, BoundaryRecord, EXIT_RECORD, PATIENCE, RECORD, adopt, agent_dir, find};
use crate::cgroup::Group;
use crate::error::LaunchError;
use crate::zygote::{Launched, Refusal};
use crate::{Shared, UidRange, children, files, procfs};
use jail::spec::{self, ExecSpec, InitConfig, Launch, LaunchFds, Limits};
use model::AgentSpec;
use model::agent::{Command, RunAs};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Connections that may wait for init to accept them.
const CHANNEL_BACKLOG: i32 = 128;

pub(crate) fn launch(
    shared: &Shared,
    spec: &AgentSpec,
    lease: UidRange,
    gid: u32,
    channel: &Path,
) -> Result<Boundary, LaunchError> {
    spec.resources.validate()?;
    let group = Group::new(&shared.cgroups, spec.id);
    if group.is_populated() {
        let alive = find(shared, spec.id).is_some_and(|record| matches!(adopt(shared, &record), Ok(Some(_))));
        if alive {
            return Err(LaunchError::AlreadyRunning { agent: spec.id });
        }
        // Processes without a record: a launch that a dying node could not finish.
        group.clear(PATIENCE)?;
    }
    match attempt(shared, spec, lease, gid, channel) {
        // It took no agent with it, and the next attempt starts another.
        Err(error) if error.is_transient() => {
            tracing::warn!(agent = %spec.id, %error, "launching once more");
            children::reap_orphans(&shared.init.digest);
            attempt(shared, spec, lease, gid, channel)
        }
        other => other,
    }
}

/// Removes what a failed launch made.
struct Undo<'a> {
    group: &'a Group,
    run: &'a Path,
    channel: &'a Path,
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
        for result in [files::remove_dir(self.run), files::remove(self.channel)] {
            if let Err(error) = result {
                tracing::error!(%error, run = %self.run.display(), "cannot remove files of a launch that failed");
            }
        }
    }
}

fn attempt(
    shared: &Shared,
    spec: &AgentSpec,
    lease: UidRange,
    gid: u32,
    channel: &Path,
) -> Result<Boundary, LaunchError> {
    shared.zygote.add_image(&spec.image_digest)?;
    let volume = shared.volumes.mount(spec.volume)?;
    let group = Group::new(&shared.cgroups, spec.id);
    let run = agent_dir(&shared.config, spec.id);
    let mut undo = Undo { group: &group, run: &run, channel, armed: true };
    group.create(&spec.resources)?;
    let cgroups = group.procs()?;
    let exit_record = make_run_dir(&run)?;
    let listener = listen_at(channel, gid)
        .map_err(|source| LaunchError::Channel { path: channel.to_owned(), source })?;
    let config = serde_json::to_vec(&init_config(spec))
        .map_err(io::Error::from)
        .and_then(|json| files::sealed("init-config", &json))
        .map_err(LaunchError::Config)?;
    let init = File::open(&shared.init.path)
        .map_err(|source| LaunchError::Files { path: shared.init.path.clone(), source })?;
    let fds = LaunchFds { init: init.into(), volume, channel: listener, exit_record, config, cgroups };
    let request = launch_request(shared.zygote.next_request(), spec, lease);
    let Launched { pid, pidfd, landlock_abi } =
        shared.zygote.launch(request, fds.into_vec())?.map_err(refused)?;
    let record = BoundaryRecord {
        agent: spec.id,
        pid,
        start_time: 0,
        boot_id: String::new(),
        base_uid: lease.base,
        init_digest: shared.init.digest.clone(),
        image_digest: spec.image_digest.clone(),
        volume: spec.volume,
        channel: channel.to_owned(),
        landlock_abi,
    };
    let mut boundary = Boundary::new(shared, record, Some(pidfd));
    if let Err(error) = write_record(&mut boundary) {
        if let Err(error) = boundary.kill() {
            tracing::error!(%error, agent = %spec.id, "cannot end a boundary that could not be recorded");
        }
        boundary.status();
        return Err(error);
    }
    undo.armed = false;
    Ok(boundary)
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

/// Completes the record with what tells this init from a later process, and writes it down.
fn write_record(boundary: &mut Boundary) -> Result<(), LaunchError> {
    boundary.record.start_time =
        procfs::process_start_time(boundary.record.pid).map_err(LaunchError::DiedAtOnce)?;
    boundary.record.boot_id = procfs::boot_id().map_err(LaunchError::DiedAtOnce)?;
    let path = boundary.run.join(RECORD);
    serde_json::to_vec(&boundary.record)
        .map_err(io::Error::from)
        .and_then(|json| files::replace(&path, &json))
        .map_err(|source| LaunchError::Files { path, source })
}

fn make_run_dir(run: &Path) -> Result<OwnedFd, LaunchError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LaunchError::Files { path, source }
    };
    // Nothing of an earlier life may be taken for this one's.
    files::remove_dir(run).map_err(failed(run))?;
    files::directory(run, 0o711).map_err(failed(run))?;
    let path = run.join(EXIT_RECORD);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.map(OwnedFd::from).map_err(failed(&path))
}

/// Binds a listening socket that the group may connect to. It listens only once its mode is right, so
/// nobody connects before that.
fn listen_at(path: &Path, gid: u32) -> io::Result<OwnedFd> {
    files::remove(path)?;
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    std::os::unix::fs::chown(path, Some(0), Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listen(&socket, CHANNEL_BACKLOG)?;
    Ok(socket)
}

fn launch_request(request: u64, spec: &AgentSpec, lease: UidRange) -> Launch {
    let memory = spec.resources.memory.0;
    Launch {
        request,
        agent: spec.id.base32(),
        hostname: spec.name.to_string(),
        base_uid: lease.base,
        image: spec.image_digest.clone(),
        keep_scratch: spec.keep_scratch,
        owner: agent(spec).ids,
        // Both are charged to the agent's memory: small, so that files there do not end the agent.
        tmp_bytes: (memory / 4).clamp(8 << 20, 256 << 20),
        shm_bytes: (memory / 8).clamp(4 << 20, 64 << 20),
        limits: Limits::default(),
    }
}

fn init_config(spec: &AgentSpec) -> InitConfig {
    InitConfig {
        hostname: spec.name.to_string(),
        env: spec.env.clone(),
        run_as: user(spec.run_as),
        agent: agent(spec),
        cwd: spec.image_config.cwd.clone(),
        main: spec.main.as_ref().map(|Command { argv, env, cwd, user: run_as }| ExecSpec {
            argv: argv.clone(),
            env: env.clone(),
            cwd: cwd.clone(),
            user: run_as.map(user),
        }),
    }
}

/// Who processes are that are not root: whom the image names, where it names one.
fn agent(spec: &AgentSpec) -> spec::Agent {
    match spec.image_config.user.as_ref().filter(|user| user.uid != 0) {
        Some(user) => spec::Agent {
            name: user.name.clone().unwrap_or_else(|| user.uid.to_string()),
            ids: spec::Identity { uid: user.uid, gid: user.gid },
        },
        None => spec::Agent::default(),
    }
}

fn user(run_as: RunAs) -> spec::User {
    match run_as {
        RunAs::Agent => spec::User::Agent,
        RunAs::Root => spec::User::Root,
    }
}
