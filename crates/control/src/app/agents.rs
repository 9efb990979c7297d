//! Agents. A caller sees and moves those of its own account; of others it learns not even that they exist.

use crate::app::placement::NoPlace;
use crate::app::{App, names, placement, policies, secrets, validate};
use crate::auth::Caller;
use crate::notify::Subscription;
use crate::problems::Fault;
use model::agent::{AgentSpec, AgentState, Command, Level, RunAs, Verb};
use model::api::{CreateAgent, CreateWorkspaceToken, Image, Period, WorkspaceToken};
use model::mode::Refusal;
use model::token::{Scope, WORKSPACE_TOKEN_LIFE, WorkspaceClaims};
use model::{AgentId, Code, EventId, Name, Problem, VolumeId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::{Agent, Asked, Candidate, FIRST_EPOCH, Found, Fresh, Idempotency, Mark, NewAgent, Order, PageOf};
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
    let needed = secrets::named(&request);
    let deadline = until.map(|(until, timeout)| (until, tokio::time::Instant::now() + timeout));
    let wanted = request.image.as_deref().unwrap_or(app.image.as_str());
    let mut tries = if request.name.is_some() { 1 } else { NAME_TRIES };
    loop {
        tries -= 1;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => names::made_up().map_err(|error| Fault::internal(&error))?,
        };
        let mut begun = None;
        let make = |Found { image, candidates, remembered, now, .. }: Found<'_>| {
            let level = level(app, &request, candidates)?;
            let image = if level.has_image() { Some(image.ok_or_else(|| no_image(wanted))?) } else { None };
            let spec = spec(caller, &request, name.clone(), level, image.as_ref())?;
            let policy =
                policies::at_first(request.policy.as_ref(), level, request.unrestricted, remembered)?;
            let node = placement::place(app.mode, &spec, candidates, now)
                .map_err(|why| nowhere(why, level, candidates))?;
            let issued =
                scopes.as_ref().map(|scopes| issue(app, caller, &spec, FIRST_EPOCH, scopes)).transpose()?;
            let token = issued.as_ref().map(|issued| issued.detail.clone());
            begun = Some((app.notify.agent(spec.id), issued));
            let image_name = image.map(|image| image.name);
            let placeholders =
                secrets::placeholders(policy.as_ref()).map_err(|error| Fault::internal(&error))?;
            let labels = request.labels.clone();
            Ok((NewAgent { spec, image_name, labels, policy, placeholders, token }, node))
        };
        let asked =
            Asked { account: caller.account, name: &name, image: wanted, secrets: &needed, source: None };
        let made = app.store.create_agent(caller.actor(), asked, make, idempotency.as_ref()).await;
        let (mut agent, fresh) = match made {
            Err(Failure::Store(store::Error::NameTaken { .. })) if tries > 0 => continue,
            Err(Failure::Store(error)) => return Err(error.into()),
            Err(Failure::Fault(fault)) => return Err(fault),
            Ok(made) => made,
        };
        let (mut changes, issued) = match (begun, fresh) {
            (Some(begun), Fresh::Yes) => begun,
            _ => (app.notify.agent(agent.spec.id), None),
        };
        if fresh == Fresh::No && until.is_some() {
            // As it is now, which may be long after it was made: it may be another account's by then.
            agent = find(app, caller, &agent.spec.id.to_string()).await?;
        }
        if let Some((until, deadline)) = deadline {
            settle(app, caller, &mut agent, &mut changes, until, deadline).await?;
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

pub(super) fn no_image(key: &str) -> Fault {
    let Fault(problem) = Fault::missing("image", key);
    let remedy = "get it with `cofferdam image pull`, `image import` or `image build`";
    Fault(Problem { field: Some("image".to_owned()), ..problem }.remedy(remedy))
}

/// The level of a new agent: the one that was asked for, or that has what was asked for, or the default.
fn level(app: &App, request: &CreateAgent, candidates: &[Candidate]) -> Result<Level, Problem> {
    let known = candidates.iter().flat_map(|node| node.levels.iter().copied());
    let level = match (request.level, &request.image) {
        (Some(level), _) => level,
        (None, Some(_)) => Level::Container,
        (None, None) => app.mode.default_level(known),
    };
    app.mode.check_level(level).map_err(refused)?;
    if let Some(driver) = request.driver.filter(|driver| !driver.makes(level)) {
        let what = format!("the driver `{driver}` makes no agent of level `{level}`");
        let made = Level::ALL.into_iter().rfind(|level| driver.makes(*level)).unwrap_or(level);
        return Err(
            Problem::invalid("driver", what).remedy(format!("leave it out, or ask for level `{made}`"))
        );
    }
    if !level.has_image() {
        let why = |what: &str| format!("an agent of level `{level}` {what}");
        if request.image.is_some() || request.entrypoint.is_some() {
            let field = if request.image.is_some() { "image" } else { "entrypoint" };
            let problem = Problem::invalid(field, why("sees the machine's own system, and has no image"));
            return Err(problem.remedy("leave it out, or ask for level `container`"));
        }
        let main = request.main.as_ref().and_then(|main| main.user);
        if request.run_as == Some(RunAs::Root) || main == Some(RunAs::Root) {
            let field = if request.run_as.is_some() { "run_as" } else { "main.user" };
            let problem = Problem::invalid(field, why("is an OS user of the machine, and never root"));
            return Err(
                problem.remedy("leave it out, or ask for level `container`: its root is nobody outside")
            );
        }
    }
    Ok(level)
}

pub(super) fn refused(refusal: Refusal) -> Problem {
    let problem = Problem::new(Code::ModeRefuses, refusal.to_string()).remedy(refusal.remedy());
    Problem { field: Some(refusal.field().to_owned()), ..problem }
}

pub(super) fn nowhere(why: NoPlace, level: Level, candidates: &[Candidate]) -> Failure {
    match why {
        NoPlace::Full => Failure::Store(store::Error::NoCapacity),
        NoPlace::Mode(refusal) => refused(refusal).into(),
        NoPlace::Level => {
            let known = candidates.iter().flat_map(|node| &node.levels);
            let known: BTreeSet<&str> = known.map(|level| level.as_str()).collect();
            let known = Vec::from_iter(known).join(", ");
            let detail = format!("no node makes agents of level `{level}`; there is: {known}");
            let problem = Problem::new(Code::LevelUnavailable, detail);
            let problem = problem
                .remedy("`cofferdam doctor` on the node says what is in the way, or `levels` in node.toml");
            Problem { field: Some("level".to_owned()), ..problem }.into()
        }
    }
}

/// Why none was made.
pub(super) enum Failure {
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
fn spec(
    caller: &Caller,
    request: &CreateAgent,
    name: Name,
    level: Level,
    image: Option<&Image>,
) -> Result<AgentSpec, Problem> {
    let config = image.map(|image| image.config.clone()).unwrap_or_default();
    let mut config = config.with_entrypoint(request.entrypoint.clone());
    let mut env = std::mem::take(&mut config.env);
    env.extend(request.env.clone());
    let main = request.main.clone().map(|main| Command { argv: config.argv(&main.argv), ..main });
    if let Some(main) = &main {
        validate::main(main)?;
    }
    let wants_root = config.user.as_ref().is_some_and(|user| user.uid == 0);
    let run_as = request.run_as.unwrap_or(if wants_root { RunAs::Root } else { RunAs::Agent });
    Ok(AgentSpec {
        secrets: request.secrets.clone(),
        id: AgentId::new(),
        name,
        account: caller.account,
        level,
        driver: request.driver,
        image: image.map(|image| image.id),
        image_digest: image.map(|image| image.digest.clone()),
        volume: VolumeId::new(),
        origin: None,
        run_as,
        main,
        env,
        image_config: config,
        unrestricted: request.unrestricted,
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

/// What an agent was, newest first, as long as it was the caller's account's: also of one that was destroyed, or given to another since.
pub(crate) async fn timeline(
    app: &App,
    caller: &Caller,
    key: &str,
    before: Option<u64>,
    limit: u32,
) -> Result<PageOf<Period>, Fault> {
    let id = match key.parse() {
        Ok(id) => id,
        Err(_) => find(app, caller, key).await?.spec.id,
    };
    let rows = app.store.timeline(caller.account, id, before, limit).await?;
    if rows.items.is_empty() && before.is_none() {
        return Err(Fault::missing("agent", key));
    }
    Ok(rows)
}

/// The mark of an agent of the caller's account, by its id.
pub(crate) async fn mark(app: &App, caller: &Caller, id: AgentId) -> Result<Mark, Fault> {
    let mark = app.store.mark(id).await?.filter(|mark| mark.account == caller.account);
    mark.ok_or_else(|| Fault::missing("agent", &id.to_string()))
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
    if matches!(verb, Verb::Start | Verb::Resume) {
        // The installation may have had another mode when it was made.
        app.mode.check_level(agent.spec.level).map_err(refused)?;
        let shared = app.store.node_is_shared(agent.node).await?;
        app.mode.check_node(agent.spec.unrestricted, shared).map_err(refused)?;
    }
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
/// control is ending. Of one that is given to another account meanwhile nothing more is told.
async fn settle(
    app: &App,
    caller: &Caller,
    agent: &mut Agent,
    changes: &mut Subscription<AgentId, Option<Arc<Agent>>>,
    until: Until,
    deadline: tokio::time::Instant,
) -> Result<(), Fault> {
    while !until.reached(agent) {
        tokio::select! {
            changed = changes.changed() => match changed {
                Some(changed) => *agent = Arc::unwrap_or_clone(changed),
                // Another process changed it. When it cannot be read now, the next change or the deadline comes.
                None => if let Ok(now) = app.store.agent(agent.spec.id).await {
                    *agent = now;
                },
            },
            () = tokio::time::sleep_until(deadline) => return Ok(()),
            () = app.ending.cancelled() => return Ok(()),
        }
        if agent.spec.account != caller.account {
            return Err(Fault::missing("agent", &agent.spec.id.to_string()));
        }
    }
    Ok(())
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
    settle(app, caller, &mut agent, &mut changes, until, deadline).await?;
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
        sub: caller.actor().to_string(),
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
