//! From what people type to what the API takes: references, settings, workspaces.

use crate::failure::{fail, fail_with};
use client::{Control, Workspace};
use model::agent::{Level, RunAs};
use model::api::Agent;
use model::people::Email;
use model::token::Scope;
use model::{AgentState, Code, Driver, Name};
use std::collections::BTreeMap;

/// How long a change of state may take before a command gives up waiting.
pub const SETTLE_SECONDS: u64 = 120;

/// A name or id, as a value parser: what cannot be one never gets into a URL.
pub fn reference(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("expected a name (a-z, 0-9, '-', starting with a letter) or an id".to_owned())
    }
}

/// A person's address or id, as a value parser.
pub fn person(text: &str) -> Result<String, String> {
    match text.parse::<Email>() {
        Ok(email) => Ok(email.to_string()),
        Err(_) if text.contains('@') => Err("expected an address such as ada@example.com".to_owned()),
        Err(_) => {
            reference(text).map_err(|_| "expected an address such as ada@example.com, or an id".to_owned())
        }
    }
}

/// `KEY=VALUE`, as a value parser. `KEY` alone takes the value from this program's environment.
pub fn env_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("expected KEY=VALUE".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err(format!("{text} is not set here; give KEY=VALUE")),
        },
    }
}

/// `KEY=VALUE` of a label, as a value parser.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// `PLACE=SECRET`, as a value parser.
pub fn secret(text: &str) -> Result<(String, Name), String> {
    let expected =
        || "expected PLACE=SECRET, where SECRET is the name of a secret: `cofferdam secret ls`".to_owned();
    let (place, secret) = text.split_once('=').ok_or_else(expected)?;
    Ok((place.to_owned(), secret.parse().map_err(|_| expected())?))
}

/// A user inside, as a value parser.
pub fn user(text: &str) -> Result<RunAs, String> {
    match text {
        "root" | "0" => Ok(RunAs::Root),
        "agent" | "1000" => Ok(RunAs::Agent),
        _ => Err("expected agent or root: these are the users inside".to_owned()),
    }
}

/// A level of isolation, by its name or its number.
pub fn level(text: &str) -> Result<Level, String> {
    let named = |level: &Level| level.as_str() == text || level.number().to_string() == text;
    let expected = || "expected container (2), process (1) or workspace (0)".to_owned();
    Level::ALL.into_iter().find(named).ok_or_else(expected)
}

/// Who makes a boundary.
pub fn driver(text: &str) -> Result<Driver, String> {
    let named = |driver: &Driver| driver.as_str() == text;
    Driver::ALL.into_iter().find(named).ok_or_else(|| "expected builtin, runc, runsc or systemd".to_owned())
}

/// Settings as the map that the API takes; the last of a key counts.
pub fn map(settings: Vec<(String, String)>) -> BTreeMap<String, String> {
    settings.into_iter().collect()
}

/// The agent and a way into its workspace. An agent that cannot answer is refused here, with the words for it.
pub async fn workspace(
    control: &Control,
    reference: &str,
    scopes: &[Scope],
) -> anyhow::Result<(Agent, Workspace)> {
    let agent = control.agent(reference).await?;
    let workspace = workspace_of(control, &agent, scopes).await?;
    Ok((agent, workspace))
}

/// A way into the workspace of an agent that was looked up already.
pub async fn workspace_of(control: &Control, agent: &Agent, scopes: &[Scope]) -> anyhow::Result<Workspace> {
    let remedy = match agent.state {
        AgentState::Running => None,
        // What it wrote is on its volume.
        AgentState::Stopped | AgentState::Failed if scopes == [Scope::Logs] => None,
        AgentState::Paused => Some(format!("`cofferdam resume {}` thaws it", agent.name)),
        AgentState::Stopped | AgentState::Failed => {
            Some(format!("`cofferdam start {}` starts it", agent.name))
        }
        AgentState::Provisioning | AgentState::Starting => {
            let settled = control.wait_agent(&agent.id.to_string(), "running", SETTLE_SECONDS).await?;
            running(&settled)?;
            None
        }
        AgentState::Stopping | AgentState::Destroying | AgentState::Destroyed => Some(String::new()),
    };
    if let Some(remedy) = remedy {
        let detail = format!("Agent {} is {}{}.", agent.name, agent.state, because(agent));
        return Err(if remedy.is_empty() {
            fail(Code::WrongState, detail)
        } else {
            fail_with(Code::WrongState, detail, remedy)
        });
    }
    let token = control.workspace_token(&agent.id.to_string(), scopes).await?;
    Ok(Workspace::new(agent.id, &token)?)
}

/// An agent that was waited for, if it runs.
pub fn running(agent: &Agent) -> anyhow::Result<()> {
    if agent.state == AgentState::Running {
        return Ok(());
    }
    let name = &agent.name;
    let (code, remedy) = match agent.state {
        AgentState::Failed => (
            Code::Unavailable,
            format!(
                "mend what is said; then `cofferdam start {name}` tries again, `cofferdam rm {name}` removes it"
            ),
        ),
        AgentState::Stopped => (Code::WrongState, format!("`cofferdam logs {name}` shows what it wrote")),
        _ => (Code::WrongState, format!("`cofferdam show {name}` says how it is")),
    };
    Err(fail_with(
        code,
        format!("Agent {name} did not start: it is {}{}.", agent.state, because(agent)),
        remedy,
    ))
}

/// The reason for its state, as the end of a sentence.
pub fn because(agent: &Agent) -> String {
    agent.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_cannot_be_paths() {
        for good in ["a", "worker-1", "agt_01j9v4bq7cf2nt6h0f9m5d3r8w"] {
            assert!(reference(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "A", "a b", "a?x", &"a".repeat(65)] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings() {
        assert_eq!(env_setting("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(env_setting("A=").unwrap(), ("A".into(), String::new()));
        assert!(env_setting("=x").is_err());
        assert!(env_setting("COFFERDAM_TEST_NOT_SET").is_err());
        assert!(label("x").is_err());
        assert_eq!(secret("A=b").unwrap(), ("A".into(), "b".parse().unwrap()));
        assert!(secret("A").is_err() && secret("A=sk-ant-X").is_err());
        assert!(user("nobody").is_err());
    }
}
