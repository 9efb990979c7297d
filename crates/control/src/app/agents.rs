//! Agents. A caller sees and moves those of its own account; of others it learns not even that they exist.

use crate::app::{App, names, placement, validate};
use crate::auth::Caller;
use crate::notify::Subscription;
use crate::problems::Fault;
use model::agent::{AgentSpec, AgentState, Command, RunAs, Verb};
use model::api::{CreateAgent, CreateWorkspaceToken, Image, WorkspaceToken};
use model::token::{Scope, WORKSPACE_TOKEN_LIFE, WorkspaceClaims};
use model::{AgentId, Code, EventId, Name, Problem, VolumeId};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::{Agent, Asked, FIRST_EPOCH, Fresh, Idempotency, NewAgent, Order};
use time::OffsetDateTime;

/// How often another name is made up when the first is taken.
const NAME_TRIES: usize = 8;

/// Makes an agent. With `until` the answer is the agent once it is there, or when the time is over: it is made in any
/// case. With it comes the token that was asked for, if there is a way to the agent by then.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateAgent,
    idempotency: Option<Idempotency>,
    until: Option<(Until, Duration)>,
) -> Result<(Agent, Option<WorkspaceToken>), Fault> {
    validate::create_agent(&request)?;
    let scopes = request.token.as_ref().map(|token| distinct(&token.scopes, "token.scopes")).transpose()?;
    if scopes.is_some() && until.is_none() {
        let problem = Problem::invalid("token", "a token comes with an answer that waits for the agent");
        return Err(problem.remedy("add ?wait=running, or ask for the token later").into());
    }
    let deadline = until.map(|(until, timeout)| (until, tokio::time::Instant::now() + timeout));
    let mut tries = if request.name.is_some() { 1 } else { NAME_TRIES };
    loop {
        tries -= 1;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => names::made_up().map_err(|error| Fault::internal(&error))?,
        };
        let mut begun = None;
        let make = |image: Image| {
            let spec = spec(caller, &request, name.clone(), &image)?;
            let issued =
                scopes.as_ref().map(|scopes| issue(app, caller, &spec, FIRST_EPOCH, scopes)).transpose()?;
            let token = issued.as_ref().map(|issued| issued.detail.clone());
            begun = Some((app.notify.agent(spec.id), issued));
            Ok(NewAgent { spec, image_name: image.name, labels: request.labels.clone(), token })
        };
        let asked = Asked { account: caller.account, name: &name, image: &request.image };
        let place = placement::place;
        let made = app.store.create_agent(caller.actor(), asked, make, place, idempotency.as_ref()).await;
        let (mut agent, fresh) = match made {
            Err(Failure::Store(store::Error::NameTaken { .. })) if tries > 0 => continue,
            Err(Failure::Store(store::Error::NotFound { what: "image" })) => {
                return Err(no_image(&request.image));
            }
            Err(Failure::Store(error)) => return Err(error.into()),
            Err(Failure::Fault(fault)) => return Err(fault),
            Ok(made) => made,
        };
        let (mut changes, issued) = match (begun, fresh) {
            (Some(begun), Fresh::Yes) => begun,
            _ => (app.notify.agent(agent.spec.id), None),
        };
        if fresh == Fresh::No && until.is_some() {
            // As it is now, which may be long after it was made.
            agent = app.store.agent(agent.spec.id).await?;
        }
        if let Some((until, deadline)) = deadline {
            settle(app, &mut agent, &mut changes, until, deadline).await;
        }
        let token = match (issued, scopes) {
            (Some(issued), _) => way_to(&agent).ok().map(|url| issued.at(url)),
            (None, Some(scopes)) => match way_to(&agent) {
                Ok(_) => Some(hand_out(app, caller, &agent, &scopes).await?),
                Err(_) => None,
            },
            (None, None) => None,
        };
        return Ok((agent, token));
    }
}

fn no_image(key: &str) -> Fault {
    let Fault(problem) = Fault::missing("image", key);
    let remedy = "get it with `cofferdam image pull`, `image import` or `image build`";
    Fault(Problem { field: Some("image".to_owned()), ..problem }.remedy(remedy))
}

/// Why none was made.
enum Failure {
    Store(store::Error),
    Fault(Fault),
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Fault(problem.into())
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
    /// That it is known where its workspace API will answer.
    Reachable,
}

impl Until {
    fn reached(self, agent: &Agent) -> bool {
        match self {
            Self::State(state) => agent.state == state || agent.has_ended(),
            Self::Settled => agent.is_settled(),
            Self::Reachable => agent.workspace_url.is_some() || agent.has_ended(),
        }
    }
}

/// Waits until the agent is where it should be. Whether it got there is for the caller to see: the time may be over, or
/// control is ending.
async fn settle(
    app: &App,
    agent: &mut Agent,
    changes: &mut Subscription<AgentId, Option<Arc<Agent>>>,
    until: Until,
    deadline: tokio::time::Instant,
) {
    while !until.reached(agent) {
        tokio::select! {
            changed = changes.changed() => if let Some(changed) = changed {
                *agent = Arc::unwrap_or_clone(changed);
            },
            () = tokio::time::sleep_until(deadline) => return,
            () = app.ending.cancelled() => return,
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
    let id = match key.parse::<AgentId>() {
        Ok(id) => id,
        Err(_) => find(app, caller, key).await?.spec.id,
    };
    let mut changes = app.notify.agent(id);
    let mut agent = find(app, caller, &id.to_string()).await?;
    settle(app, &mut agent, &mut changes, until, deadline).await;
    if until.reached(&agent) {
        return Ok(agent);
    }
    if app.ending.is_cancelled() {
        let problem = Problem::new(Code::Unavailable, "control is ending");
        return Err(problem.remedy("ask again once it is back").into());
    }
    let detail = format!("the agent is still {}", agent.state);
    Err(Problem::new(Code::Timeout, detail).remedy("ask again to go on waiting").into())
}

/// Scopes for a token, each once.
fn distinct(asked: &[Scope], field: &str) -> Result<Vec<Scope>, Problem> {
    let mut scopes = Vec::new();
    for scope in asked {
        if !scopes.contains(scope) {
            scopes.push(*scope);
        }
    }
    if scopes.is_empty() {
        let problem = Problem::invalid(field, "a token is for at least one scope");
        return Err(problem.remedy("name some of exec, files, logs, ports"));
    }
    Ok(scopes)
}

/// Where the agent's workspace API answers.
fn way_to(agent: &Agent) -> Result<String, Problem> {
    if matches!(agent.state, AgentState::Destroying | AgentState::Destroyed) {
        let detail = format!("the agent is {}: there is no way to it any more", agent.state);
        return Err(Problem::new(Code::WrongState, detail).remedy("create another agent"));
    }
    agent.workspace_url.clone().ok_or_else(|| {
        let detail = format!("the agent is {} and its node has not told yet where it answers", agent.state);
        Problem::new(Code::WrongState, detail).remedy("GET it with ?wait=running first")
    })
}

/// A signed token, and what the ledger has to say of it before anybody gets it.
struct Issued {
    token: String,
    expires_at: OffsetDateTime,
    detail: Value,
}

impl Issued {
    fn at(self, url: String) -> WorkspaceToken {
        WorkspaceToken { url, token: self.token, expires_at: self.expires_at }
    }
}

fn issue(
    app: &App,
    caller: &Caller,
    spec: &AgentSpec,
    epoch: u64,
    scopes: &[Scope],
) -> Result<Issued, Fault> {
    let now = app.store.now();
    let iat = now.unix_timestamp();
    let exp = iat + WORKSPACE_TOKEN_LIFE;
    let claims = WorkspaceClaims {
        iss: app.installation.id.clone(),
        sub: caller.key.to_string(),
        aud: spec.id,
        acc: spec.account,
        scp: scopes.to_vec(),
        epoch,
        jti: EventId::new().base32(),
        iat,
        exp,
    };
    let token = app.signer.sign(&claims).map_err(|error| Fault::internal(&error))?;
    let detail = json!({"scopes": claims.scp, "jti": claims.jti, "expires": exp});
    Ok(Issued { token, expires_at: OffsetDateTime::from_unix_timestamp(exp).unwrap_or(now), detail })
}

async fn hand_out(
    app: &App,
    caller: &Caller,
    agent: &Agent,
    scopes: &[Scope],
) -> Result<WorkspaceToken, Fault> {
    let url = way_to(agent)?;
    let issued = issue(app, caller, &agent.spec, agent.token_epoch, scopes)?;
    app.store.token_issued(caller.actor(), agent, issued.detail.clone()).await?;
    Ok(issued.at(url))
}

/// Hands out a way to the agent, which its gate verifies without asking control.
pub(crate) async fn token(
    app: &App,
    caller: &Caller,
    key: &str,
    request: CreateWorkspaceToken,
) -> Result<WorkspaceToken, Fault> {
    let scopes = distinct(&request.scopes, "scopes")?;
    let agent = find(app, caller, key).await?;
    hand_out(app, caller, &agent, &scopes).await
}
