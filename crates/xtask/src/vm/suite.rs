//! The tests that were built for this host, run in the machine: the same binaries, at the same paths.

use super::{Job, image, run};
use crate::shell::{self, step};
use crate::test::Built;
use crate::{binaries, test};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much of the tests is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The boundary shown once, in some minutes.
    Smoke,
    /// All that could find another kernel or another init system; may take an hour.
    Whole,
}

impl Extent {
    /// As nextest's filtersets have it.
    fn filter(self) -> String {
        match self {
            Self::Smoke => SMOKE.join(" | "),
            // Init waits 20 ms for what belongs together, and under emulation no program ends that soon.
            // Of the programs that people use, this machine has few.
            Self::Whole => "not package(xtask) & not test(a_short_process_has_to_say_is_one_piece) \
                            & not test(programs_that_people_use)"
                .to_owned(),
        }
    }

    fn within(self) -> Duration {
        match self {
            Self::Smoke => Duration::from_secs(25 * 60),
            Self::Whole => Duration::from_secs(150 * 60),
        }
    }
}

/// One test or few for each thing that another kernel, cgroup v2 or systemd could break.
const SMOKE: &[&str] = &[
    // Fallbacks: what doctor tries, volumes and their loop devices, limits of cgroup v2.
    "test(tests::parts::)",
    // Boundaries with no node: evidence, ends and their reasons, adoption, freezing and killing.
    "test(every_control_is_observed)",
    "test(what_is_left_out_is_missed)",
    "test(ends_have_reasons)",
    "test(the_frozen_are_killed)",
    "test(agents_outlive_zygote_and_node)",
    "test(a_whole_boundary)",
    // What another root of the host takes away; the profile that this kernel alone has, and ordinary work in it.
    "test(what_is_lost_is_missed)",
    "test(apparmor::)",
    "test(works::ordinary_programs_run)",
    // systemd makes them, where it is pid 1: the same, and with nothing left.
    "test(systemd::)",
    "test(attacks::attacks_as_an_os_user_hold)",
    // The installation as people use it: create, exec, files, stop, start, destroy.
    "test(story::a_life_with_its_volume)",
    // OCI runtimes with cgroup v2, in the unit that systemd delegates.
    "test(drivers::systemd_makes_os_users) | test(drivers::a_runtime_is_chosen)",
    // What leads an agent's connections to its gate, and what does not.
    "test(egress::the_way_out_of_a_container)",
    // From inside, and from next door.
    "test(attacks::attacks_as_agent_hold)",
    "test(neighbours::agents_do_not_see_each_other)",
    // Blanks, and every process of the platform killed under its agents.
    "test(blanks::an_agent_on_a_blank_is_as_any_other)",
    "test(faults::agents_outlive_every_process_of_the_platform)",
];

const SCRIPT: &str = include_str!("guest/suite.sh");

/// Builds nothing but the machine: runs what `cargo xtask build` and the tests' own build left.
pub(crate) fn suite(extent: Extent, filter: Option<&str>) -> Result<()> {
    let built = test::built()?;
    step(match extent {
        Extent::Smoke => "a part of the tests in Debian 12 (kernel 6.1, systemd, cgroup v2)",
        Extent::Whole => "the tests in Debian 12 (kernel 6.1, systemd, cgroup v2)",
    });
    let stage = Stage::make(&built)?;
    let filter = filter.map_or_else(|| extent.filter(), str::to_owned);
    let script = stage.0.join("suite");
    let root = shell::root();
    let text = format!(
        "#!/bin/sh\nroot='{}' target='{}' filter='{filter}'\n{SCRIPT}",
        root.display(),
        shell::target_dir().display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let with = ["release", "tests"]
        .iter()
        .map(|name| stage.0.join(name))
        .chain(["crates", "Cargo.toml"].map(|name| root.join(name)))
        .collect();
    let outcome = run(&Job { script, with, within: extent.within(), ..Job::default() })?;
    match outcome.code {
        0 => Ok(()),
        code => bail!("tests failed in Debian 12 (nextest ended with {code})"),
    }
}

/// The files for the machine, as further names of those that were built.
struct Stage(PathBuf);

impl Stage {
    fn make(built: &Built) -> Result<Self> {
        let stage = Self(image::dir().join(format!("suite-{}", std::process::id())));
        let release = stage.0.join("release");
        for dir in ["deps", "testkit-images"] {
            fs::create_dir_all(release.join(dir))?;
        }
        fs::create_dir_all(stage.0.join("tests"))?;
        for name in ["cofferdam", "cofferdam-jail"] {
            link(&shell::release_dir().join(name), &release.join(name))?;
        }
        binaries::check()?;
        link(&binaries::sabotaged(), &release.join("cofferdam-jail-sabotaged"))?;
        for program in &built.programs {
            link(program, &release.join("deps").join(program.file_name().context("a test has no name")?))?;
        }
        let images = shell::release_dir().join("testkit-images");
        let images: Vec<PathBuf> = fs::read_dir(&images)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        let image = images.iter().find(|path| path.extension().is_some_and(|kind| kind == "erofs")).context(
            "the tests' base image is not there, and the machine has no network to make it: run a root test here \
             first, such as `cargo xtask test`",
        )?;
        link(
            image,
            &release.join("testkit-images").join(image.file_name().context("an image has no name")?),
        )?;
        for path in [&built.binaries, &built.metadata] {
            link(path, &stage.0.join("tests").join(path.file_name().context("a list has no name")?))?;
        }
        let nextest =
            find_program("cargo-nextest").context("cargo-nextest is not installed: cargo xtask setup")?;
        link(&nextest, &stage.0.join("tests/cargo-nextest"))?;
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Where a program lies that cargo runs as a subcommand.
fn find_program(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = home.map(|home| home.join("bin")).into_iter().chain(std::env::split_paths(&path));
    dirs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
}
