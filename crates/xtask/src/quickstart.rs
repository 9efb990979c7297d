//! From nothing to a project's tests that ran inside an agent, in the steps a user would take by hand. Everything that
//! is there already is used, so a second run takes seconds.

use crate::shell::{self, step};
use crate::{binaries, setup};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Instant;

const AGENT: &str = "quickstart";
const IMAGE: &str = "debian";
const PROJECT: &str = "examples/hello-python";

/// The chore.
pub fn run() -> Result<()> {
    if !shell::is_root() {
        bail!("making boundaries needs root: run `sudo make quickstart`, or become root first");
    }
    let started = Instant::now();
    setup::packages()?;
    binaries::build()?;
    let cofferdam = Cofferdam { program: shell::release_dir().join("cofferdam") };

    step("starting Cofferdam");
    cofferdam.run(&["up", "--detach"])?;
    if !cofferdam.lists(&["image", "ls"], IMAGE)? {
        step("building the base image from Debian packages");
        cofferdam.run(&["image", "build", IMAGE])?;
    }
    if cofferdam.lists(&["ls"], AGENT)? {
        step("taking the agent of the last run, with all that is in it");
        cofferdam.run(&["start", AGENT])?;
    } else {
        step("creating an agent");
        cofferdam.run(&["create", "--name", AGENT, "--image", IMAGE])?;
    }
    step(&format!("copying {PROJECT} into it, and running its tests there"));
    cofferdam.run(&["cp", PROJECT, &format!("{AGENT}:/home/agent/")])?;
    let tests = ["python3", "-m", "unittest", "discover", "--verbose"];
    let inside = ["exec", "--workdir", "/home/agent/hello-python", AGENT, "--"];
    cofferdam.run(&[&inside[..], &tests[..]].concat())?;
    step("what there is now");
    cofferdam.run(&["ls"])?;
    step("what was observed of its boundary");
    cofferdam.run(&["show", AGENT])?;
    println!("\nDone in {:.0} s. Next:\n", started.elapsed().as_secs_f64());
    for (arguments, what) in NEXT {
        println!("  {:<76} # {what}", format!("{} {arguments}", cofferdam.shown()));
    }
    Ok(())
}

const NEXT: [(&str, &str); 6] = [
    ("shell quickstart", "look around inside"),
    ("run --image debian -- python3 -c 'print(6*7)'", "an agent for one command"),
    ("create --name worker --memory 512MiB --ttl 2h", "another agent, with limits"),
    ("doctor", "what this machine can enforce"),
    ("down", "stop everything, keep data"),
    ("--help", "everything else"),
];

struct Cofferdam {
    program: std::path::PathBuf,
}

impl Cofferdam {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(shell::root());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        println!("\x1b[2m$ cofferdam {}\x1b[0m", arguments.join(" "));
        shell::run(&mut self.command(arguments))
    }

    /// Whether a listing has something of this name.
    fn lists(&self, listing: &[&str], name: &str) -> Result<bool> {
        let json = shell::output(&mut self.command(&[listing, &["--output", "json"]].concat()))
            .with_context(|| format!("cannot see whether `{name}` is there"))?;
        let json: String = json.split_whitespace().collect();
        Ok(json.contains(&format!("\"name\":\"{name}\"")))
    }

    /// How to call it from here.
    fn shown(&self) -> String {
        let here = self.program.strip_prefix(shell::root()).unwrap_or(&self.program);
        here.display().to_string()
    }
}
