//! Which server, and with which key: `~/.config/cofferdam/config.toml`, 0600, or the environment.

use crate::failure::fail_with;
use anyhow::Context as _;
use client::Control;
use model::{Code, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The context that `up` makes.
pub const LOCAL: &str = "local";

/// One server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Control's origin.
    pub url: String,
    /// The key.
    pub api_key: String,
}

/// All that are known.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Name>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<Name, Context>,
}

/// Where contexts are kept: `$XDG_CONFIG_HOME` or `~/.config`.
pub fn file() -> anyhow::Result<PathBuf> {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    // A service manager may start without HOME; root's is known.
    let root = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/root/.config"));
    let config = config.or_else(root).ok_or_else(|| {
        fail_with(Code::Validation, "There is no home directory to keep contexts in.", "set HOME")
    })?;
    Ok(config.join("cofferdam/config.toml"))
}

impl Contexts {
    /// Reads what is kept; nothing kept is no error.
    pub fn load() -> anyhow::Result<Self> {
        Self::load_from(&file()?)
    }

    fn load_from(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                // The parser's own message may quote the line, and the line may hold a key.
                let line =
                    error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
                fail_with(
                    Code::Validation,
                    format!("The contexts in {} cannot be read: line {line} is not valid.", path.display()),
                    "correct the file, or remove it and log in again",
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes all of it: whole or not at all, readable by its owner alone. No contexts are no file.
    pub fn save(&self) -> anyhow::Result<PathBuf> {
        let path = file()?;
        self.save_to(&path)?;
        Ok(path)
    }

    fn save_to(&self, path: &Path) -> anyhow::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let attempt = || format!("cannot write {}", path.display());
        if self.contexts.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(attempt)
                }
                _ => {
                    // Unless something else is in there.
                    let _ = std::fs::remove_dir(directory);
                    Ok(())
                }
            };
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(attempt)?;
        let draft = directory.join(format!(".config.toml.{}", std::process::id()));
        let _ = std::fs::remove_file(&draft);
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .with_context(attempt)?;
        let written = file
            .write_all(toml::to_string(self)?.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&draft, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        written.with_context(attempt)
    }

    /// What the context of this machine's installation is called. Another one's keeps its name for as long as that has a
    /// socket to answer at.
    pub fn local(&self, url: &str) -> Name {
        let is_another = |name: &Name| {
            let path =
                self.contexts.get(name).filter(|context| context.url != url)?.url.strip_prefix("unix://")?;
            Path::new(path).exists().then_some(())
        };
        let named = |count: u32| match count {
            1 => LOCAL.to_owned(),
            _ => format!("{LOCAL}-{count}"),
        };
        let own = self
            .contexts
            .iter()
            .find(|(name, context)| context.url == url && name.as_str().starts_with(LOCAL));
        let free =
            || (1..).filter_map(|count| named(count).parse().ok()).find(|name| is_another(name).is_none());
        own.map(|(name, _)| name.clone())
            .or_else(free)
            .unwrap_or_else(|| unreachable!("there are more names than contexts"))
    }

    /// Keeps a context, and makes it the one in use.
    pub fn keep(&mut self, name: Name, context: Context) {
        self.current = Some(name.clone());
        self.contexts.insert(name, context);
    }

    /// Forgets one.
    pub fn forget(&mut self, name: &Name) -> anyhow::Result<()> {
        self.get(name)?;
        self.contexts.remove(name);
        if self.current.as_ref() == Some(name) {
            self.current = None;
        }
        Ok(())
    }

    /// One by name.
    pub fn get(&self, name: &Name) -> anyhow::Result<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            fail_with(
                Code::NotFound,
                format!("There is no context {name}."),
                "`cofferdam context ls` shows those there are",
            )
        })
    }
}

/// The server to talk to: `COFFERDAM_URL` with `COFFERDAM_API_KEY`, else the named context, else the current.
pub fn choose(named: Option<&Name>) -> anyhow::Result<Context> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (url, key) = (variable("COFFERDAM_URL"), variable("COFFERDAM_API_KEY"));
    match (url, key, named) {
        (Some(url), Some(api_key), None) => return Ok(Context { url, api_key }),
        // A key goes only to the server that it was stored with.
        (Some(_), None, None) => {
            return Err(fail_with(
                Code::Unauthenticated,
                "COFFERDAM_URL is set without COFFERDAM_API_KEY.",
                "set both, or neither to use a context",
            ));
        }
        _ => {}
    }
    let key = std::env::var("COFFERDAM_API_KEY").ok().filter(|value| !value.is_empty() && named.is_none());
    let contexts = Contexts::load()?;
    let Some(name) = named.or(contexts.current.as_ref()) else {
        return Err(fail_with(
            Code::Unauthenticated,
            "No server is known here.",
            "`cofferdam up --detach` starts one on this machine (as root), `cofferdam login URL` uses another",
        ));
    };
    let mut context = contexts.get(name)?.clone();
    if let Some(key) = key {
        context.api_key = key;
    }
    Ok(context)
}

/// A client for the server to talk to.
pub fn control(named: Option<&Name>) -> anyhow::Result<Control> {
    let context = choose(named)?;
    Ok(Control::new(&context.url, Some(context.api_key))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn contexts_are_kept_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/config.toml");
        let mut contexts = Contexts::load_from(&path).unwrap();
        assert!(contexts == Contexts::default());
        let context = Context { url: "http://127.0.0.1:1".into(), api_key: "secret".into() };
        contexts.keep("one".parse().unwrap(), context.clone());
        contexts.keep("two".parse().unwrap(), context);
        contexts.save_to(&path).unwrap();
        contexts.save_to(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Contexts::load_from(&path).unwrap() == contexts);
        assert_eq!(contexts.current.as_ref().unwrap().as_str(), "two");
        contexts.forget(&"two".parse().unwrap()).unwrap();
        assert!(contexts.current.is_none());
        assert!(contexts.forget(&"two".parse().unwrap()).is_err());
        contexts.forget(&"one".parse().unwrap()).unwrap();
        contexts.save_to(&path).unwrap();
        contexts.save_to(&path).unwrap();
        assert!(!path.exists() && !path.parent().unwrap().exists(), "nothing is left of them");
    }

    #[test]
    fn another_installation_that_is_up_keeps_its_context() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        std::fs::write(&socket, "").unwrap();
        let mut contexts = Contexts::default();
        let (first, second) = (format!("unix://{}", socket.display()), "unix:///gone/control.sock");
        let keep = |contexts: &mut Contexts, url: &str| {
            let name = contexts.local(url);
            contexts.keep(name.clone(), Context { url: url.into(), api_key: "secret".into() });
            name.to_string()
        };
        assert_eq!(keep(&mut contexts, &first), "local");
        assert_eq!(keep(&mut contexts, second), "local-2");
        assert_eq!(
            (keep(&mut contexts, &first), keep(&mut contexts, second)),
            ("local".into(), "local-2".into())
        );
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(keep(&mut contexts, "unix:///third/control.sock"), "local");
    }

    #[test]
    fn a_damaged_file_is_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, "current = \"x\"\napi_key cfk_secret\n").unwrap();
        let error = Contexts::load_from(&path).err().unwrap().to_string();
        assert!(error.contains("line 2") && !error.contains("cfk_secret"), "{error}");
    }
}
