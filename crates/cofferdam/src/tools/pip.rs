//! pip: `index-url` and `extra-index-url` of its configuration (<https://pip.pypa.io/en/stable/topics/configuration/>), else what
//! it goes to by itself.

use super::{Found, Machine, settings};
use std::path::PathBuf;

/// Where pip goes unless told: the index, and the host that it knows to have the files.
const DEFAULT: [&str; 4] = [
    "python3",
    "-I",
    "-c",
    "from pip._internal.models.index import PyPI; print(PyPI.simple_url); print('https://' + PyPI.file_storage_domain)",
];

const INDEXES: [&str; 2] = ["index-url", "extra-index-url"];

pub fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let mut has_index = false;
    for path in files(machine) {
        let Some(text) = machine.read(&path) else { continue };
        for (_, key, value) in settings(&text, true) {
            let key = key.replace('_', "-").to_ascii_lowercase();
            let from = format!("{key} in {}", path.display());
            if INDEXES.contains(&key.as_str()) || key == "find-links" {
                has_index |= key == INDEXES[0];
                value.split_whitespace().for_each(|address| found.add(address, &from));
            } else if key == "proxy" {
                found.proxy(&value);
            }
        }
    }
    for variable in ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"] {
        if let Some(value) = machine.env(variable) {
            has_index |= variable == "PIP_INDEX_URL";
            value.split_whitespace().for_each(|address| found.add(address, variable));
        }
    }
    if let Some(proxy) = machine.env("PIP_PROXY") {
        found.proxy(proxy);
    }
    if !has_index {
        machine.ask(&DEFAULT).iter().for_each(|address| found.add(address, "pip's own default"));
    }
    found
}

fn files(machine: &Machine) -> Vec<PathBuf> {
    let config = machine.env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| machine.home(".config"));
    let named = machine.env("PIP_CONFIG_FILE").map(PathBuf::from);
    let global = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf"].map(PathBuf::from);
    let own = [machine.home(".pip/pip.conf"), config.map(|config| config.join("pip/pip.conf")), named];
    global.into_iter().chain(own.into_iter().flatten()).collect()
}
