//! Who looks after questions of agents, and what agents ask: what control says on its way to the gates, and what they say back.

use super::{Gates, Inner};
use crate::outbox;
use model::egress::{Attention, Connection, Question};
use model::gate_api::ToGate;
use model::{AccountId, AgentId};
use std::io;

impl Gates {
    /// What control says of all agents here, in place of what it said before.
    pub(crate) fn set_attention(&self, attention: Vec<Attention>) {
        let mut inner = self.lock();
        let after = attention.into_iter().map(|attention| (attention.agent, attention)).collect();
        let before = std::mem::replace(&mut inner.attention, after);
        let Inner { attention, running, .. } = &mut *inner;
        for running in running.values_mut() {
            if running.agents.keys().any(|agent| before.get(agent) != attention.get(agent)) {
                running.attention_due = true;
                running.revision.send_modify(|revision| *revision += 1);
            }
        }
    }

    /// What was said about it while a gate knows nothing, or something else.
    pub(super) fn news_of_attention(&self, account: AccountId) -> Option<ToGate> {
        let mut inner = self.lock();
        let Inner { attention, running, .. } = &mut *inner;
        let running = running.get_mut(&account)?;
        std::mem::take(&mut running.attention_due).then(|| ToGate::Attention {
            agents: running.agents.keys().filter_map(|agent| attention.get(agent).cloned()).collect(),
        })
    }

    /// A gate says what left an agent. Of an agent that is not its account's, nothing is passed on.
    pub(super) fn egress(
        &self,
        account: AccountId,
        agent: AgentId,
        connection: Connection,
    ) -> io::Result<()> {
        if !outbox::is_sane(&connection) {
            return Err(insane());
        }
        if self.had(account, agent) {
            self.outbox.record(account, agent, connection);
        }
        Ok(())
    }

    /// Whether the account has this agent here, or had it until lately.
    fn had(&self, account: AccountId, agent: AgentId) -> bool {
        let inner = self.lock();
        let has = inner.running.get(&account).is_some_and(|running| running.agents.contains_key(&agent));
        has || inner.gone.contains(&(account, agent))
    }

    /// A gate says how much it does not tell of.
    pub(super) fn egress_lost(&self, account: AccountId, agent: AgentId, count: u64) {
        if self.had(account, agent) {
            self.outbox.lose(account, agent, count);
        }
    }

    /// A gate says what waits for somebody's decision.
    pub(super) fn asks(
        &self,
        account: AccountId,
        agent: AgentId,
        questions: Vec<Question>,
    ) -> io::Result<()> {
        if !questions.iter().all(outbox::is_sane_question) {
            return Err(insane());
        }
        // Locked as long, so that none is asked for an agent that goes meanwhile.
        let inner = self.lock();
        if inner.running.get(&account).is_some_and(|running| running.agents.contains_key(&agent)) {
            self.outbox.ask(account, agent, questions);
        }
        Ok(())
    }

    /// The gate is gone, and all that waited in it.
    pub(super) fn forget_questions(&self, account: AccountId) {
        let inner = self.lock();
        for agent in inner.running.get(&account).into_iter().flat_map(|running| running.agents.keys()) {
            self.outbox.ask(account, *agent, Vec::new());
        }
    }
}

fn insane() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record that no gate makes")
}
