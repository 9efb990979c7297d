//! `bundles.toml`, as node reads it.

use super::{Found, Machine, gather, remedy};
use crate::clean;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a tool prints, in bytes.
const MAX_SAID: u64 = 64 << 10;
/// How long it may take, in seconds.
const PATIENCE: &str = "10";

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let home = env.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        // A service manager may start without HOME; root's is known.
        let home = home.or_else(|| rustix::process::geteuid().is_root().then(|| "/root".into()));
        Self { root: "/".into(), home, env, ask: run }
    }
}

/// Runs a tool away from anybody's directory, and not for long.
fn run(command: &[&str]) -> Option<String> {
    let mut child = Command::new("timeout")
        .arg(PATIENCE)
        .args(command)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut said = String::new();
    let read = child.stdout.take()?.take(MAX_SAID).read_to_string(&mut said);
    let ended = child.wait().ok()?;
    read.ok().filter(|_| ended.success()).map(|_| said)
}

/// Writes the file where there is none yet. Nothing else depends on it, so what goes wrong is a warning.
pub fn write_first(path: &Path) {
    if path.exists() {
        return;
    }
    if let Err(error) = refresh(path) {
        eprintln!("cofferdam: warning: {error:#}");
    }
}

/// Asks this machine's tools, and writes what they say; the file that was there before is kept beside it. What was found.
pub fn refresh(path: &Path) -> anyhow::Result<BTreeMap<&'static str, Found>> {
    let found = gather(&Machine::here());
    let text = text(&found);
    let attempt = || format!("cannot write {}", path.display());
    if std::fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(found);
    }
    let draft = path.with_extension("toml.new");
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&draft)
        .with_context(attempt)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(attempt)?;
    if path.exists() {
        std::fs::rename(path, path.with_extension("toml.old")).with_context(attempt)?;
    }
    std::fs::rename(&draft, path).with_context(attempt)?;
    Ok(found)
}

/// The file.
pub(super) fn text(found: &BTreeMap<&'static str, Found>) -> String {
    let mut text = "# Hosts of the bundles that are read from the tools of this machine, for node. `cofferdam setup --bundles` asks the\n\
        # tools again, and keeps this file as bundles.toml.old.\n"
        .to_owned();
    for (bundle, Found { hosts, proxies }) in found {
        text.push('\n');
        for proxy in proxies {
            let proxy = clean::text(proxy);
            text.push_str(&format!(
                "# Not in here: the proxy {proxy}, for whoever reaches it reaches all that it does.\n"
            ));
        }
        let hosts: Vec<_> = hosts
            .iter()
            .filter(|(host, _)| node::is_bundle_host(bundle, host))
            .take(node::MAX_HOSTS)
            .collect();
        if hosts.is_empty() {
            text.push_str(&format!("# Nothing was found: {}\n{bundle} = []\n", remedy(bundle)));
            continue;
        }
        text.push_str(&format!("{bundle} = [\n"));
        for (host, from) in hosts {
            let host = toml::Value::String(host.clone());
            text.push_str(&format!("    {host}, # {}\n", clean::text(from)));
        }
        text.push_str("]\n");
    }
    text
}
