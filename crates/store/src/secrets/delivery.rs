//! Secrets on their way to the node of an agent.

use super::{DataKey, Encrypted};
use crate::change::Actor;
use crate::db::query;
use crate::{Error, Store};
use model::agent::Desired;
use model::audit::EventKind;
use model::token::SealAssertion;
use model::{AgentId, Name, SecretId};
use serde_json::json;

/// A secret that an agent has now.
#[derive(Debug, Clone)]
pub struct BoundSecret {
    /// Which.
    pub id: SecretId,
    /// Its name.
    pub name: Name,
    /// Of its value.
    pub version: u64,
    /// What the agent has in place of it, where it is put into requests.
    pub placeholder: Option<String>,
    /// Its value.
    pub value: Encrypted,
    /// The key that the value is encrypted under.
    pub key: DataKey,
}

/// What an agent has now.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// As of which revision.
    pub revision: u64,
    /// How often the agent was given to another account by then.
    pub transfers: u64,
    /// Each once, by name.
    pub secrets: Vec<BoundSecret>,
}

impl Store {
    /// The secrets that an agent has. One statement, so that the revision is that of the rows.
    pub async fn secrets_of(&self, agent: AgentId) -> Result<Delivery, Error> {
        let rows = query(
            "SELECT a.secrets_revision, a.transfers, s.id, s.name, s.version, CASE WHEN b.injected = 1 THEN b.placeholder END AS placeholder,
                v.nonce, v.ciphertext, k.id AS data_key, k.account, k.wrapped_by, k.wrapped
             FROM agents a
             LEFT JOIN agent_secrets b ON b.agent = a.id AND (b.given = 1 OR b.injected = 1)
             LEFT JOIN secrets s ON s.id = b.secret
             LEFT JOIN secret_values v ON v.secret = s.id
             LEFT JOIN data_keys k ON k.id = v.data_key
             WHERE a.id = $1 ORDER BY s.name",
        )
        .bind(agent.to_string())
        .fetch_all(&self.0.reader)
        .await?;
        let agent = rows.first().ok_or(Error::NotFound { what: "agent" })?;
        let (revision, transfers) = (agent.number("secrets_revision")?, agent.number("transfers")?);
        let mut delivery = Delivery { revision, transfers, secrets: Vec::new() };
        for row in &rows {
            // An agent without any has one row, without a secret.
            let Some(id) = row.parsed_opt("id")? else { break };
            let key = super::keys::data_key(row)?;
            delivery.secrets.push(BoundSecret {
                id,
                name: row.parsed("name")?,
                version: row.number("version")?,
                placeholder: row.try_get("placeholder")?,
                value: super::keys::encrypted(row)?,
                key,
            });
        }
        Ok(delivery)
    }

    /// Notes that a node is about to be told what an agent has, by a verified assertion that is good for once. An event tells of it once
    /// for each revision. [`Error::Overtaken`] if the agent has other secrets by now.
    pub async fn record_delivery(&self, assertion: &SealAssertion, delivery: &Delivery) -> Result<(), Error> {
        let node = assertion.iss;
        let mut change = self.change(Actor::Node(node)).await?;
        if !change.first_use(node, &assertion.jti, assertion.exp).await? {
            return Err(Error::Replayed);
        }
        let agent = change.agent(assertion.sub).await?.filter(|agent| agent.node == node);
        let agent = agent.ok_or(Error::NotFound { what: "agent" })?;
        if agent.desired == Desired::Destroyed {
            return Err(Error::Ended { state: agent.state });
        }
        if agent.secrets_revision != delivery.revision {
            return Err(Error::Overtaken);
        }
        let news = query("UPDATE agents SET secrets_delivered = $1 WHERE id = $2 AND secrets_delivered < $1")
            .bind(delivery.revision as i64)
            .bind(agent.spec.id.to_string())
            .execute(change.db().await?)
            .await?;
        if news.rows_affected() > 0 {
            let names: Vec<&Name> = delivery.secrets.iter().map(|secret| &secret.name).collect();
            let detail = json!({"node": node, "revision": delivery.revision, "secrets": names});
            change.event(Some(agent.spec.account), EventKind::SecretDelivered, agent.spec.id, detail);
        }
        change.commit_bookkeeping().await
    }
}
