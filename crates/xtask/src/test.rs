//! Lints and tests, in the order in which they fail fastest.

use crate::shell::{self, step};
use crate::{binaries, installed, setup, tidy, vm};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// Formatting, clippy on everything, and the design's invariants.
pub fn lint() -> Result<()> {
    step("rustfmt");
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    step("clippy");
    shell::run(
        shell::cargo()
            .args(["clippy", "--release", "--workspace", "--all-targets", "--locked"])
            .args(["--", "--deny", "warnings"]),
    )?;
    step("tidy");
    tidy::run()
}

type Step = (&'static str, fn() -> Result<()>);

/// The chore: all that CI runs.
pub fn run() -> Result<()> {
    let mut timings = Vec::new();
    let steps: [Step; 6] = [
        ("setup", setup::run),
        ("lint", lint),
        ("build", binaries::build),
        ("tests", tests),
        ("Debian 12", vm::smoke),
        ("installed", installed::smoke),
    ];
    for (name, chore) in steps {
        let started = Instant::now();
        chore()?;
        timings.push((name, started.elapsed()));
    }
    println!("\nall green:");
    for (name, took) in timings {
        println!("  {name:<9} {:>6.1} s", took.as_secs_f64());
    }
    Ok(())
}

/// The tests' programs, as nextest lists them.
pub(crate) struct Built {
    pub(crate) binaries: PathBuf,
    pub(crate) metadata: PathBuf,
    pub(crate) programs: Vec<PathBuf>,
}

/// Packages whose tests are built without optimisation, for that is most of the time that a new machine takes. What the tests start is
/// the program that is installed; the libraries of others are as they are in it.
const PLAIN: [&str; 10] =
    ["client", "cofferdam", "control", "gate", "image", "node", "sandbox", "store", "testdb", "testkit"];

/// Builds the tests.
pub(crate) fn built() -> Result<Built> {
    step("building tests");
    let kept = shell::target_dir().join("xtask");
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let keep = |name: &str, json: &str| {
        let path = kept.join(name);
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display())).map(|()| path)
    };
    let list = ["nextest", "list", "--release", "--workspace", "--locked", "--list-type", "binaries-only"];
    // Not the examples: those are for `bench`.
    let what = ["--lib", "--bins", "--tests", "--message-format", "json"];
    let plain = PLAIN.map(|package| format!("--config=profile.release.package.{package}.opt-level=0"));
    let listed = shell::output(shell::cargo().args(list).args(what).args(plain))?;
    let binaries = keep("binaries.json", &listed)?;
    let metadata = shell::output(shell::cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata = keep("metadata.json", &metadata)?;
    // The tests' build wrote its own to the same place.
    binaries::build()?;
    binaries::build_sabotaged()?;
    // Paths need no escapes in JSON, unless somebody builds in a strange place.
    let programs = listed.split("\"binary-path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    Ok(Built { programs: programs.map(PathBuf::from).collect(), binaries, metadata })
}

fn tests() -> Result<()> {
    let built = built()?;
    step("tests");
    // What was built is run without cargo, which would write a dynamic jail over the static one. Doc tests are
    // deliberately absent: examples live in tests, where they are compiled once.
    let mut run = shell::cargo();
    run.args(["nextest", "run", "--no-fail-fast"]);
    run.arg("--binaries-metadata").arg(built.binaries).arg("--cargo-metadata").arg(built.metadata);
    shell::run(&mut run)?;
    step("tests of control, on PostgreSQL");
    run.args(["--filterset", "package(control)"]).env("COFFERDAM_TEST_DATABASE", "postgres");
    shell::run(&mut run)?;
    binaries::check()
}
