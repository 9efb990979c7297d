//! Who is asking: holders of API keys, and nodes.

pub(crate) mod assertion;
pub(crate) mod seal;
pub(crate) mod seats;
pub(crate) mod secret;
pub(crate) mod signing;
pub(crate) mod voucher;

use crate::app::App;
use crate::problems::Fault;
use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, header, request::Parts};
use model::{AccountId, Code, KeyId, Name, NodeId, Problem};
use seats::{Seat, Who};
use std::sync::Arc;
use store::Actor;

/// Whoever holds an API key.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) key: KeyId,
    pub(crate) account: AccountId,
    pub(crate) account_name: Name,
    pub(crate) operator: bool,
    /// Held while the request is under way.
    _seat: Arc<Seat>,
}

impl Caller {
    pub(crate) fn actor(&self) -> Actor {
        Actor::Key(self.key)
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

fn refused(detail: &str, remedy: &str) -> Fault {
    Problem::new(Code::Unauthenticated, detail).remedy(remedy).into()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= 4096).then_some(token)
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let remedy = "send `Authorization: Bearer cof_…` with a key of this installation";
        let token = bearer(&parts.headers).ok_or_else(|| refused("an API key is required", remedy))?;
        let holder = app.store.bearer(&secret::hash(token)).await?;
        let holder = holder.ok_or_else(|| refused("the API key is not valid here", remedy))?;
        let store::Bearer { key, account, account_name, operator } = holder;
        let seat = app.seats.take(parts, Who::Account(account))?;
        Ok(Self { key, account, account_name, operator, _seat: Arc::new(seat) })
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
