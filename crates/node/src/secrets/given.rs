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
