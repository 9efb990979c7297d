//! Recipes: all that `run` needs to start a program that people know, in one TOML file.
//!
//! Some come with the program, others lie in a folder of the person's. A recipe says nothing that the command line could not.

use crate::failure::{fail, fail_with};
use crate::{context, policies};
use anyhow::Context as _;
use model::agent::{Level, RunAs};
use model::policy::Policy;
use model::secret::SecretUse;
use model::{ByteSize, Code, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Those that come with the program.
const BUILT_IN: [(&str, &str); 4] = [
    ("claude", include_str!("../recipes/claude.toml")),
    ("codex", include_str!("../recipes/codex.toml")),
    ("opencode", include_str!("../recipes/opencode.toml")),
    ("python", include_str!("../recipes/python.toml")),
];
/// Where those come from.
const BUILT_IN_WORDS: &str = "built in";
/// The longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Of this format: 1.
    version: u32,
    /// What it starts, in a line.
    pub description: String,
    /// The command; what stands behind `--` follows it.
    pub command: Vec<String>,
    /// A program of the shell that is run before it, in the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// Whether it needs a terminal.
    #[serde(default)]
    pub tty: bool,
    /// The image; the installation's default without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How it is isolated; the strongest that can be made without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Who it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RunAs>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub resources: Limits,
    /// Secrets that it is given itself.
    #[serde(default, rename = "secret", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// What may leave it, and the credentials that the gate puts into its requests.
    pub policy: Policy,
}

/// Limits where they are not the usual ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Processor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
}

impl Recipe {
    /// Its command with more arguments, behind what it installs.
    pub fn started_with(&self, arguments: Vec<String>) -> Vec<String> {
        let command = self.command.iter().cloned().chain(arguments);
        let Some(install) = &self.install else { return command.collect() };
        // What is installed speaks to whoever waits, and is no part of what the command says.
        let script = format!("export PATH=\"$HOME/.local/bin:$PATH\"; {{ {install}\n}} >&2 && exec \"$@\"");
        ["sh", "-c", &script, "sh"].map(str::to_owned).into_iter().chain(command).collect()
    }
}

impl Limits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A recipe and where it comes from.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// `built in`, or its file.
    pub from: String,
    /// What it says.
    #[serde(flatten)]
    pub recipe: Recipe,
}

impl Named {
    /// What a recipe asks for that came from somewhere else than this program or the person's own folder, if it asks for secrets.
    pub fn asks_for(&self) -> Option<String> {
        let own = folder().ok().map(|folder| folder.display().to_string());
        if self.from == BUILT_IN_WORDS || own.is_some_and(|own| self.from.starts_with(&own)) {
            return None;
        }
        let given =
            self.recipe.secrets.iter().map(|given| format!("{}: given to the agent itself", given.secret));
        let put = self.recipe.policy.egress.inject.iter();
        let put = put.map(|inject| format!("{}: put into requests to {}", inject.secret, inject.host));
        let asked: Vec<String> = given.chain(put).collect();
        (!asked.is_empty())
            .then(|| format!("The recipe {} asks for secrets of yours.\n  {}", self.from, asked.join("\n  ")))
    }

    fn parse(name: &str, from: &str, text: &str) -> anyhow::Result<Self> {
        let recipe: Recipe = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
            let words: Vec<&str> = error.message().split_whitespace().collect();
            let detail = format!("{from}, line {line}, cannot be read: {}.", words.join(" "));
            fail_with(Code::Validation, detail, "docs/guides/recipes.md says what each key means")
        })?;
        if recipe.version != 1 {
            let detail = format!("{from} is of a version that is not known here.");
            return Err(fail_with(Code::Validation, detail, "write `version = 1`"));
        }
        if recipe.command.is_empty() {
            return Err(fail(Code::Validation, format!("{from} names no command.")));
        }
        for (index, given) in recipe.secrets.iter().enumerate() {
            if let Some((field, message, remedy)) = given.fault() {
                let detail = format!("In {from}, secret[{index}].{field} {message}.");
                return Err(fail_with(Code::Validation, detail, remedy));
            }
        }
        policies::check(&recipe.policy, false).with_context(|| format!("in {from}"))?;
        Ok(Self { name: name.to_owned(), from: from.to_owned(), recipe })
    }

    fn read(name: &str, path: &Path) -> anyhow::Result<Self> {
        use std::io::Read;
        let from = path.display().to_string();
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
        read.with_context(|| format!("cannot read {from}"))?;
        Self::parse(name, &from, &text)
    }
}

/// The person's own: `recipes/NAME.toml` beside the contexts.
fn folder() -> anyhow::Result<PathBuf> {
    Ok(context::file()?.with_file_name("recipes"))
}

/// The one of this name, or in this file; a folder's is its `recipe.toml`. A person's own comes before one that is built in.
pub fn find(word: &str) -> anyhow::Result<Named> {
    let path = Path::new(word);
    if word.contains('/') || word == "." {
        let file = if path.is_dir() { path.join("recipe.toml") } else { path.to_owned() };
        let name = path.file_stem().map_or_else(|| "recipe".into(), |name| name.to_string_lossy());
        return Named::read(&name, &file);
    }
    let own = word.parse::<Name>().ok().and_then(|_| Some(folder().ok()?.join(format!("{word}.toml"))));
    if let Some(file) = own.filter(|file| file.exists()) {
        return Named::read(word, &file);
    }
    match BUILT_IN.iter().find(|(name, _)| *name == word) {
        Some((name, text)) => Named::parse(name, BUILT_IN_WORDS, text),
        None => Err(fail_with(
            Code::NotFound,
            format!("There is no recipe {}.", crate::clean::text(word)),
            "`cofferdam recipe ls` lists them; a command stands behind `--`",
        )),
    }
}

/// All, by name; one that cannot be read is told of on stderr and left out.
pub fn all() -> anyhow::Result<Vec<Named>> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    let own = folder().ok().and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in own.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().strip_suffix(".toml").map(str::to_owned);
        names.extend(name.filter(|name| name.parse::<Name>().is_ok()));
    }
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        match find(&name) {
            Ok(named) => found.push(named),
            Err(error) => drop(crate::failure::report(&error, false)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_come_with_the_program_are_valid() {
        for (name, text) in BUILT_IN {
            let Named { recipe, .. } = Named::parse(name, name, text).unwrap();
            assert_eq!(recipe.policy.faults(false), []);
            assert_eq!(recipe.policy.terminates_anything(), name != "python");
            let again = Named::parse(name, name, &toml::to_string(&recipe).unwrap()).unwrap();
            assert_eq!(again.recipe, recipe);
        }
    }

    #[test]
    fn the_guide_is_right() {
        let guide = include_str!("../../../docs/guides/recipes.md");
        let (_, rest) = guide.split_once("```toml\n").unwrap();
        let recipe = Named::parse("x", "the guide", rest.split_once("```").unwrap().0).unwrap().recipe;
        assert_eq!(recipe.secrets.len(), 1);
        assert!(BUILT_IN.iter().all(|(name, _)| guide.contains(&format!("| `{name}` |"))));
    }

    #[test]
    fn what_is_installed_comes_first() {
        let text =
            BUILT_IN[3].1.replace("tty = true", "install = \"echo installing; test -n \\\"$HOME\\\"\"");
        let recipe = Named::parse("x", "x", &text.replace("python3", "printf")).unwrap().recipe;
        let argv = recipe.started_with(vec!["%s,".to_owned(), "a b".to_owned(), "$c".to_owned()]);
        let run = |home: &str| {
            let mut command = std::process::Command::new(&argv[0]);
            command.args(&argv[1..]).env("HOME", home).output().unwrap()
        };
        let ran = run("/nonexistent");
        assert_eq!((ran.stdout.as_slice(), ran.stderr.as_slice()), (&b"a b,$c,"[..], &b"installing\n"[..]));
        let ran = run("");
        assert!(!ran.status.success() && ran.stdout.is_empty(), "what is not installed is not started");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let said = |text: &str| format!("{:#}", Named::parse("x", "x.toml", text).unwrap_err());
        let whole = |more: &str| {
            format!("version = 1\ndescription = \"x\"\ncommand = [\"x\"]\n{more}\n[policy]\nversion = 1\n")
        };
        assert!(Named::parse("x", "x.toml", &whole("")).is_ok());
        assert!(said("version = 1\n[x]\n").contains("line 2"));
        assert!(said(&whole("comand = 1")).contains("line 4"));
        assert!(said(&whole("").replace("[\"x\"]", "[]")).contains("no command"));
        assert!(said(&whole("").replacen('1', "2", 1)).contains("version"));
        assert!(said(&whole("secret = [{ secret = \"a\" }]")).contains("secret[0].env"));
        let open = whole("") + "[policy.egress]\npreset = \"open\"\n";
        assert!(said(&open).contains("x.toml"));
    }

    #[test]
    fn a_folder_of_ones_own_has_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("recipe.toml"), BUILT_IN[3].1).unwrap();
        let found = find(folder.path().to_str().unwrap()).unwrap();
        assert_eq!((found.recipe.command.as_slice(), found.asks_for()), (&["python3".to_owned()][..], None));
        let asking = Named::parse("x", "./x.toml", BUILT_IN[0].1).unwrap();
        let asks = asking.asks_for().unwrap();
        assert!(asks.contains("anthropic: put into requests to api.anthropic.com"), "{asks}");
        assert_eq!(super::find("claude").unwrap().asks_for(), None);
        let file = folder.path().join("recipe.toml").display().to_string();
        assert_eq!((find(&file).unwrap().name.as_str(), found.from), ("recipe", file));
        assert!(find("./nowhere/x.toml").is_err());
        let unknown = find("no-such").unwrap_err();
        assert_eq!(crate::failure::problem_of(&unknown).0, crate::failure::NOT_FOUND);
    }
}
