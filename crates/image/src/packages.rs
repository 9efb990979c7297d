//! What is installed in an image, as the databases of dpkg and apk have it. Read by the confined worker, of the bytes that went into
//! the image; nothing is run, and what those of other package managers say stays unknown.
//!
//! The formats: deb-control(5) and `status` of dpkg-query(1); the index of apk-tools (<https://wiki.alpinelinux.org/wiki/Apk_spec>).

use crate::tree::{Content, InsidePath, Kind, Tree};
use model::packages::{Manager, Packages};
use std::collections::BTreeMap;

/// Where the databases are. Newer releases of Alpine have theirs beneath `usr`, with a link where it was.
const PLACES: [(Manager, &str); 3] = [
    (Manager::Dpkg, "var/lib/dpkg/status"),
    (Manager::Apk, "lib/apk/db/installed"),
    (Manager::Apk, "usr/lib/apk/db/installed"),
];

/// Which of them a path names.
pub(crate) fn database(path: &InsidePath) -> Option<usize> {
    PLACES.iter().position(|(_, place)| InsidePath::parse(place.as_bytes()).as_ref() == Ok(path))
}

/// Those that were read last, each with where it is in the image.
#[derive(Debug, Default)]
pub(crate) struct Databases([Option<(Content, Vec<u8>)>; PLACES.len()]);

impl Databases {
    /// One that is too large to be kept in the tree.
    pub(crate) fn keep(&mut self, database: usize, content: Content, bytes: Vec<u8>) {
        self.0[database] = Some((content, bytes));
    }

    /// What is installed in a tree: of a database that a later layer took away, nothing is.
    pub(crate) fn packages(&self, tree: &Tree) -> Option<Packages> {
        PLACES.iter().enumerate().find_map(|(number, (manager, place))| {
            let node = tree.resolve(format!("/{place}").as_bytes())?;
            let Kind::File(content) = &tree.node(node).kind else { return None };
            let bytes = match content {
                Content::Small(bytes) => bytes,
                // Through a link it may lie at another of the places.
                content => {
                    let of = |kept: &&(Content, Vec<u8>)| kept.0 == *content;
                    &self.0[number].iter().chain(self.0.iter().flatten()).find(of)?.1
                }
            };
            let versions = match manager {
                Manager::Dpkg => dpkg(&String::from_utf8_lossy(bytes)),
                Manager::Apk => apk(&String::from_utf8_lossy(bytes)),
            };
            let packages = Packages { manager: *manager, versions };
            packages.fault().is_none().then_some(packages)
        })
    }
}

/// Stanzas, each of lines `Name: value`; what begins with a blank goes on, and matters for none that is read here.
fn dpkg(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        let (Some(name), Some(version), Some(status)) = (field("Package"), field("Version"), field("Status"))
        else {
            continue;
        };
        // What was removed leaves its configuration, and its stanza.
        if !status.ends_with(" installed") {
            continue;
        }
        // The same package may be there for two architectures.
        let name = match (found.contains_key(name), field("Architecture")) {
            (true, Some(architecture)) => format!("{name}:{architecture}"),
            _ => name.to_owned(),
        };
        found.insert(name, version.to_owned());
    }
    found
}

/// Stanzas, each of lines `L:value`.
fn apk(text: &str) -> BTreeMap<String, String> {
    let stanza = |stanza: &str| {
        let field = |letter: &str| stanza.lines().find_map(|line| line.strip_prefix(letter));
        Some((field("P:")?.to_owned(), field("V:")?.to_owned()))
    };
    text.split("\n\n").filter_map(stanza).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dpkg_has_installed() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nDescription: C\n Version: of it\n\n\
            Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 2.36-9\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: half\nVersion: 1\n\nVersion: 2\nStatus: install ok installed\n";
        let found: Vec<_> =
            dpkg(text).into_iter().map(|(name, version)| format!("{name} {version}")).collect();
        assert_eq!(found, ["libc6 2.36-9", "libc6:i386 2.36-9"]);
    }

    #[test]
    fn what_apk_has_installed() {
        let text = "C:Q1abc\nP:musl\nV:1.2.4-r2\nA:x86_64\nF:lib\n\nP:busybox\nV:1.36.1-r15\n\nV:1\n";
        let found: Vec<_> =
            apk(text).into_iter().map(|(name, version)| format!("{name} {version}")).collect();
        assert_eq!(found, ["busybox 1.36.1-r15", "musl 1.2.4-r2"]);
    }
}
