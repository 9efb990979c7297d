//! `bundles.toml`: the hosts of those bundles that are read from the tools of this machine. `cofferdam setup --bundles` writes it.
//!
//! Node reads it and asks no tool: what a program of the machine says is looked at by the machine's operator first.

use model::policy::{TOOLS, bundle_contents};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The file, in bytes.
const MAX_FILE: u64 = 64 << 10;
/// Hosts of one bundle.
pub const MAX_HOSTS: usize = 64;

/// Why the file cannot be used. Nothing of it is, then.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// It is there, and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says something that it may not.
    #[error("{path} {fault}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, as in "PATH has …".
        fault: String,
    },
}

/// The hosts of each bundle that the file names; none where there is no file.
pub fn read(path: &Path) -> Result<BTreeMap<String, Vec<String>>, ToolsError> {
    let failed = |source| ToolsError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    parse(&text).map_err(|fault| ToolsError::Invalid { path: path.to_owned(), fault })
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    if text.len() as u64 > MAX_FILE {
        return Err(format!("has more than {MAX_FILE} bytes"));
    }
    let bundles: BTreeMap<String, Vec<String>> = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        format!("has no list of hosts for each bundle: see its line {line}")
    })?;
    for (bundle, hosts) in &bundles {
        if !TOOLS.contains(&bundle.as_str()) {
            return Err(format!("names {bundle:?}, but these alone are read from it: {}", TOOLS.join(", ")));
        }
        if hosts.len() > MAX_HOSTS {
            return Err(format!("has more than {MAX_HOSTS} hosts of {bundle}"));
        }
        if let Some(host) = hosts.iter().find(|host| !is_host(bundle, host)) {
            return Err(format!(
                "has {host:?} among the hosts of {bundle}: write HOST or HOST:PORT, as in \"mirror.example.org:443\""
            ));
        }
    }
    Ok(bundles)
}

/// Whether a bundle with this host lets something pass: what it cannot read it leaves out.
pub fn is_host(bundle: &str, host: &str) -> bool {
    let alone = BTreeMap::from([(bundle.to_owned(), vec![host.to_owned()])]);
    !bundle_contents(bundle, &alone).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_by_bundle() {
        let text = "# from pip.conf\npython = [\n  \"mirror.example.org:443\", # index-url\n  \"*.files.example.org\",\n]\n\
            debian = [\"203.0.113.7:80\", \"[2001:db8::1]:80\"]\nnode = []\n";
        let read = parse(text).unwrap();
        assert_eq!(read["python"], ["mirror.example.org:443", "*.files.example.org"]);
        assert_eq!((read["debian"].len(), read["node"].len(), read.get("rust")), (2, 0, None));
        assert_eq!(parse("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(expected), "{text}: {fault}");
        };
        check("python = \"mirror.example.org\"", "line 1");
        check("python = [\"a.example\"]\nnode = [1]", "line 2");
        check("python = [", "line 1");
        check("github = [\"a.example\"]", "\"github\"");
        check("common = []", "\"common\"");
        for bad in ["https://a.example/simple", "a.example:0", "a.example:https", "*", "user@a.example", ""] {
            check(&format!("rust = [{bad:?}]"), &format!("{bad:?} among the hosts of rust"));
        }
        let many: Vec<String> = (0..=MAX_HOSTS).map(|at| format!("\"h{at}.example\"")).collect();
        check(&format!("rust = [{}]", many.join(", ")), "more than 64");
        check(&format!("# {}", "x".repeat(MAX_FILE as usize)), "more than");
    }

    #[test]
    fn no_file_is_no_host() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundles.toml");
        assert_eq!(read(&path).unwrap(), BTreeMap::new());
        std::fs::write(&path, "rust = [\"mirror.example.org\"]\n").unwrap();
        assert_eq!(read(&path).unwrap()["rust"], ["mirror.example.org"]);
        std::fs::write(&path, "rust = [\"mirror example\"]\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("bundles.toml has \"mirror example\""));
        assert!(matches!(read(directory.path()), Err(ToolsError::Read { .. })));
    }
}
