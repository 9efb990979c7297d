//! Fuzzers: each for a while, one after the other. What they find is left in `fuzz/artifacts`.

use crate::shell::{self, step};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// How long each target runs unless told otherwise.
const SECONDS: u32 = 60;
/// The longest input: larger ones find little and take long.
const LONGEST: u32 = 32 << 10;

/// The chore: `fuzz [TARGET] [--seconds N]`.
pub fn run(arguments: &[&str]) -> Result<()> {
    let (mut chosen, mut seconds) = (None, SECONDS);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--seconds" => {
                let number = arguments.next().and_then(|text| text.parse().ok());
                seconds = number.context("--seconds takes a number")?;
            }
            name if !name.starts_with('-') && chosen.is_none() => chosen = Some(name),
            other => bail!("unknown argument {other:?}: cargo xtask fuzz [TARGET] [--seconds N]"),
        }
    }
    if !shell::succeeds(cargo().args(["fuzz", "--version"])) {
        bail!("cargo-fuzz is not installed: `cargo install cargo-fuzz --locked`, and a C++ compiler");
    }
    let listed = shell::output(cargo().args(["fuzz", "list"]))?;
    let targets: Vec<&str> =
        listed.lines().filter(|name| chosen.is_none_or(|chosen| chosen == *name)).collect();
    if targets.is_empty() {
        bail!("there is no such target; there are: {}", listed.lines().collect::<Vec<_>>().join(", "));
    }
    for target in targets {
        step(&format!("fuzzing {target} for {seconds} s"));
        // Without a sanitizer: what is fuzzed has no unsafe code, and panics, hangs and memory are seen anyway.
        let mut fuzz = cargo();
        fuzz.args(["fuzz", "run", "--release", "--sanitizer", "none", target, "--"]);
        fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}"));
        fuzz.args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"]);
        shell::run(&mut fuzz)
            .with_context(|| format!("{target} found something; see fuzz/artifacts/{target}"))?;
    }
    Ok(())
}

/// cargo with what cargo-fuzz needs of a compiler that is not a nightly one.
fn cargo() -> Command {
    let mut cargo = shell::cargo();
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo
}
