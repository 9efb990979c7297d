//! Nodes, their slots, and what each of them should make true.

use crate::agents::{Agent, agent};
use crate::batch::Batch;
use crate::change::{Actor, Change};
use crate::db::query;
use crate::egress::{ask_attention, attention};
use crate::rows::Row;
use crate::{Error, PageOf, Store};
use model::agent::AgentState;
use model::api::Node;
use model::audit::EventKind;
use model::egress::Attention;
use model::node_api::{Capacity, DesiredAgent};
use model::{AccountId, AgentId, Name, NodeId};
use serde_json::json;
use time::{Duration, OffsetDateTime};

/// A node's side of its enrolment.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The hash of its bootstrap token.
    pub token_hash: String,
    /// Its Ed25519 public key, base64url.
    pub public_key: String,
    /// What the machine has.
    pub capacity: Capacity,
}

/// What a node should make true, read in one snapshot.
#[derive(Debug, Clone)]
pub struct DesiredRows {
    /// The node's revision.
    pub rev: u64,
    /// Its agents, tombstones included; of a later revision than the one that was asked about.
    pub agents: Vec<DesiredAgent>,
    /// Agents that are gone since the one that was asked about.
    pub gone: Vec<AgentId>,
    /// Whom on it somebody looks after, and what they said. Read behind the rest: what changes from there on raises the
    /// revision above that of the rows.
    pub attention: Vec<Attention>,
}

fn node(row: &Row) -> Result<Node, Error> {
    let count = |column| Ok::<u32, Error>(u32::try_from(row.number(column)?).unwrap_or(u32::MAX));
    Ok(Node {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        tenant: row.text("tenant")?,
        slots: count("slots")?,
        used: count("used")?,
        last_seen: row.at_opt("last_seen")?,
    })
}

impl Change {
    /// The node of this name; a shared one is made if there is none.
    async fn node_named(&mut self, name: &Name) -> Result<NodeId, Error> {
        let known = query("SELECT id FROM nodes WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(self.db().await?)
            .await?;
        if let Some(row) = known {
            return row.parsed("id");
        }
        let id = NodeId::new();
        let now = self.now;
        query(
            "INSERT INTO nodes (id, name, tenant, cpus, memory, rev, created_at) VALUES ($1, $2, 'shared', 0, 0, 1, $3)",
        )
        .bind(id.to_string())
        .bind(name.as_str())
        .bind(now)
        .execute(self.db().await?)
        .await?;
        self.event(None, EventKind::NodeCreated, id, json!({"name": name, "tenant": "shared"}));
        Ok(id)
    }

    /// Makes the node's slots those that its machine offers. A slot in use stays until its agent is gone.
    async fn fit_slots(&mut self, node: NodeId, slots: u32) -> Result<(), Error> {
        query("DELETE FROM node_slots WHERE node = $1 AND slot >= $2 AND agent IS NULL")
            .bind(node.to_string())
            .bind(i64::from(slots))
            .execute(self.db().await?)
            .await?;
        for slot in 0..slots {
            query("INSERT INTO node_slots (node, slot) VALUES ($1, $2) ON CONFLICT (node, slot) DO NOTHING")
                .bind(node.to_string())
                .bind(i64::from(slot))
                .execute(self.db().await?)
                .await?;
        }
        self.count_free(node);
        Ok(())
    }
}

impl Store {
    /// Stores a bootstrap token for the node of this name.
    pub async fn add_bootstrap_token(
        &self,
        name: &Name,
        hash: &str,
        life: Duration,
    ) -> Result<NodeId, Error> {
        let mut change = self.change(Actor::System).await?;
        let node = change.node_named(name).await?;
        let expires = change.now + life.whole_milliseconds() as i64;
        query("INSERT INTO bootstrap_tokens (hash, node, expires_at) VALUES ($1, $2, $3)")
            .bind(hash)
            .bind(node.to_string())
            .bind(expires)
            .execute(change.db().await?)
            .await?;
        change.event(None, EventKind::NodeBootstrapTokenIssued, node, json!({}));
        change.commit().await?;
        Ok(node)
    }

    /// Redeems a bootstrap token, in one conditional update. The key that redeemed it may ask again, in case the
    /// answer was lost; any other is refused.
    pub async fn enrol(&self, enrolment: &Enrolment) -> Result<NodeId, Error> {
        let Enrolment { token_hash, public_key, capacity } = enrolment;
        let mut change = self.change(Actor::System).await?;
        let now = change.now;
        let redeemed = query(
            "UPDATE bootstrap_tokens SET redeemed_by = $1
             WHERE hash = $2 AND expires_at > $3 AND (redeemed_by IS NULL OR redeemed_by = $1) RETURNING node",
        )
        .bind(public_key)
        .bind(token_hash)
        .bind(now)
        .fetch_optional(change.db().await?)
        .await?;
        let node: NodeId = redeemed.ok_or(Error::TokenRefused)?.parsed("node")?;
        let other = query("SELECT id FROM nodes WHERE public_key = $1 AND id <> $2")
            .bind(public_key)
            .bind(node.to_string())
            .fetch_optional(change.db().await?)
            .await?;
        if other.is_some() {
            return Err(Error::InUse { what: "another node enrolled with this key".to_owned() });
        }
        query("DELETE FROM callback_tokens WHERE node = $1 AND $2 <> (SELECT coalesce(public_key, '') FROM nodes WHERE id = $1)")
            .bind(node.to_string())
            .bind(public_key)
            .execute(change.db().await?)
            .await?;
        query("UPDATE nodes SET public_key = $1, cpus = $2, memory = $3, last_seen = $4 WHERE id = $5")
            .bind(public_key)
            .bind(capacity.cpus)
            .bind(capacity.memory as i64)
            .bind(now)
            .bind(node.to_string())
            .execute(change.db().await?)
            .await?;
        change.fit_slots(node, capacity.slots).await?;
        change.raise(node);
        change.event(
            None,
            EventKind::NodeEnrolled,
            node,
            json!({"public_key": public_key, "capacity": capacity}),
        );
        change.commit().await?;
        Ok(node)
    }

    /// Notes that a node spoke.
    pub async fn node_spoke(&self, node: NodeId) -> Result<(), Error> {
        let mut change = self.repeatable_change(Actor::Node(node)).await?;
        let now = change.now;
        change.deferred.add("UPDATE nodes SET last_seen = $1 WHERE id = $2").bind(now).bind(node.to_string());
        change.commit_bookkeeping().await
    }

    /// The revision of a node's desired state.
    #[cfg(test)]
    pub(crate) async fn rev(&self, node: NodeId) -> Result<u64, Error> {
        let row = query("SELECT rev FROM nodes WHERE id = $1")
            .bind(node.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        row.ok_or(Error::NotFound { what: "node" })?.number("rev")
    }

    /// What a node should make true: what changed after `since`, or everything. One statement, so that the revision is
    /// that of the rows.
    pub async fn desired(&self, node: NodeId, since: Option<u64>) -> Result<DesiredRows, Error> {
        let mut asked = Batch::default();
        match since {
            Some(since) => asked
                .add(
                    "SELECT n.rev, a.* FROM nodes n LEFT JOIN agents a ON a.node = n.id AND a.node_rev > $2
                     WHERE n.id = $1 ORDER BY a.id",
                )
                .bind(node.to_string())
                .bind(i64::try_from(since).unwrap_or(i64::MAX)),
            None => asked
                .add(
                    "SELECT n.rev, a.* FROM nodes n LEFT JOIN agents a ON a.node = n.id AND a.state <> 'destroyed'
                     WHERE n.id = $1 ORDER BY a.id",
                )
                .bind(node.to_string()),
        };
        ask_attention(&mut asked, node, self.now());
        let answers = asked.run(self.0.reader.acquire().await?.connection()).await?;
        let [rows, attended] = &*answers else { return Err(Error::NotFound { what: "node" }) };
        let rev = rows.first().ok_or(Error::NotFound { what: "node" })?.number("rev")?;
        let mut found =
            DesiredRows { rev, agents: Vec::new(), gone: Vec::new(), attention: attention(attended)? };
        for row in rows {
            if row.try_get::<Option<&str>, _>("id")?.is_none() {
                // A node without any agents to tell of.
                break;
            }
            let agent = agent(row)?;
            let (policy_revision, secrets_revision) = (agent.policy_revision, agent.secrets_revision);
            let (transfers, restored) = (agent.transfers, agent.restored);
            let Agent { spec, desired, generation, token_epoch, state, policy, .. } = agent;
            match state {
                AgentState::Destroyed => found.gone.push(spec.id),
                _ => found.agents.push(DesiredAgent {
                    spec,
                    desired,
                    generation,
                    token_epoch,
                    policy,
                    policy_revision,
                    secrets_revision,
                    transfers,
                    restored,
                }),
            }
        }
        Ok(found)
    }

    /// The nodes that an account may use.
    pub async fn nodes(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Node>, Error> {
        let rows = query(
            "SELECT n.id, n.name, n.tenant, n.last_seen, count(s.slot) AS slots, count(s.agent) AS used
             FROM nodes n LEFT JOIN node_slots s ON s.node = n.id
             WHERE (n.tenant = $1 OR n.tenant = 'shared') AND ($2 IS NULL OR n.id < $2)
             GROUP BY n.id, n.name, n.tenant, n.last_seen ORDER BY n.id DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(node).collect::<Result<_, _>>()?, limit))
    }

    /// The key that a node enrolled with.
    pub async fn node_key(&self, node: NodeId) -> Result<Option<String>, Error> {
        let row = query("SELECT public_key FROM nodes WHERE id = $1")
            .bind(node.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        Ok(row.map(|row| row.try_get("public_key")).transpose()?.flatten())
    }

    /// Whether agents of more than one account may be on a node.
    pub async fn node_is_shared(&self, node: NodeId) -> Result<bool, Error> {
        let row = query("SELECT tenant = 'shared' AS shared FROM nodes WHERE id = $1")
            .bind(node.to_string())
            .fetch_one(&self.0.reader)
            .await?;
        row.flag("shared")
    }

    /// When a node last spoke.
    pub async fn node_seen(&self, node: NodeId) -> Result<Option<OffsetDateTime>, Error> {
        let row = query("SELECT last_seen FROM nodes WHERE id = $1")
            .bind(node.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        row.map_or(Ok(None), |row| row.at_opt("last_seen"))
    }
}
