//! Agents that go from one account to another: one transaction, at one instant.

use crate::agents::Agent;
use crate::batch::Batch;
use crate::change::{Actor, Change, Changed};
use crate::db::query;
use crate::idempotency::KEPT;
use crate::quotas::ask_limits;
use crate::rows::{Row, instant, millis, to_json};
use crate::{Error, Idempotency, Store};
use model::agent::AgentSpec;
use model::audit::EventKind;
use model::people::Role;
use model::transfer::{Situation, obstacles, state_after};
use model::{AccountId, AgentId, ImageId, Name, UserId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Which agent.
    pub agent: AgentId,
    /// Whose it is.
    pub from: AccountId,
    /// Whose it is to be.
    pub to: AccountId,
    /// Who asks: a member of both.
    pub person: UserId,
    /// What they have to be in the other account at least.
    pub least: Role,
    /// Refused unless the agent is at this generation.
    pub if_match: Option<u64>,
    /// The client's key.
    pub idempotency: Option<Idempotency>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// The agent, as it is the other account's.
    pub agent: Agent,
    /// Whose it was.
    pub from: AccountId,
    /// Secrets that it was given itself and has no more.
    pub unbound: Vec<Name>,
}

/// What the other account has.
struct There {
    /// The row of the same image.
    image: Option<(ImageId, Name)>,
    /// Where workspace APIs of its agents answer on the agent's node.
    way: Option<String>,
}

impl Change {
    /// The accounts that these agents were given away by.
    pub(crate) async fn given_away_by(
        &mut self,
        agents: &BTreeSet<AgentId>,
    ) -> Result<Vec<(AgentId, AccountId)>, Error> {
        if agents.is_empty() {
            return Ok(Vec::new());
        }
        let rows = query(
            "SELECT DISTINCT agent, from_account FROM transfers WHERE agent IN (SELECT value FROM json_each($1))",
        )
        .bind(to_json(agents))
        .fetch_all(self.db().await?)
        .await?;
        rows.iter().map(|row| Ok((row.parsed("agent")?, row.parsed("from_account")?))).collect()
    }

    /// Looks at both accounts; refuses with all that is in the way.
    async fn may_go(&mut self, before: &Agent, to: AccountId) -> Result<There, Error> {
        let spec = &before.spec;
        let mut asked = Batch::default();
        ask_limits(&mut asked, to);
        asked
            .add("SELECT name FROM agents WHERE account = $1 AND name = $2 AND state <> 'destroyed'")
            .bind(to.to_string())
            .bind(spec.name.to_string())
            .add("SELECT id, name FROM images WHERE account = $1 AND digest = $2 AND deleted_at IS NULL ORDER BY name <> $3, id")
            .bind(to.to_string())
            .bind(spec.image_digest.clone().unwrap_or_default())
            .bind(before.image_name.as_ref().map(Name::to_string).unwrap_or_default())
            .add("SELECT tenant FROM nodes WHERE id = $1")
            .bind(before.node.to_string())
            .add(
                "SELECT workspace_url FROM agents WHERE node = $1 AND account = $2 AND state <> 'destroyed'
                    AND observed_generation > 0 AND workspace_url IS NOT NULL LIMIT 1",
            )
            .bind(before.node.to_string())
            .bind(to.to_string())
            .add(
                "SELECT s.name FROM agent_secrets b JOIN secrets s ON s.id = b.secret
                 WHERE b.agent = $1 AND b.injected = 1 ORDER BY s.name",
            )
            .bind(spec.id.to_string())
            .add(
                "SELECT id FROM agents WHERE account = $1 AND state = 'provisioning' AND spec -> 'origin' ->> 'agent' = $2 LIMIT 1",
            )
            .bind(spec.account.to_string())
            .bind(spec.id.to_string());
        let answers = self.run(asked).await?;
        let [limits, taken, images, nodes, ways, injected, copies] = &*answers else {
            return Err(Error::Unaudited);
        };
        let parsed = |row: &Row| row.parsed::<Name>("name");
        let image = images.first().map(|row| Ok::<_, Error>((row.parsed("id")?, row.parsed("name")?)));
        let image = image.transpose()?;
        let mut bound: BTreeSet<Name> = injected.iter().map(parsed).collect::<Result<_, _>>()?;
        // A policy may name one that is gone.
        bound.extend(
            before.policy.iter().flat_map(|policy| &policy.egress.inject).map(|rule| rule.secret.clone()),
        );
        let lacks_image = spec.image_digest.is_some() && image.is_none();
        let situation = Situation {
            state: before.state,
            desired: before.desired,
            acted: before.observed_generation >= before.generation,
            level: spec.level,
            name_taken: taken.first().map(parsed).transpose()?,
            image_missing: before.image_name.clone().filter(|_| lacks_image),
            injected: bound.into_iter().collect(),
            dedicated: nodes.first().map(|row| row.text("tenant")).transpose()?.as_deref() != Some("shared"),
            quota: self.exceeds(limits, to, &spec.resources).await?,
            copied: !copies.is_empty(),
        };
        let obstacles = obstacles(&situation);
        if !obstacles.is_empty() {
            return Err(Error::Stays { obstacles });
        }
        let way = ways.first().map(|row| row.text("workspace_url")).transpose()?;
        Ok(There { image, way })
    }

    /// Makes it so, for whatever is in the tables.
    fn give(&mut self, before: &Agent, to: AccountId, there: There) -> Result<Moved, Error> {
        let (id, from) = (before.spec.id, before.spec.account);
        let unbound: BTreeSet<Name> = before.spec.secrets.iter().map(|given| given.secret.clone()).collect();
        let (image, image_name) = there.image.unzip();
        let since = millis(before.state_since);
        // Clocks may step back; the ledger does not.
        let at = self.now.max(since);
        let after = Agent {
            spec: AgentSpec { account: to, image, secrets: Vec::new(), ..before.spec.clone() },
            image_name,
            state: state_after(before.state),
            generation: before.generation.max(before.observed_generation) + 1,
            token_epoch: before.token_epoch + 1,
            // A node that has some asks again, and hears that there are none.
            secrets_revision: before.secrets_revision + u64::from(before.secrets_revision > 0),
            transfers: before.transfers + 1,
            evidence: Vec::new(),
            observation: None,
            workspace_url: there.way,
            state_since: instant(at).ok_or(Error::Corrupt { column: "state_since" })?,
            ..before.clone()
        };
        self.deferred
            .add("DELETE FROM agent_secrets WHERE agent = $1")
            .bind(id.to_string())
            .add(
                "UPDATE agents SET account = $1, image = $2, image_name = $3, spec = $4, state = $5, generation = $6,
                    token_epoch = $7, secrets_revision = $8, transfers = $9, evidence = '[]', observation = NULL,
                    workspace_url = $10, state_since = $11, last_activity = NULL, shown = shown + 1
                 WHERE id = $12 AND account = $13 AND generation = $14 AND state = $15",
            )
            .bind(to.to_string())
            .bind(after.spec.image.map(|image| image.to_string()))
            .bind(after.image_name.as_ref().map(Name::to_string))
            .bind(to_json(&after.spec))
            .bind(after.state.as_str())
            .bind(after.generation as i64)
            .bind(after.token_epoch as i64)
            .bind(after.secrets_revision as i64)
            .bind(after.transfers as i64)
            .bind(after.workspace_url.clone())
            .bind(at)
            .bind(id.to_string())
            .bind(from.to_string())
            .bind(before.generation as i64)
            .bind(before.state.as_str())
            .or(Error::Stale { generation: before.generation })
            .add("INSERT INTO transfers (agent, number, from_account, to_account, at) VALUES ($1, $2, $3, $4, $5)")
            .bind(id.to_string())
            .bind(after.transfers as i64)
            .bind(from.to_string())
            .bind(to.to_string())
            .bind(at);
        self.close_period(id, at);
        self.open_period(&after, at, "transferred");
        self.forget_questions(from, id);
        self.raise_for(after.node, id);
        let unbound: Vec<Name> = unbound.into_iter().collect();
        let detail = json!({"account": {"from": from, "to": to}, "from": before.state, "to": after.state,
            "generation": after.generation, "name": after.spec.name, "digest": after.spec.image_digest});
        let mut ours = detail.clone();
        // Names of secrets are the account's own.
        ours["unbound"] = json!(unbound);
        self.event(Some(from), EventKind::AgentTransferred, id, ours);
        self.event(Some(to), EventKind::AgentTransferred, id, detail);
        self.touch(Changed::Agent(Arc::new(after.clone())));
        Ok(Moved { agent: Agent { last_activity: None, ..after }, from, unbound })
    }
}

impl Store {
    /// Gives an agent to another account: the one's state period ends where the other's begins, tokens of its workspace end, and its
    /// secrets are unbound. Its node ends what runs, and starts it for the other account.
    pub async fn transfer(&self, actor: Actor, transfer: &Transfer) -> Result<Moved, Error> {
        let Transfer { agent, from, to, person, least, if_match, idempotency } = transfer;
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency.as_ref()).await? {
            change.settle().await?;
            return Ok(before);
        }
        let role = query("SELECT role FROM memberships WHERE account = $1 AND person = $2")
            .bind(to.to_string())
            .bind(person.to_string())
            .fetch_optional(change.db().await?)
            .await?;
        match role.map(|row| row.parsed::<Role>("role")).transpose()? {
            Some(role) if role >= *least => {}
            Some(_) => return Err(Error::RoleLowered),
            None => return Err(Error::MembershipEnded),
        }
        let before = change.agent(*agent).await?.filter(|agent| agent.spec.account == *from);
        let before = before.ok_or(Error::NotFound { what: "agent" })?;
        if if_match.is_some_and(|generation| generation != before.generation) {
            return Err(Error::Stale { generation: before.generation });
        }
        if before.restored {
            // What its node has is not known yet.
            return Err(Error::Restored);
        }
        let there = change.may_go(&before, *to).await?;
        let moved = change.give(&before, *to, there)?;
        change.remember(idempotency.as_ref(), &moved);
        change.commit().await?;
        Ok(moved)
    }

    /// The answer that a key got before, for what the request was about may be the account's no more.
    pub async fn answered<T: DeserializeOwned>(&self, idempotency: &Idempotency) -> Result<Option<T>, Error> {
        let row = query(
            "SELECT request, answer FROM idempotency_keys WHERE account = $1 AND key = $2 AND created_at > $3",
        )
        .bind(idempotency.account.to_string())
        .bind(idempotency.key.clone())
        .bind(millis(self.now()) - KEPT)
        .fetch_optional(&self.0.reader)
        .await?;
        crate::idempotency::replayed(row.as_slice(), Some(idempotency))
    }
}
