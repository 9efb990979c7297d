//! What this host can enforce, found out by trying it small, with the remedy for each gap.
//!
//! Everything that is made for a try is nameless or removed again: a namespace, a 64 MiB sparse filesystem, a
//! tiny image, an empty cgroup. Version strings are not believed.

use crate::cgroup::{Controller, Layout, is_delegated};
use crate::host::loop_device::{self, Access};
use crate::host::{mount, namespace};
use crate::{Config, apparmor, image};
use jail::sys::mount::Change;
use model::Driver;
use model::agent::Level;
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether a level can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Without it there is no boundary of this level.
    Required,
    /// It adds something, or a later part needs it.
    Optional,
}

/// One thing that a level is made of, as this host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The level it is for.
    pub level: u8,
    /// What it is.
    pub control: String,
    /// Whether the level can do without.
    pub need: Need,
    /// Whether it is here and works.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What to type or to change, if it does not work.
    pub remedy: Option<String>,
}

/// Whether boundaries of a level can be made here.
pub fn passes(checks: &[Check], level: u8) -> bool {
    checks.iter().all(|check| check.ok || check.level > level || check.need == Need::Optional)
}

/// Whether there is something to verify servers by: the certificates of authorities, in a file.
pub fn certificates(path: &Path) -> Check {
    let seen = fs::read_to_string(path).map(|text| text.matches("-----BEGIN CERTIFICATE-----").count());
    let (detail, remedy) = match seen {
        Ok(count @ 1..) => (format!("{count} in {}", path.display()), None),
        Ok(_) => (format!("none in {}", path.display()), Some("set egress.roots in node.toml")),
        Err(error) => (
            format!("{}: {error}", path.display()),
            Some(
                "for policies that look into TLS or put credentials into requests: apt install ca-certificates",
            ),
        ),
    };
    let (control, need) = ("certificates of authorities".to_owned(), Need::Optional);
    Check { level: 1, control, need, ok: remedy.is_none(), detail, remedy: remedy.map(str::to_owned) }
}

/// The levels of which boundaries can be made here.
pub fn levels(config: &Config) -> Vec<Level> {
    let mut checks = checks(config);
    // It is tried where temporary files are, which may be no place for one; volumes always are.
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let overlay = known.split_whitespace().any(|kind| kind == "overlay");
    checks.retain(|check| !(overlay && check.control == OVERLAY));
    Level::ALL.into_iter().filter(|level| passes(&checks, level.number())).collect()
}

/// What was seen, or what was seen and what helps.
type Seen = Result<String, (String, String)>;

const TOOLS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Any range will do for a try; it lies beyond what distributions hand out.
const TRY_BASE: u32 = 0x6FFF_0000;

const OVERLAY: &str = "overlayfs";

const NEWER_KERNEL: &str = "run a kernel of 6.1 or newer (Debian 12 and later)";

/// Tries everything. Takes a fraction of a second.
pub fn checks(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |level, need, control: &str, seen: Seen| {
        let (ok, detail, remedy) = match seen {
            Ok(detail) => (true, detail, None),
            Err((detail, remedy)) => (false, detail, Some(remedy)),
        };
        checks.push(Check { level, control: control.to_owned(), need, ok, detail, remedy });
    };
    let root = rustix::process::geteuid().is_root();
    let as_root = |seen: &dyn Fn() -> Seen| match root {
        true => seen(),
        false => {
            Err(("not tried without root".to_owned(), "run it as root: sudo cofferdam doctor".to_owned()))
        }
    };
    add(0, Need::Required, "root", as_root(&|| Ok("running as root".to_owned())));
    add(0, Need::Required, "kernel", kernel());
    add(0, Need::Required, "namespaces", namespaces());
    let user = as_root(&user_namespace);
    add(0, Need::Required, "user namespace", user);
    add(0, Need::Required, "mkfs.ext4", tool_there("mkfs.ext4", "e2fsprogs"));
    add(2, Need::Optional, "mmdebstrap", tool_there("mmdebstrap", "mmdebstrap"));
    add(0, Need::Required, "jail binary", jail_binary(&config.jail));
    let workshop = Workshop::new();
    let workshop = |seen: &dyn Fn(&Path) -> Seen| match &workshop {
        Ok(workshop) => as_root(&|| seen(&workshop.0)),
        Err(error) => {
            Err((format!("cannot make a directory for trying: {error}"), "free space in /tmp".to_owned()))
        }
    };
    add(0, Need::Required, "read-only system", as_root(&system));
    add(0, Need::Required, "volumes (loop, ext4, idmapped)", workshop(&volume));
    add(2, Need::Required, "images (EROFS, idmapped)", workshop(&erofs));
    add(2, Need::Required, OVERLAY, workshop(&overlay));
    add(0, Need::Required, "seccomp", seccomp());
    add(0, Need::Optional, "Landlock", landlock());
    let layout = Layout::detect();
    for controller in Controller::ALL {
        let seen = match &layout {
            Ok(layout) => as_root(&|| cgroup_controller(layout, controller, &config.cgroup)),
            Err(error) => Err((error.to_string(), "mount /proc".to_owned())),
        };
        add(0, Need::Required, &format!("cgroup {}", controller.name()), seen);
    }
    if let Ok(layout) = &layout {
        add(0, Need::Required, "pause and kill (cgroup v2)", as_root(&|| freezer(layout)));
    }
    let systemd = crate::systemd::version().map(|version| format!("systemd {version}, asked on D-Bus"));
    let without = "nothing needs it: level 1 is then made without it, with the same controls".to_owned();
    let systemd = systemd.map_err(|error| (error.to_string(), without));
    add(1, Need::Optional, "systemd (transient units)", systemd);
    let is_runtime = |driver: &Driver| *driver != Driver::Builtin && driver.makes(Level::Container);
    for driver in Driver::ALL.into_iter().filter(is_runtime) {
        let seen = crate::oci::find(driver, &config.runtimes);
        let seen = seen.map(|(_, path)| path.display().to_string());
        let remedy = format!("only for `driver = \"{driver}\"`: apt install {driver}");
        add(
            2,
            Need::Optional,
            &format!("OCI runtime {driver}"),
            seen.map_err(|error| (error.to_string(), remedy)),
        );
    }
    let (need, seen) = apparmor();
    add(2, need, "AppArmor", seen);
    add(1, Need::Required, "way to the gate (nf_tables, TPROXY)", as_root(&steering));
    add(0, Need::Optional, "disk space", disk_space(&config.volumes));
    add(3, Need::Required, "KVM", kvm());
    checks
}

fn gap<T>(detail: impl Into<String>, remedy: impl Into<String>) -> Result<T, (String, String)> {
    Err((detail.into(), remedy.into()))
}

/// A directory for tries that is gone again afterwards.
struct Workshop(PathBuf);

impl Workshop {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("cofferdam-doctor-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map(|()| Self(path))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kernel() -> Seen {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // The only version that is looked at: below it idmapped overlay layers are known to be missing, and the
    // tries below cannot show every trap.
    if version < (5, 19) {
        return gap(format!("Linux {release}"), NEWER_KERNEL);
    }
    Ok(format!("Linux {release}"))
}

fn namespaces() -> Seen {
    let missing: Vec<&str> = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    match missing.is_empty() {
        true => Ok("user, pid, mnt, net, ipc, uts, cgroup".to_owned()),
        false => gap(format!("the kernel lacks {}", missing.join(", ")), NEWER_KERNEL),
    }
}

fn user_namespace() -> Seen {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match namespace::make_user_namespace(TRY_BASE) {
        Ok(_) => Ok("made one, with a range of 65536 ids".to_owned()),
        Err(error) if limit.trim() == "0" => {
            gap(format!("cannot make one: {error}"), "sysctl -w user.max_user_namespaces=15000")
        }
        Err(error) => gap(format!("cannot make one: {error}"), NEWER_KERNEL),
    }
}

/// Where a tool is.
fn tool(name: &str) -> Option<PathBuf> {
    TOOLS.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// What agents without an image see of this machine.
fn system() -> Seen {
    let copy = || {
        let root = jail::sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
        let copy = jail::sys::mount::copy_tree(root.as_fd(), c"usr", true)?;
        let set = jail::sys::mount::PLAIN | jail::sys::mount::MOUNT_ATTR_RDONLY;
        let read_only = Change { set, private: true, recursive: true, ..Change::default() };
        jail::sys::mount::change(copy.as_fd(), read_only)
    };
    match copy() {
        Ok(()) => Ok("a read-only copy of this machine's /usr can be mounted, without setuid".to_owned()),
        Err(error) => gap(format!("cannot mount /usr again read-only: {error}"), NEWER_KERNEL),
    }
}

fn tool_there(name: &str, package: &str) -> Seen {
    match tool(name) {
        Some(path) => Ok(path.display().to_string()),
        None => gap(format!("{name} is not installed"), format!("apt-get install {package}")),
    }
}

fn jail_binary(path: &Path) -> Seen {
    let remedy = "install cofferdam-jail beside cofferdam (`cargo xtask build` makes both), or name it as `jail` in node.toml";
    let shown = path.display();
    match fs::read(path) {
        Ok(program) => match interpreter_wanted(&program) {
            Some(false) => Ok(shown.to_string()),
            Some(true) => gap(format!("{shown} is linked dynamically, and runs in no image"), remedy),
            None => gap(format!("{shown} is no 64-bit ELF program"), remedy),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => gap(format!("{shown} is missing"), remedy),
        Err(error) => gap(format!("cannot read {shown}: {error}"), remedy),
    }
}

/// Whether a 64-bit little-endian ELF file asks for a dynamic linker (has a `PT_INTERP` segment): elf(5). `None` when
/// it is no such file.
fn interpreter_wanted(file: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?));
    // Magic, ELFCLASS64, ELFDATA2LSB.
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, size, count) = (usize::try_from(u64_at(0x20)?).ok()?, u16_at(0x36)?, u16_at(0x38)?);
    for index in 0..usize::from(count) {
        if u32_at(start.checked_add(index * usize::from(size))?)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn run(program: &str, package: &str, args: &[&std::ffi::OsStr]) -> Result<(), (String, String)> {
    let remedy = || format!("apt-get install {package}");
    let Some(path) = tool(program) else { return gap(format!("{program} is not installed"), remedy()) };
    match Command::new(path).args(args).env_clear().env("PATH", TOOLS).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => gap(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()), remedy()),
        Err(error) => gap(format!("{program}: {error}"), remedy()),
    }
}

/// A 64 MiB volume, mounted at no place.
fn try_volume(dir: &Path) -> Result<OwnedFd, (String, String)> {
    let path = dir.join("volume.ext4");
    let file = File::create_new(&path)
        .and_then(|_| OpenOptions::new().read(true).write(true).open(&path))
        .and_then(|file| file.set_len(crate::MINIMUM_VOLUME.0).map(|()| file))
        .map_err(|error| {
            (format!("cannot write {}: {error}", path.display()), "free space in /tmp".to_owned())
        })?;
    let flags = ["-q", "-F", "-O", "encrypt", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
    let mut args: Vec<&std::ffi::OsStr> = flags.iter().map(std::ffi::OsStr::new).collect();
    args.push(path.as_os_str());
    run("mkfs.ext4", "e2fsprogs", &args)?;
    let device = loop_device::attach(file.as_fd(), Access::ReadWrite).map_err(|error| {
        (
            format!("cannot attach a loop device: {error}"),
            "modprobe loop; in a container, pass /dev/loop-control".into(),
        )
    })?;
    let source = format!("/proc/self/fd/{}", device.fd().as_raw_fd());
    mount::detached("ext4", &source, &[("noinit_itable", "")], MountAttrFlags::MOUNT_ATTR_NODEV)
        .map_err(|error| (format!("{error}: {}", error.source), "modprobe ext4".to_owned()))
}

fn try_idmap(mount: &OwnedFd, what: &str) -> Result<(), (String, String)> {
    let user = namespace::make_user_namespace(TRY_BASE)
        .map_err(|error| (format!("no user namespace to map to: {error}"), NEWER_KERNEL.to_owned()))?;
    mount::idmap(mount.as_fd(), user.as_fd())
        .map_err(|error| (format!("{what} mounts cannot be idmapped: {error}"), NEWER_KERNEL.to_owned()))
}

fn volume(dir: &Path) -> Seen {
    let mount = try_volume(dir)?;
    try_idmap(&mount, "ext4")?;
    Ok("mounted a 64 MiB ext4 over a loop device, idmapped".to_owned())
}

fn erofs(dir: &Path) -> Seen {
    let path = dir.join("image.erofs");
    fs::write(&path, empty_image()).map_err(|error| {
        (format!("cannot write {}: {error}", path.display()), "free space in /tmp".to_owned())
    })?;
    let remedy = || "modprobe erofs, or run a kernel with CONFIG_EROFS_FS".to_owned();
    let file = File::open(&path).map_err(|error| (error.to_string(), remedy()))?;
    let (mount, how) = image::mount_file(&file, "try").map_err(|error| (format!("{error}"), remedy()))?;
    try_idmap(&mount, "EROFS")?;
    Ok(format!("mounted an EROFS image, idmapped, {how}"))
}

/// An EROFS image of one block, with nothing in it but its root: the superblock, a short inode, and behind that the
/// directory's two entries. After fs/erofs/erofs_fs.h of Linux.
fn empty_image() -> Vec<u8> {
    const SUPERBLOCK: usize = 1024;
    /// Inodes are numbered by their place, in units of 32 bytes: this one follows the superblock.
    const ROOT: u8 = 36;
    const DIRECTORY: u8 = 2;
    let mut image = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(SUPERBLOCK, &0xE0F5_E1E2_u32.to_le_bytes());
    // Blocks of 2^12 bytes; where the root is; how many inodes and blocks there are.
    put(SUPERBLOCK + 12, &[12, 0, ROOT, 0]);
    put(SUPERBLOCK + 16, &1_u64.to_le_bytes());
    put(SUPERBLOCK + 36, &1_u32.to_le_bytes());
    let inode = usize::from(ROOT) * 32;
    // Its data follow it (layout 2); a directory, 0755; two links; 27 bytes.
    put(inode, &[2 << 1, 0, 0, 0]);
    put(inode + 4, &0o040_755_u16.to_le_bytes());
    put(inode + 6, &2_u16.to_le_bytes());
    put(inode + 8, &27_u32.to_le_bytes());
    put(inode + 20, &1_u32.to_le_bytes());
    put(inode + 32, &[ROOT, 0, 0, 0, 0, 0, 0, 0, 24, 0, DIRECTORY, 0]);
    put(inode + 44, &[ROOT, 0, 0, 0, 0, 0, 0, 0, 25, 0, DIRECTORY, 0]);
    put(inode + 56, b"...");
    image
}

fn overlay(dir: &Path) -> Seen {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| dir.join("overlay").join(name));
    for path in [&lower, &upper, &work] {
        fs::create_dir_all(path).map_err(|error| (error.to_string(), "free space in /tmp".to_owned()))?;
    }
    let text = |path: &Path| path.display().to_string();
    let (lower, upper, work) = (text(&lower), text(&upper), text(&work));
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", upper.as_str()),
        ("workdir", work.as_str()),
        ("redirect_dir", "on"),
        ("metacopy", "on"),
    ];
    let mount =
        mount::detached("overlay", "overlay", &options, MountAttrFlags::empty()).map_err(|error| {
            let remedy =
                "modprobe overlay; if /tmp is itself an overlay, set TMPDIR to a directory on a disk";
            (format!("{error}: {}", error.source), remedy.to_owned())
        })?;
    match rustix::fs::fstatvfs(&mount) {
        Ok(stat) if !stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => {
            Ok("mounted one, writable, with redirect_dir and metacopy".to_owned())
        }
        Ok(_) => gap("an overlay came up read-only", "set TMPDIR to a directory on ext4 or XFS"),
        Err(error) => gap(format!("cannot read an overlay: {error}"), NEWER_KERNEL),
    }
}

fn seccomp() -> Seen {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    match actions.split_whitespace().any(|action| action == "errno") {
        true => Ok(format!("filters, with the actions {}", actions.trim())),
        false => gap("the kernel has no seccomp filters", "run a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

fn landlock() -> Seen {
    match jail::landlock::abi() {
        abi @ 6.. => Ok(format!("ABI {abi}")),
        // What is named is nobody's only wall: each has a namespace or a filter in front of it.
        abi @ 5 => {
            Ok(format!("ABI {abi}, without scopes: pid and network namespaces keep signals and sockets in"))
        }
        abi @ 1.. => Ok(format!(
            "ABI {abi}, without scopes and ioctl rules: pid and network namespaces keep signals and sockets in, and \
             /dev has no devices but harmless ones"
        )),
        0 => gap(
            "the kernel has none, or it is switched off",
            "add landlock to the kernel's lsm= parameter, or run a kernel with CONFIG_SECURITY_LANDLOCK",
        ),
    }
}

/// A directory in a hierarchy, made for a try.
fn try_cgroup<T>(mount: &Path, look: impl FnOnce(&Path) -> T) -> io::Result<T> {
    let path = mount.join(format!("cofferdam-doctor-{}", std::process::id()));
    fs::create_dir(&path)?;
    let seen = look(&path);
    fs::remove_dir(&path)?;
    Ok(seen)
}

fn cgroup_controller(layout: &Layout, controller: Controller, ours: &str) -> Seen {
    let name = controller.name();
    let Some((hierarchy, v2)) = layout.home(controller) else {
        let remedy = match controller {
            Controller::Memory => {
                "start the kernel with cgroup_enable=memory, and mount cgroup v2 at /sys/fs/cgroup"
            }
            _ => "mount cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        };
        return gap(format!("no {name} controller (cgroups: {})", layout.mode()), remedy);
    };
    let limit = match (controller, v2) {
        (Controller::Memory, true) => "memory.max",
        (Controller::Memory, false) => "memory.kmem.tcp.limit_in_bytes",
        (Controller::Cpu, true) => "cpu.max",
        (Controller::Cpu, false) => "cpu.cfs_quota_us",
        (Controller::Pids, _) => "pids.max",
    };
    let version = if v2 { "v2" } else { "v1" };
    // What is delegated is tried where it is: above it nothing is ours.
    let parent = if is_delegated(ours) { hierarchy.mount.join(ours) } else { hierarchy.mount.clone() };
    let where_ = format!("{version} at {}, cgroups: {}", parent.display(), layout.mode());
    if !parent.is_dir() {
        return gap(format!("{where_}: not there"), "systemctl start cofferdam-agents.service");
    }
    if v2 {
        let read = |file: &str| fs::read_to_string(parent.join(file)).unwrap_or_default();
        let has = |text: &str| text.split_whitespace().any(|found| found == name);
        if !has(&read("cgroup.controllers")) {
            return gap(
                format!("{where_}: {name} is not handed down to it"),
                "set Delegate=yes in the unit that it belongs to",
            );
        }
        // Its file shows in children only once it is handed down, which the node does.
        if !has(&read("cgroup.subtree_control")) {
            return match try_cgroup(&parent, |_| ()) {
                Ok(()) => Ok(format!("{where_}, to be enabled")),
                Err(error) => {
                    gap(format!("{where_}: {error}"), "run it outside of a container, or with Delegate=yes")
                }
            };
        }
    }
    match try_cgroup(&parent, |path| path.join(limit).exists()) {
        Ok(true) => Ok(where_),
        Ok(false) => {
            gap(format!("{where_}: {limit} is missing"), "use cgroup v2 (systemd.unified_cgroup_hierarchy=1)")
        }
        Err(error) => gap(format!("{where_}: {error}"), "remount the cgroup hierarchy writable"),
    }
}

fn freezer(layout: &Layout) -> Seen {
    let remedy = "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (a kernel of 5.14 or newer)";
    let Some(unified) = &layout.unified else { return gap("no cgroup v2 hierarchy", remedy) };
    let look = |path: &Path| path.join("cgroup.freeze").exists() && path.join("cgroup.kill").exists();
    match try_cgroup(&unified.mount, look) {
        Ok(true) => Ok(format!("cgroup.freeze and cgroup.kill at {}", unified.mount.display())),
        Ok(false) => gap("cgroup.freeze or cgroup.kill is missing", remedy),
        Err(error) => gap(format!("cannot make a cgroup: {error}"), remedy),
    }
}

/// Where it can be had, containers are not made without it.
fn apparmor() -> (Need, Seen) {
    if let Err(why) = apparmor::kernel() {
        let remedy = "nothing needs it; to have it, start the kernel with apparmor=1 security=apparmor";
        return (Need::Optional, gap(format!("{why}; containers do without"), remedy));
    }
    let Some(parser) = apparmor::parser() else {
        let remedy = "apt-get install apparmor, then restart the node";
        let detail = "the kernel has it, and there is no apparmor_parser; containers do without";
        return (Need::Optional, gap(detail, remedy));
    };
    let seen = match apparmor::parse(parser, "--skip-kernel-load") {
        Ok(()) => Ok("enabled, and the profile of containers compiles".to_owned()),
        Err(why) => gap(why, "apt-get install --reinstall apparmor (3.0 or newer)"),
    };
    (Need::Required, seen)
}

/// Routes and packet rules as every agent of levels 1 and 2 has them, in a network namespace that goes with the try.
fn steering() -> Seen {
    match crate::network::try_out() {
        Ok(()) => Ok("set routes and a TPROXY rule in a namespace of its own".to_owned()),
        Err(error) => {
            let source =
                std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            let remedy = "modprobe nf_tables nft_tproxy; or run a kernel with CONFIG_NF_TABLES_INET and CONFIG_NFT_TPROXY";
            gap(format!("{error}{source}"), remedy)
        }
    }
}

fn disk_space(volumes: &Path) -> Seen {
    let there = volumes.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let detail = format!("{} MiB free below {}", free >> 20, there.display());
            match free >= 2 << 30 {
                true => Ok(detail),
                false => gap(detail, "free at least 2 GiB, or move the data elsewhere (COFFERDAM_DATA)"),
            }
        }
        Err(error) => gap(error.to_string(), "check the disk"),
    }
}

fn kvm() -> Seen {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok("/dev/kvm opens; whether a guest boots on it shows only by booting one".to_owned()),
        Err(error) => gap(
            format!("cannot open /dev/kvm: {error}"),
            "enable virtualisation in the firmware (or nested virtualisation), then modprobe kvm_intel or kvm_amd",
        ),
    }
}
