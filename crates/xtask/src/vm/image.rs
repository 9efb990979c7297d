//! The machine's disk, kernel and initrd, made of Debian packages and kept under a name that changes with the recipe.

use crate::shell::{self, step};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian packages beyond the essential ones, each with its use.
const PACKAGES: &[(&str, &str)] = &[
    ("adduser", "what a package's scripts make users with"),
    ("apparmor", "the kernel has it, and Debian loads its profiles"),
    ("busybox-static", "the initrd; and a root file system of one file, for tests"),
    ("ca-certificates", "what a package may depend on"),
    ("curl", "puts documents into the registry that no tool would make"),
    ("dbus", "how systemctl and systemd-run are answered"),
    ("debian-archive-keyring", "the keys that images are checked against"),
    ("docker-registry", "a real registry to pull from"),
    ("e2fsprogs", "mkfs.ext4 for volumes"),
    ("erofs-utils", "a second opinion on our images in tests"),
    ("iproute2", "looking at network namespaces"),
    ("kmod", "loads what the kernel has as modules"),
    ("libpam-systemd", "sessions, as a machine has them"),
    ("linux-image-cloud-amd64", "Debian's kernel without the drivers of real hardware"),
    ("mmdebstrap", "images from Debian packages"),
    ("nftables", "compiles the rules of the dry network"),
    ("openssl", "a certificate for the registry"),
    ("passwd", "useradd for the service users"),
    ("procps", "ps and sysctl"),
    ("python3-minimal", "programs that tests write"),
    ("runc", "an OCI runtime as the second driver of containers"),
    ("runsc", "an OCI runtime that is a kernel, as the third"),
    ("skopeo", "pushes images, and writes them in all forms of files"),
    ("systemd", "what this machine is for"),
    ("systemd-sysv", "makes it pid 1"),
    ("udev", "names devices"),
    ("uidmap", "lets mmdebstrap work without being root"),
    ("umoci", "makes images, honest and hostile ones"),
];

/// Turns Debian's tree into this machine: `sh -eu -c PREPARE sh ROOT OUT`.
const PREPARE: &str = include_str!("guest/prepare.sh");
/// What the machine runs once it is up.
const JOB: &str = include_str!("guest/job.sh");

const SUITE: &str = "bookworm";
const DISK: &str = "8G";

/// A machine that can be booted.
pub(super) struct Machine {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// Where everything of the machine lies.
pub(super) fn dir() -> PathBuf {
    shell::target_dir().join("vm")
}

/// The machine of this recipe, made now if it is not there. One of another recipe is removed.
pub(super) fn provide() -> Result<Machine> {
    let dir = dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let lock = File::create(dir.join("lock")).context("cannot make a lock")?;
    lock.lock().context("cannot lock the machine's image")?;
    for left in fs::read_dir(&dir)?.flatten().filter(|entry| is_left_over(&entry.path())) {
        fs::remove_dir_all(left.path()).context("cannot remove what an interrupted run left")?;
    }
    let home = dir.join(format!("debian-12-{:016x}", recipe()));
    if !home.exists() {
        for old in fs::read_dir(&dir)?.flatten().filter(|old| is_machine(&old.path())) {
            fs::remove_dir_all(old.path()).context("cannot remove an old machine")?;
        }
        build(&home)?;
    }
    Ok(Machine { disk: home.join("disk"), kernel: home.join("vmlinuz"), initrd: home.join("initrd") })
}

fn is_machine(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("debian-"))
}

/// Whether this is of a run (`KIND-PID`) that has ended.
fn is_left_over(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let pid = name.strip_prefix("job-").or_else(|| name.strip_prefix("suite-"));
    pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (PACKAGES, PREPARE, JOB, SUITE, DISK).hash(&mut hasher);
    hasher.finish()
}

fn build(home: &Path) -> Result<()> {
    if !shell::is_root() {
        bail!("building the Debian 12 machine needs root: its files belong to other users");
    }
    step("building the Debian 12 machine");
    // Renamed at the end, so that half of one is never taken for a whole.
    let fresh = home.with_extension("new");
    let root = fresh.join("root");
    fs::create_dir_all(&fresh)?;
    let names: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).collect();
    let mut debian = Command::new("mmdebstrap");
    debian
        .args(["--quiet", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""])
        // Nobody reads it there, and a crash while it is made means making it again.
        .args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=force-unsafe-io"])
        .arg(format!("--include={}", names.join(",")))
        .arg(SUITE)
        .arg(&root)
        // The kernel's package then leaves out the initrd for any machine; ours is smaller.
        .env("INITRD", "No");
    shell::run(&mut debian)?;
    fs::write(root.join("usr/local/sbin/vm-job"), JOB)?;
    shell::run(Command::new("sh").args(["-eu", "-c", PREPARE, "sh"]).arg(&root).arg(&fresh))?;
    let disk = fresh.join("disk");
    // What it says of the file that it makes is of no use.
    let mut filesystem = Command::new("mke2fs");
    filesystem.args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&disk).arg(DISK).stdout(Stdio::null());
    shell::run(&mut filesystem)?;
    fs::remove_dir_all(&root)?;
    fs::rename(&fresh, home).with_context(|| format!("cannot make {}", home.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_runs_left_is_removed() {
        // Ended and collected, so nobody has its pid.
        let mut child = Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let check = |name: String, expected| assert_eq!(is_left_over(Path::new(&name)), expected, "{name}");
        check(format!("/x/job-{dead}"), true);
        check(format!("/x/suite-{dead}"), true);
        check(format!("/x/job-{}", std::process::id()), false);
        check(format!("/x/debian-12-{dead}"), false);
    }
}
