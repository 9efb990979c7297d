//! What `docker login` keeps of registries: `config.json`, and the programs that it names as keepers of secrets. Those
//! are run as whoever runs this command, never as the confined process that speaks with the registry.

use anyhow::Context as _;
use image::{Host, RegistryCredentials};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Kept>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

/// What Docker keeps itself: plainly, or not at all.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Kept {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The answer of a keeper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// A keeper answers with this name for a token that gives others.
const TOKEN: &str = "<token>";

/// Looks up what to show to a registry; `None` where nothing is kept for it.
pub fn find(registry: &Host) -> anyhow::Result<Option<RegistryCredentials>> {
    let dir = match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker"),
    };
    find_in(&dir.join("config.json"), registry)
}

fn find_in(path: &Path, registry: &Host) -> anyhow::Result<Option<RegistryCredentials>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let config: Config = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `docker login` writes", path.display()))?;
    // Older versions wrote addresses where there are hosts now.
    let host = registry.to_string();
    let keys =
        [host.clone(), format!("https://{host}"), format!("https://{host}/"), format!("https://{host}/v2/")];
    if let Some(keeper) = keys.iter().find_map(|key| config.cred_helpers.get(key)) {
        return ask(keeper, &host);
    }
    let kept = keys.iter().find_map(|key| Some((key, config.auths.get(key)?)));
    if let Some((key, kept)) = kept {
        if let Some(found) =
            kept.read().with_context(|| format!("what {} keeps for {host} is damaged", path.display()))?
        {
            return Ok(Some(found));
        }
        if let Some(keeper) = &config.creds_store {
            return ask(keeper, key);
        }
    }
    config.creds_store.as_ref().map_or(Ok(None), |keeper| ask(keeper, &host))
}

impl Kept {
    fn read(&self) -> anyhow::Result<Option<RegistryCredentials>> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(RegistryCredentials::Identity(token)));
        }
        if let (Some(username), Some(password)) = (given(&self.username), given(&self.password)) {
            return Ok(Some(RegistryCredentials::Password { username, password }));
        }
        let Some(auth) = given(&self.auth) else { return Ok(None) };
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, auth.trim())?;
        let decoded = String::from_utf8(decoded)?;
        let (username, password) =
            decoded.split_once(':').context("a name and a password have a colon between them")?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(RegistryCredentials::Password { username: username.to_owned(), password }))
    }
}

/// Asks a keeper by its protocol: the registry on stdin, the answer as JSON on stdout.
fn ask(keeper: &str, registry: &str) -> anyhow::Result<Option<RegistryCredentials>> {
    anyhow::ensure!(
        !keeper.is_empty()
            && keeper.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')),
        "{keeper:?} is not the name of a credential helper"
    );
    let program = format!("docker-credential-{keeper}");
    let failed = || format!("cannot ask {program}, which Docker's config.json names, for credentials");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says why in its answer.
        let _ = stdin.write_all(registry.as_bytes());
    }
    let output = child.wait_with_output().with_context(failed)?;
    if !output.status.success() {
        let said =
            String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).trim().to_owned();
        // What the protocol says for a registry that nothing is kept for.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        anyhow::bail!("{program} gives no credentials for {registry}: {}", crate::clean::text(&said));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).with_context(failed)?;
    Ok(Some(match answer.username.as_str() {
        TOKEN => RegistryCredentials::Identity(answer.secret),
        _ => RegistryCredentials::Password { username: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::find_in;
    use image::RegistryCredentials as Credentials;

    fn found(config: &str, registry: &str) -> Option<Credentials> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        find_in(&path, &registry.parse().unwrap()).unwrap()
    }

    #[test]
    fn what_docker_keeps_is_found_for_its_registry_alone() {
        let password = |name: &str, word: &str| {
            Some(Credentials::Password { username: name.to_owned(), password: word.to_owned() })
        };
        // "me:se:cret"
        let config = r#"{"auths": {"a.test": {"auth": "bWU6c2U6Y3JldA=="}, "https://b.test/v2/": {"auth": "bWU6c2U6Y3JldA=="},
            "c.test:5000": {"identitytoken": "tok", "auth": "bWU6"}, "d.test": {"username": "u", "password": "p"},
            "e.test": {}}, "HttpHeaders": {"x": "y"}, "currentContext": "default"}"#;
        assert_eq!(found(config, "a.test"), password("me", "se:cret"));
        assert_eq!(found(config, "b.test"), password("me", "se:cret"));
        assert_eq!(found(config, "c.test:5000"), Some(Credentials::Identity("tok".to_owned())));
        assert_eq!(found(config, "d.test"), password("u", "p"));
        for other in ["c.test", "e.test", "a.test:443", "x.a.test", "test"] {
            assert_eq!(found(config, other), None, "{other}");
        }
        assert_eq!(found("{}", "a.test"), None);
        let nowhere = tempfile::tempdir().unwrap().path().join("none");
        assert_eq!(find_in(&nowhere, &"a.test".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn what_is_damaged_is_said_and_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for config in [
            "{",
            r#"{"auths": {"a.test": {"auth": "***"}}}"#,
            r#"{"credHelpers": {"a.test": "../../bin/sh"}}"#,
            r#"{"credHelpers": {"a.test": ""}}"#,
            r#"{"credsStore": "there-is-no-such-helper"}"#,
        ] {
            std::fs::write(&path, config).unwrap();
            assert!(find_in(&path, &"a.test".parse().unwrap()).is_err(), "{config}");
        }
    }
}
