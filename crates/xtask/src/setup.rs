//! Installs what the build, the tests and Cofferdam itself need from the distribution, and nothing else.
//! What is there already is left alone; without anything missing neither root nor network is needed.

use crate::shell::{self, step};
use anyhow::{Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Debian packages, each with its use.
const PACKAGES: &[(&str, &str)] = &[
    ("build-essential", "the C compiler and linker that rustc and two crates call"),
    ("busybox-static", "a root file system of one file, for tests"),
    ("ca-certificates", "TLS to package mirrors"),
    ("debian-archive-keyring", "the keys that images are checked against"),
    ("e2fsprogs", "mkfs.ext4 for volumes"),
    ("erofs-utils", "a second opinion on our images in tests"),
    ("mmdebstrap", "images from Debian packages"),
    ("nftables", "compiles the rules of the dry network"),
    ("passwd", "useradd for the service users"),
    ("uidmap", "lets mmdebstrap work without being root"),
];

/// What only tests need.
const TEST_PACKAGES: &[(&str, &str)] = &[
    ("curl", "puts documents into the registry that no tool would make"),
    ("docker-registry", "a real registry to pull from"),
    ("git", "fetches through gates, as do the other clients"),
    ("nodejs", "a client of gates"),
    ("openssh-client", "a client of gates"),
    ("openssh-server", "what git speaks to by SSH"),
    ("openssl", "a certificate for the registry"),
    ("pebble", "an authority that speaks ACME"),
    ("postgresql-15", "a database server, started by tests, each with one of its own"),
    ("python3-pip", "a client of gates"),
    ("python3-venv", "a place of its own for what comes from PyPI"),
    ("qemu-system-x86", "boots the Debian 12 machine"),
    (
        "redis-server",
        "counts limits for several control processes; started by tests, each with one of its own",
    ),
    ("runc", "an OCI runtime as the second driver of containers; benchmarks compare with it too"),
    ("runsc", "an OCI runtime that is a kernel, as the third"),
    ("skopeo", "pushes images, and writes them in all forms of files"),
    ("umoci", "makes images, honest and hostile ones"),
    ("unzip", "looks at what pip fetched"),
];

/// Services of packages that are installed while this lies there are not started (invoke-rc.d(8)).
const NO_SERVICES: &str = "/usr/sbin/policy-rc.d";

const NEXTEST: &str = "0.9.143";

/// Holds the API against its OpenAPI document.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// The chore.
pub fn run() -> Result<()> {
    packages()?;
    test_packages()?;
    if !shell::succeeds(shell::cargo().args(["nextest", "--version"])) {
        step("installing cargo-nextest");
        shell::run(shell::cargo().args(["install", "--locked", "cargo-nextest", "--version", NEXTEST]))?;
    }
    schemathesis()
}

fn schemathesis() -> Result<()> {
    let place = shell::target_dir().join("tools/schemathesis");
    let marker = place.join("version");
    if fs::read_to_string(&marker).is_ok_and(|version| version == SCHEMATHESIS) {
        return Ok(());
    }
    step("installing schemathesis");
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    shell::run(Command::new(place.join("bin/pip")).args(["install", "--quiet", SCHEMATHESIS]))?;
    Ok(fs::write(marker, SCHEMATHESIS)?)
}

/// What the Debian 12 machine is made and run with.
pub fn vm() -> Result<()> {
    install(&["e2fsprogs", "erofs-utils", "mmdebstrap", "qemu-system-x86"])
}

/// System packages only: all that quickstart needs.
pub fn packages() -> Result<()> {
    install(&PACKAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>())
}

fn test_packages() -> Result<()> {
    // The registry is started by tests, each with one of its own; the one that the package would start is nobody's.
    install_stopped(&TEST_PACKAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    // Where Node.js is not Debian's, it comes with this client, and Debian's does not go with it.
    match shell::succeeds(Command::new("npm").arg("--version")) {
        true => Ok(()),
        false => install(&["npm"]),
    }
}

/// Installs those of the packages that are missing, and starts no service of theirs.
pub fn install_stopped(packages: &[&str]) -> Result<()> {
    let kept = Path::new(NO_SERVICES).exists();
    if !kept && shell::is_root() {
        fs::write(NO_SERVICES, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(NO_SERVICES, fs::Permissions::from_mode(0o755))?;
    }
    let installed = install(packages);
    if !kept && shell::is_root() {
        fs::remove_file(NO_SERVICES)?;
    }
    installed
}

/// Installs those of the packages that are missing.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !shell::is_root() {
        bail!("these packages are missing: {0}\nrun as root: apt-get install {0}", missing.join(" "));
    }
    step(&format!("installing {}", missing.join(", ")));
    shell::run(apt().arg("update"))?;
    shell::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}
