//! `/v1/agents`

use super::extract::{Empty, Guards, Id, Json};
use super::query::{Query, page};
use crate::app::App;
use crate::app::agents::{self as app, Until};
use crate::auth::Caller;
use crate::problems::Fault;
use crate::shown::Sent;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::agent::{AgentState, Desired, Verb};
use model::api::{
    Agent, AgentEvidence, ControlEvidence, CreateAgent, CreateWorkspaceToken, CreatedAgent, Page, Period,
    WorkspaceToken,
};
use model::evidence::{Claim, Control, claim};
use model::packages::Upgrade;
use model::{AccountId, AgentId, Problem, Span};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use store::{AgentFilter, Mark, PageOf};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const MAX_WAIT: Span = Span(60);
const DEFAULT_WAIT: Span = Span(30);

/// Whether there is a boundary of which anything may be said.
fn lives(state: AgentState) -> bool {
    matches!(state, AgentState::Running | AgentState::Paused)
}

/// What may be said of it now.
fn proved(agent: &store::Agent) -> Claim {
    if lives(agent.state) { claim(agent.spec.level, &agent.evidence) } else { Claim::None }
}

pub(super) fn wire(agent: store::Agent) -> Agent {
    let claim = proved(&agent);
    let store::Agent { spec, state, .. } = agent;
    Agent {
        id: spec.id,
        name: spec.name,
        account: spec.account,
        state,
        reason: agent.reason.filter(|_| !lives(state)),
        level: spec.level,
        driver: spec.driver,
        unrestricted: spec.unrestricted,
        policy: agent.policy,
        policy_revision: agent.policy_revision,
        warnings: model::mode::warnings(spec.level, spec.unrestricted),
        claim,
        evidence: if lives(state) { agent.evidence } else { Vec::new() },
        image: spec.image,
        image_name: agent.image_name,
        image_digest: spec.image_digest,
        upgrade: None,
        volume: spec.volume,
        origin: spec.origin,
        node: agent.node,
        main: spec.main,
        labels: agent.labels,
        run_as: spec.run_as,
        image_config: spec.image_config,
        resources: spec.resources,
        keep_scratch: spec.keep_scratch,
        ttl: spec.ttl,
        idle_timeout: spec.idle_timeout,
        generation: agent.generation,
        created_at: agent.created_at,
        state_since: agent.state_since,
    }
}

/// As they are shown to who looks: with what there is to know of newer images.
async fn shown(app: &App, account: AccountId, agents: Vec<store::Agent>) -> Result<Vec<Agent>, Fault> {
    let names = agents.iter().filter_map(|agent| agent.image_name.as_ref()).collect();
    let now = app.store.images_named(account, &names).await?;
    let shown = |agent: store::Agent| {
        let named = agent.image_name.as_ref().and_then(|name| now.get_key_value(name));
        let newer = named.filter(|(_, (_, digest))| {
            agent.spec.image_digest.as_ref() != Some(digest) && agent.desired != Desired::Destroyed
        });
        let upgrade =
            newer.map(|(image, (id, digest))| Upgrade::of(&agent.spec.name, image, *id, digest.clone()));
        Agent { upgrade, ..wire(agent) }
    };
    Ok(agents.into_iter().map(shown).collect())
}

fn answer(status: StatusCode, agent: store::Agent) -> Response {
    answer_as(status, agent.generation, &wire(agent))
}

pub(super) fn answer_as<T: Serialize>(status: StatusCode, tag: u64, body: &T) -> Response {
    let etag = format!("\"{tag}\"");
    let mut response = (status, axum::Json(body)).into_response();
    response.headers_mut().insert(header::ETAG, HeaderValue::from_str(&etag).expect("a quoted number"));
    response
}

/// Agents of an account as they are sent.
async fn sent(app: &App, account: AccountId, agents: Vec<store::Agent>) -> Result<Vec<Sent>, Fault> {
    let written = |agent: Agent| {
        let body = serde_json::to_vec(&agent).map_err(|error| Fault::internal(&error))?;
        Ok(Sent { generation: agent.generation, body: body.into() })
    };
    shown(app, account, agents).await?.into_iter().map(written).collect()
}

fn answer_sent(Sent { generation, body }: Sent) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    let etag = format!("\"{generation}\"");
    headers.insert(header::ETAG, HeaderValue::from_str(&etag).expect("a quoted number"));
    response
}

/// An agent as it is now. What was written out before and is still so is not written out again.
async fn show(state: &App, caller: &Caller, id: AgentId) -> Result<Sent, Fault> {
    let mark = app::mark(state, caller, id).await?;
    if let Some(sent) = state.shown.find(&mark) {
        return Ok(sent);
    }
    // Read after the mark: it is as new as that, or newer.
    let agent = app::find(state, caller, &id.to_string()).await?;
    let sent = sent(state, caller.account, vec![agent]).await?.remove(0);
    state.shown.keep(&mark, &sent);
    Ok(sent)
}

/// A page of agents: those that were written out before, and the others now.
async fn show_all(state: &App, account: AccountId, rows: PageOf<Mark>) -> Result<Vec<u8>, Fault> {
    let mut shown: Vec<(Mark, Option<Sent>)> =
        rows.items.into_iter().map(|mark| (mark, state.shown.find(&mark))).collect();
    let missing: Vec<AgentId> =
        shown.iter().filter(|(_, sent)| sent.is_none()).map(|(mark, _)| mark.agent).collect();
    if !missing.is_empty() {
        let mut read = state.store.agents_of(&missing).await?;
        // One may have been given to another account meanwhile.
        read.retain(|agent| agent.spec.account == account);
        let ids: Vec<AgentId> = read.iter().map(|agent| agent.spec.id).collect();
        let mut read: HashMap<AgentId, Sent> =
            ids.into_iter().zip(sent(state, account, read).await?).collect();
        for (mark, place) in shown.iter_mut().filter(|(_, sent)| sent.is_none()) {
            let Some(now) = read.remove(&mark.agent) else { continue };
            state.shown.keep(mark, &now);
            *place = Some(now);
        }
    }
    let size: usize = shown.iter().flat_map(|(_, sent)| sent).map(|sent| sent.body.len() + 1).sum();
    let mut body = Vec::with_capacity(size + 64);
    body.extend_from_slice(b"{\"items\":[");
    for (index, sent) in shown.iter().flat_map(|(_, sent)| sent).enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&sent.body);
    }
    body.push(b']');
    if let Some((last, _)) = shown.last().filter(|_| rows.more) {
        // An id is letters, digits and `_`.
        body.extend_from_slice(format!(",\"next\":\"{}\"", last.agent).as_bytes());
    }
    body.push(b'}');
    Ok(body)
}

/// What a query says of waiting, if anything.
fn waits(query: &Query) -> Result<Option<(Until, Duration)>, Fault> {
    let timeout: Span = query.parsed("timeout")?.unwrap_or(DEFAULT_WAIT);
    if timeout > MAX_WAIT {
        return Err(Problem::invalid("timeout", "one wait lasts at most 60s").remedy("ask again").into());
    }
    let until = match query.text("wait")? {
        None => return Ok(None),
        Some("settled") => Until::Settled,
        Some("reachable") => Until::Reachable,
        Some(text) => {
            let wrong = |error: model::agent::UnknownState| {
                Problem::invalid("wait", format!("{error}, settled, reachable"))
            };
            Until::State(text.parse().map_err(wrong)?)
        }
    };
    Ok(Some((until, timeout.duration())))
}

/// Makes an agent.
///
/// It is placed on a node that has room, and provisioned there. With `wait` the answer comes when it is in that state
/// (see `get_agent`), or when the time is over: the agent is made in any case, so look at its `state`. A request that
/// waits can have a workspace token come with the answer, with `token`. The shortest way to a first output is to wait until
/// it is `reachable` only, and to call its workspace at once: its gate holds calls until the agent runs, for up to 10 s.
#[utoipa::path(post, path = "/v1/agents", tag = "agents", operation_id = "create_agent",
    params(
        ("wait" = Option<String>, Query, description = "A state, `settled` or `reachable`"),
        ("timeout" = Option<String>, Query, description = "How long to wait, at most 60s; 30s unless told"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request get the same agent, for 24 hours")),
    request_body = CreateAgent,
    responses((status = 201, description = "The agent, not yet running unless it was waited for", body = CreatedAgent,
        headers(("ETag" = String, description = "Its generation"), ("Location" = String, description = "Its path")))))]
pub(super) async fn create(
    State(state): State<Arc<App>>,
    caller: Caller,
    guards: Guards,
    query: Query,
    Json(request): Json<CreateAgent>,
) -> Result<Response, Fault> {
    query.only(&["wait", "timeout"])?;
    let idempotency = guards.idempotency(caller.account, "create_agent", &request)?;
    let (agent, workspace) = app::create(&state, &caller, request, idempotency, waits(&query)?).await?;
    let (generation, location) = (agent.generation, format!("/v1/agents/{}", agent.spec.id));
    let body = CreatedAgent { agent: wire(agent), workspace };
    let mut response = answer_as(StatusCode::CREATED, generation, &body);
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_str(&location).expect("an id is ASCII"));
    Ok(response)
}

/// Lists agents, newest first. Destroyed ones are listed when asked for with `state=destroyed`.
#[utoipa::path(get, path = "/v1/agents", tag = "agents", operation_id = "list_agents",
    params(
        ("state" = Option<AgentState>, Query, description = "Only those in this state"),
        ("label" = Option<Vec<String>>, Query, description = "Only those with this label, as KEY=VALUE; may repeat"),
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Agent>)))]
pub(super) async fn list(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Fault> {
    query.only(&["state", "label", "cursor", "limit"])?;
    let mut labels = BTreeMap::new();
    for label in query.all("label") {
        let wrong = || Problem::invalid("label", "expected KEY=VALUE");
        let (key, value) = label.split_once('=').ok_or_else(wrong)?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    crate::app::validate::labels(&labels)?;
    let filter = AgentFilter { state: query.parsed("state")?, labels };
    let paging = query.paging()?;
    let rows = state.store.marks(caller.account, &filter, paging.before.as_deref(), paging.limit).await?;
    Ok(([(header::CONTENT_TYPE, JSON)], show_all(&state, caller.account, rows).await?).into_response())
}

/// Shows an agent; with `wait`, once it is there.
///
/// `wait=STATE` answers when the agent is in that state, or in one that it never leaves by itself; look at
/// `state`. `wait=settled` answers when it rests where it was told to be. `TIMEOUT` if that takes too long.
#[utoipa::path(get, path = "/v1/agents/{id}", tag = "agents", operation_id = "get_agent",
    params(
        ("id" = String, Path, description = "Its id or name"),
        ("wait" = Option<String>, Query, description = "A state, `settled` or `reachable`"),
        ("timeout" = Option<String>, Query, description = "How long to wait, at most 60s; 30s unless told"),
    ),
    responses((status = 200, description = "The agent", body = Agent, headers(("ETag" = String, description = "Its generation")))))]
pub(super) async fn get(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    query: Query,
) -> Result<Response, Fault> {
    query.only(&["wait", "timeout"])?;
    let agent = match (waits(&query)?, id.parse()) {
        (None, Ok(id)) => return Ok(answer_sent(show(&state, &caller, id).await?)),
        (None, Err(_)) => app::find(&state, &caller, &id).await?,
        (Some((until, timeout)), _) => app::wait(&state, &caller, &id, until, timeout).await?,
    };
    let generation = agent.generation;
    let agent = shown(&state, caller.account, vec![agent]).await?.pop();
    Ok(answer_as(StatusCode::OK, generation, &agent))
}

/// What an agent's boundary should be, and what was observed of it.
///
/// The node looks when the agent starts and every minute from then on, and reports what changed at once; that nothing
/// changed shows in the time of the observation, every few minutes. For an agent that does not run it is what was last
/// known.
#[utoipa::path(get, path = "/v1/agents/{id}/evidence", tag = "agents", operation_id = "get_agent_evidence",
    params(("id" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "Each control of its level", body = AgentEvidence)))]
pub(super) async fn evidence(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
) -> Result<axum::Json<AgentEvidence>, Fault> {
    let agent = app::find(&state, &caller, &id).await?;
    let level = agent.spec.level;
    let control = |control: Control| {
        let mut of_it = agent.evidence.iter().filter(|found| found.control == control);
        // The worst, should there be more than one.
        let seen = of_it.clone().find(|found| !found.state.holds()).or_else(|| of_it.next());
        ControlEvidence {
            control,
            mandatory: !control.is_optional(),
            expected: control.expected(level).to_owned(),
            state: seen.map_or(model::evidence::State::Missing, |found| found.state),
            observed: seen
                .map_or_else(|| "nothing was observed of it".to_owned(), |found| found.detail.clone()),
        }
    };
    Ok(axum::Json(AgentEvidence {
        agent: agent.spec.id,
        name: agent.spec.name.clone(),
        level,
        state: agent.state,
        claim: proved(&agent),
        claim_then: claim(level, &agent.evidence),
        observation: agent.observation.clone(),
        controls: Control::of(level).iter().copied().map(control).collect(),
    }))
}

/// What an agent was and when, newest first.
///
/// Each period ends where the next begins. Periods of an agent that was given to another account stay with the account whose it was, and
/// those of one that was destroyed are listed by its id.
#[utoipa::path(get, path = "/v1/agents/{id}/timeline", tag = "agents", operation_id = "get_agent_timeline",
    params(
        ("id" = String, Path, description = "Its id or name"),
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Period>)))]
pub(super) async fn timeline(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    query: Query,
) -> Result<axum::Json<Page<Period>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let digits =
        |text: &String| matches!(text.len(), 1..=9) && text.bytes().all(|byte| byte.is_ascii_digit());
    let paging = query.paging_by(|ordinal| Some(ordinal).filter(digits)?.parse().ok())?;
    let rows = app::timeline(&state, &caller, &id, paging.before, paging.limit).await?;
    Ok(axum::Json(page(rows, |period| period.ordinal.to_string(), |period| period)))
}

async fn order(
    state: &App,
    caller: &Caller,
    id: &str,
    guards: &Guards,
    verb: Verb,
) -> Result<Response, Fault> {
    let idempotency = guards.idempotency(caller.account, "order_agent", &(id, verb))?;
    let agent = app::order(state, caller, id, verb, guards.if_match()?, idempotency).await?;
    Ok(answer(StatusCode::OK, agent))
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident, $method:ident, $path:literal, $operation:literal, $verb:expr;)*) => {$(
        $(#[$doc])*
        #[utoipa::path($method, path = $path, tag = "agents", operation_id = $operation,
            params(
                ("id" = String, Path, description = "Its id or name"),
                ("If-Match" = Option<String>, Header, description = "Refused unless the agent is at this generation"),
                ("Idempotency-Key" = Option<String>, Header, description = "The same key and request act once, for 24 hours"),
            ),
            responses((status = 200, description = "The agent, on its way", body = Agent,
                headers(("ETag" = String, description = "Its generation")))))]
        pub(super) async fn $name(
            State(state): State<Arc<App>>,
            caller: Caller,
            Id(id): Id,
            guards: Guards,
            _: Empty,
        ) -> Result<Response, Fault> {
            order(&state, &caller, &id, &guards, $verb).await
        }
    )*};
}

verbs! {
    /// Freezes an agent: nothing of it runs, all of it stays.
    pause, post, "/v1/agents/{id}/pause", "pause_agent", Verb::Pause;
    /// Thaws an agent.
    resume, post, "/v1/agents/{id}/resume", "resume_agent", Verb::Resume;
    /// Ends an agent's processes and keeps its volume.
    stop, post, "/v1/agents/{id}/stop", "stop_agent", Verb::Stop;
    /// Starts an agent again on its volume.
    start, post, "/v1/agents/{id}/start", "start_agent", Verb::Start;
    /// Destroys an agent with its volume. Its events stay.
    destroy, delete, "/v1/agents/{id}", "destroy_agent", Verb::Destroy;
}

/// Hands out a token for the agent's workspace API, and tells where that answers. It lasts an hour.
#[utoipa::path(post, path = "/v1/agents/{id}/token", tag = "agents", operation_id = "create_workspace_token",
    params(("id" = String, Path, description = "Its id or name")),
    request_body = CreateWorkspaceToken,
    responses((status = 201, description = "Where, and with what", body = WorkspaceToken)))]
pub(super) async fn token(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    Json(request): Json<CreateWorkspaceToken>,
) -> Result<(StatusCode, axum::Json<WorkspaceToken>), Fault> {
    Ok((StatusCode::CREATED, axum::Json(app::token(&state, &caller, &id, request).await?)))
}
