//! Rules about crates: their names, and what may depend on what.

use super::Fault;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What a manifest says, as far as the rules ask.
#[derive(Debug, Default)]
pub(super) struct Crate {
    pub(super) folder: String,
    pub(super) package: String,
    /// Dependencies of the code itself; those of its tests and build script are free.
    pub(super) depends: BTreeSet<String>,
}

/// Crates that must not be reached from another, however far the way.
const NEVER: [(&str, &[&str]); 5] = [
    // Control never touches an agent's data, and cannot run anything on its own machine.
    ("control", &["sandbox", "node", "gate", "jail"]),
    // A gate that was taken over has nothing to call.
    ("gate", &["store", "jail", "sandbox", "node"]),
    // What runs in the boundary stays small.
    ("channel", &["model"]),
    ("jail", &["model"]),
    // Pure.
    ("model", &["channel", "store", "sandbox"]),
];

/// Libraries that only one crate may depend on itself.
const ONLY: [(&str, &str); 2] = [("sqlx", "store"), ("zbus", "sandbox")];

pub(super) fn read(dir: &Path) -> Result<Vec<Crate>> {
    let mut crates = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let manifest = path.join("Cargo.toml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let folder = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        crates.push(parse(folder, &text));
    }
    crates.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(crates)
}

/// Reads the part of TOML that our manifests are written in.
pub(super) fn parse(folder: String, manifest: &str) -> Crate {
    let mut found = Crate { folder, ..Crate::default() };
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            // `[dependencies.name]`
            if let Some(name) = section.strip_prefix("dependencies.") {
                found.depends.insert(name.to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim();
        let is_target = section.starts_with("target.") && section.ends_with(".dependencies");
        if section == "package" && key == "name" {
            found.package = value.trim().trim_matches('"').to_owned();
        } else if section == "dependencies" || is_target {
            // `name.workspace = true`
            found.depends.insert(key.split('.').next().unwrap_or(key).to_owned());
        }
    }
    found
}

pub(super) fn check(crates: &[Crate]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let by_name: BTreeMap<&str, &Crate> = crates.iter().map(|each| (each.package.as_str(), each)).collect();
    for each in crates {
        if each.folder != each.package {
            let what = format!("the package is called `{}`, but its folder `{}`", each.package, each.folder);
            faults.push(Fault::new(each.place(), what));
        }
        for (library, owner) in ONLY {
            if each.package != owner && each.depends.contains(library) {
                faults.push(Fault::new(each.place(), format!("only `{owner}` depends on `{library}`")));
            }
        }
        for (_, forbidden) in NEVER.iter().filter(|(from, _)| *from == each.package) {
            for target in *forbidden {
                if let Some(way) = way(&by_name, &each.package, target) {
                    faults.push(Fault::new(each.place(), format!("never depends on `{target}`: {way}")));
                }
            }
        }
    }
    faults
}

/// How one crate comes to another, through any number of ours.
fn way(crates: &BTreeMap<&str, &Crate>, from: &str, to: &str) -> Option<String> {
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut ways = vec![(from.to_owned(), from.to_owned())];
    while let Some((at, way)) = ways.pop() {
        for next in crates.get(at.as_str()).map(|each| &each.depends).into_iter().flatten() {
            let way = format!("{way} → {next}");
            if next == to {
                return Some(way);
            }
            if seen.insert(next.clone()) {
                ways.push((next.clone(), way));
            }
        }
    }
    None
}
