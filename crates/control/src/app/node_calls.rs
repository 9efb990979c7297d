//! What nodes call: enrolment, callback tokens, desired and observed state.

use crate::app::{App, validate};
use crate::auth::{assertion, secret};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::egress::EgressReport;
use model::node_api::{
    CallbackToken, DesiredState, Enroll, Enrolled, ImagesInUse, ObservedState, TokenRequest,
};
use model::{Code, NodeId, Problem};
use store::Enrolment;

const CALLBACK_LIFE: time::Duration = time::Duration::hours(24);

pub(crate) async fn enroll(app: &App, from: Client, token: &str, request: Enroll) -> Result<Enrolled, Fault> {
    app.limits.check(Kind::Enrolment, from.address, Some(&secret::hash(token))).await?;
    validate::enroll(&request)?;
    let key = URL_SAFE_NO_PAD.decode(&request.public_key).ok();
    if key.is_none_or(|key| key.len() != 32) {
        let detail = "expected an Ed25519 public key: 32 bytes in base64url without padding";
        return Err(Problem::invalid("public_key", detail).into());
    }
    let enrolment = Enrolment {
        token_hash: secret::hash(token),
        public_key: request.public_key,
        capacity: request.capacity,
    };
    let node = app.store.enrol(&enrolment).await?;
    Ok(Enrolled { node, installation: app.installation.id.clone() })
}

pub(crate) async fn token(app: &App, from: Client, request: TokenRequest) -> Result<CallbackToken, Fault> {
    app.limits.check(Kind::TokenExchange, from.address, None).await?;
    let refused = |error: assertion::AssertionError| {
        let remedy = "sign a new assertion with the enrolled key, for this installation, valid for a minute";
        Fault(Problem::new(Code::Unauthenticated, error.to_string()).remedy(remedy))
    };
    let node = assertion::claimed_issuer(&request.assertion).map_err(refused)?;
    let key = app.store.node_key(node).await?.ok_or_else(|| refused(assertion::AssertionError::Signature))?;
    let now = app.store.now().unix_timestamp();
    let claims = assertion::verify(&request.assertion, &key, &app.installation.id, now).map_err(refused)?;
    // Only now: who cannot sign for a node does not use up what it may.
    app.limits.check(Kind::TokenExchange, None, Some(&node)).await?;
    let token = secret::generate(secret::CALLBACK).map_err(|error| Fault::internal(&error))?;
    app.store.trade_assertion(&claims, &secret::hash(&token), CALLBACK_LIFE).await?;
    Ok(CallbackToken { token, expires_in: CALLBACK_LIFE.whole_seconds().unsigned_abs() })
}

/// The node's desired state: now if `rev` is not the newest, else when it changes, else after `wait`. In whole, unless
/// the node has `rev` of this database epoch.
pub(crate) async fn desired(
    app: &App,
    node: NodeId,
    rev: u64,
    epoch: Option<u64>,
    wait: std::time::Duration,
) -> Result<DesiredState, Fault> {
    let deadline = tokio::time::Instant::now() + wait;
    let known = (epoch == Some(app.installation.database_epoch)).then_some(rev);
    let mut changes = app.notify.node(node);
    let mut rows = app.store.desired(node, known).await?;
    while rows.rev == rev {
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => break,
            () = app.ending.cancelled() => break,
        }
        rows = app.store.desired(node, known).await?;
    }
    let since = known.filter(|known| *known <= rows.rev);
    if since != known {
        // It has a revision that never was here.
        rows = app.store.desired(node, None).await?;
    }
    Ok(DesiredState {
        installation: app.installation.id.clone(),
        database_epoch: app.installation.database_epoch,
        rev: rows.rev,
        agents: rows.agents,
        since,
        gone: rows.gone,
        keys: app.keys.clone(),
        attention: rows.attention,
    })
}

pub(crate) async fn observed(app: &App, node: NodeId, mut report: ObservedState) -> Result<(), Fault> {
    let now = app.store.now();
    report.agents.iter_mut().for_each(|agent| validate::tame(agent, now));
    Ok(app.store.observe(node, &report).await?)
}

pub(crate) async fn egress(app: &App, node: NodeId, mut report: EgressReport) -> Result<(), Fault> {
    validate::tame_egress(&mut report, app.store.now())?;
    Ok(app.store.record_egress(node, &report).await?)
}

/// What no node may remove from its store.
pub(crate) async fn images(app: &App) -> Result<ImagesInUse, Fault> {
    Ok(ImagesInUse { digests: app.store.images_in_use().await? })
}
