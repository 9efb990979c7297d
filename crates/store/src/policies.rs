//! Policies of agents: beside its state, the one thing of an agent that may change.

use crate::agents::Agent;
use crate::change::{Actor, Change, Changed};
use crate::rows::to_json;
use crate::{Error, Idempotency, Placeholders, Store};
use model::AgentId;
use model::agent::Desired;
use model::audit::EventKind;
use model::policy::Policy;
use serde_json::json;
use std::sync::Arc;

impl Change {
    /// Gives an agent another policy than it has, by which its secrets are at that revision.
    pub(crate) fn put_policy(&mut self, before: &Agent, policy: &Policy, secrets_revision: u64) -> Agent {
        let id = before.spec.id;
        let policy_revision = before.policy_revision + 1;
        let policy_now = Some(policy.clone());
        let after = Agent { policy: policy_now, policy_revision, secrets_revision, ..before.clone() };
        self.deferred
            .add(
                "UPDATE agents SET policy = $1, policy_revision = $2, secrets_revision = $3, shown = shown + 1
                 WHERE id = $4 AND policy_revision = $5",
            )
            .bind(to_json(policy))
            .bind(policy_revision as i64)
            .bind(secrets_revision as i64)
            .bind(id.to_string())
            .bind(before.policy_revision as i64)
            .or(Error::StalePolicy { revision: before.policy_revision });
        self.raise_for(after.node, id);
        let detail = json!({"revision": policy_revision, "policy": policy});
        self.event(Some(after.spec.account), EventKind::AgentPolicyChanged, id, detail);
        self.touch(Changed::Agent(Arc::new(after.clone())));
        after
    }
}

impl Store {
    /// Gives an agent another policy. Its node hears of it at once, and of no new generation: nothing about the agent is to be made
    /// anew. The policy that it has already changes nothing. Secrets that it puts into requests get `placeholders`, unless the agent
    /// has one in place of them already.
    pub async fn set_policy(
        &self,
        actor: Actor,
        id: AgentId,
        policy: &Policy,
        placeholders: &Placeholders,
        if_match: Option<u64>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Agent, Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok(before);
        }
        let before = change.agent(id).await?.ok_or(Error::NotFound { what: "agent" })?;
        if if_match.is_some_and(|revision| revision != before.policy_revision) {
            return Err(Error::StalePolicy { revision: before.policy_revision });
        }
        if before.desired == Desired::Destroyed {
            return Err(Error::Ended { state: before.state });
        }
        if before.policy.as_ref() == Some(policy) {
            change.remember(idempotency, &before);
            change.commit_bookkeeping().await?;
            return Ok(before);
        }
        let secrets_revision = change.bind(&before, policy, placeholders).await?;
        let after = change.put_policy(&before, policy, secrets_revision);
        change.remember(idempotency, &after);
        change.commit().await?;
        Ok(after)
    }
}
