//! Who is asking: holders of API keys, people in sessions, and nodes. What they may do, [`access`] decides.

pub(crate) mod access;
pub(crate) mod assertion;
pub(crate) mod cookie;
pub(crate) mod passwords;
pub(crate) mod seal;
pub(crate) mod seats;
pub(crate) mod secret;
pub(crate) mod signing;
pub(crate) mod totp;
pub(crate) mod voucher;

use crate::app::App;
use crate::problems::Fault;
use crate::server::Door;
use access::{Action, Place, Standing, Verdict, decide};
use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::{HeaderMap, Method, header, request::Parts};
use model::people::Role;
use model::{AccountId, Code, KeyId, Name, NodeId, Problem, UserId};
use seats::{Seat, Who};
use std::sync::Arc;
use store::{Actor, Sitting};
use time::{Duration, OffsetDateTime};

/// How long a proof is fresh.
const FRESH: Duration = Duration::minutes(5);
/// Says which account a session acts in: an id or a name. Without it, in its person's own.
const ACCOUNT: &str = "cofferdam-account";

/// What somebody showed.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    Key(KeyId),
    Session(Sitting),
}

/// Whoever acts in an account, and may call what they call.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) credential: Credential,
    pub(crate) account: AccountId,
    pub(crate) account_name: Name,
    pub(crate) standing: Standing,
    /// Who they are; nobody for a key that is the account's own.
    pub(crate) person: Option<UserId>,
    /// When the key ends that they act by.
    pub(crate) until: Option<OffsetDateTime>,
    /// Held while the request is under way.
    _seat: Arc<Seat>,
}

impl Caller {
    pub(crate) fn actor(&self) -> Actor {
        match &self.credential {
            Credential::Key(key) => Actor::Key { key: *key, role: self.standing.role },
            Credential::Session(Sitting { session, person, .. }) => {
                let standing = Some((self.account, self.standing.role));
                Actor::Session { session: *session, person: *person, standing }
            }
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.standing.role
    }

    pub(crate) fn may(&self, action: Action) -> bool {
        decide(&self.standing, action) == Verdict::Allow
    }

    /// Refuses what they may not.
    pub(crate) fn check(&self, action: Action) -> Result<(), Fault> {
        match decide(&self.standing, action) {
            Verdict::Allow => Ok(()),
            Verdict::Missing => Err(Problem::new(Code::NotFound, "there is no such thing").into()),
            Verdict::Forbid(detail, remedy) => {
                Err(Problem::new(Code::Forbidden, detail).remedy(remedy).into())
            }
        }
    }

    /// Refuses to make somebody who is `from` something else, or nothing, where they may not. All of it asks for a proof, but to make
    /// somebody less who is no owner.
    pub(crate) fn manages(&self, from: Role, to: Option<Role>, now: OffsetDateTime) -> Result<(), Fault> {
        let action = access::manages(from, to);
        self.check(action)?;
        if action == Action::Owners || to.is_none_or(|to| to > from) { self.proved(now) } else { Ok(()) }
    }

    /// Their session. Operations that ask for [`Action::Session`] have one.
    pub(crate) fn sitting(&self) -> Result<&Sitting, Fault> {
        match &self.credential {
            Credential::Session(sitting) => Ok(sitting),
            Credential::Key(_) => Err(refused("a session is required", LOG_IN)),
        }
    }

    /// Asks for a fresh proof that the person of a session is still there. A key is its own proof: nobody is behind it who could be asked.
    pub(crate) fn proved(&self, now: OffsetDateTime) -> Result<(), Fault> {
        match &self.credential {
            Credential::Session(sitting) if sitting.proved_at + FRESH <= now => {
                let detail = "this asks for the password, or for a code, shown within the last 5 minutes";
                let remedy = "POST /v1/session/proof with one of them, and ask again";
                Err(Problem::new(Code::ProofRequired, detail).remedy(remedy).into())
            }
            _ => Ok(()),
        }
    }
}

/// A node that holds a callback token.
#[derive(Debug, Clone)]
pub(crate) struct NodeCaller {
    pub(crate) node: NodeId,
    /// Held while the request is under way.
    _seat: Arc<Seat>,
}

/// What stands after `Authorization: Bearer`, not yet believed.
pub(crate) struct Bearer(pub(crate) String);

const LOG_IN: &str = "POST /v1/session with an address and a password begins one";

fn refused(detail: &str, remedy: &str) -> Fault {
    Problem::new(Code::Unauthenticated, detail).remedy(remedy).into()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= 4096).then_some(token)
}

/// Who asks, whatever they may.
async fn identify(parts: &Parts, app: &App) -> Result<Caller, Fault> {
    // A key that is there counts, and a cookie beside it does not: a browser sends cookies by itself.
    match cookie::session(&parts.headers) {
        Some(token) if !parts.headers.contains_key(header::AUTHORIZATION) => {
            by_session(parts, app, token?).await
        }
        _ => by_key(parts, app).await,
    }
}

fn place(parts: &Parts) -> Place {
    if parts.extensions.get() == Some(&Door::Unix) { Place::Machine } else { Place::Network }
}

async fn by_key(parts: &Parts, app: &App) -> Result<Caller, Fault> {
    let remedy = "send `Authorization: Bearer cof_…` with a key of this installation";
    let token = bearer(&parts.headers).ok_or_else(|| refused("an API key is required", remedy))?;
    let holder = app.store.bearer(&secret::hash(token)).await?;
    let holder = holder.ok_or_else(|| refused("the API key is not valid here", remedy))?;
    let store::Bearer { key, account, account_name, operator, role, scopes, person, expires_at: until } =
        holder;
    let seat = app.seats.take(parts, Who::Account(account))?;
    let (place, by_person) = (place(parts), person.is_some());
    let standing = Standing { role, scopes: Some(scopes), operator, person: by_person, place };
    let credential = Credential::Key(key);
    Ok(Caller { credential, account, account_name, standing, person, until, _seat: Arc::new(seat) })
}

async fn by_session(parts: &Parts, app: &App, token: &str) -> Result<Caller, Fault> {
    // A page of somebody else's can make a browser send the cookie, and cannot make it leave this out or lie. `api::shield` has seen
    // that what stands here is our own.
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        cookie::own_origin(&parts.headers)?;
    }
    let named = parts.headers.get(ACCOUNT).map(|name| name.to_str().unwrap_or_default());
    let sitting = app.store.sitting(&secret::hash(token), named).await?;
    let sitting = sitting.ok_or_else(|| refused("the session is over", LOG_IN))?;
    let Some((account, account_name, operator, role)) = sitting.standing.clone() else {
        return Err(Fault::missing("account", named.unwrap_or_default()));
    };
    let seat = app.seats.take(parts, Who::Account(account))?;
    let standing = Standing { role, scopes: None, operator, person: true, place: place(parts) };
    let (person, credential) = (Some(sitting.person), Credential::Session(sitting));
    Ok(Caller { credential, account, account_name, standing, person, until: None, _seat: Arc::new(seat) })
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let caller = identify(parts, app).await?;
        let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let Some(action) = access::required(&parts.method, path) else {
            tracing::error!(method = %parts.method, path, "nobody has said who may call this");
            return Err(Problem::new(Code::Forbidden, "nobody may call this").into());
        };
        caller.check(action)?;
        Ok(caller)
    }
}

/// Who asks, where that may also be nobody.
pub(crate) struct Perhaps(pub(crate) Option<Caller>);

impl FromRequestParts<Arc<App>> for Perhaps {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let headers = &parts.headers;
        let shown = headers.contains_key(header::AUTHORIZATION) || cookie::session(headers).is_some();
        Ok(Self(if shown { Some(identify(parts, app).await?) } else { None }))
    }
}

impl FromRequestParts<Arc<App>> for NodeCaller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let remedy = "trade a new assertion for a callback token at POST /node/v1/token";
        let token = bearer(&parts.headers).ok_or_else(|| refused("a callback token is required", remedy))?;
        let node = app.store.callback(&secret::hash(token)).await?;
        let (node, unheard) =
            node.ok_or_else(|| refused("the callback token is unknown or expired", remedy))?;
        let seat = app.seats.take(parts, Who::Node(node))?;
        if unheard {
            app.store.node_spoke(node).await?;
        }
        Ok(Self { node, _seat: Arc::new(seat) })
    }
}

impl FromRequestParts<Arc<App>> for Bearer {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        let remedy = "send `Authorization: Bearer` with the bootstrap token";
        let token = bearer(&parts.headers).ok_or_else(|| refused("a bootstrap token is required", remedy))?;
        Ok(Self(token.to_owned()))
    }
}
