//! Builds the measuring program and runs it: it is `crates/testkit/examples/bench`.

use crate::shell::{self, step};
use crate::{binaries, setup};
use anyhow::{Result, bail};
use std::process::Command;

/// The chore. Arguments go to the program: which sections, and how many rounds.
pub fn run(arguments: &[&str]) -> Result<()> {
    if !shell::is_root() {
        bail!("making boundaries needs root: become root first");
    }
    setup::packages()?;
    setup::install_stopped(&["bubblewrap", "haproxy", "mitmproxy", "runc", "squid", "strace", "tinyproxy"])?;
    binaries::build()?;
    step("building the benchmark");
    let target = ["build", "--release", "--workspace", "--exclude", "jail", "--example", "bench"];
    shell::run(shell::cargo().args(target))?;
    binaries::install_jail()?;
    step("measuring");
    let mut bench = Command::new(shell::release_dir().join("examples/bench"));
    bench.args(arguments);
    shell::run(&mut bench)
}
