//! Evidence: what the kernel says of a running init. Reads `/proc` and asks namespaces who owns them; starts
//! no process, enters no namespace, resolves no path inside the agent.

use crate::cgroup::{Controller, Group};
use crate::container::BoundaryRecord;
use crate::host::namespace;
use crate::network::Found;
use crate::oci::{self, evidence::Kernel};
use crate::procfs::{self, Mount, Own};
use crate::{UidRange, apparmor, network};
use jail::layout::{AGENT_ID, HOME, INIT_CAPABILITY, MASKED, ROOT_CAPABILITIES, SAVED_GID, SYSTEM};
use jail::oci::kernel::Seen;
use model::Driver;
use model::agent::Level;
use model::evidence::{Control, Evidence, State};
use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Observed with a line on how, or missing with a line on why.
pub(crate) type Finding = Result<String, String>;

/// What a filesystem holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Disk {
    pub(crate) used: u64,
    pub(crate) size: u64,
}

/// Where things of the agent are on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Its disk.
    pub(crate) volume: &'a Path,
    /// What it must not see of the machine's system.
    pub(crate) hidden: &'a [PathBuf],
}

/// Whose boundary is looked at: an init, and what it was made with. It may be no agent's yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) base_uid: u32,
    pub(crate) level: Level,
    pub(crate) landlock_abi: u32,
    pub(crate) driver: Driver,
    pub(crate) kernel: Option<&'a Seen>,
}

impl<'a> From<&'a BoundaryRecord> for Subject<'a> {
    fn from(record: &'a BoundaryRecord) -> Self {
        let BoundaryRecord { pid, start_time, base_uid, level, landlock_abi, driver, .. } = *record;
        Self { pid, start_time, base_uid, level, landlock_abi, driver, kernel: record.kernel.as_ref() }
    }
}

/// The agent's disk. Its root is an overlay that answers with its upper layer's filesystem, the volume; without an image
/// that is mounted at the home, and what leads there is read-only. No name that the agent chose is resolved for it.
pub(crate) fn disk(subject: Subject<'_>) -> Option<Disk> {
    let home = if subject.level.has_image() { "" } else { HOME };
    let stat = rustix::fs::statvfs(format!("/proc/{}/root{home}", subject.pid)).ok()?;
    let (size, free) = (stat.f_blocks * stat.f_frsize, stat.f_bfree * stat.f_frsize);
    Some(Disk { used: size.saturating_sub(free), size })
}

/// What an agent has of its own in a boundary that was made ahead: its limits, and its disk.
const FITTED: [Control; 4] =
    [Control::MemoryLimit, Control::CpuLimit, Control::PidsLimit, Control::DiskLimit];

/// All controls of the level.
pub(crate) fn inspect(
    subject: Subject<'_>,
    group: &Group,
    places: Places<'_>,
    is_alive: impl Fn() -> bool,
) -> Vec<Evidence> {
    let besides = subject.driver.is_kernel().then_some(Control::KernelBoundary);
    let controls = Control::of(subject.level).iter().copied().chain(besides);
    unless_gone(look(subject, group, places, controls), is_alive)
}

/// The same of a boundary that was looked at when nobody had it: nothing ran in it since, and what was fitted since is looked
/// at now.
pub(crate) fn inspect_fitted(
    subject: Subject<'_>,
    group: &Group,
    places: Places<'_>,
    is_alive: impl Fn() -> bool,
    mut before: Vec<Evidence>,
) -> Vec<Evidence> {
    for found in look(subject, group, places, FITTED.into_iter()) {
        if let Some(known) = before.iter_mut().find(|known| known.control == found.control) {
            *known = found;
        }
    }
    unless_gone(before, is_alive)
}

/// Asked last: the pid named this very init the whole time, or nothing counts.
fn unless_gone(mut evidence: Vec<Evidence>, is_alive: impl Fn() -> bool) -> Vec<Evidence> {
    if !is_alive() {
        for found in &mut evidence {
            let detail = "init is gone".to_owned();
            *found = Evidence { control: found.control, state: State::Missing, detail };
        }
    }
    evidence
}

fn look(
    subject: Subject<'_>,
    group: &Group,
    places: Places<'_>,
    controls: impl Iterator<Item = Control>,
) -> Vec<Evidence> {
    let pid = subject.pid;
    let read = |file: &str| {
        procfs::read(format!("/proc/{pid}/{file}")).map_err(|error| format!("cannot read {file}: {error}"))
    };
    // Read when the first control asks for it.
    let status = LazyCell::new(|| read("status"));
    let membership = LazyCell::new(|| read("cgroup"));
    let limit =
        |controller| group.observed_limit(controller, membership.as_deref().map_err(|why| why.clone())?);
    let word = |key: &str| {
        let status = status.as_deref().map_err(|why| why.clone())?;
        procfs::status_value(status, key).map(str::to_owned).ok_or(format!("{key} is not in status"))
    };
    let table = LazyCell::new(|| read("mountinfo"));
    let mounts = LazyCell::new(|| Ok(procfs::mounts(table.as_ref()?).collect::<Vec<_>>()));
    let mounts = || mounts.as_deref().map_err(|why: &&String| (*why).clone());
    let own = || procfs::own_mounts().map_err(|error| error.to_string());
    let find_here = |control| match control {
        Control::UserNamespace => user_namespace(subject),
        Control::PidNamespace => host_owned(subject, "pid"),
        Control::MountNamespace => host_owned(subject, "mnt"),
        Control::NetworkNamespace => {
            // A kernel without IPv6 has no such table.
            let routes = [&read("net/route")?, &read("net/ipv6_route").unwrap_or_default()];
            network_namespace(subject, &read("net/dev")?, routes.map(String::as_str))
        }
        Control::IpcNamespace => host_owned(subject, "ipc"),
        Control::UtsNamespace => host_owned(subject, "uts"),
        Control::CgroupNamespace => host_owned(subject, "cgroup"),
        Control::NoNewPrivs => expect("NoNewPrivs", &word("NoNewPrivs")?, "1"),
        Control::Seccomp => seccomp(&word("Seccomp")?, word("Seccomp_filters").ok().as_deref()),
        Control::Capabilities if subject.level.has_image() => capabilities(&word("CapBnd")?),
        Control::Capabilities => no_capabilities(|key| word(key)),
        Control::RootFilesystem => root_filesystem(mounts()?, own()?.as_ref()),
        Control::MemoryLimit => limit(Controller::Memory),
        Control::CpuLimit => limit(Controller::Cpu),
        Control::PidsLimit => limit(Controller::Pids),
        Control::DiskLimit => disk_limit(subject, places.volume),
        Control::Landlock => landlock(subject.landlock_abi, kernels_landlock()),
        Control::AppArmor => apparmor::seen(pid),
        Control::KernelInterfaces => kernel_interfaces(mounts()?),
        Control::Devices => devices(mounts()?),
        Control::InitProtection if subject.level.has_image() => init_protection(&word("CapPrm")?),
        Control::InitProtection => os_user_protection(subject, &word("Gid")?),
        Control::OsUser => os_user(subject, |key| word(key)),
        Control::ReadOnlySystem => read_only_system(mounts()?, own()?.as_ref(), places.hidden),
        Control::PrivateTmp => private_tmp(mounts()?, own()?.as_ref()),
        Control::KernelBoundary => Err("the host's kernel answers its system calls".to_owned()),
    };
    let kernel = subject.driver.is_kernel().then(|| Kernel::look(subject, group));
    let find = |control| match &kernel {
        None => find_here(control),
        Some(Err(why)) => Err(why.clone()),
        Some(Ok(kernel)) if control == Control::KernelBoundary => kernel.boundary(),
        Some(Ok(kernel)) => {
            kernel.find(control, || find_here(control), own()?.as_ref()).unwrap_or_else(|| find_here(control))
        }
    };
    let unsupported = |control| kernel.is_some().then(|| oci::evidence::unsupported(control)).flatten();
    controls
        .map(|control| match find(control) {
            _ if let Some(why) = unsupported(control) => {
                Evidence { control, state: State::Unsupported, detail: why.to_owned() }
            }
            Ok(detail) => Evidence { control, state: State::Observed, detail },
            Err(detail) if is_lacked(control) => Evidence { control, state: State::Unsupported, detail },
            Err(detail) => Evidence { control, state: State::Missing, detail },
        })
        .collect()
}

/// Whether this machine cannot have it.
fn is_lacked(control: Control) -> bool {
    match control {
        Control::Landlock => kernels_landlock() == 0,
        Control::AppArmor => matches!(apparmor::offer(), apparmor::Offer::Absent(_)),
        _ => false,
    }
}

/// The same with what takes longer than the start of an agent may: the rules in its network namespace.
pub(crate) fn inspect_whole(
    subject: Subject<'_>,
    group: &Group,
    places: Places<'_>,
    is_alive: impl Fn() -> bool,
) -> Vec<Evidence> {
    // Whoever made others could do so as the host's root alone.
    let rules = network::inspect(subject.pid);
    let mut evidence = inspect(subject, group, places, is_alive);
    let network = evidence.iter_mut().find(|found| found.control == Control::NetworkNamespace);
    if let Some(found) = network.filter(|found| found.state.holds()) {
        match rules {
            Ok(said) => found.detail = format!("{}, {said}", found.detail),
            Err(detail) => *found = Evidence { state: State::Missing, detail, ..found.clone() },
        }
    }
    evidence
}

fn expect(key: &str, is: &str, wanted: &str) -> Finding {
    if is == wanted { Ok(format!("{key} {is}")) } else { Err(format!("{key} is {is}, not {wanted}")) }
}

/// What tells namespaces apart (namespaces(7)): device and inode.
pub(crate) type Identity = (u64, u64);

pub(crate) fn open_namespace(process: &str, kind: &str) -> Result<File, String> {
    File::open(format!("/proc/{process}/ns/{kind}"))
        .map_err(|error| format!("cannot open the {kind} namespace: {error}"))
}

pub(crate) fn identity(namespace: &File) -> Result<Identity, String> {
    namespace.metadata().map(|found| (found.dev(), found.ino())).map_err(|error| error.to_string())
}

/// Our own namespace, which stays the same as long as this process lives.
fn host_namespace(kind: &'static str) -> Result<Identity, String> {
    static KNOWN: Mutex<BTreeMap<&str, Identity>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(identity) = known.get(kind) {
        return Ok(*identity);
    }
    let found = identity(&open_namespace("self", kind)?)?;
    known.insert(kind, found);
    Ok(found)
}

/// The init of an agent, or the zygote: its pid, and when it started.
type Holder = (u32, u64);

/// Who was last seen in a namespace that is not the host's.
static HOLDERS: LazyLock<Mutex<HashMap<Identity, Holder>>> = LazyLock::new(Mutex::default);

/// Whether a process is the first in this namespace that the kernel still has. Numbers of namespaces that are gone are given
/// to others, so whoever is in the way is asked whether it is there.
fn holds_alone(process: Holder, namespace: Identity, kind: &str) -> bool {
    let mut holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let holder = *holders.entry(namespace).or_insert(process);
    let there = || {
        let started = procfs::process_start_time(holder.0).is_ok_and(|started| started == holder.1);
        let is = || open_namespace(&holder.0.to_string(), kind).and_then(|is| identity(&is));
        started && is().is_ok_and(|is| is == namespace)
    };
    if holder != process && there() {
        return false;
    }
    holders.insert(namespace, process);
    true
}

/// The zygote is ready: what namespaces it has, beside the host's, are nobody's but its own.
pub(crate) fn zygote_holds(pid: u32) {
    let Ok(started) = procfs::process_start_time(pid) else { return };
    for kind in ["mnt", "net", "ipc", "uts", "cgroup", "pid", "user"] {
        let is = open_namespace(&pid.to_string(), kind).and_then(|is| identity(&is));
        match (is, host_namespace(kind)) {
            (Ok(is), Ok(host)) if is != host => drop(holds_alone((pid, started), is, kind)),
            _ => {}
        }
    }
}

/// The process's namespace, when it is neither ours nor anybody else's.
fn own_namespace(subject: Subject<'_>, kind: &'static str) -> Result<(File, u64), String> {
    let namespace = open_namespace(&subject.pid.to_string(), kind)?;
    let is = identity(&namespace)?;
    if is == host_namespace(kind)? {
        return Err(format!("it is in the host's {kind} namespace"));
    }
    if !holds_alone((subject.pid, subject.start_time), is, kind) {
        return Err(format!("{kind}:[{}] is another boundary's, or the zygote's", is.1));
    }
    Ok((namespace, is.1))
}

pub(crate) fn host_owned(subject: Subject<'_>, kind: &'static str) -> Finding {
    let (namespace, inode) = own_namespace(subject, kind)?;
    let owner = namespace::owner(namespace.as_fd())
        .map_err(|error| format!("cannot tell who owns {kind}:[{inode}]: {error}"))?;
    if identity(&File::from(owner))? != host_namespace("user")? {
        return Err(format!("{kind}:[{inode}] is not owned by the host"));
    }
    Ok(format!("{kind}:[{inode}], owned by the host"))
}

fn user_namespace(subject: Subject<'_>) -> Finding {
    let (namespace, inode) = own_namespace(subject, "user")?;
    let wanted = ["0".to_owned(), subject.base_uid.to_string(), UidRange::COUNT.to_string()];
    for map in ["uid_map", "gid_map"] {
        let text = procfs::read(format!("/proc/{}/{map}", subject.pid))
            .map_err(|error| format!("cannot read {map}: {error}"))?;
        if !text.split_whitespace().eq(wanted.iter().map(String::as_str)) {
            return Err(format!("{map} is {:?}, not {:?}", text.trim(), wanted.join(" ")));
        }
    }
    let owner =
        namespace::owner_uid(namespace.as_fd()).map_err(|error| format!("cannot tell its owner: {error}"))?;
    if owner != subject.base_uid {
        // Its limits are counted per creator: they would be shared with others of the same creator.
        return Err(format!("user:[{inode}] was made by uid {owner}, not {}", subject.base_uid));
    }
    let last = subject.base_uid + (UidRange::COUNT - 1);
    Ok(format!("user:[{inode}], ids 0-65535 are {owner}-{last}, made by uid {owner}"))
}

fn network_namespace(subject: Subject<'_>, devices: &str, routes: [&str; 2]) -> Finding {
    let owned = host_owned(subject, "net")?;
    let [v4, v6] = routes;
    let routes = match network::routes(v4, v6) {
        Found::None => "no routes",
        Found::Ours => "routes: all to lo",
        Found::Foreign(what) => return Err(format!("its network namespace has {what}")),
    };
    // Two lines of heading, then `name: counters`.
    let names: Vec<&str> = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    if names == ["lo"] {
        Ok(format!("{owned}, devices: lo, {routes}"))
    } else {
        Err(format!("its network namespace has the devices {}", names.join(", ")))
    }
}

fn seccomp(mode: &str, filters: Option<&str>) -> Finding {
    if mode != "2" {
        return Err(format!("Seccomp is {mode}, not 2 (filter)"));
    }
    // Kernels before 5.9 do not count the filters.
    match filters {
        None => Ok("Seccomp 2 (filter)".to_owned()),
        Some("0") => Err("no seccomp filter is loaded".to_owned()),
        Some(count) => Ok(format!("Seccomp 2 (filter), filters: {count}")),
    }
}

fn capabilities(bounding: &str) -> Finding {
    let is = u64::from_str_radix(bounding, 16).map_err(|_| format!("CapBnd is {bounding}"))?;
    let allowed =
        ROOT_CAPABILITIES.into_iter().chain([INIT_CAPABILITY]).fold(0u64, |mask, bit| mask | 1 << bit);
    match is & !allowed {
        0 => Ok(format!("CapBnd {bounding}, {} capabilities", is.count_ones())),
        extra => Err(format!("CapBnd {bounding} holds {extra:#x} too much")),
    }
}

/// Without a user namespace a capability would be the machine's.
fn no_capabilities(word: impl Fn(&str) -> Result<String, String>) -> Finding {
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let is = word(key)?;
        if is.bytes().any(|digit| digit != b'0') {
            return Err(format!("{key} is {is}, not empty"));
        }
    }
    Ok("CapInh, CapPrm, CapEff, CapBnd and CapAmb are empty".to_owned())
}

/// Who it is to the machine: an id of its range, and nothing else.
fn os_user(subject: Subject<'_>, word: impl Fn(&str) -> Result<String, String>) -> Finding {
    if subject.base_uid < UidRange::COUNT {
        return Err(format!("its range begins at {}, among the machine's own users", subject.base_uid));
    }
    let (id, saved) = (subject.base_uid + AGENT_ID, subject.base_uid + SAVED_GID);
    // Real, effective, saved, of the file system.
    for (key, wanted) in [("Uid", vec![id; 4]), ("Gid", vec![id, id, saved, id]), ("Groups", vec![id])] {
        let is = word(key)?;
        let ids: Vec<Option<u32>> = is.split_whitespace().map(|id| id.parse().ok()).collect();
        if !ids.iter().copied().eq(wanted.iter().copied().map(Some)) {
            return Err(format!("{key} is {is:?}, not {wanted:?}"));
        }
    }
    let user = identity(&open_namespace(&subject.pid.to_string(), "user")?)?;
    if user != host_namespace("user")? {
        return Err("it is in a user namespace, in which these ids are others".to_owned());
    }
    Ok(format!("uid, gid and only group {id}, of a range that is leased"))
}

/// Mounts of an agent without an image that it may write to.
const WRITABLE: [&str; 7] = [HOME, "/tmp", "/var/tmp", "/run", "/dev/shm", "/dev/pts", "/proc"];

/// Whether a path is of the directories that an agent without an image sees of the machine.
fn is_system(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    SYSTEM.contains(&first)
}

fn read_only_system(mounts: &[Mount<'_>], own: &Own, hidden: &[PathBuf]) -> Finding {
    let mut shown = 0;
    for mount in mounts {
        let (target, kind, options) = (&*mount.target, mount.kind, mount.options);
        let read_only = has(options, "ro");
        if !has(options, "nosuid") {
            return Err(format!("setuid programs work in {target}"));
        }
        if !read_only && !WRITABLE.contains(&target) {
            return Err(format!("{target} can be written to"));
        }
        // That of the kernel is the same for all in one network namespace.
        if !own.devices.contains(mount.device) || kind == "sysfs" && read_only {
            continue;
        }
        if !is_system(target) || !read_only {
            return Err(format!("a mount of the host ({kind}) is visible at {target}"));
        }
        shown += 1;
    }
    // A later mount on the same place covers the earlier.
    let at = |target: &str| mounts.iter().rev().find(|mount| mount.target == target);
    let empty = |path: &str| {
        at(path).is_some_and(|mount| {
            mount.kind == "tmpfs" && has(mount.options, "ro") && !own.devices.contains(mount.device)
        })
    };
    if !empty("/") {
        return Err("its root is not an empty one of its own".to_owned());
    }
    let host: Vec<_> = procfs::mounts(&own.table).collect();
    let names = |path: &PathBuf| procfs::names(path, &host, mounts);
    for path in hidden.iter().filter(|path| path.is_dir()).flat_map(names) {
        if !path.to_str().is_some_and(empty) {
            return Err(format!("{} is not hidden", path.display()));
        }
    }
    if shown == 0 {
        return Err("nothing of the machine's system is there".to_owned());
    }
    Ok(format!("{shown} mounts of the machine's system, read-only and without setuid, none elsewhere"))
}

fn private_tmp(mounts: &[Mount<'_>], own: &Own) -> Finding {
    for path in ["/tmp", "/var/tmp"] {
        let mount = mounts.iter().rev().find(|mount| mount.target == path);
        if !mount.is_some_and(|mount| mount.kind == "tmpfs" && !own.devices.contains(mount.device)) {
            return Err(format!("{path} is no file system of its own"));
        }
    }
    Ok("/tmp and /var/tmp are file systems of its own".to_owned())
}

/// Device nodes that are the same for everybody, so showing the host's shows nothing.
const SHARED_NODES: [&str; 6] = ["/null", "/zero", "/full", "/random", "/urandom", "/tty"];

pub(crate) fn root_filesystem(mounts: &[Mount<'_>], own: &Own) -> Finding {
    // A later mount on the same place covers the earlier.
    let root = mounts.iter().rev().find(|mount| mount.target == "/").ok_or("it has no root mount")?;
    if root.kind != "overlay" {
        return Err(format!("its root is {}, not an overlay", root.kind));
    }
    // An overlay whose upper layer could not be used comes up read-only without a word.
    for options in [root.options, root.super_options] {
        if !has(options, "rw") {
            return Err("its root overlay is read-only".to_owned());
        }
    }
    for wanted in ["redirect_dir=on", "metacopy=on"] {
        if !has(root.super_options, wanted) {
            return Err(format!("its root overlay lacks {wanted}"));
        }
    }
    let is_node = |root: &str| SHARED_NODES.contains(&root);
    let shown = |mount: &&Mount<'_>| own.devices.contains(mount.device) && !is_node(&mount.root);
    if let Some(found) = mounts.iter().find(shown) {
        return Err(format!("a mount of the host ({}) is visible at {}", found.kind, found.target));
    }
    Ok(format!("overlay, rw, redirect_dir=on, metacopy=on; {} mounts, none of the host", mounts.len()))
}

/// The kernel tells nobody afterwards which domain a process is in. What counts is that it said yes when init's process was
/// put into one: there would be no init otherwise.
fn landlock(abi: u32, kernels: u32) -> Finding {
    match (abi, kernels) {
        (0, 0) => Err("this kernel has no Landlock".to_owned()),
        (0, kernels) => Err(format!("this kernel has ABI {kernels}, and init was started without")),
        (abi, _) => Ok(format!("ABI {abi}, put in force before init was started")),
    }
}

/// The ABI of this kernel's Landlock; 0 = none.
fn kernels_landlock() -> u32 {
    static ABI: LazyLock<u32> = LazyLock::new(jail::landlock::abi);
    *ABI
}

fn has(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

/// Names in `/proc` that this kernel has and that must be covered.
static TO_MASK: LazyLock<Vec<String>> = LazyLock::new(|| {
    let paths = MASKED.iter().map(|name| format!("/proc/{}", name.to_string_lossy()));
    paths.filter(|path| fs::exists(path).unwrap_or(true)).collect()
});

/// Whether something is an empty filesystem, or the null device of the agent's own `/dev`.
fn is_cover(mount: &Mount<'_>) -> bool {
    mount.kind == "tmpfs" && has(mount.options, "ro")
}

fn kernel_interfaces(mounts: &[Mount<'_>]) -> Finding {
    // A later mount on the same place covers the earlier.
    let at = |target: &str| mounts.iter().rev().find(|mount| mount.target == target);
    match at("/proc/sys") {
        Some(mount) if mount.kind == "proc" && has(mount.options, "ro") => {}
        _ => return Err("/proc/sys is not read-only".to_owned()),
    }
    let covered = |path: &str| at(path).is_some_and(is_cover);
    if let Some(path) = TO_MASK.iter().find(|path| !covered(path)) {
        return Err(format!("{path} is not covered"));
    }
    if let Some(mount) = mounts.iter().find(|mount| mount.kind == "sysfs" && !has(mount.options, "ro")) {
        return Err(format!("{} can be written to", mount.target));
    }
    let reaching =
        ["cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf", "efivarfs", "binfmt_misc"];
    if let Some(mount) = mounts.iter().find(|mount| reaching.contains(&mount.kind)) {
        return Err(format!("{} is mounted at {}", mount.kind, mount.target));
    }
    Ok(format!("/proc/sys and /sys are read-only, {} names in /proc are covered", TO_MASK.len()))
}

fn devices(mounts: &[Mount<'_>]) -> Finding {
    let dev = mounts.iter().rev().find(|mount| mount.target == "/dev").ok_or("nothing is mounted at /dev")?;
    let wanted = ["ro", "nosuid", "noexec"];
    if dev.kind != "tmpfs" || !wanted.iter().all(|option| has(dev.options, option)) {
        return Err(format!("/dev is {} with the options {}", dev.kind, dev.options));
    }
    // OCI runtimes say no more of what covers names in /proc than that it is read-only; nobody could make a node there.
    let covers = |mount: &Mount<'_>| is_cover(mount) && TO_MASK.iter().any(|path| *path == mount.target);
    let with_devices = mounts.iter().filter(|mount| !has(mount.options, "nodev") && !covers(mount));
    for mount in with_devices {
        if !(mount.target == "/dev" || mount.kind == "devpts") {
            return Err(format!("devices work in {}", mount.target));
        }
    }
    Ok("/dev is a read-only tmpfs of its own; devices work nowhere else".to_owned())
}

/// Nobody may trace, read or limit a process that has a capability more (ptrace(2), prlimit(2)).
fn init_protection(permitted: &str) -> Finding {
    let is = u64::from_str_radix(permitted, 16).map_err(|_| format!("CapPrm is {permitted}"))?;
    match is >> INIT_CAPABILITY & 1 {
        1 => Ok(format!("CapPrm {permitted}: a capability that no process of the agent has")),
        _ => Err(format!("CapPrm {permitted} lacks what keeps others away")),
    }
}

/// Nobody may trace or read a process that is not dumpable, whose files in /proc are root's (proc(5)), nor limit one that has
/// another saved gid (prlimit(2)).
fn os_user_protection(subject: Subject<'_>, gids: &str) -> Finding {
    let (gid, saved) = (subject.base_uid + AGENT_ID, subject.base_uid + SAVED_GID);
    if gids.split_whitespace().nth(2) != Some(&saved.to_string()) {
        return Err(format!("Gid is {gids:?}: its saved one is not {saved}"));
    }
    let owner =
        fs::metadata(format!("/proc/{}/environ", subject.pid)).map_err(|error| error.to_string())?.uid();
    match owner {
        0 => Ok(format!("not dumpable; saved gid {saved}, the agent's processes have {gid}")),
        owner => Err(format!("its memory can be read by uid {owner}")),
    }
}

fn disk_limit(subject: Subject<'_>, volume: &Path) -> Finding {
    let disk = disk(subject).ok_or("cannot read the size of its disk")?;
    let file = fs::metadata(volume).map_err(|error| format!("cannot read its volume: {error}"))?.len();
    // ext4's own structures make it a little smaller than its file; the host's disk would be another size.
    match disk.size {
        0 => Err("its disk has no size".to_owned()),
        size if size > file || size < file / 2 => {
            Err(format!("its disk has {size} bytes, its volume {file}"))
        }
        size => Ok(format!("a volume of {file} bytes, of which {size} are for files")),
    }
}
