//! Whether systemd's units have the machine's installation. Then `up` and `down` leave it to them.

use crate::failure::fail_with;
use crate::paths::Paths;
use model::Code;
use std::path::Path;

/// Starts and stops everything; see `deploy/systemd`.
const UNIT: &str = "cofferdam.service";
/// Where units are installed, by an administrator, from source, by a package: systemd.unit(5).
const DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Where the agents' unit has its cgroup.
pub const AGENTS_CGROUP: &str = "system.slice/cofferdam-agents.service";

/// Whether systemd runs the machine (sd_booted(3)), this is its own installation, and there are units for it.
pub fn own(paths: &Paths) -> bool {
    let there = || DIRECTORIES.iter().any(|directory| Path::new(directory).join(UNIT).exists());
    paths.is_the_machines() && Path::new("/run/systemd/system").is_dir() && there()
}

/// Refuses a command that the units make superfluous.
pub fn refuse(paths: &Paths, command: &str, instead: &str) -> anyhow::Result<()> {
    if !own(paths) {
        return Ok(());
    }
    Err(fail_with(
        Code::WrongState,
        format!("systemd runs Cofferdam on this machine, so `cofferdam {command}` is not used."),
        instead,
    ))
}
