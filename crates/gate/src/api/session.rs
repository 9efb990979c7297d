//! Who asks, for which agent, and whether they may: decided once for each route, before its handler.
//!
//! A handler reaches an agent only through the [`Session`] that is made here.

use crate::channel::{self, Conversation};
use crate::limits;
use crate::problems::{self, ChannelFault, Refusal};
use crate::server::Connection;
use crate::state::{Agent, InUse, Shared};
use crate::token::{self, TokenError};
use ::channel as wire;
use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use model::crowd::Seat;
use model::gate_api::Condition;
use model::token::Scope;
use model::{Code, Problem};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// The subprotocol of all our WebSockets.
pub const SUBPROTOCOL: &str = "cofferdam.v1";

/// What the agent must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Answer.
    Running,
    /// Only be known.
    Nothing,
}

#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    scope: Scope,
    need: Need,
}

/// Puts the routes behind a door that opens for tokens with the scope.
pub fn guarded(shared: &Arc<Shared>, scope: Scope, need: Need, routes: Router) -> Router {
    let door = Door { shared: shared.clone(), scope, need };
    routes.route_layer(middleware::from_fn_with_state(door, enter))
}

async fn enter(
    State(door): State<Door>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let asked =
        params.iter().find_map(|(name, value)| (name == "agent").then_some(value)).unwrap_or_default();
    let connection = request.extensions().get::<Connection>().cloned();
    let session = door.open(asked, request.headers(), connection).await?;
    let revoked = session.agent.life.revoked.clone();
    request.extensions_mut().insert(session);
    tokio::select! {
        biased;
        () = revoked.cancelled() => Err(problems::revoked().into()),
        response = next.run(request) => Ok(response),
    }
}

impl Door {
    async fn open(
        &self,
        asked: &str,
        headers: &HeaderMap,
        connection: Option<Connection>,
    ) -> Result<Session, Problem> {
        let token = bearer(headers).ok_or_else(|| {
            Problem::new(Code::Unauthenticated, "A workspace token is missing.")
                .remedy("Ask control for one, and send it as `Authorization: Bearer`.")
        })?;
        let mut told = self.shared.told();
        let mut snapshot = self.shared.snapshot();
        let mut verified = token::verify(token, &snapshot, asked, self.scope, now());
        if matches!(verified, Err(TokenError::NotHere))
            && let Some(_waiting) = asked.parse().ok().and_then(|agent| self.shared.ahead.enter(agent))
        {
            let came = async {
                while matches!(verified, Err(TokenError::NotHere)) && told.changed().await.is_ok() {
                    snapshot = self.shared.snapshot();
                    verified = token::verify(token, &snapshot, asked, self.scope, now());
                }
            };
            let _ = tokio::time::timeout(self.shared.coming, came).await;
        }
        let claims = verified.map_err(|error| refusal(error, self.scope))?;
        let agent =
            snapshot.agents.get(&claims.aud).ok_or_else(|| refusal(TokenError::OtherAgent, self.scope))?;
        if self.need == Need::Running {
            answers(agent.condition)?;
        }
        if agent.life.open() >= limits::CALLS_PER_AGENT {
            return Err(Problem::new(Code::TooMany, "The agent has too many calls under way.")
                .remedy("Wait for some of them to end."));
        }
        let in_use = Arc::new(self.shared.open(agent));
        let seat = connection.map(|connection| Arc::new(connection.sit()));
        Ok(Session { shared: self.shared.clone(), agent: agent.clone(), seat, _in_use: in_use })
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn refusal(error: TokenError, scope: Scope) -> Problem {
    match error {
        TokenError::OtherAgent | TokenError::NotHere => {
            Problem::new(Code::NotFound, "There is no such agent here.")
                .remedy("Ask control where the agent is, and for a token for it.")
        }
        TokenError::Scope => Problem::new(Code::Forbidden, error.to_string())
            .remedy(format!("Ask control for a token with the scope {}.", scope_name(scope))),
        TokenError::Invalid
        | TokenError::Installation
        | TokenError::Expired
        | TokenError::Times
        | TokenError::Revoked => {
            Problem::new(Code::Unauthenticated, error.to_string()).remedy("Ask control for a new token.")
        }
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Exec => "exec",
        Scope::Files => "files",
        Scope::Logs => "logs",
        Scope::Ports => "ports",
    }
}

/// Whether its init can answer; in words, why not.
pub fn answers(condition: Condition) -> Result<(), Problem> {
    match condition {
        Condition::Running => Ok(()),
        Condition::Paused => {
            Err(Problem::new(Code::WrongState, "The agent is paused.").remedy("Resume it first."))
        }
        Condition::Stopped => {
            Err(Problem::new(Code::WrongState, "The agent does not run.").remedy("Start it first."))
        }
    }
}

/// The one token of a request: in `Authorization`, or among the subprotocols of an upgrade. Two tokens are none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut found = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let mut offered = subprotocols(headers).filter_map(|name| name.strip_prefix("bearer."));
    match (found.next(), found.next(), offered.next(), offered.next()) {
        (Some(token), None, None, None) => token,
        (None, None, Some(token), None) if headers.contains_key(header::UPGRADE) => Some(token),
        _ => None,
    }
    .filter(|token| !token.is_empty())
}

/// The subprotocols that a client offers.
pub fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value: &HeaderValue| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// A call that may be made, on one agent.
#[derive(Clone)]
pub struct Session {
    /// What the gate knows.
    pub shared: Arc<Shared>,
    /// The agent, as it was when the call began.
    pub agent: Arc<Agent>,
    /// The client's connection is not put out while this lives.
    seat: Option<Arc<Seat<CancellationToken>>>,
    _in_use: Arc<InUse>,
}

impl Session {
    /// Begins a conversation with the agent's init.
    pub async fn converse(&self, request: &wire::Request) -> Result<Conversation, Refusal> {
        let in_use = self.shared.open(&self.agent);
        let talk = channel::converse(&self.agent, in_use, request).await;
        let mut talk = talk.map_err(|fault| self.refusal(fault))?;
        // A conversation may outlive the call: as the body of its answer, or as a WebSocket.
        talk.hold.seat.clone_from(&self.seat);
        Ok(talk)
    }

    /// A request that has one reply.
    pub async fn ask(&self, request: &wire::Request, time: Duration) -> Result<wire::Reply, Refusal> {
        let mut talk = self.converse(request).await?;
        talk.frames.reply(time).await.map_err(|fault| self.refusal(fault))
    }

    /// A request that has nothing to show.
    pub async fn order(&self, request: &wire::Request, time: Duration) -> Result<(), Refusal> {
        match self.ask(request, time).await? {
            wire::Reply::Done => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// The problem that a fault is, seen from here: an agent that was paused or stopped in between explains
    /// its own silence.
    pub fn refusal(&self, fault: ChannelFault) -> Refusal {
        if !matches!(
            fault,
            ChannelFault::Refused(_) | ChannelFault::Connections | ChannelFault::Room | ChannelFault::Revoked
        ) {
            tracing::warn!(agent = %self.agent.id, fault = %problems::from_inside(&chain(&fault)), "a call failed");
            let snapshot = self.shared.snapshot();
            let now = snapshot.agents.get(&self.agent.id).map(|agent| agent.condition);
            if let Some(Err(problem)) = now.map(answers) {
                return problem.into();
            }
        }
        fault.into()
    }

    /// Init sent a reply that does not belong to the request.
    pub fn nonsense(&self) -> Refusal {
        let (expected, found) = (wire::Kind::Reply, wire::Kind::Reply);
        self.refusal(wire::FrameError::Unexpected { expected, found }.into())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // Absent only if a route was added without a door: then nobody gets in.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::new(Code::Internal, "The resource has no guard.").into())
    }
}
