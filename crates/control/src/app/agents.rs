//! Agents. A caller sees and moves those of its own account; of others it learns not even that they exist.

use crate::app::{App, names, placement, validate};
use crate::auth::Caller;
use crate::problems::Fault;
use model::agent::{AgentSpec, AgentState, Command, RunAs, Verb};
use model::api::{CreateAgent, CreateWorkspaceToken, Image, WorkspaceToken};
use model::token::{WORKSPACE_TOKEN_LIFE, WorkspaceClaims};
use model::{AgentId, Code, EventId, Name, Problem, VolumeId};
use serde_json::json;
use std::time::Duration;
use store::{Agent, Idempotency, NewAgent, Order};
use time::OffsetDateTime;

/// How often another name is made up when the first is taken.
const NAME_TRIES: usize = 8;

pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateAgent,
    idempotency: Option<Idempotency>,
) -> Result<Agent, Fault> {
    validate::create_agent(&request)?;
    let image = super::images::find(app, caller, &request.image).await.map_err(|Fault(problem)| {
        if problem.code != Code::NotFound {
            return Fault(problem);
        }
        let remedy = "get it with `cofferdam image pull`, `image import` or `image build`";
        Fault(Problem { field: Some("image".to_owned()), ..problem }.remedy(remedy))
    })?;
    let spec = |name| spec(caller, &request, name, &image);
    let mut tries = if request.name.is_some() { 1 } else { NAME_TRIES };
    loop {
        tries -= 1;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => names::made_up().map_err(|error| Fault::internal(&error))?,
        };
        let new =
            NewAgent { spec: spec(name)?, image_name: image.name.clone(), labels: request.labels.clone() };
        match app.store.create_agent(caller.actor(), &new, placement::place, idempotency.as_ref()).await {
            Err(store::Error::NameTaken { .. }) if tries > 0 => {}
            made => return Ok(made?),
        }
    }
}

/// What the agent is for life: the request, with the image's defaults beneath it.
fn spec(caller: &Caller, request: &CreateAgent, name: Name, image: &Image) -> Result<AgentSpec, Problem> {
    let mut config = image.config.clone().with_entrypoint(request.entrypoint.clone());
    let mut env = std::mem::take(&mut config.env);
    env.extend(request.env.clone());
    let main = request.main.clone().map(|main| Command { argv: config.argv(&main.argv), ..main });
    if let Some(main) = &main {
        validate::main(main)?;
    }
    let wants_root = config.user.as_ref().is_some_and(|user| user.uid == 0);
    let run_as = request.run_as.unwrap_or(if wants_root { RunAs::Root } else { RunAs::Agent });
    Ok(AgentSpec {
        id: AgentId::new(),
        name,
        account: caller.account,
        level: request.level,
        image: image.id,
        image_digest: image.digest.clone(),
        volume: VolumeId::new(),
        run_as,
        main,
        env,
        image_config: config,
        resources: request.resources,
        keep_scratch: request.keep_scratch,
        ttl: request.ttl,
        idle_timeout: request.idle_timeout,
    })
}

/// An agent of the caller's account, by id or name.
pub(crate) async fn find(app: &App, caller: &Caller, key: &str) -> Result<Agent, Fault> {
    let missing = || Fault::missing("agent", key);
    if let Ok(id) = key.parse::<AgentId>() {
        let agent = Fault::or_missing(app.store.agent(id).await, "agent", key)?;
        return if agent.spec.account == caller.account { Ok(agent) } else { Err(missing()) };
    }
    let name: Name = key.parse().map_err(|_| missing())?;
    Fault::or_missing(app.store.agent_named(caller.account, &name).await, "agent", key)
}

pub(crate) async fn order(
    app: &App,
    caller: &Caller,
    key: &str,
    verb: Verb,
    if_match: Option<u64>,
    idempotency: Option<Idempotency>,
) -> Result<Agent, Fault> {
    let agent = find(app, caller, key).await?;
    let order = Order { if_match, cause: None, idempotency };
    Ok(app.store.order(caller.actor(), agent.spec.id, verb, &order).await?)
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// That state, or one that it can never be reached from without a new order.
    State(AgentState),
    /// Wherever it comes to rest.
    Settled,
}

impl Until {
    fn reached(self, agent: &Agent) -> bool {
        match self {
            Self::State(state) => agent.state == state || agent.has_ended(),
            Self::Settled => agent.is_settled(),
        }
    }
}

/// The agent, once it is where the caller waits for.
pub(crate) async fn wait(
    app: &App,
    caller: &Caller,
    key: &str,
    until: Until,
    timeout: Duration,
) -> Result<Agent, Fault> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut agent = find(app, caller, key).await?;
    let mut changes = app.notify.agent(agent.spec.id);
    loop {
        agent = app.store.agent(agent.spec.id).await?;
        if until.reached(&agent) {
            return Ok(agent);
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {
                let detail = format!("the agent is still {}", agent.state);
                return Err(Problem::new(Code::Timeout, detail).remedy("ask again to go on waiting").into());
            }
            () = app.ending.cancelled() => {
                let problem = Problem::new(Code::Unavailable, "control is ending").remedy("ask again in a while");
                return Err(problem.remedy("ask again once it is back").into());
            }
        }
    }
}

/// Hands out a way to the agent, which its gate verifies without asking control.
pub(crate) async fn token(
    app: &App,
    caller: &Caller,
    key: &str,
    request: CreateWorkspaceToken,
) -> Result<WorkspaceToken, Fault> {
    let mut scopes = Vec::new();
    for scope in request.scopes {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.is_empty() {
        let problem = Problem::invalid("scopes", "a token is for at least one scope");
        return Err(problem.remedy("name some of exec, files, logs, ports").into());
    }
    let agent = find(app, caller, key).await?;
    if matches!(agent.state, AgentState::Destroying | AgentState::Destroyed) {
        let detail = format!("the agent is {}: there is no way to it any more", agent.state);
        return Err(Problem::new(Code::WrongState, detail).remedy("create another agent").into());
    }
    let Some(url) = agent.workspace_url.clone() else {
        let detail = format!("the agent is {} and its node has not told yet where it answers", agent.state);
        return Err(Problem::new(Code::WrongState, detail).remedy("GET it with ?wait=running first").into());
    };
    let now = app.store.now();
    let iat = now.unix_timestamp();
    let exp = iat + WORKSPACE_TOKEN_LIFE;
    let claims = WorkspaceClaims {
        iss: app.installation.id.clone(),
        sub: caller.key.to_string(),
        aud: agent.spec.id,
        acc: agent.spec.account,
        scp: scopes,
        epoch: agent.token_epoch,
        jti: EventId::new().base32(),
        iat,
        exp,
    };
    let token = app.signer.sign(&claims).map_err(|error| Fault::internal(&error))?;
    let detail = json!({"scopes": claims.scp, "jti": claims.jti, "expires": exp});
    app.store.token_issued(caller.actor(), &agent, detail).await?;
    let expires_at = OffsetDateTime::from_unix_timestamp(exp).unwrap_or(now);
    Ok(WorkspaceToken { url, token, expires_at })
}
