//! What people decide of questions.

use super::questions::open_question;
use crate::agents::{Agent, agent};
use crate::change::{Actor, Change, Changed};
use crate::db::query;
use crate::{Error, Idempotency, Store};
use model::agent::Desired;
use model::audit::EventKind;
use model::egress::{Answered, Decision, OpenQuestion};
use model::policy::{Action, Policy, Preset, Rule, Unknown};
use model::{AccountId, AgentId, NodeId, QuestionId};
use serde_json::json;

const fn text(decision: Decision) -> &'static str {
    match decision {
        Decision::Once => "once",
        Decision::Agent => "agent",
        Decision::Always => "always",
        Decision::Deny => "deny",
    }
}

impl Change {
    /// A question of this account that still waits, and where.
    async fn question(
        &mut self,
        account: AccountId,
        id: QuestionId,
    ) -> Result<(OpenQuestion, NodeId), Error> {
        let now = self.now;
        let row = query(
            "SELECT q.id, q.agent, a.name, q.host, q.port, q.asked, q.until, q.node, q.answer
             FROM egress_questions q JOIN agents a ON a.id = q.agent
             WHERE q.id = $1 AND q.account = $2 AND q.until > $3",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .bind(now)
        .fetch_optional(self.db().await?)
        .await?;
        let row = row.ok_or(Error::NotFound { what: "question" })?;
        if let Some(decision) = row.try_get::<Option<String>, _>("answer")? {
            return Err(Error::Answered { decision });
        }
        Ok((open_question(&row)?, row.parsed("node")?))
    }

    /// Gives an agent a policy that has more rules in front, if it could be in force.
    fn extend(&mut self, agent: &Agent, policy: &Policy) -> Result<AgentId, Error> {
        policy
            .validate(agent.spec.unrestricted)
            .map_err(|fault| Error::NoRule { agent: agent.spec.name.clone(), fault })?;
        // It has the same secrets as before: another rule puts none into requests.
        Ok(self.put_policy(agent, policy, agent.secrets_revision).spec.id)
    }

    /// One agent may from now on.
    async fn allow(&mut self, question: &OpenQuestion) -> Result<Vec<AgentId>, Error> {
        let agent = self.agent(question.agent).await?.ok_or(Error::NotFound { what: "agent" })?;
        // One whose policy was changed meanwhile to one that asks nobody is not opened by an answer.
        let asks = |policy: &Policy| {
            policy.egress.preset == Preset::Allowlist && policy.egress.unknown == Unknown::Hold
        };
        let asking = agent.policy.clone().filter(asks);
        let mut policy = asking.ok_or(Error::NotFound { what: "question" })?;
        policy.put_in_front(Rule::of(Action::Allow, &question.host, Some(question.port)));
        if agent.policy.as_ref() == Some(&policy) {
            return Ok(Vec::new());
        }
        Ok(vec![self.extend(&agent, &policy)?])
    }

    /// All agents of the account may from now on that would ask. Nobody is asked about it on their behalf any more.
    async fn allow_all(
        &mut self,
        account: AccountId,
        question: &OpenQuestion,
    ) -> Result<Vec<AgentId>, Error> {
        let rows = query(
            "SELECT * FROM agents WHERE account = $1 AND state <> 'destroyed' AND id <> $2
                AND policy ->> '$.egress.unknown' = 'hold' AND policy ->> '$.egress.preset' = 'allowlist'
             ORDER BY id",
        )
        .bind(account.to_string())
        .bind(question.agent.to_string())
        .fetch_all(self.db().await?)
        .await?;
        let mut changed = Vec::new();
        for row in &rows {
            let agent = agent(row)?;
            let Some(mut policy) = agent.policy.clone().filter(|_| agent.desired != Desired::Destroyed)
            else {
                continue;
            };
            if policy.allow_asked(&[(&question.host, question.port)]) {
                changed.push(self.extend(&agent, &policy)?);
                self.deferred
                    .add(
                        "UPDATE egress_questions SET answer = 'always'
                         WHERE agent = $1 AND host = $2 AND port = $3 AND answer IS NULL",
                    )
                    .bind(agent.spec.id.to_string())
                    .bind(question.host.clone())
                    .bind(i64::from(question.port));
                self.flush().await?;
            }
        }
        Ok(changed)
    }
}

impl Store {
    /// Decides a question of the account. The node learns of it with the commit: by the answer, or by a policy.
    pub async fn answer_question(
        &self,
        actor: Actor,
        account: AccountId,
        id: QuestionId,
        decision: Decision,
        idempotency: Option<&Idempotency>,
    ) -> Result<Answered, Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok(before);
        }
        let (question, node) = change.question(account, id).await?;
        let changed = match decision {
            Decision::Once | Decision::Deny => {
                change.raise(node);
                Vec::new()
            }
            Decision::Agent => change.allow(&question).await?,
            Decision::Always => {
                change.remember_host(account, &question).await?;
                let mut changed = change.allow(&question).await?;
                changed.extend(change.allow_all(account, &question).await?);
                changed
            }
        };
        change
            .deferred
            .add("UPDATE egress_questions SET answer = $1 WHERE id = $2")
            .bind(text(decision))
            .bind(id.to_string());
        let detail = json!({"host": question.host, "port": question.port, "decision": decision});
        change.event(Some(account), EventKind::EgressAnswered, question.agent, detail);
        change.touch(Changed::Questions(account));
        let answered = Answered { question, decision, changed };
        change.remember(idempotency, &answered);
        change.commit().await?;
        Ok(answered)
    }
}
