//! cargo: sources and registries of its configuration (<https://doc.rust-lang.org/cargo/reference/config.html>), and the registries that
//! it has an index of: what it goes to by itself it does not say otherwise. rustup's servers, where they are set.

use super::{Found, Machine};
use std::path::{Path, PathBuf};

pub fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let home = machine.env("CARGO_HOME").map(PathBuf::from).or_else(|| machine.home(".cargo"));
    if let Some(home) = &home {
        for path in ["config.toml", "config"].map(|name| home.join(name)) {
            if let Some(table) = machine.read(&path).and_then(|text| text.parse::<toml::Table>().ok()) {
                configured(&table, &path, &mut found);
            }
        }
    }
    for (variable, value) in &machine.env {
        let index = variable.starts_with("CARGO_REGISTRIES_") && variable.ends_with("_INDEX");
        if index || matches!(variable.as_str(), "RUSTUP_DIST_SERVER" | "RUSTUP_UPDATE_ROOT") {
            found.add(value, variable);
        } else if variable == "CARGO_HTTP_PROXY" {
            found.proxy(value);
        }
    }
    if let Some(home) = &home {
        for index in machine.list(&home.join("registry/index")) {
            used(machine, &index, &mut found);
        }
    }
    found
}

/// `[source.NAME] registry`, `[registries.NAME] index`, `[http] proxy`.
fn configured(table: &toml::Table, path: &Path, found: &mut Found) {
    for (kind, key) in [("source", "registry"), ("registries", "index")] {
        let named = table.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
        for (name, settings) in named {
            if let Some(address) = settings.get(key).and_then(toml::Value::as_str) {
                found.add(address, &format!("{kind}.{name}.{key} in {}", path.display()));
            }
        }
    }
    let proxy = table.get("http").and_then(|http| http.get("proxy")).and_then(toml::Value::as_str);
    if let Some(proxy) = proxy {
        found.proxy(proxy);
    }
}

/// A directory `HOST-HASH`, with what the registry says of itself: where it has its files, and its API.
fn used(machine: &Machine, index: &Path, found: &mut Found) {
    let Some((host, _)) =
        index.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('-'))
    else {
        return;
    };
    let from = format!("the index that cargo has in {}", index.display());
    found.add(&format!("https://{host}"), &from);
    let said = machine.read(&index.join("config.json"));
    let said: serde_json::Value = said.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    for address in ["dl", "api"].iter().filter_map(|key| said.get(key)?.as_str()) {
        found.add(address, &from);
    }
}
