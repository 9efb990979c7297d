//! apt: its sources, in both forms (sources.list(5)), and lists of mirrors that they name (apt-transport-mirror(1)).

use super::{Found, Machine};
use std::path::{Path, PathBuf};

pub fn read(machine: &Machine) -> Found {
    let mut found = Found::default();
    let more = machine.list(Path::new("/etc/apt/sources.list.d"));
    for path in std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(more) {
        let is = |extension: &str| path.extension().is_some_and(|own| own == extension);
        let addresses: fn(&str) -> Vec<String> = match (is("list"), is("sources")) {
            (true, _) => lines,
            (_, true) => stanzas,
            // apt leaves others out as well.
            _ => continue,
        };
        let Some(text) = machine.read(&path) else { continue };
        for address in addresses(&text) {
            add(machine, &address, &format!("{}", path.display()), &mut found);
        }
    }
    // `Acquire::http::Proxy "http://proxy.example.org:3142";`
    for line in machine.ask(&["apt-config", "dump", "Acquire"]) {
        let Some((key, value)) = line.split_once(' ') else { continue };
        let key = key.to_ascii_lowercase();
        if ["acquire::http::proxy", "acquire::https::proxy"].iter().any(|own| key.starts_with(own)) {
            found.proxy(value.trim_end_matches(';').trim_matches('"'));
        }
    }
    found.proxies.retain(|proxy| !proxy.starts_with("direct:"));
    found
}

fn add(machine: &Machine, address: &str, from: &str, found: &mut Found) {
    let Some(list) = address.strip_prefix("mirror+file:") else { return found.add(address, from) };
    let list = PathBuf::from(format!("/{}", list.trim_start_matches('/')));
    let text = machine.read(&list).unwrap_or_default();
    let mirrors = text.lines().filter_map(|line| line.split_whitespace().next());
    mirrors.for_each(|mirror| found.add(mirror, &format!("{}", list.display())));
}

/// `deb [options] ADDRESS suite components`
fn lines(text: &str) -> Vec<String> {
    let address = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let (kind, rest) = line.split_once([' ', '\t'])?;
        if !matches!(kind, "deb" | "deb-src") {
            return None;
        }
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next().map(str::to_owned)
    };
    text.lines().filter_map(address).collect()
}

/// Paragraphs of `Key: value`, whose values go on in lines that are indented.
fn stanzas(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (mut addresses, mut enabled, mut key) = (Vec::new(), true, String::new());
    // A last empty line ends the last paragraph.
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            let ended = std::mem::take(&mut addresses);
            if std::mem::replace(&mut enabled, true) {
                all.extend(ended);
            }
            key.clear();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let value = match line.split_once(':') {
            Some((name, value)) if !line.starts_with([' ', '\t']) => {
                key = name.trim().to_ascii_lowercase();
                value
            }
            _ => line,
        };
        match key.as_str() {
            "uris" => addresses.extend(value.split_whitespace().map(str::to_owned)),
            "enabled" => {
                enabled = !matches!(value.trim().to_ascii_lowercase().as_str(), "no" | "false" | "0")
            }
            _ => {}
        }
    }
    all
}
