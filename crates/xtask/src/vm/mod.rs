//! A Debian 12 machine (systemd, kernel 6.1, cgroup v2) under QEMU, for what no namespace can stand in for.
//!
//! ```text
//! cargo xtask vm --script FILE [--with PATH]... [--boots N] [--minutes N]
//! ```
//!
//! boots it, runs FILE there as root once multi-user.target is reached, prints what it prints, and ends with its exit
//! code. FILE and every PATH (a file or a whole directory) lie in `/job` of the guest, read-only, under their last name;
//! that is the working directory too. A script sees `VM_BOOT`, which counts from 1: with `--boots 2` it may call
//! `systemctl reboot` and then wait, and runs again after that boot, on the same disk. From Rust it is
//! `vm::run(&Job { script, with, ..Job::default() })`.
//!
//! `cargo xtask vm --smoke` runs a part of the tests there, `cargo xtask vm --whole` all of them, and either with `-- FILTER`
//! those that a filterset of nextest takes.
//!
//! The machine has no network device, 2 processors, and a disk of 8 GiB that is as new in every run. What it has of
//! Debian is `image::PACKAGES`. Its console is written to `target/vm/console.log`.

mod image;
mod qemu;
mod suite;

use suite::{Extent, suite};

use crate::{binaries, setup, shell};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to run in the machine.
pub struct Job {
    /// The program that is run there, as root.
    pub script: PathBuf,
    /// Files and directories that lie beside it.
    pub with: Vec<PathBuf>,
    /// How often the machine may boot.
    pub boots: u32,
    /// How long it may run, all boots together.
    pub within: Duration,
}

impl Default for Job {
    fn default() -> Self {
        Self { script: PathBuf::new(), with: Vec::new(), boots: 1, within: Duration::from_secs(20 * 60) }
    }
}

/// How it went.
pub struct Outcome {
    /// The script's exit code.
    pub code: i32,
    /// What it printed, both streams.
    #[allow(dead_code, reason = "for chores that look at it")]
    pub output: String,
}

/// Builds the machine if it is not there, boots it, and runs the job to its end. An error is a machine that failed; a
/// script that failed is an [`Outcome`].
pub fn run(job: &Job) -> Result<Outcome> {
    let machine = image::provide()?;
    qemu::run(&machine, job)
}

/// The last step of `cargo xtask test`.
pub fn smoke() -> Result<()> {
    if !shell::is_root() && std::env::var_os("CI").is_none() {
        eprintln!("skipped: the machine is made, and its tests are run, as root");
        return Ok(());
    }
    suite(Extent::Smoke, None)
}

/// The chore.
pub fn chore(arguments: &[&str]) -> Result<()> {
    setup::vm()?;
    let mut job = Job::default();
    let (arguments, filter) = match arguments.iter().position(|word| *word == "--") {
        Some(at) => (&arguments[..at], Some(arguments[at + 1..].join(" "))),
        None => (arguments, None),
    };
    let extent = match arguments {
        ["--smoke"] => Some(Extent::Smoke),
        ["--whole"] => Some(Extent::Whole),
        _ => None,
    };
    if let Some(extent) = extent {
        binaries::build()?;
        return suite(extent, filter.as_deref());
    }
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} wants a value"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{word} wants a number, not {value:?}"));
        match *word {
            "--script" => job.script = PathBuf::from(value),
            "--with" => job.with.push(PathBuf::from(value)),
            "--boots" => job.boots = number()?,
            "--minutes" => job.within = Duration::from_secs(u64::from(number()?) * 60),
            _ => bail!("vm does not know {word:?}"),
        }
    }
    if job.script == Path::new("") {
        bail!("vm wants --smoke, --whole or --script FILE");
    }
    match run(&job)?.code {
        0 => Ok(()),
        code => bail!("{} ended in the machine with {code}", job.script.display()),
    }
}
