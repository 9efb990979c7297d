//! Names of images in registries: `HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`, as in the OCI distribution
//! specification. The registry is always named: there is none that a short name would mean.

use crate::store::Digest;
use std::fmt;
use std::str::FromStr;

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where it is.
    pub registry: Host,
    /// Its path there.
    pub repository: String,
    /// Its tag; `latest` where neither tag nor digest is given.
    pub tag: Option<String>,
    /// The digest of its manifest, which then has to be this one.
    pub digest: Option<Digest>,
}

/// A host and the port where one is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host {
    /// A DNS name or an address, lowercase, without brackets.
    pub name: String,
    /// The port.
    pub port: Option<u16>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No registry.
    #[error("{0:?} names no registry; write HOST/REPOSITORY:TAG")]
    NoRegistry(String),
    /// The host is none.
    #[error("{0:?} is not a host with an optional port")]
    Host(String),
    /// The path is none.
    #[error("{0:?} is not a repository: lowercase letters and digits, with single . _ - or / between them")]
    Repository(String),
    /// The tag is none.
    #[error("{0:?} is not a tag: up to 128 letters, digits, _ . and -, of which the first is no . or -")]
    Tag(String),
    /// The digest is none.
    #[error("{0:?} is not a digest: sha256: and 64 lowercase hexadecimal digits")]
    Digest(String),
}

impl FromStr for Host {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ReferenceError::Host(text.to_owned());
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, rest)) => {
                name.parse::<std::net::Ipv6Addr>().map_err(|_| refused())?;
                (name, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let named = !text.starts_with('[')
            && (1..=253).contains(&name.len())
            && name.bytes().all(plain)
            && !name.starts_with(['.', '-']);
        if !named && !text.starts_with('[') {
            return Err(refused());
        }
        let port = match port {
            Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
                Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(refused)?)
            }
            Some(_) => return Err(refused()),
            None => None,
        };
        Ok(Self { name: name.to_ascii_lowercase(), port })
    }
}

impl TryFrom<String> for Host {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.name.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}", self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digits = digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
                (rest, Some(digits.ok_or_else(|| ReferenceError::Digest(digest.to_owned()))?))
            }
            None => (text, None),
        };
        let Some((registry, path)) = rest.split_once('/') else {
            return Err(ReferenceError::NoRegistry(text.to_owned()));
        };
        if !(registry.contains(['.', ':']) || registry == "localhost") {
            return Err(ReferenceError::NoRegistry(text.to_owned()));
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(ReferenceError::Repository(repository.to_owned()));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.parse()?, repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@sha256:{digest}"))
    }
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends =
        text.bytes().next().is_some_and(alphanumeric) && text.bytes().next_back().is_some_and(alphanumeric);
    ends && text.bytes().all(|c| alphanumeric(c) || matches!(c, b'.' | b'_' | b'-')) && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'))
        && text.bytes().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::{Host, Reference};

    #[test]
    fn references_are_read_as_they_are_written() {
        let digest = "ab".repeat(32);
        for text in
            ["a.test/b:c", "localhost:5000/x/y/z:1.0-rc_1", "[::1]:5000/x:latest", "127.0.0.1:1/a__b--c:T"]
        {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let pinned = format!("a.test/b@sha256:{digest}");
        assert_eq!(pinned.parse::<Reference>().unwrap().to_string(), pinned);
        assert_eq!(pinned.parse::<Reference>().unwrap().tag, None);
        let both = format!("a.test/b:c@sha256:{digest}");
        assert_eq!(both.parse::<Reference>().unwrap().tag.as_deref(), Some("c"));
        assert_eq!("A.Test/b".parse::<Reference>().unwrap().to_string(), "a.test/b:latest");
        for text in [
            "",
            "x",
            "x:1",
            "library/x",
            "a.test/",
            "a.test//b",
            "a.test/B",
            "a.test/-b",
            "a.test/../b",
            "a.test/b:",
            "a.test/b:.x",
            "a.test/b@sha256:1",
            "a.test/b@md5:0",
            "a.test:0/b",
            "a.test:99999/b",
            "a.test:x/b",
            "user@a.test/b",
            "a.test/b?x=1",
            "a.test/b#x",
            "http://a.test/b",
            "[::1/b",
            "[x]:1/b",
            ".test/b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!("a.test:443".parse::<Host>().is_ok() && "a b:1".parse::<Host>().is_err());
    }
}
