//! Which secrets an agent needs from its start on, and what it is given of them.

use model::node_api::AgentSecret;
use model::policy::Policy;
use model::secret::SecretValue;
use model::{AgentSpec, Name};
use sandbox::Given;

/// The bytes of all that an agent is given: below the kernel's limit of an environment.
const MAX_GIVEN: usize = 1 << 20;

/// Why an agent cannot be given what it is to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// There is no such secret.
    #[error(
        "it is to have the secret {0}, which is not there; set it, or make the agent without it, then start it"
    )]
    Secret(Name),
    /// It has no placeholder.
    #[error(
        "its policy puts the secret {0} into requests, which control knows nothing of; set the policy again, then start it"
    )]
    Placeholder(Name),
    /// Together they are too large.
    #[error("its secrets have more than {MAX_GIVEN} bytes together; give it fewer, or smaller ones")]
    TooLarge,
}

/// Whether it starts without any.
pub(crate) fn needs_none(spec: &AgentSpec, policy: Option<&Policy>) -> bool {
    spec.secrets.is_empty()
        && policy.is_none_or(|policy| policy.egress.inject.iter().all(|inject| inject.env.is_none()))
}

/// What it is given of its secrets.
pub(crate) fn given(
    spec: &AgentSpec,
    policy: Option<&Policy>,
    secrets: &[AgentSecret],
) -> Result<Given, Missing> {
    let find = |name: &Name| secrets.iter().find(|secret| secret.name == *name);
    let mut given = Given::default();
    for (variable, name) in policy.map(Policy::placeholders).unwrap_or_default() {
        let placeholder = find(name).and_then(|secret| secret.placeholder.clone());
        let placeholder = placeholder.ok_or_else(|| Missing::Placeholder(name.clone()))?;
        given.env.insert(variable.to_owned(), SecretValue::new(placeholder));
    }
    for own in &spec.secrets {
        let value = find(&own.secret).ok_or_else(|| Missing::Secret(own.secret.clone()))?.value.clone();
        match (&own.env, &own.file) {
            (Some(variable), _) => given.env.insert(variable.clone(), value),
            (None, Some(file)) => given.files.insert(file.clone(), value),
            (None, None) => None,
        };
    }
    let bytes = given.env.values().chain(given.files.values()).map(|value| value.expose().len());
    if bytes.sum::<usize>() > MAX_GIVEN { Err(Missing::TooLarge) } else { Ok(given) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::spec;
    use model::secret::SecretUse;

    fn secret(name: &str, value: &str, placeholder: Option<&str>) -> AgentSecret {
        AgentSecret {
            name: name.parse().unwrap(),
            value: SecretValue::new(value.to_owned()),
            placeholder: placeholder.map(str::to_owned),
        }
    }

    fn wanted(name: &str, env: Option<&str>, file: Option<&str>) -> SecretUse {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        SecretUse { secret: name.parse().unwrap(), env: owned(env), file: owned(file) }
    }

    fn policy(env: Option<&str>) -> Policy {
        let env = env.map_or(String::new(), |env| format!("env = \"{env}\"\n"));
        let text = format!(
            "version = 1\n[[egress.inject]]\nsecret = \"api\"\nhost = \"a.example\"\nbearer = true\n{env}"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn values_to_itself_and_placeholders_for_what_its_gate_puts_in() {
        let mut spec = spec();
        assert!(needs_none(&spec, None) && needs_none(&spec, Some(&policy(None))));
        assert!(!needs_none(&spec, Some(&policy(Some("API_KEY")))));
        spec.secrets = vec![wanted("db", Some("DB"), None), wanted("db", None, Some("db.txt"))];
        assert!(!needs_none(&spec, None));
        let has = [secret("api", "the real one", Some("a placeholder")), secret("db", "its own", None)];
        let given = given(&spec, Some(&policy(Some("API_KEY"))), &has).unwrap();
        let env: Vec<_> = given.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(env, [("API_KEY", "a placeholder"), ("DB", "its own")]);
        let files: Vec<_> = given.files.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(files, [("db.txt", "its own")]);
        assert!(!format!("{given:?}").contains("its own"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut spec = spec();
        let missing = |spec: &AgentSpec, has: &[AgentSecret]| {
            given(spec, Some(&policy(Some("API_KEY"))), has).map(drop).unwrap_err()
        };
        let placeholder = Missing::Placeholder("api".parse().unwrap());
        assert_eq!(missing(&spec, &[]), placeholder);
        assert_eq!(missing(&spec, &[secret("api", "x", None)]), placeholder);
        spec.secrets = vec![wanted("db", Some("DB"), None)];
        assert_eq!(missing(&spec, &[secret("api", "x", Some("y"))]), Missing::Secret("db".parse().unwrap()));
        let large = "x".repeat(model::secret::MAX_VALUE);
        spec.secrets = (0..65).map(|number| wanted("db", None, Some(&format!("{number}")))).collect();
        let has = [secret("api", "x", Some("y")), secret("db", &large, None)];
        assert_eq!(missing(&spec, &has), Missing::TooLarge);
    }
}
