//! Builds the binaries that are installed together: `cofferdam`, and beside it `cofferdam-jail`.
//!
//! The jail is linked statically, because as init it runs in images that have another libc, or none. A plain
//! `cargo build -p jail` would write a dynamic one to the same place, so what lies there is always checked.

use crate::shell::{self, step};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

/// What a jail contains that can leave controls out, and nothing that is shipped may (`crates/jail/src/sabotage.rs`).
const SABOTAGE: &[u8] = b"COFFERDAM-SABOTAGE:";

/// The chore: both binaries in `target/release`.
pub fn build() -> Result<()> {
    step("building the jail (static)");
    build_jail(&[])?;
    install_jail()?;
    step("building cofferdam");
    // All packages are selected, as the tests do, so that libraries get the same features and are built once.
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--exclude", "jail", "--bins"]))?;
    check()
}

fn build_jail(more: &[&str]) -> Result<()> {
    let triple = host_triple()?;
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    // With `--target`, the flags reach the jail and its libraries, but not build scripts and macros: those
    // cannot be linked statically.
    shell::run(
        shell::cargo()
            .args(["build", "--release", "--package", "jail", "--locked", "--target", &triple])
            .args(more)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env(variable, "-C target-feature=+crt-static"),
    )
}

/// The chore: a jail for tests that can leave controls out, in a place of its own, so that it is never taken for the other.
pub fn build_sabotaged() -> Result<()> {
    step("building the jail that tests sabotage");
    let target = shell::target_dir().join("sabotage");
    let dir = target.to_str().context("the path of the target directory is not text")?;
    build_jail(&["--features", "sabotage", "--target-dir", dir])?;
    let built = target.join(host_triple()?).join("release/cofferdam-jail");
    let content = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if !contains(&content, SABOTAGE) {
        bail!("{} cannot be sabotaged: its mark is not in it", built.display());
    }
    fs::create_dir_all(target.join("release"))?;
    fs::copy(&built, sabotaged()).map(drop).with_context(|| format!("cannot write {}", sabotaged().display()))
}

/// Where that lies.
pub fn sabotaged() -> PathBuf {
    shell::target_dir().join("sabotage/release/cofferdam-jail")
}

fn contains(content: &[u8], mark: &[u8]) -> bool {
    content.windows(mark.len()).any(|window| window == mark)
}

/// Puts the static jail beside cofferdam, unless the very same file is there. The tests of the jail's own crate make
/// cargo write a dynamic one to that place, so this is done again once they are built.
pub fn install_jail() -> Result<()> {
    let built = shell::target_dir().join(host_triple()?).join("release/cofferdam-jail");
    let target = shell::release_dir().join("cofferdam-jail");
    let content = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&target).is_ok_and(|present| present == content) {
        return Ok(());
    }
    // A running jail's file cannot be written to, and nobody may see half of it: copy, then rename.
    let fresh = target.with_extension("new");
    fs::copy(&built, &fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, &target).with_context(|| format!("cannot write {}", target.display()))
}

/// Fails when the jail that lies in `target/release` is not static, or when controls can be left out there.
pub fn check() -> Result<()> {
    for name in ["cofferdam", "cofferdam-jail"] {
        let path = shell::release_dir().join(name);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if contains(&content, SABOTAGE) {
            bail!(
                "{} can leave controls out: it was built with the feature `sabotage`, which is for tests",
                path.display()
            );
        }
    }
    let path = shell::release_dir().join("cofferdam-jail");
    let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    match interpreter_wanted(&content) {
        Some(false) => Ok(()),
        Some(true) => bail!(
            "{} is linked dynamically, so it cannot run in every image; `cargo xtask build` puts the static one back",
            path.display()
        ),
        None => bail!("{} is not a 64-bit ELF program", path.display()),
    }
}

/// Whether a 64-bit little-endian ELF file asks for a dynamic linker (has a `PT_INTERP` segment).
/// See elf(5). `None` when it is no such file.
fn interpreter_wanted(file: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?));
    // Magic, ELFCLASS64, ELFDATA2LSB.
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, size, count) = (u64_at(0x20)?, u16_at(0x36)?, u16_at(0x38)?);
    for index in 0..usize::from(count) {
        let header = usize::try_from(start).ok()?.checked_add(index * usize::from(size))?;
        if u32_at(header)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn host_triple() -> Result<String> {
    let mut rustc = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let said = shell::output(rustc.arg("-vV").current_dir(shell::root()))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_leaves_controls_out_is_told_from_others() {
        assert!(contains(&[b"\x7fELF", SABOTAGE, b"seccomp"].concat(), SABOTAGE));
        assert!(!contains(&SABOTAGE[1..], SABOTAGE));
    }

    #[test]
    fn a_dynamic_program_is_told_from_other_files() {
        // Every test program that cargo builds for the host is dynamic.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(interpreter_wanted(&own), Some(true));
        assert_eq!(interpreter_wanted(b"#!/bin/sh\n"), None);
        assert_eq!(interpreter_wanted(&own[..0x30]), None);
        // The same file without any program header.
        let mut bare = own;
        bare[0x38..0x3a].copy_from_slice(&[0, 0]);
        assert_eq!(interpreter_wanted(&bare), Some(false));
    }
}
