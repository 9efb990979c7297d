//! Which registries the tools of this machine are set up with, for the bundles that are named after them.
//!
//! Their configuration is read, and where that says nothing, the tool is asked for its default. No registry's host stands here, and
//! nothing but hosts is kept of what is read: registries are named with credentials at times.

mod apt;
mod cargo;
mod npm;
mod pip;
mod write;

pub use write::{refresh, write_first};

use crate::policies::{destination, with_port};
use model::policy::name;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file of configuration, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Files of one directory.
const MAX_FILES: usize = 256;

/// The machine whose tools are asked.
pub struct Machine {
    /// What paths are below: `/`.
    root: PathBuf,
    /// Of whoever asks.
    home: Option<PathBuf>,
    env: BTreeMap<String, String>,
    /// Runs a program, for what it prints.
    ask: fn(&[&str]) -> Option<String>,
}

impl Machine {
    /// A file below the root; absent when it cannot be read.
    fn read(&self, path: &Path) -> Option<String> {
        let path = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let mut text = String::new();
        let file = File::open(path).ok()?;
        file.metadata().ok().filter(|metadata| metadata.is_file())?;
        file.take(MAX_FILE).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// What is in a directory, in order.
    fn list(&self, directory: &Path) -> Vec<PathBuf> {
        let below = self.root.join(directory.strip_prefix("/").unwrap_or(directory));
        let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> =
            entries.take(MAX_FILES).map(|entry| directory.join(entry.file_name())).collect();
        paths.sort();
        paths
    }

    fn home(&self, below: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(below))
    }

    fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What a tool prints, in lines.
    fn ask(&self, command: &[&str]) -> Vec<String> {
        let said = (self.ask)(command).unwrap_or_default();
        said.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }
}

/// What is known of one bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Hosts with their ports, each with where it comes from.
    pub hosts: Vec<(String, String)>,
    /// Proxies that the tool goes by.
    pub proxies: BTreeSet<String>,
}

impl Found {
    /// Adds the host of a registry's address, if it is one of the network's.
    fn add(&mut self, address: &str, from: &str) {
        if let Some(host) = host_of(address)
            && !self.hosts.iter().any(|(known, _)| *known == host)
        {
            self.hosts.push((host, from.to_owned()));
        }
    }

    fn proxy(&mut self, address: &str) {
        let with_scheme = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        self.proxies.extend(host_of(&with_scheme));
    }
}

/// All bundles that are read from tools.
pub fn gather(machine: &Machine) -> BTreeMap<&'static str, Found> {
    BTreeMap::from([
        ("debian", apt::read(machine)),
        ("node", npm::read(machine)),
        ("python", pip::read(machine)),
        ("rust", cargo::read(machine)),
    ])
}

/// What to do about a bundle in which there is nothing.
pub fn remedy(bundle: &str) -> &'static str {
    match bundle {
        "python" => {
            "write `index-url` into /etc/pip.conf, or install pip; then `sudo cofferdam setup --bundles`"
        }
        "node" => "write `registry` into ~/.npmrc, or install npm; then `sudo cofferdam setup --bundles`",
        "rust" => {
            "name the registry in ~/.cargo/config.toml, or let cargo fetch something once; then `sudo cofferdam setup --bundles`"
        }
        _ => "name a mirror in /etc/apt/sources.list; then `sudo cofferdam setup --bundles`",
    }
}

/// `HOST:PORT` of an address such as `https://user:password@mirror.example.org/simple`, without anything else of it. `None` for files
/// and for what is no address.
fn host_of(address: &str) -> Option<String> {
    let (scheme, rest) = address.trim().split_once("://")?;
    // cargo has `sparse+https`, apt has `mirror+http` and `tor+http`.
    let scheme = scheme.rsplit('+').next().unwrap_or(scheme).to_ascii_lowercase();
    let port = match scheme.as_str() {
        "https" => 443,
        "http" | "mirror" => 80,
        "ssh" => 22,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let to = destination(authority).ok()?;
    let host = match to.host.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name(&to.host)?,
    };
    Some(with_port(&host, Some(to.port.unwrap_or(port))))
}

/// Lines `key = value` of a file such as pip's or npm's, each with the section that it stands in. A value goes on in lines that are
/// indented, if `folded`.
fn settings(text: &str, folded: bool) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if folded
            && line.starts_with([' ', '\t'])
            && let Some((.., value)) = found.last_mut()
        {
            value.push('\n');
            value.push_str(bare);
        } else if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_owned();
        } else if let Some((key, value)) = bare.split_once(['=', ':']).filter(|_| folded) {
            found.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        } else if let Some((key, value)) = bare.split_once('=') {
            let value = value.trim().trim_matches(['"', '\'']);
            found.push((section.clone(), key.trim().to_owned(), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests;
