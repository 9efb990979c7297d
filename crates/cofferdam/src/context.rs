//! Which server, and as whom: `~/.config/cofferdam/config.toml`, 0600, or the environment.

use crate::failure::fail_with;
use crate::proof;
use anyhow::Context as _;
use client::{Authorities, Control, PersonSession};
use model::people::Email;
use model::secret::SecretValue;
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
#[serde(into = "Kept", try_from = "Kept")]
pub struct Context {
    /// Control's origin.
    pub url: String,
    /// A file with the authorities that its certificate has to come from, in place of the system's.
    pub ca: Option<PathBuf>,
    /// Who calls.
    pub caller: Caller,
}

/// Who calls.
#[derive(Clone, PartialEq, Eq)]
pub enum Caller {
    /// Whoever has this key.
    Key(String),
    /// A person who has logged in.
    Person(Person),
}

/// A person who has logged in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Who.
    pub email: Email,
    /// What tells their session.
    pub token: SecretValue,
    /// The account that they act in; their own without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Name>,
}

/// The form of a context in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Person>,
}

impl From<Context> for Kept {
    fn from(Context { url, ca, caller }: Context) -> Self {
        let (api_key, session) = match caller {
            Caller::Key(key) => (Some(key), None),
            Caller::Person(person) => (None, Some(person)),
        };
        Self { url, ca, api_key, session }
    }
}

impl TryFrom<Kept> for Context {
    type Error = &'static str;

    fn try_from(Kept { url, ca, api_key, session }: Kept) -> Result<Self, Self::Error> {
        let caller = match (api_key, session) {
            (Some(key), None) => Caller::Key(key),
            (None, Some(person)) => Caller::Person(person),
            _ => return Err("one of `api_key` and `session` is required"),
        };
        Ok(Self { url, ca, caller })
    }
}

impl Context {
    /// With a key.
    pub fn by_key(url: String, api_key: String) -> Self {
        Self { url, ca: None, caller: Caller::Key(api_key) }
    }

    /// Whose session it is, if that is what calls.
    pub fn person(&self) -> Option<&Person> {
        match &self.caller {
            Caller::Key(_) => None,
            Caller::Person(person) => Some(person),
        }
    }

    /// The same, in the person's own account: what they do for themselves does not hang on another one.
    pub fn own(&self) -> Self {
        let mut own = self.clone();
        if let Caller::Person(person) = &mut own.caller {
            person.account = None;
        }
        own
    }

    /// A client for it. Where the server wants a proof of a person, they are asked.
    pub fn control(&self) -> anyhow::Result<Control> {
        let authorities = self.ca.as_deref().map(authorities).transpose()?;
        let credential = match &self.caller {
            Caller::Key(key) => client::Credential::Key(key.clone()),
            Caller::Person(Person { token, account, .. }) => client::Credential::Session(PersonSession {
                token: token.clone(),
                account: account.as_ref().map(Name::to_string),
            }),
        };
        let control = Control::to(&self.url, credential, authorities)?;
        Ok(if control.is_person() { control.proving(proof::prover()) } else { control })
    }
}

/// The authorities in a file.
pub fn authorities(path: &Path) -> anyhow::Result<Authorities> {
    Authorities::read(path).map_err(|error| {
        let remedy = "name a file (PEM) with the certificate of the authority that the server's comes from";
        fail_with(Code::Validation, format!("{}.", crate::failure::sentence(&error.to_string())), remedy)
    })
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

    /// Has the person of a context act in this account, or in their own.
    pub fn act_in(&mut self, name: &Name, account: Option<Name>) {
        if let Some(Caller::Person(person)) = self.contexts.get_mut(name).map(|context| &mut context.caller) {
            person.account = account;
        }
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

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The server to talk to: `COFFERDAM_URL` with `COFFERDAM_API_KEY`, else the named context, else the current.
pub fn choose(named: Option<&Name>) -> anyhow::Result<Context> {
    let (url, key) = (variable("COFFERDAM_URL"), variable("COFFERDAM_API_KEY"));
    let ca = variable("COFFERDAM_CA").map(PathBuf::from);
    match (url, &key, named) {
        (Some(url), Some(api_key), None) => {
            return Ok(Context { url, ca, caller: Caller::Key(api_key.clone()) });
        }
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
    let contexts = Contexts::load()?;
    let mut context = contexts.get(chosen(&contexts, named)?)?.clone();
    if let (Some(key), None) = (key, named) {
        context.caller = Caller::Key(key);
    }
    context.ca = context.ca.or(ca);
    Ok(context)
}

/// The name of the named context, else of the current one.
pub fn chosen<'a>(contexts: &'a Contexts, named: Option<&'a Name>) -> anyhow::Result<&'a Name> {
    named.or(contexts.current.as_ref()).ok_or_else(|| {
        fail_with(
            Code::Unauthenticated,
            "No server is known here.",
            "`cofferdam up --detach` starts one on this machine (as root), `cofferdam login URL` uses another",
        )
    })
}

/// A client for the server to talk to.
pub fn control(named: Option<&Name>) -> anyhow::Result<Control> {
    choose(named)?.control()
}

/// The same, in the person's own account.
pub fn own_control(named: Option<&Name>) -> anyhow::Result<Control> {
    choose(named)?.own().control()
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
        let context = Context::by_key("http://127.0.0.1:1".into(), "secret".into());
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
    fn a_session_is_kept_as_it_is_and_never_beside_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let person = Person {
            email: "ada@example.com".parse().unwrap(),
            token: SecretValue::new("cofs_secret".to_owned()),
            account: Some("team".parse().unwrap()),
        };
        let context = Context {
            url: "https://control.example".into(),
            ca: Some("/etc/ca.pem".into()),
            caller: Caller::Person(person),
        };
        let mut contexts = Contexts::default();
        contexts.keep("work".parse().unwrap(), context);
        contexts.keep("local".parse().unwrap(), Context::by_key("unix:///run/x".into(), "cof_x".into()));
        contexts.save_to(&path).unwrap();
        assert!(Contexts::load_from(&path).unwrap() == contexts);
        for (text, said) in [
            ("[contexts.a]\nurl = \"x\"\napi_key = \"k\"", None),
            ("[contexts.a]\nurl = \"x\"", Some("line 1")),
            (
                "[contexts.a]\nurl = \"x\"\napi_key = \"k\"\n[contexts.a.session]\nemail = \"a@b.example\"\ntoken = \"cofs_secret\"",
                Some("line 1"),
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Contexts::load_from(&path).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), said.is_some(), "{text}");
            assert!(error.is_none_or(|error| error.contains(said.unwrap()) && !error.contains("cofs_")));
        }
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
            contexts.keep(name.clone(), Context::by_key(url.into(), "secret".into()));
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
