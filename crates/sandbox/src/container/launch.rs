//! Giving a boundary to an agent. It is the same whether the boundary waited for one, or is made now.

use super::blank::{self, Blank, CHANNEL, Shape};
use super::{Boundary, BoundaryRecord, Proof, RECORD, adopt, agent_dir, find};
use crate::cgroup::Group;
use crate::error::LaunchError;
use crate::given::{Given, wiped_json};
use crate::host::namespace;
use crate::inspect::{self, Subject};
use crate::{Shared, UidRange, children, files, oci, procfs};
use jail::spec::{self, ExecSpec, FileRules, InitConfig};
use model::agent::{Command, Level, RunAs};
use model::secret::SecretValue;
use model::{AgentSpec, Driver};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;
use zeroize::{Zeroize, Zeroizing};

/// What a pipe holds without being asked to hold more (pipe(7)).
const PIPE_SIZE: usize = 65_536;

pub(crate) fn launch(
    shared: &Shared,
    spec: &AgentSpec,
    given: &Given,
    lease: UidRange,
    gid: u32,
    channel: &Path,
    ready: Option<Blank>,
) -> Result<Boundary, LaunchError> {
    spec.resources.validate()?;
    if let Some(record) = find(shared, spec.id) {
        if matches!(adopt(shared, &record), Ok(Some(_))) {
            return Err(LaunchError::AlreadyRunning { agent: spec.id });
        }
        Group::new(&shared.cgroups, record.boundary).clear(super::PATIENCE)?;
    }
    // Whose ids those of a blank are is the caller's business, and a mistake in it gives nobody another's.
    if let Some(blank) = ready.filter(|blank| blank.lease == lease) {
        match claim(shared, blank, spec, given, gid, channel) {
            // The blank is gone, and what it had; one that is made now may do better.
            Err(error) => tracing::warn!(agent = %spec.id, %error, "the blank could not be used"),
            claimed => return claimed,
        }
        shared.volumes.create(spec.volume, spec.resources.disk)?;
    }
    let attempt = || {
        let host_network = spec.level == Level::Workspace;
        let blank = match spec.driver.unwrap_or_default() {
            driver @ (Driver::Builtin | Driver::Systemd) => {
                blank::begin(shared, &spec.resources, lease, driver, None, host_network)?
            }
            runtime => oci::begin(shared, spec, lease, runtime)?,
        };
        claim(shared, blank, spec, given, gid, channel)
    };
    match attempt() {
        // It took no agent with it, and the next attempt starts another.
        Err(error) if error.is_transient() => {
            tracing::warn!(agent = %spec.id, %error, "launching once more");
            children::reap_orphans(&shared.init.digest);
            attempt()
        }
        other => other,
    }
}

/// Fits the image if it has none, the limits, the name, the volume and the channel, writes down whose it is, and lets init
/// begin. Whatever fails before that ends the blank, and nothing of it is left.
fn claim(
    shared: &Shared,
    mut blank: Blank,
    spec: &AgentSpec,
    given: &Given,
    gid: u32,
    channel: &Path,
) -> Result<Boundary, LaunchError> {
    blank.laps.skip();
    let landlock_abi = match blank.landlock_abi {
        Some(landlock_abi) => landlock_abi,
        None => blank::complete(shared, &mut blank, &Shape::of(spec), &shared.volumes.path(spec.volume))?,
    };
    let config = configuration(spec, given, blank.lease).map_err(LaunchError::Config)?;
    if blank.resources != spec.resources {
        blank.traces.group.limit(&spec.resources)?;
    }
    namespace::set_host_name(blank.pid, spec.name.as_str()).map_err(LaunchError::HostName)?;
    blank.laps.lap("limits, host name");
    if let Some(volume) = &blank.traces.volume {
        shared.volumes.take_blank(volume, spec.volume)?;
        // From here on it is the agent's, and is removed only with it.
        blank.traces.volume = None;
    }
    let record = BoundaryRecord {
        boundary: blank.id,
        agent: spec.id,
        pid: blank.pid,
        start_time: procfs::process_start_time(blank.pid).map_err(LaunchError::DiedAtOnce)?,
        boot_id: procfs::boot_id().map_err(LaunchError::DiedAtOnce)?,
        base_uid: blank.lease.base,
        init_digest: shared.init.digest.clone(),
        level: spec.level,
        image_digest: spec.image_digest.clone(),
        volume: spec.volume,
        channel: channel.to_owned(),
        landlock_abi,
        driver: spec.driver.unwrap_or_default(),
        kernel: blank.kernel.take(),
    };
    // Init waits for its configuration: nothing of the agent runs before all is seen that its level demands.
    let volume = shared.volumes.path(spec.volume);
    let proof = blank.proof.take();
    let hidden = if proof.is_none() { blank::hidden(shared, spec.level) } else { Vec::new() };
    let places = inspect::Places { volume: &volume, hidden: &hidden };
    let (subject, group) = (Subject::from(&record), &blank.traces.group);
    let proof = match proof {
        Some(Proof { evidence, at }) => {
            let evidence = inspect::inspect_fitted(subject, group, places, || blank.is_alive(), evidence);
            Proof { evidence, at }
        }
        None => {
            let at = SystemTime::now();
            Proof { evidence: inspect::inspect(subject, group, places, || blank.is_alive()), at }
        }
    };
    blank::require(spec.level, &proof.evidence)?;
    blank.laps.lap("inspect");
    let path = blank.traces.dir.join(CHANNEL);
    hand_over(&path, gid, channel)
        .map_err(|source| LaunchError::Channel { path: channel.to_owned(), source })?;
    let run = agent_dir(&shared.config, spec.id);
    let path = blank.traces.dir.join(RECORD);
    let written = serde_json::to_vec(&record)
        .map_err(io::Error::from)
        .and_then(|json| files::replace(&path, &json))
        // Nothing of an earlier life may be taken for this one's.
        .and_then(|()| files::remove_dir(&run))
        .and_then(|()| fs::rename(&blank.traces.dir, &run));
    if let Err(source) = written {
        let _ = files::remove(channel);
        return Err(LaunchError::Files { path, source });
    }
    // From here on it is found by its record, and ended as the agent's.
    blank.traces.dir = run;
    blank.laps.lap("volume, channel, record");
    if let Err(error) = begin(blank.config.take(), &config) {
        let _ = files::remove(channel);
        return Err(LaunchError::Config(error));
    }
    blank.laps.lap("configuration");
    tracing::debug!(agent = %spec.id, laps = blank.laps.to_json(), "launched");
    Ok(blank.into_boundary(shared, record, proof))
}

/// Gives the listening socket its owner, and then its place: nobody could reach it before.
fn hand_over(from: &Path, gid: u32, to: &Path) -> io::Result<()> {
    std::os::unix::fs::chown(from, Some(0), Some(gid))?;
    fs::set_permissions(from, fs::Permissions::from_mode(0o660))?;
    fs::rename(from, to)
}

/// Writes init's configuration and closes the pipe, which is when init begins.
fn begin(pipe: Option<File>, config: &[u8]) -> io::Result<()> {
    let mut pipe = pipe.ok_or(io::ErrorKind::BrokenPipe)?;
    if config.len() > PIPE_SIZE {
        // So that writing does not wait for init; where a pipe may not be that large, init takes it by and by.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, config.len());
    }
    pipe.write_all(config)
}

/// All that init is told. What of it is secret is in memory no longer than this.
fn configuration(spec: &AgentSpec, given: &Given, lease: UidRange) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut config = init_config(spec, given, lease);
    let encoded = wiped_json(&config);
    config.env.values_mut().chain(config.secrets.values_mut()).for_each(Zeroize::zeroize);
    encoded
}

fn init_config(spec: &AgentSpec, given: &Given, lease: UidRange) -> InitConfig {
    let files = (spec.level == Level::Workspace).then(FileRules::default);
    let exposed = |values: &BTreeMap<String, SecretValue>| -> BTreeMap<String, String> {
        values.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
    };
    let mut env = spec.env.clone();
    env.extend(exposed(&given.env));
    InitConfig {
        hostname: spec.name.to_string(),
        env,
        secrets: exposed(&given.files),
        authority: given.authority.clone(),
        roots: given.roots.clone(),
        run_as: user(spec.run_as),
        agent: spec::Agent { ids: ids(spec, lease.base), ..agent(spec) },
        files,
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
pub(super) fn agent(spec: &AgentSpec) -> spec::Agent {
    match spec.image_config.user.as_ref().filter(|user| user.uid != 0) {
        Some(user) => spec::Agent {
            name: user.name.clone().unwrap_or_else(|| user.uid.to_string()),
            ids: spec::Identity { uid: user.uid, gid: user.gid },
        },
        None => spec::Agent::default(),
    }
}

/// Its ids as its init counts, which are the host's where it has no user namespace.
pub(super) fn ids(spec: &AgentSpec, base: u32) -> spec::Identity {
    let spec::Identity { uid, gid } = agent(spec).ids;
    match spec.level {
        Level::Container => spec::Identity { uid, gid },
        Level::Workspace | Level::Process => spec::Identity { uid: base + uid, gid: base + gid },
    }
}

fn user(run_as: RunAs) -> spec::User {
    match run_as {
        RunAs::Agent => spec::User::Agent,
        RunAs::Root => spec::User::Root,
    }
}
