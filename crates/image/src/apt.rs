//! Reads from the machine's own apt configuration where its distribution's packages come from, so that no address of a
//! mirror is written anywhere in this program, and what works for the machine works for its images.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// Settings that say how to reach a mirror. Those that would trust one without a signature are left out.
const OPTIONS: [&str; 5] =
    ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::Force"];

/// Where packages come from, as texts that apt reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Apt {
    /// Stanzas of a `.sources` file (deb822).
    pub(crate) stanzas: String,
    /// Lines of a `.list` file.
    pub(crate) lines: String,
    /// Lines of an `apt.conf`.
    pub(crate) options: String,
}

impl Apt {
    /// Of all configured sources, those of the suite and its updates: `bookworm`, `bookworm-security`.
    pub(crate) fn of_host(suite: &str) -> io::Result<Self> {
        let mut apt = Self::default();
        for (path, text) in source_files(Path::new("/etc/apt"))? {
            match path.rsplit_once('.') {
                Some((_, "sources")) => apt.stanzas += &stanzas(&text, suite),
                _ => apt.lines += &lines(&text, suite),
            }
        }
        let dump = Command::new("apt-config").arg("dump").output()?;
        apt.options = options(&String::from_utf8_lossy(&dump.stdout));
        Ok(apt)
    }
}

/// The machine's own suite, from os-release(5).
pub(crate) fn host_suite() -> io::Result<Option<String>> {
    let text = fs::read_to_string("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.map(|name| name.trim_matches('"').to_owned()))
}

/// The files that apt reads, in its order; see sources.list(5).
fn source_files(etc: &Path) -> io::Result<Vec<(String, String)>> {
    let mut paths = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        let mut more = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        more.retain(|path| path.extension().is_some_and(|ext| ext == "list" || ext == "sources"));
        more.sort();
        paths.extend(more);
    }
    let mut files = Vec::new();
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(text) => files.push((path.display().to_string(), text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Whether these suites are one distribution's, and these components its main one: so that the sources of
/// vendors, which carry the same suite names at times, stay out.
fn wanted<'a>(suites: impl IntoIterator<Item = &'a str>, components: &[&str], suite: &str) -> bool {
    let mut suites = suites.into_iter().peekable();
    let own =
        |name: &str| name.strip_prefix(suite).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    suites.peek().is_some() && suites.all(own) && components.contains(&"main")
}

fn stanzas(text: &str, suite: &str) -> String {
    let mut kept = String::new();
    let uncommented: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in uncommented.split(|line| line.trim().is_empty()) {
        let field = |name: &str| -> Vec<&str> {
            let of_name =
                |line: &&&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
            let line = stanza.iter().find(of_name).and_then(|line| line.split_once(':'));
            line.map(|(_, value)| value.split_whitespace().collect()).unwrap_or_default()
        };
        let enabled = !field("Enabled").first().is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if enabled && field("Types").contains(&"deb") && wanted(field("Suites"), &field("Components"), suite)
        {
            kept += &stanza.join("\n");
            kept += "\n\n";
        }
    }
    kept
}

fn lines(text: &str, suite: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        // Options in brackets may hold spaces.
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let words: Vec<&str> = rest.split('#').next().unwrap_or("").split_whitespace().collect();
        if let [_, of, components @ ..] = words.as_slice()
            && wanted([*of], components, suite)
        {
            kept += line.trim();
            kept += "\n";
        }
    }
    kept
}

fn options(dump: &str) -> String {
    let has_value = |line: &&str| !line.ends_with(" \"\";");
    let wanted = |line: &&str| OPTIONS.iter().any(|prefix| line.starts_with(prefix));
    dump.lines().filter(wanted).filter(has_value).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_distributions_own_stanzas_are_taken() {
        let debian = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/k.gpg";
        let vendor = "Types: deb\nURIs: http://vendor.example\nSuites: nodistro\nComponents: main";
        let off =
            "Enabled: no\nTypes: deb\nURIs: http://mirror.example/x\nSuites: bookworm\nComponents: main";
        let sources = "Types: deb-src\nURIs: http://mirror.example/x\nSuites: bookworm\nComponents: main";
        let other = "Types: deb\nURIs: http://mirror.example/x\nSuites: bookworm trixie\nComponents: main";
        let text = format!("# a comment\n{debian}\n\n{vendor}\n\n\n{off}\n\n{sources}\n\n{other}\n");
        assert_eq!(stanzas(&text, "bookworm"), format!("{debian}\n\n"));
    }

    #[test]
    fn only_the_distributions_own_lines_are_taken() {
        let text = "\
# deb http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # the main one
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/security bookworm-security main
deb-src http://mirror.example/debian bookworm main
deb http://vendor.example bookworm stable
deb http://vendor.example bookwormish main
";
        let kept = lines(text, "bookworm");
        assert_eq!(kept.lines().count(), 2, "{kept}");
        assert!(kept.contains("bookworm-security"));
    }

    #[test]
    fn options_that_lower_trust_are_not_taken() {
        let dump = "\
Acquire::AllowInsecureRepositories \"1\";
Acquire::http \"\";
Acquire::http::Proxy \"http://proxy.example:3128\";
Acquire::Retries \"3\";
APT::Get::AllowUnauthenticated \"1\";
";
        assert_eq!(
            options(dump),
            "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::Retries \"3\";\n"
        );
    }
}
