//! Agents: what they are, what they should be, and what was seen of them.
//!
//! Every move goes through [`Change::advance`]: a compare-and-set of the row, its state period, its slot, its
//! event and its node's revision, all or nothing.

use crate::change::{Actor, Change, Changed};
use crate::creation::{Candidate, NewAgent};
use crate::db::{Builder, Query, query};
use crate::periods::cause;
use crate::rows::{Row, millis, to_json};
use crate::{Error, Idempotency, PageOf, Store};
use model::agent::{AgentSpec, AgentState, Desired, ExitReason, Verb, apply_verb};
use model::audit::EventKind;
use model::evidence::{Evidence, Observation};
use model::policy::Policy;
use model::quota::thousandths;
use model::{AccountId, AgentId, Name, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// An agent, with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// What it is. A transfer changes whose it is; nothing else changes it.
    pub spec: AgentSpec,
    /// The image's name when the agent was made.
    pub image_name: Option<Name>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where it was placed.
    pub node: NodeId,
    /// What its node is told to make true.
    pub desired: Desired,
    /// Where it is in its life.
    pub state: AgentState,
    /// Raised with every change of `desired`.
    pub generation: u64,
    /// The newest generation that its node acted on.
    pub observed_generation: u64,
    /// Workspace tokens of an older epoch are refused.
    pub token_epoch: u64,
    /// What it may do now; nothing leaves it without one.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Raised with every change of `policy`.
    #[serde(default)]
    pub policy_revision: u64,
    /// Raised whenever its secrets change; 0 as long as it never had any.
    #[serde(default)]
    pub secrets_revision: u64,
    /// How often it was given to another account.
    #[serde(default)]
    pub transfers: u64,
    /// Whether it is as a backup had it, and its node has not said since how it is.
    #[serde(default)]
    pub restored: bool,
    /// Why it does not run.
    pub reason: Option<ExitReason>,
    /// What was last seen of its boundary; it stays when that is gone.
    pub evidence: Vec<Evidence>,
    /// When that was, and by what.
    #[serde(default)]
    pub observation: Option<Observation>,
    /// Where its workspace API answers.
    pub workspace_url: Option<String>,
    /// When its workspace API was last used.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_activity: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its state last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub state_since: OffsetDateTime,
}

impl Agent {
    /// Whether it rests where it was told to be, or where it can only be moved from by a new order.
    pub fn is_settled(&self) -> bool {
        self.state == self.desired.fulfilled() || self.has_ended()
    }

    /// Whether it will never run again without a new order.
    pub fn has_ended(&self) -> bool {
        match self.state {
            AgentState::Destroyed | AgentState::Failed => true,
            AgentState::Stopped => self.desired == Desired::Stopped,
            _ => false,
        }
    }
}

/// The kind of event that tells of a workspace token.
const TOKEN_ISSUED: EventKind = EventKind::AgentTokenIssued;

/// The token epoch of an agent that was just made.
pub const FIRST_EPOCH: u64 = 1;

/// The revision of the policy that an agent is made with.
const FIRST_REVISION: u64 = 1;

/// Which agents to list.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Only those in this state. Destroyed ones are listed only when asked for.
    pub state: Option<AgentState>,
    /// Only those that carry all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// A verb, and the circumstances.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Refused unless the agent is at this generation.
    pub if_match: Option<u64>,
    /// Why, when nobody asked: `ttl`, `idle`.
    pub cause: Option<&'static str>,
    /// The client's key.
    pub idempotency: Option<Idempotency>,
}

pub(crate) fn agent(row: &Row) -> Result<Agent, Error> {
    Ok(Agent {
        spec: row.json("spec")?,
        image_name: row.parsed_opt("image_name")?,
        labels: row.json("labels")?,
        node: row.parsed("node")?,
        desired: row.parsed("desired")?,
        state: row.parsed("state")?,
        generation: row.number("generation")?,
        observed_generation: row.number("observed_generation")?,
        token_epoch: row.number("token_epoch")?,
        policy: row.json_opt("policy")?,
        policy_revision: row.number("policy_revision")?,
        secrets_revision: row.number("secrets_revision")?,
        transfers: row.number("transfers")?,
        restored: row.flag("restored")?,
        reason: row.json_opt("reason")?,
        evidence: row.json("evidence")?,
        observation: row.json_opt("observation")?,
        workspace_url: row.try_get("workspace_url")?,
        last_activity: row.at_opt("last_activity")?,
        created_at: row.at("created_at")?,
        state_since: row.at("state_since")?,
    })
}

impl Change {
    /// Records that a workspace token was handed out, and of the key that asked for it that it got one.
    pub(crate) fn token_issued(&mut self, spec: &AgentSpec, detail: Value) {
        self.event(Some(spec.account), TOKEN_ISSUED, spec.id, detail);
        if let Some(key) = self.actor.key() {
            self.deferred
                .add("UPDATE api_keys SET issued = 1 WHERE id = $1 AND issued = 0")
                .bind(key.to_string());
        }
    }

    /// An agent, unless it is another account's than the one that the actor acts in: it may have been given away since it was found.
    pub(crate) async fn agent(&mut self, id: AgentId) -> Result<Option<Agent>, Error> {
        let row = query("SELECT * FROM agents WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.db().await?)
            .await?;
        let found = row.as_ref().map(agent).transpose()?;
        Ok(found.filter(|agent| self.acts_in.is_none_or(|account| agent.spec.account == account)))
    }

    /// Moves an agent from `before` to `after`. Raises the generation when the wish changed.
    pub(crate) fn advance(
        &mut self,
        before: &Agent,
        mut after: Agent,
        kind: EventKind,
        mut detail: Value,
    ) -> Result<Agent, Error> {
        let id = before.spec.id;
        let adopted = before.restored && !after.restored;
        if after.desired != before.desired && !adopted {
            // A node may have acted on a later generation than an older database remembers.
            after.generation = before.generation.max(after.observed_generation) + 1;
        }
        let since = millis(before.state_since);
        let at = if after.state == before.state { since } else { self.instant_after(since) };
        after.state_since = crate::rows::instant(at).ok_or(Error::Corrupt { column: "state_since" })?;
        self.deferred
            .add(
                "UPDATE agents SET desired = $1, state = $2, generation = $3, observed_generation = $4, reason = $5,
                    evidence = $6, workspace_url = $7, state_since = $8, observation = $9, restored = $13, shown = shown + 1
                 WHERE id = $10 AND generation = $11 AND state = $12",
            )
            .bind(after.desired.as_str())
            .bind(after.state.as_str())
            .bind(after.generation as i64)
            .bind(after.observed_generation as i64)
            .bind(after.reason.as_ref().map(to_json))
            .bind(to_json(&after.evidence))
            .bind(after.workspace_url.clone())
            .bind(at)
            .bind(after.observation.as_ref().map(to_json))
            .bind(id.to_string())
            .bind(before.generation as i64)
            .bind(before.state.as_str())
            .bind(i64::from(after.restored))
            .or(Error::Stale { generation: before.generation });
        if after.state != before.state {
            self.close_period(id, at);
            self.open_period(&after, at, &cause(kind.as_str(), &detail));
        }
        let destroyed = after.state == AgentState::Destroyed && before.state != AgentState::Destroyed;
        if destroyed {
            self.deferred.add("UPDATE node_slots SET agent = NULL WHERE agent = $1").bind(id.to_string());
            self.count_free(after.node);
        }
        if destroyed || adopted || after.generation != before.generation {
            self.raise_for(after.node, id);
        }
        if after.desired == Desired::Destroyed && before.desired != Desired::Destroyed {
            self.forget_questions(after.spec.account, id);
        }
        detail["from"] = json!(before.state);
        detail["to"] = json!(after.state);
        detail["generation"] = json!(after.generation);
        self.event(Some(after.spec.account), kind, id, detail);
        self.touch(Changed::Agent(Arc::new(after.clone())));
        Ok(after)
    }

    pub(crate) fn insert(
        &mut self,
        new: &NewAgent,
        node: &Candidate,
        secrets_revision: u64,
    ) -> Result<Agent, Error> {
        let NewAgent { spec, image_name, labels, policy, placeholders: _, token: _ } = new;
        let now = self.now;
        let at = crate::rows::instant(now).ok_or(Error::Corrupt { column: "created_at" })?;
        let span = |span: model::Span| i64::try_from(span.0).unwrap_or(i64::MAX).saturating_mul(1000);
        let made = Agent {
            spec: spec.clone(),
            image_name: image_name.clone(),
            labels: labels.clone(),
            node: node.node,
            desired: Desired::Running,
            state: AgentState::Provisioning,
            generation: 1,
            observed_generation: 0,
            token_epoch: FIRST_EPOCH,
            policy: policy.clone(),
            policy_revision: if policy.is_some() { FIRST_REVISION } else { 0 },
            secrets_revision,
            transfers: 0,
            restored: false,
            reason: None,
            evidence: Vec::new(),
            observation: None,
            // The account's gate on a node is the same for all of them; the node's own word follows.
            workspace_url: node.way.clone(),
            last_activity: None,
            created_at: at,
            state_since: at,
        };
        self.deferred
            .add(
                "INSERT INTO agents (id, account, node, tenant, name, image, image_name, spec, labels, desired, state,
                    generation, observed_generation, token_epoch, evidence, expires_at, idle_ms, created_at, state_since,
                    workspace_url, policy, policy_revision, secrets_revision, cpus, memory, disk)
                 SELECT $1, $2, n.id, n.tenant, $3, $4, $5, $6, $7, $8, $9, 1, 0, $10, '[]', $11, $12, $13, $13, $15, $16, $17, $18,
                    $19, $20, $21
                 FROM nodes n WHERE n.id = $14",
            )
            .bind(spec.id.to_string())
            .bind(spec.account.to_string())
            .bind(spec.name.to_string())
            .bind(spec.image.map(|image| image.to_string()))
            .bind(image_name.as_ref().map(Name::to_string))
            .bind(to_json(spec))
            .bind(to_json(labels))
            .bind(made.desired.as_str())
            .bind(made.state.as_str())
            .bind(FIRST_EPOCH as i64)
            .bind(spec.ttl.map(|ttl| now.saturating_add(span(ttl))))
            .bind(spec.idle_timeout.map(span))
            .bind(now)
            .bind(made.node.to_string())
            .bind(made.workspace_url.clone())
            .bind(policy.as_ref().map(to_json))
            .bind(made.policy_revision as i64)
            .bind(secrets_revision as i64)
            .bind(thousandths(spec.resources.cpus) as i64)
            .bind(spec.resources.memory.0 as i64)
            .bind(spec.resources.disk.0 as i64)
            .or(Error::NoCapacity);
        for (key, value) in labels {
            self.deferred
                .add("INSERT INTO agent_labels (agent, key, value) VALUES ($1, $2, $3)")
                .bind(spec.id.to_string())
                .bind(key.clone())
                .bind(value.clone());
        }
        self.deferred
            .add(
                "UPDATE node_slots SET agent = $1 WHERE node = $2 AND slot =
                    (SELECT min(slot) FROM node_slots WHERE node = $2 AND coalesce(agent, '') = '')",
            )
            .bind(spec.id.to_string())
            .bind(made.node.to_string())
            .or(Error::NoCapacity)
            .add("UPDATE nodes SET free = free - 1 WHERE id = $1")
            .bind(made.node.to_string());
        Ok(made)
    }

    /// Counts the free slots of a node: creates ask for their number, and count down.
    pub(crate) fn count_free(&mut self, node: NodeId) {
        self.deferred
            .add(
                "UPDATE nodes SET free = (SELECT count(*) FROM node_slots s
                    WHERE s.node = nodes.id AND coalesce(s.agent, '') = '') WHERE id = $1",
            )
            .bind(node.to_string());
    }
}

/// The rows of a page of the account's agents, and one more.
pub(crate) fn listed(
    select: &str,
    account: AccountId,
    filter: &AgentFilter,
    before: Option<&str>,
    limit: u32,
) -> Query {
    let mut query = Builder::new(select);
    query.push_bind(account.to_string());
    match filter.state {
        Some(state) => query.push(" AND state = ").push_bind(state.as_str()),
        None => query.push(" AND state <> 'destroyed'"),
    };
    if let Some(before) = before {
        query.push(" AND id < ").push_bind(before);
    }
    for (key, value) in &filter.labels {
        query.push(" AND EXISTS (SELECT 1 FROM agent_labels l WHERE l.agent = agents.id AND l.key = ");
        query.push_bind(key).push(" AND l.value = ").push_bind(value).push(")");
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    query.build()
}

impl Store {
    /// Orders an agent to be something else. Asking for what is so already changes nothing.
    pub async fn order(&self, actor: Actor, id: AgentId, verb: Verb, order: &Order) -> Result<Agent, Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(order.idempotency.as_ref()).await? {
            change.settle().await?;
            return Ok(before);
        }
        let before = change.agent(id).await?.ok_or(Error::NotFound { what: "agent" })?;
        if order.if_match.is_some_and(|generation| generation != before.generation) {
            return Err(Error::Stale { generation: before.generation });
        }
        if before.restored && verb != Verb::Destroy {
            return Err(Error::Restored);
        }
        let (state, desired) = apply_verb(before.state, verb)?;
        if (state, desired) == (before.state, before.desired) {
            change.remember(order.idempotency.as_ref(), &before);
            change.commit_bookkeeping().await?;
            return Ok(before);
        }
        let reason = if verb == Verb::Start { None } else { before.reason.clone() };
        let after = Agent { state, desired, reason, ..before.clone() };
        let detail = json!({"verb": verb, "cause": order.cause});
        let after = change.advance(&before, after, EventKind::AgentOrdered, detail)?;
        change.remember(order.idempotency.as_ref(), &after);
        change.commit().await?;
        Ok(after)
    }

    /// An agent by its id, whoever owns it.
    pub async fn agent(&self, id: AgentId) -> Result<Agent, Error> {
        let row = query("SELECT * FROM agents WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        agent(&row.ok_or(Error::NotFound { what: "agent" })?)
    }

    /// An agent by its name. Destroyed ones have given theirs up.
    pub async fn agent_named(&self, account: AccountId, name: &Name) -> Result<Agent, Error> {
        let row = query("SELECT * FROM agents WHERE account = $1 AND name = $2 AND state <> 'destroyed'")
            .bind(account.to_string())
            .bind(name.as_str())
            .fetch_optional(&self.0.reader)
            .await?;
        agent(&row.ok_or(Error::NotFound { what: "agent" })?)
    }

    /// The account's agents.
    pub async fn agents(
        &self,
        account: AccountId,
        filter: &AgentFilter,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Agent>, Error> {
        let rows = listed("SELECT * FROM agents WHERE account = ", account, filter, before, limit);
        let rows = rows.fetch_all(&self.0.reader).await?;
        Ok(PageOf::of(rows.iter().map(agent).collect::<Result<_, _>>()?, limit))
    }

    /// Records that a workspace token was handed out.
    pub async fn token_issued(&self, actor: Actor, agent: &Agent, detail: Value) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        change.token_issued(&agent.spec, detail);
        change.commit().await
    }
}
