//! Running other programs, and the places that every chore needs to know.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo writes to.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where the finished binaries lie side by side.
pub fn release_dir() -> PathBuf {
    target_dir().join("release")
}

/// The cargo that started us, so that a toolchain chosen with `+` or an override stays chosen.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// A heading for the step that follows.
pub fn step(what: &str) {
    eprintln!("\x1b[1m==> {what}\x1b[0m");
}

/// How a command reads in an error message.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a command on our own terminal; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let said = describe(command);
    let status = command.status().with_context(|| format!("cannot run `{said}`"))?;
    if !status.success() {
        bail!("`{said}` failed ({status})");
    }
    Ok(())
}

/// Whether a command ends well; what it prints is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What a command prints; an exit code other than 0 is an error.
pub fn output(command: &mut Command) -> Result<String> {
    let said = describe(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{said}`"))?;
    if !output.status.success() {
        bail!("`{said}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{said}` did not print text"))
}

/// Whether we are root: the owner of our own entry in /proc.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
