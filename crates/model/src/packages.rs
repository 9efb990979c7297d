//! What is installed in an image, and how two images differ in that. Pure. It is what an image says of itself: nobody's word on what is
//! really in it.

use crate::id::ImageId;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Packages of one image. What has more is told of as unknown.
const MOST: usize = 5000;
/// All names and versions of one image together, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// The longest name or version, in bytes.
const MAX_TEXT: usize = 200;
/// Lines of one answer about what differs.
pub const MAX_LINES: usize = 1000;

/// Whose database was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// That of Debian and what comes of it.
    Dpkg,
    /// That of Alpine.
    Apk,
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// By whose database.
    pub manager: Manager,
    /// Versions by names: 5000 at most, of 256 KiB together.
    pub versions: BTreeMap<String, String>,
}

impl Packages {
    /// What is wrong with it, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        let text = |text: &String| {
            (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let bytes: usize = self.versions.iter().map(|(name, version)| name.len() + version.len()).sum();
        if self.versions.len() > MOST || bytes > MAX_BYTES {
            Some("an image has at most 5000 packages, whose names and versions have at most 256 KiB")
        } else if !self.versions.iter().all(|(name, version)| text(name) && text(version)) {
            Some("the name or the version of a package is 1 to 200 printable ASCII characters")
        } else {
            None
        }
    }
}

/// One of the two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageVersion {
    /// Its id.
    pub id: ImageId,
    /// Its name, or the one that it had.
    pub name: Name,
    /// Its content.
    pub digest: String,
}

/// `GET /v1/images/A/diff?with=B`: what B has other than A.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageDiff {
    /// The one that is there.
    pub from: ImageVersion,
    /// The other.
    pub to: ImageVersion,
    /// Why it is unknown what differs, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// What differs, by name.
    pub packages: Vec<PackageDiff>,
    /// Lines that were left out: there are 1000 at most.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// One package that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PackageDiff {
    /// Its name.
    pub name: String,
    /// Its version in the one that is there; absent where it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its version in the other; absent where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// An agent's image has newer content under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Upgrade {
    /// The image that its name means now.
    pub image: ImageId,
    /// Its content.
    pub digest: String,
    /// What that means, for a person.
    pub note: String,
    /// What makes a copy of the agent on it.
    pub command: String,
}

impl Upgrade {
    /// For an agent of this name, whose image has that name.
    pub fn of(agent: &Name, image: &Name, id: ImageId, digest: String) -> Self {
        // A name has 40 characters at most.
        let stem: String = agent.as_str().chars().take(36).collect();
        let command =
            format!("cofferdam agent clone {agent} {}-new --image {image}", stem.trim_end_matches('-'));
        let note = format!(
            "{image} has newer content; an agent keeps its image for life, and a clone of it on the new one is the way there"
        );
        Self { image: id, digest, note, command }
    }
}

/// What the other image has other than the one that is there.
pub fn diff(
    (from, before): (ImageVersion, Option<&Packages>),
    (to, after): (ImageVersion, Option<&Packages>),
) -> ImageDiff {
    let none = |unknown: String| Some(unknown);
    let unread = |image: &ImageVersion| {
        none(format!(
            "no database of dpkg or apk was read when {} (sha256:{}) was registered",
            image.name, image.digest
        ))
    };
    let (unknown, mut packages) = match (before, after) {
        _ if from.digest == to.digest => (None, Vec::new()),
        (None, _) => (unread(&from), Vec::new()),
        (_, None) => (unread(&to), Vec::new()),
        (Some(before), Some(after)) if before.manager != after.manager => {
            (none("their packages are of two distributions, and cannot be compared".to_owned()), Vec::new())
        }
        (Some(before), Some(after)) => (None, changes(&before.versions, &after.versions)),
    };
    let omitted = packages.len().saturating_sub(MAX_LINES);
    packages.truncate(MAX_LINES);
    ImageDiff { from, to, unknown, packages, omitted }
}

fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<PackageDiff> {
    let mut lines: BTreeMap<&String, PackageDiff> = BTreeMap::new();
    for (name, version) in before.iter().filter(|(name, version)| after.get(*name) != Some(version)) {
        let (from, to) = (Some(version.clone()), after.get(name).cloned());
        lines.insert(name, PackageDiff { name: name.clone(), from, to });
    }
    for (name, version) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        lines.insert(name, PackageDiff { name: name.clone(), from: None, to: Some(version.clone()) });
    }
    lines.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digest: &str) -> ImageVersion {
        ImageVersion { id: ImageId::new(), name: "debian".parse().unwrap(), digest: digest.to_owned() }
    }

    fn packages(manager: Manager, versions: &[(&str, &str)]) -> Packages {
        let owned = versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
        Packages { manager, versions: owned.collect() }
    }

    #[test]
    fn what_differs_is_told_by_name_and_version() {
        let before = packages(Manager::Dpkg, &[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = packages(Manager::Dpkg, &[("a", "1"), ("b", "2"), ("d", "1")]);
        let found = diff((image("x"), Some(&before)), (image("y"), Some(&after)));
        let line = |it: &PackageDiff| {
            let show = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
            format!("{} {} {}", it.name, show(&it.from), show(&it.to))
        };
        assert_eq!(found.packages.iter().map(line).collect::<Vec<_>>(), ["b 1 2", "c 1 -", "d - 1"]);
        assert_eq!((found.unknown, found.omitted), (None, 0));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let known = packages(Manager::Dpkg, &[("a", "1")]);
        let other = packages(Manager::Apk, &[("a", "1")]);
        for (before, after) in
            [(None, Some(&known)), (Some(&known), None), (None, None), (Some(&known), Some(&other))]
        {
            let found = diff((image("x"), before), (image("y"), after));
            assert!(found.unknown.is_some() && found.packages.is_empty());
        }
        // The same content differs in nothing, known or not.
        assert_eq!(diff((image("x"), None), (image("x"), None)).unknown, None);
    }

    #[test]
    fn lists_have_an_end() {
        let many = |count: usize| Packages {
            manager: Manager::Apk,
            versions: (0..count).map(|number| (format!("p{number:05}"), "1".to_owned())).collect(),
        };
        let none = packages(Manager::Apk, &[]);
        let found = diff((image("x"), Some(&none)), (image("y"), Some(&many(MAX_LINES + 7))));
        assert_eq!((found.packages.len(), found.omitted), (MAX_LINES, 7));
        assert!(many(MOST).fault().is_none() && many(MOST + 1).fault().is_some());
        for wrong in [("", "1"), ("a", ""), ("a b", "1"), ("a", "\u{1b}[2J"), ("a", &*"1".repeat(201))] {
            assert!(packages(Manager::Dpkg, &[wrong]).fault().is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn the_command_names_an_agent_that_can_be_made() {
        for name in ["a", "worker", &*"x".repeat(40), &*format!("{}-yyyy", "x".repeat(35))] {
            let agent: Name = name.parse().unwrap();
            let upgrade = Upgrade::of(&agent, &"debian".parse().unwrap(), ImageId::new(), String::new());
            let words: Vec<&str> = upgrade.command.split(' ').collect();
            assert!(words[4].parse::<Name>().is_ok() && words[4] != name, "{}", upgrade.command);
        }
    }
}
