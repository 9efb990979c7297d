//! One boundary's control group: a directory of its name in each hierarchy.

use super::{CgroupError, Controller, Tree, events};
use crate::procfs;
use model::{BoundaryId, Resources};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel's own default period of the processor quota, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// How often an emptied group is emptied again.
const ROUNDS: usize = 16;

/// A boundary's directories. Dropping it removes nothing.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    tree: Tree,
    boundary: BoundaryId,
}

/// What a group uses and may use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_usec: u64,
    pub(crate) memory: u64,
    pub(crate) memory_limit: u64,
    pub(crate) pids: u64,
    pub(crate) pids_limit: u64,
}

impl Group {
    pub(crate) fn new(tree: &Tree, boundary: BoundaryId) -> Self {
        Self { tree: tree.clone(), boundary }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let name = self.boundary.base32();
        self.tree.parents().into_iter().map(|parent| parent.join(&name)).collect()
    }

    /// Those that we do not use, and that are there when an OCI runtime made them.
    fn others(&self) -> Vec<PathBuf> {
        let name = self.boundary.base32();
        self.tree.others().into_iter().map(|parent| parent.join(&name)).collect()
    }

    /// The v2 directory.
    pub(crate) fn unified(&self) -> Option<PathBuf> {
        self.tree.unified().map(|parent| parent.join(self.boundary.base32()))
    }

    fn controller(&self, controller: Controller) -> Result<(PathBuf, bool), CgroupError> {
        let (parent, v2) = self
            .tree
            .for_controller(controller)
            .ok_or(CgroupError::Missing { controller: controller.name() })?;
        Ok((parent.join(self.boundary.base32()), v2))
    }

    /// Makes the directories anew, so that no counter and no freeze of an earlier life is left in them.
    pub(crate) fn create(&self, resources: &Resources) -> Result<(), CgroupError> {
        self.remove()?;
        for dir in self.dirs() {
            fs::create_dir(&dir).map_err(CgroupError::file("make the cgroup", &dir))?;
        }
        self.limit(resources)
    }

    /// Sets the limits.
    pub(crate) fn limit(&self, resources: &Resources) -> Result<(), CgroupError> {
        let memory = resources.memory.0;
        let (dir, v2) = self.controller(Controller::Memory)?;
        if v2 {
            put(&dir, "memory.max", memory)?;
            put_if_there(&dir, "memory.swap.max", 0)?;
        } else {
            // Memory and swap together, so that swap adds nothing. It may at no time be less than memory alone.
            let with_swap = || put_if_there(&dir, "memory.memsw.limit_in_bytes", memory);
            let grows = get(&dir, "memory.limit_in_bytes").is_some_and(|now| memory > now);
            if grows {
                with_swap()?;
            }
            put(&dir, "memory.limit_in_bytes", memory)?;
            if !grows {
                with_swap()?;
            }
            put(&dir, "memory.kmem.tcp.limit_in_bytes", tcp_limit(memory))?;
        }
        let quota = ((resources.cpus * CPU_PERIOD as f64) as u64).max(1000);
        let (dir, v2) = self.controller(Controller::Cpu)?;
        if v2 {
            put(&dir, "cpu.max", format_args!("{quota} {CPU_PERIOD}"))?;
        } else {
            // The period is the kernel's own, and setting it costs as much as setting the quota.
            if get(&dir, "cpu.cfs_period_us") != Some(CPU_PERIOD) {
                put(&dir, "cpu.cfs_period_us", CPU_PERIOD)?;
            }
            put(&dir, "cpu.cfs_quota_us", quota)?;
        }
        let (dir, _) = self.controller(Controller::Pids)?;
        put(&dir, "pids.max", resources.pids)
    }

    /// What a process of one thread joins every directory by, with a `0` that it writes.
    ///
    /// Of v1 it is `tasks`: whoever moves a process, and not only the thread that it is, waits for milliseconds until no
    /// other process of the machine forks, and has the others that move processes wait for it.
    pub(crate) fn procs(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let unified = self.unified();
        let name = |dir: &PathBuf| if Some(dir) == unified.as_ref() { "cgroup.procs" } else { "tasks" };
        self.ways_in().map(|dir| open(&dir.join(name(&dir)), OFlags::WRONLY)).collect()
    }

    /// The same for one that does not exist yet: instead of a file of v2 the directory, which a process can be cloned into.
    pub(crate) fn places(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let unified = self.unified();
        let place = |dir: PathBuf| match Some(&dir) == unified.as_ref() {
            true => open(&dir, OFlags::PATH | OFlags::DIRECTORY),
            false => open(&dir.join("tasks"), OFlags::WRONLY),
        };
        self.ways_in().map(place).collect()
    }

    fn ways_in(&self) -> impl Iterator<Item = PathBuf> {
        // Whoever joins is not to be told from what is in it already.
        self.dirs().into_iter().chain(self.others().into_iter().filter(|dir| dir.exists()))
    }

    /// The processes in it, by a hierarchy that all of them are in.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let procs = self.dirs().first().and_then(|dir| text(dir, "cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Moves a process in.
    pub(crate) fn join(&self, pid: u32) -> Result<(), CgroupError> {
        self.dirs().iter().try_for_each(|dir| put(dir, "cgroup.procs", pid))
    }

    /// Whether any process lives in it.
    pub(crate) fn is_populated(&self) -> bool {
        self.dirs().iter().any(|dir| is_populated(dir))
    }

    /// Freezes or thaws everything in it and waits until that is so. `None` where there is no v2.
    pub(crate) fn freeze(&self, frozen: bool, limit: Duration) -> Option<Result<(), CgroupError>> {
        let dir = self.unified()?;
        let value = u8::from(frozen);
        Some(put(&dir, "cgroup.freeze", value).and_then(|()| events::wait(&dir, "frozen", value, limit)))
    }

    /// Whether it is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        self.unified()
            .and_then(|dir| get_keyed(&dir, "cgroup.events", "frozen"))
            .is_some_and(|frozen| frozen == 1)
    }

    /// Kills everything in it, frozen or not, and waits until it is empty. `None` where there is no v2.
    pub(crate) fn kill(&self, limit: Duration) -> Option<Result<(), CgroupError>> {
        let dir = self.unified()?;
        Some(match put(&dir, "cgroup.kill", 1) {
            Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => events::wait(&dir, "populated", 0, limit),
        })
    }

    /// Processes that the kernel ended in it for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Ok((dir, v2)) = self.controller(Controller::Memory) else { return 0 };
        let file = if v2 { "memory.events" } else { "memory.oom_control" };
        get_keyed(&dir, file, "oom_kill").unwrap_or(0)
    }

    /// What it uses. What cannot be read counts as nothing: the group may just be going.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        if let Ok((dir, v2)) = self.controller(Controller::Memory) {
            let (current, limit) = match v2 {
                true => ("memory.current", "memory.max"),
                false => ("memory.usage_in_bytes", "memory.limit_in_bytes"),
            };
            usage.memory = get(&dir, current).unwrap_or(0);
            usage.memory_limit = get(&dir, limit).unwrap_or(0);
        }
        if let Ok((dir, _)) = self.controller(Controller::Pids) {
            usage.pids = get(&dir, "pids.current").unwrap_or(0);
            usage.pids_limit = get(&dir, "pids.max").unwrap_or(0);
        }
        // Every v2 group counts processor time, even where the controller is in v1.
        usage.cpu_usec = match self.unified() {
            Some(dir) => get_keyed(&dir, "cpu.stat", "usage_usec").unwrap_or(0),
            None => self
                .controller(Controller::Cpu)
                .ok()
                .and_then(|(dir, _)| get(&dir, "cpuacct.usage"))
                .map_or(0, |nanoseconds| nanoseconds / 1000),
        };
        usage
    }

    /// Removes the directories. Fails on the first that has live processes; one that is gone is fine.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        // What is used comes last: as long as it is there, a sweep finds what else is left by it.
        for dir in self.others().into_iter().chain(self.dirs()) {
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CgroupError::file("remove the cgroup", &dir)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills what is in it and removes the directories, also when a process that a dead zygote had begun joins
    /// in between.
    pub(crate) fn clear(&self, limit: Duration) -> Result<(), CgroupError> {
        // Each round ends at least one such process, and there are no more than attempts to launch.
        for _ in 0..ROUNDS {
            let Some(killed) = self.kill(limit) else { break };
            killed?;
            match self.remove() {
                Err(CgroupError::File { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
                other => return other,
            }
        }
        self.remove()
    }

    /// What the limits of a controller say, in one line, for a process that is a member: `None` when the
    /// process is elsewhere or the controller limits nothing. `membership` is its `/proc/PID/cgroup`.
    pub(crate) fn observed_limit(&self, controller: Controller, membership: &str) -> Result<String, String> {
        let name = controller.name();
        let (hierarchy, v2) = self.tree.layout.home(controller).ok_or(format!("no {name} controller"))?;
        let expected = self.tree.shown(hierarchy, &self.boundary.base32());
        let is = membership_of(membership, name, v2).ok_or(format!("not in any {name} cgroup"))?;
        if is != expected {
            return Err(format!("init is in the {name} cgroup {is}, not in {expected}"));
        }
        let (dir, _) = self.controller(controller).map_err(|error| error.to_string())?;
        let read = |file: &str| text(&dir, file).ok_or(format!("cannot read {file}"));
        let number = |file: &str| {
            let text = read(file)?;
            text.parse::<u64>().map_err(|_| format!("{file} is {text}: no limit"))
        };
        match (controller, v2) {
            (Controller::Memory, true) => {
                let limit = number("memory.max")?;
                // The v2 controller counts socket buffers unless the kernel was told not to.
                let swap = text(&dir, "memory.swap.max").unwrap_or_else(|| "absent".into());
                Ok(format!("memory.max {limit}, memory.swap.max {swap}, socket buffers counted"))
            }
            (Controller::Memory, false) => {
                let limit = number("memory.limit_in_bytes")?;
                let tcp = number("memory.kmem.tcp.limit_in_bytes")?;
                if limit >= 1 << 62 || tcp >= 1 << 62 {
                    return Err(format!("memory {limit}, TCP buffers {tcp}: no limit"));
                }
                Ok(format!("memory.limit_in_bytes {limit}, memory.kmem.tcp.limit_in_bytes {tcp}"))
            }
            (Controller::Cpu, true) => {
                let limit = read("cpu.max")?;
                if limit.starts_with("max") {
                    Err(format!("cpu.max {limit}"))
                } else {
                    Ok(format!("cpu.max {limit}"))
                }
            }
            (Controller::Cpu, false) => {
                let quota = number("cpu.cfs_quota_us")?;
                Ok(format!("cpu.cfs_quota_us {quota} of {}", number("cpu.cfs_period_us")?))
            }
            (Controller::Pids, _) => Ok(format!("pids.max {}", number("pids.max")?)),
        }
    }
}

/// TCP buffers are not in the v1 memory limit, so they get one of their own: an eighth, within 4 to 256 MiB.
fn tcp_limit(memory: u64) -> u64 {
    (memory / 8).clamp(4 << 20, 256 << 20)
}

/// Whether processes live in a directory of either version.
pub(crate) fn is_populated(dir: &Path) -> bool {
    if dir.join("cgroup.events").exists() {
        return events::is_populated(dir);
    }
    fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|procs| !procs.trim().is_empty())
}

/// The path of a hierarchy's line in `/proc/PID/cgroup` (cgroups(7)).
pub(crate) fn membership_of<'a>(table: &'a str, controller: &str, v2: bool) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match v2 {
            true => id == "0" && controllers.is_empty(),
            false => controllers.split(',').any(|found| found == controller),
        };
        matches.then_some(path)
    })
}

/// The number behind a key in a file of `key value` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| CgroupError::file("open", path)(error.into()))
}

fn text(dir: &Path, file: &str) -> Option<String> {
    procfs::read(dir.join(file)).ok().map(|text| text.trim().to_owned())
}

fn get(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file)?.parse().ok()
}

fn get_keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    keyed(&text(dir, file)?, key)
}

/// Writes with one call and without creating: a missing file is a missing feature.
fn put(dir: &Path, file: &str, value: impl std::fmt::Display) -> Result<(), CgroupError> {
    let path = dir.join(file);
    let write = |mut file: File| io::Write::write_all(&mut file, value.to_string().as_bytes());
    OpenOptions::new().write(true).open(&path).and_then(write).map_err(CgroupError::file("write", &path))
}

fn put_if_there(dir: &Path, file: &str, value: u64) -> Result<(), CgroupError> {
    match put(dir, file, value) {
        Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
