//! The design's invariants, checked by reading manifests and sources. Most are absences: what must not depend on
//! what, and what must not be written where. Each rule is a pure function with a test on a bad example.

mod crates;
mod source;
#[cfg(test)]
mod tests;

use crate::shell;
use anyhow::{Context, Result, bail};
use crates::Crate;
use source::Source;
use std::fs;
use std::path::Path;

/// A rule that is broken: where, and how.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    place: String,
    what: String,
}

/// The chore.
pub fn run() -> Result<()> {
    let root = shell::root();
    let crates = crates::read(&root.join("crates"))?;
    let mut faults = crates::check(&crates);
    for each in &crates {
        for path in rust_files(&root.join("crates").join(&each.folder))? {
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            faults.extend(source::check(&Source::parse(&name, &text)));
        }
    }
    let tree = ["tree", "--quiet", "--locked", "--workspace", "--edges", "normal,build", "--invert", "ring"];
    faults.extend(ring_in(&shell::output(shell::cargo().args(tree))?));
    if faults.is_empty() {
        return Ok(());
    }
    for Fault { place, what } in &faults {
        eprintln!("{place}: {what}");
    }
    bail!("{} invariants are broken", faults.len());
}

/// `ring` stands in Cargo.lock for platforms that we do not build for, so what counts is what is compiled: two
/// cryptographic libraries are two sets of bugs.
fn ring_in(tree: &str) -> Option<Fault> {
    let found = tree.lines().any(|line| line.starts_with("ring "));
    found.then(|| Fault {
        place: "Cargo.toml".to_owned(),
        what: "something brings `ring` in; aws-lc-rs is the one cryptographic library (cargo tree -i ring)"
            .to_owned(),
    })
}

fn rust_files(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Fault {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl Crate {
    fn place(&self) -> String {
        format!("crates/{}/Cargo.toml", self.folder)
    }
}
