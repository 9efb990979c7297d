//! Making agents: what is asked and found before, and the one transaction that makes them.

use crate::agents::Agent;
use crate::batch::Batch;
use crate::change::{Actor, Changed};
use crate::idempotency::replayed;
use crate::quotas::ask_limits;
use crate::rows::Row;
use crate::secrets::{ask_known, known, wishes};
use crate::{Error, Fresh, Idempotency, Placeholders, Store};
use model::agent::{AgentSpec, Level};
use model::api::Image;
use model::audit::EventKind;
use model::policy::Policy;
use model::{AccountId, AgentId, Name, NodeId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// An agent to make.
#[derive(Debug, Clone)]
pub struct NewAgent {
    /// What it is.
    pub spec: AgentSpec,
    /// The image's name, where it has one.
    pub image_name: Option<Name>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it may do at first.
    pub policy: Option<Policy>,
    /// For the secrets that its policy puts into requests.
    pub placeholders: Placeholders,
    /// What the ledger says of a workspace token that is handed out with it.
    pub token: Option<Value>,
}

/// What is asked about before an agent is made.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whose it will be.
    pub account: AccountId,
    /// Whether this name is free.
    pub name: &'a Name,
    /// What image this is, if there is such: an id, or a name.
    pub image: &'a str,
    /// The secrets that it is to have, one way or the other.
    pub secrets: &'a [Name],
    /// The agent that it is to be a copy of, if it is one.
    pub source: Option<AgentId>,
}

/// What was found before an agent is made.
#[derive(Debug)]
pub struct Found<'a> {
    /// The image, if there is such.
    pub image: Option<Image>,
    /// The agent that it is to be a copy of, if the account has it.
    pub source: Option<Agent>,
    /// Nodes that the account may use.
    pub candidates: &'a [Candidate],
    /// Hosts, each with its port, that agents of the account may reach which ask.
    pub remembered: &'a [(String, u16)],
    /// The time.
    pub now: OffsetDateTime,
}

/// A node that this account may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Whether it is shared with other accounts.
    pub shared: bool,
    /// Free slots.
    pub free: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// The levels that it makes.
    pub levels: Vec<Level>,
    /// When it last spoke.
    pub last_seen: Option<OffsetDateTime>,
    /// Where workspace APIs of the account's agents answer there, by the node's own word on one that it still has: a gate
    /// without agents gives its address up, and then it may be anybody's.
    pub way: Option<String>,
}

fn candidate(row: &Row) -> Result<Candidate, Error> {
    Ok(Candidate {
        node: row.parsed("id")?,
        shared: row.text("tenant")? == "shared",
        free: row.number("free")?,
        memory: row.number("memory")?,
        levels: row.json("levels")?,
        last_seen: row.at_opt("last_seen")?,
        way: row.try_get("way")?,
    })
}

impl Store {
    /// Makes the agent that `make` makes of its image, if there is one, on the node that it picks of those that the account
    /// may use. The node learns of it with the commit. On a replay nothing is made: the agent comes back as it was then.
    pub async fn create_agent<E: From<Error>>(
        &self,
        actor: Actor,
        Asked { account, name, image, secrets, source }: Asked<'_>,
        make: impl FnOnce(Found<'_>) -> Result<(NewAgent, NodeId), E>,
        idempotency: Option<&Idempotency>,
    ) -> Result<(Agent, Fresh), E> {
        let mut change = self.change(actor).await?;
        let mut asked = Batch::default();
        ask_limits(&mut asked, account);
        asked
            .add("SELECT id FROM agents WHERE account = $1 AND name = $2 AND state <> 'destroyed'")
            .bind(account.to_string())
            .bind(name.to_string())
            .add("SELECT * FROM images WHERE (id = $1 OR name = $1) AND account = $2 AND deleted_at IS NULL")
            .bind(image.to_owned())
            .bind(account.to_string())
            .add(
                "SELECT n.id, n.tenant, n.memory, n.levels, n.last_seen, n.free,
                    (SELECT a.workspace_url FROM agents a WHERE a.node = n.id AND a.state <> 'destroyed'
                        AND a.account = $1 AND a.observed_generation > 0 AND a.workspace_url IS NOT NULL
                     LIMIT 1) AS way
                 FROM nodes n WHERE n.public_key IS NOT NULL AND (n.tenant = $1 OR n.tenant = 'shared') ORDER BY n.id",
            )
            .bind(account.to_string())
            .add("SELECT host, port FROM egress_remembered WHERE account = $1 ORDER BY id DESC")
            .bind(account.to_string())
            .add("SELECT * FROM agents WHERE id = $1 AND account = $2")
            .bind(source.map(|source| source.to_string()))
            .bind(account.to_string());
        ask_known(&mut asked, account, secrets);
        change.ask_replay(&mut asked, idempotency);
        let answers = change.run(asked).await?;
        let [limits, taken, images, candidates, remembered, source, secrets, replay] = &*answers else {
            return Err(Error::Unaudited.into());
        };
        if let Some(before) = replayed(replay, idempotency)? {
            change.settle().await?;
            return Ok((before, Fresh::No));
        }
        if !taken.is_empty() {
            return Err(Error::NameTaken { name: name.to_string() }.into());
        }
        let image = images.first().map(crate::images::image).transpose()?;
        let candidates = candidates.iter().map(candidate).collect::<Result<Vec<_>, _>>()?;
        let remembered = crate::egress::hosts(remembered)?;
        let source = source.first().map(crate::agents::agent).transpose()?;
        let found =
            Found { image, source, candidates: &candidates, remembered: &remembered, now: self.now() };
        let (new, node) = make(found)?;
        let spec = &new.spec;
        change.within(limits, spec).await?;
        let placed = candidates.iter().find(|candidate| candidate.node == node).ok_or(Error::NoCapacity)?;
        let secrets = known(secrets)?;
        let wishes = wishes(&spec.secrets, new.policy.as_ref(), &secrets, &new.placeholders, "policy.")?;
        let agent = change.insert(&new, placed, u64::from(!wishes.is_empty()))?;
        change.bind_new(spec.account, spec.id, &wishes);
        let now = change.now;
        change.open_period(&agent, now, "created");
        let detail = json!({"name": spec.name, "image": spec.image, "digest": spec.image_digest, "node": node,
            "level": spec.level, "driver": spec.driver, "unrestricted": spec.unrestricted, "policy": new.policy,
            "run_as": spec.run_as, "resources": spec.resources, "secrets": spec.secrets});
        match &spec.origin {
            None => change.event(Some(spec.account), EventKind::AgentCreated, spec.id, detail),
            Some(origin) => {
                let mut detail = detail;
                detail["source"] = json!(origin.agent);
                change.event(Some(spec.account), EventKind::AgentCloned, spec.id, detail);
            }
        }
        if let Some(token) = &new.token {
            change.token_issued(spec, token.clone());
        }
        change.raise_for(node, spec.id);
        change.touch(Changed::Agent(Arc::new(agent.clone())));
        change.remember(idempotency, &agent);
        change.commit().await?;
        Ok((agent, Fresh::Yes))
    }
}
