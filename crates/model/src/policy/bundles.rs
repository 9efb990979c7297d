//! Lists of hosts that people know by a name.
//!
//! Those of APIs and of code are data, beside this file. Those of tools come from outside, because each machine has mirrors of
//! its own: an entry is what a rule has as its host, with or without a port behind it.

use super::pattern::Pattern;
use super::scope::Scope;
use super::table::Protocol;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The bundle that holds all others.
pub const COMMON: &str = "common";
/// The bundles that are read from a machine's tools.
pub const TOOLS: [&str; 4] = ["debian", "node", "python", "rust"];

/// One bundle.
pub(super) struct Bundle {
    pub(super) name: &'static str,
    pub(super) entries: Cow<'static, [(Pattern, Scope)]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    tls: Vec<String>,
    #[serde(default)]
    ssh: Vec<String>,
}

/// By name. A test reads every entry, so that nothing is left out here in silence.
static WRITTEN: LazyLock<Vec<Bundle>> = LazyLock::new(|| {
    let all: BTreeMap<String, Written> = toml::from_str(include_str!("bundles.toml")).unwrap_or_default();
    all.into_iter()
        .map(|(name, Written { tls, ssh })| {
            let tls = tls.iter().map(|text| entry(text, |_| Scope::allowed(&[443], Some(Protocol::Tls))));
            let ssh = ssh
                .iter()
                .map(|text| entry(text, |port| Scope::allowed(&[port.unwrap_or(22)], Some(Protocol::Tcp))));
            Bundle { name: name.leak(), entries: tls.chain(ssh).flatten().collect() }
        })
        .collect()
});

/// All names that a policy can have among its bundles, in the order of the alphabet but for `common`, which is first.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = WRITTEN.iter().map(|bundle| bundle.name).chain(TOOLS).collect();
    names.sort_unstable();
    names.insert(0, COMMON);
    names
}

/// What a bundle lets pass, in words such as `github.com at port 443 by tls`; nothing for one that is not known.
pub fn contents(name: &str, tools: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let chosen = chosen(&[name.to_owned()], tools);
    chosen
        .iter()
        .flat_map(|bundle| bundle.entries.iter())
        .map(|(pattern, scope)| format!("{pattern} {scope}"))
        .collect()
}

/// The bundles that a policy names, each once, with what they let pass.
pub(super) fn chosen(wanted: &[String], tools: &BTreeMap<String, Vec<String>>) -> Vec<Bundle> {
    let is_wanted = |name: &str| wanted.iter().any(|each| each == name || each == COMMON);
    let written = WRITTEN.iter().filter(|bundle| is_wanted(bundle.name));
    let written = written.map(|Bundle { name, entries }| Bundle { name, entries: Cow::Borrowed(entries) });
    let read = TOOLS.into_iter().filter(|name| is_wanted(name)).map(|name| {
        let hosts = tools.get(name).map_or(&[][..], Vec::as_slice);
        let rules = |port: Option<u16>| Scope::allowed(port.as_slice(), None);
        Bundle { name, entries: hosts.iter().filter_map(|text| entry(text, rules)).collect() }
    });
    written.chain(read).collect()
}

/// Reads `host`, `host:port` or `[address]:port`.
fn entry(text: &str, scope: impl Fn(Option<u16>) -> Scope) -> Option<(Pattern, Scope)> {
    if let Ok(pattern) = Pattern::parse(text) {
        return Some((pattern, scope(None)));
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some((Pattern::parse(host).ok()?, scope(Some(port))))
}
