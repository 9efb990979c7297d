//! Policies: what an agent may do at first, and from now on.

use crate::app::{App, agents};
use crate::auth::Caller;
use crate::problems::Fault;
use model::Problem;
use model::agent::Level;
use model::policy::Policy;
use store::{Agent, Idempotency};

/// Refuses a policy that is not valid, with the field at fault beneath `under`.
pub(crate) fn check(policy: &Policy, unrestricted: bool, under: &str) -> Result<(), Problem> {
    policy.validate(unrestricted).map_err(|error| {
        let field = format!("{under}{}", error.field);
        Problem::invalid(field.clone(), format!("{field} {}", error.message)).remedy(error.remedy)
    })
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

/// What a new agent may do.
pub(crate) fn at_first(
    asked: Option<&Policy>,
    level: Level,
    unrestricted: bool,
) -> Result<Option<Policy>, Problem> {
    match (asked, check_level(level, Some("policy"))) {
        (Some(_), Err(problem)) => Err(problem),
        (None, Err(_)) => Ok(None),
        (asked, Ok(())) => Ok(Some(asked.cloned().unwrap_or_else(|| Policy::default_of(unrestricted)))),
    }
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
    Ok(app.store.set_policy(caller.actor(), agent.spec.id, policy, if_match, idempotency).await?)
}
