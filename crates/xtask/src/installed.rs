//! `installed`: the Debian package's whole life in a real Debian 12: installed, attacked, upgraded, rebooted, purged.
//!
//! There was no release before this one, so the older of the two versions is made here: of the same sources, under a
//! lower version, with a jail that has a few bytes more at its end. It behaves the same and is another file by content,
//! which is what pins an agent's init. That the two can speak is decided by the handshake (`channel::Hello`), and the
//! ranges at which it refuses are tested where it is made, in gate and in init.

use crate::install::{self, Package};
use crate::vm::{self, Job};
use crate::{binaries, setup, shell};
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::Duration;

/// Packed soon. (With gzip cargo-deb takes minutes to save some bytes.)
const SOON: &[&str] = &["--fast"];

/// The last step of `cargo xtask test`.
pub fn smoke() -> Result<()> {
    if !shell::is_root() && std::env::var_os("CI").is_none() {
        eprintln!("skipped: the machine is made, and Cofferdam installed there, as root");
        return Ok(());
    }
    run()
}

/// The chore.
pub fn run() -> Result<()> {
    setup::vm()?;
    binaries::build()?;
    let made = shell::target_dir().join("installed");
    fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
    let packages = [
        (
            "before.deb",
            Package { version: Some("0.0.9-1"), mark: b"\nthe version before\n", compression: SOON },
        ),
        ("after.deb", Package { version: None, mark: b"", compression: SOON }),
    ];
    let mut with = Vec::new();
    for (name, package) in packages {
        let path = made.join(name);
        fs::copy(install::package(&package)?, &path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        with.push(path);
    }
    let here = shell::root().join("crates/xtask/src/installed");
    with.push(here.join("attack.py"));
    let job = Job { script: here.join("job.sh"), with, boots: 2, within: Duration::from_secs(15 * 60) };
    match vm::run(&job)?.code {
        0 => Ok(()),
        code => bail!("the installation was not as it should be ({code})"),
    }
}
