//! What a node is told of its agents' secrets.

use super::{TRIES, to_json};
use crate::app::App;
use crate::auth::seal::{self, SealError};
use crate::limits::Kind;
use crate::problems::Fault;
use crate::vault::VaultError;
use model::node_api::{AgentSecret, AgentSecrets, SealedSecrets, SecretsRequest};
use model::{AgentId, Code, NodeId, Problem};
use store::{BoundSecret, Delivery};

fn refused(error: SealError) -> Fault {
    let remedy = "sign a new assertion with the enrolled key, for this agent, valid for a minute";
    Problem::new(Code::Unauthenticated, error.to_string()).remedy(remedy).into()
}

fn opened(app: &App, secret: &BoundSecret) -> Result<AgentSecret, VaultError> {
    let BoundSecret { id, name, version, placeholder, value, key } = secret;
    let value = app.vault.open_key(key)?.decrypt(*id, *version, value)?;
    Ok(AgentSecret { name: name.clone(), value, placeholder: placeholder.clone() })
}

fn sealed(
    app: &App,
    claims: &model::token::SealAssertion,
    delivery: &Delivery,
) -> Result<SealedSecrets, Fault> {
    let secrets = delivery.secrets.iter().map(|secret| opened(app, secret)).collect::<Result<_, _>>()?;
    let plain = to_json(&AgentSecrets { secrets })?;
    seal::seal(claims, delivery.revision, &plain).map_err(refused)
}

/// The secrets that an agent of the node has now, sealed for whoever signed the request.
pub(crate) async fn deliver(
    app: &App,
    node: NodeId,
    id: &str,
    request: &SecretsRequest,
) -> Result<SealedSecrets, Fault> {
    let missing = || Fault::missing("agent", id);
    let agent: AgentId = id.parse().map_err(|_| missing())?;
    if Fault::or_missing(app.store.agent(agent).await, "agent", id)?.node != node {
        return Err(missing());
    }
    let key = app.store.node_key(node).await?.ok_or_else(|| refused(SealError::Signature))?;
    let now = app.store.now();
    let installation = &app.installation.id;
    let claims = seal::verify(&request.assertion, node, agent, &key, installation, now.unix_timestamp())
        .map_err(refused)?;
    app.limits.check(Kind::Delivery, None, Some(&agent)).await?;
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let delivery = app.store.secrets_of(agent).await?;
        if delivery.transfers != request.transfers {
            let detail = "the agent was given to another account";
            return Err(Problem::new(Code::WrongState, detail).remedy("act on that first").into());
        }
        let sealed = sealed(app, &claims, &delivery)?;
        // Noted before it is told.
        match app.store.record_delivery(&claims, &delivery).await {
            Err(store::Error::Overtaken) if tries > 0 => {}
            recorded => return Fault::or_missing(recorded, "agent", id).map(|()| sealed),
        }
    }
}
