//! Policies: what an agent may do at first, and from now on.

use crate::app::{App, agents, secrets};
use crate::auth::Caller;
use crate::problems::Fault;
use model::Problem;
use model::agent::Level;
use model::policy::Policy;
use model::secret::SecretUse;
use std::collections::BTreeMap;
use store::{Agent, Idempotency};

/// Refuses a policy that is not valid, with the field at fault beneath `under`.
pub(crate) fn check(policy: &Policy, unrestricted: bool, under: &str) -> Result<(), Problem> {
    policy.validate(unrestricted).map_err(|error| {
        let field = format!("{under}{}", error.field);
        Problem::invalid(field.clone(), format!("{field} {}", error.message)).remedy(error.remedy)
    })
}

/// Refuses a policy that has a placeholder in a variable which the agent has for something else.
pub(crate) fn check_variables(
    policy: &Policy,
    given: &[SecretUse],
    env: &BTreeMap<String, String>,
    under: &str,
) -> Result<(), Problem> {
    for (index, inject) in policy.egress.inject.iter().enumerate() {
        let Some(variable) = &inject.env else { continue };
        if env.contains_key(variable) || given.iter().any(|given| given.env.as_ref() == Some(variable)) {
            let field = format!("{under}egress.inject[{index}].env");
            let detail = format!("the agent has {variable} for something else");
            return Err(Problem::invalid(field, detail).remedy("name another variable"));
        }
    }
    Ok(())
}

/// A level without a network of its own has nothing that a policy could hold.
fn check_level(level: Level, field: Option<&str>) -> Result<(), Problem> {
    if level >= Level::Process {
        return Ok(());
    }
    let detail = format!("an agent of level `{level}` has the machine's network, and no policy holds it");
    let problem = Problem::invalid("policy", detail).remedy("ask for level `process` or `container`");
    Err(Problem { field: field.map(str::to_owned), ..problem })
}

/// What a new agent may do: what was asked for, and what was decided before of the hosts, each with its port, that it would ask
/// about.
pub(crate) fn at_first(
    asked: Option<&Policy>,
    level: Level,
    unrestricted: bool,
    remembered: &[(String, u16)],
) -> Result<Option<Policy>, Problem> {
    let mut policy = match (asked, check_level(level, Some("policy"))) {
        (Some(_), Err(problem)) => return Err(problem),
        (None, Err(_)) => return Ok(None),
        (asked, Ok(())) => asked.cloned().unwrap_or_else(|| Policy::default_of(unrestricted)),
    };
    let hosts: Vec<(&str, u16)> = remembered.iter().map(|(host, port)| (host.as_str(), *port)).collect();
    if policy.allow_asked(&hosts) {
        policy.validate(unrestricted).map_err(|error| {
            let detail = format!("with the hosts that are remembered for the account, {error}");
            Problem::invalid("policy", detail)
                .remedy("leave rules out, or DELETE some of GET /v1/egress/remembered")
        })?;
    }
    Ok(Some(policy))
}

/// Gives an agent of the caller's account another policy.
pub(crate) async fn set(
    app: &App,
    caller: &Caller,
    key: &str,
    policy: &Policy,
    if_match: Option<u64>,
    idempotency: Option<&Idempotency>,
) -> Result<Agent, Fault> {
    let agent = agents::find(app, caller, key).await?;
    check_level(agent.spec.level, None)?;
    check(policy, agent.spec.unrestricted, "")?;
    check_variables(policy, &agent.spec.secrets, &agent.spec.env, "")?;
    let placeholders = secrets::placeholders(Some(policy)).map_err(|error| Fault::internal(&error))?;
    let (actor, id) = (caller.actor(), agent.spec.id);
    Ok(app.store.set_policy(actor, id, policy, &placeholders, if_match, idempotency).await?)
}
