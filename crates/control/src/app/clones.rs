//! Copies of agents. Whoever may make agents may copy one of the account; what it is, is copied as it was frozen.

use crate::app::agents::{self, Failure};
use crate::app::{App, secrets};
use crate::auth::Caller;
use crate::problems::Fault;
use model::agent::AgentState;
use model::api::Image;
use model::clone::{CloneAgent, cloned, on_image};
use model::image::ImageConfig;
use model::{AgentId, AgentSpec, Code, Name, Problem};
use store::{Agent, Asked, Candidate, Found, Fresh, Idempotency, NewAgent};

/// Another disk is made of one that is there: a clone goes where that is.
fn beside<'c>(source: &Agent, candidates: &'c [Candidate]) -> Result<&'c Candidate, store::Error> {
    let here = candidates.iter().find(|node| node.node == source.node && node.free > 0);
    here.ok_or(store::Error::NoCapacity)
}

/// What the clone is on this image; on the one that its source keeps without.
fn spec(source: &Agent, id: AgentId, name: Name, image: Option<&Image>, before: &ImageConfig) -> AgentSpec {
    let mut spec = cloned(&source.spec, id, name);
    if let Some(image) = image {
        (spec.env, spec.image_config) = on_image(&spec.env, &spec.image_config, before, &image.config);
        (spec.image, spec.image_digest) = (Some(image.id), Some(image.digest.clone()));
    }
    spec
}

/// The image that was asked for by name, if one was.
fn named(source: &Agent, wanted: Option<&str>, found: Option<Image>) -> Result<Option<Image>, Fault> {
    let Some(wanted) = wanted else { return Ok(None) };
    let level = source.spec.level;
    if !level.has_image() {
        let detail = format!("an agent of level `{level}` sees the machine's own system, and has no image");
        return Err(Problem::invalid("image", detail).remedy("leave it out").into());
    }
    found.ok_or_else(|| agents::no_image(wanted)).map(Some)
}

pub(crate) async fn clone(
    app: &App,
    caller: &Caller,
    key: &str,
    request: &CloneAgent,
    idempotency: Option<Idempotency>,
) -> Result<Agent, Fault> {
    let source = agents::find(app, caller, key).await?;
    app.mode.check_level(source.spec.level).map_err(agents::refused)?;
    // Nothing of its image changes any more, whether its name moved on or not.
    let before = match (&request.image, source.spec.image) {
        (Some(_), Some(image)) => app.store.image_config(caller.account, image).await?,
        _ => ImageConfig::default(),
    };
    // A policy that is changed at this very moment may name others: then it is said that there are none of that name.
    let needed: Vec<Name> =
        store::secrets_named(&source.spec.secrets, source.policy.as_ref()).cloned().collect();
    let wanted = request.image.as_deref().unwrap_or_default();
    let id = AgentId::new();
    let make = |Found { image, source, candidates, .. }: Found<'_>| {
        let source = source.ok_or_else(|| Fault::missing("agent", key))?;
        if matches!(source.state, AgentState::Destroying | AgentState::Destroyed) {
            let detail = format!("the agent is {}: there is nothing to copy", source.state);
            return Err(Problem::new(Code::WrongState, detail).remedy("create another agent").into());
        }
        let named = named(&source, request.image.as_deref(), image)?;
        let spec = spec(&source, id, request.name.clone(), named.as_ref(), &before);
        let node = beside(&source, candidates)?;
        app.mode.check_node(spec.unrestricted, node.shared).map_err(agents::refused)?;
        let placeholders =
            secrets::placeholders(source.policy.as_ref()).map_err(|error| Fault::internal(&error))?;
        let image_name = named.map(|image| image.name).or(source.image_name);
        let new = NewAgent {
            spec,
            image_name,
            labels: source.labels,
            policy: source.policy,
            placeholders,
            token: None,
        };
        Ok((new, node.node))
    };
    let asked = Asked {
        account: caller.account,
        name: &request.name,
        image: wanted,
        secrets: &needed,
        source: Some(source.spec.id),
    };
    match app.store.create_agent(caller.actor(), asked, make, idempotency.as_ref()).await {
        // As it was made; it may be another account's by now.
        Ok((agent, Fresh::No)) => agents::find(app, caller, &agent.spec.id.to_string()).await,
        Ok((agent, Fresh::Yes)) => Ok(agent),
        Err(Failure::Store(error)) => Err(error.into()),
        Err(Failure::Fault(fault)) => Err(fault),
    }
}
