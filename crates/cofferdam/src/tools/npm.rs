//! npm: `registry`, also of scopes, in its configuration (<https://docs.npmjs.com/cli/configuring-npm/npmrc>), else what it says itself.

use super::{Found, Machine, settings};
use std::path::PathBuf;

pub fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let mut has_registry = false;
    for path in files(machine) {
        let Some(text) = machine.read(&path) else { continue };
        for (_, key, value) in settings(&text, false) {
            let from = format!("{key} in {}", path.display());
            match key.as_str() {
                "registry" => {
                    has_registry = true;
                    found.add(&value, &from);
                }
                scoped if scoped.starts_with('@') && scoped.ends_with(":registry") => {
                    found.add(&value, &from)
                }
                "proxy" | "https-proxy" => found.proxy(&value),
                _ => {}
            }
        }
    }
    for (variable, value) in &machine.env {
        match variable.to_ascii_lowercase().as_str() {
            "npm_config_registry" if !value.is_empty() => {
                has_registry = true;
                found.add(value, variable);
            }
            "npm_config_proxy" | "npm_config_https_proxy" => found.proxy(value),
            _ => {}
        }
    }
    if !has_registry {
        let said = machine.ask(&["npm", "config", "get", "registry"]);
        said.iter().for_each(|address| found.add(address, "npm config get registry"));
    }
    found
}

fn files(machine: &Machine) -> Vec<PathBuf> {
    let global = ["/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"].map(PathBuf::from);
    let named = ["NPM_CONFIG_GLOBALCONFIG", "NPM_CONFIG_USERCONFIG"];
    let named = named.into_iter().filter_map(|variable| machine.env(variable).map(PathBuf::from));
    global.into_iter().chain(machine.home(".npmrc")).chain(named).collect()
}
