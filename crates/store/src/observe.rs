//! What nodes report, held against what they were told.

use crate::agents::Agent;
use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::{millis, to_json};
use crate::{Error, Store};
use model::agent::{AgentState, Desired, Level, Observed, apply_observed};
use model::audit::EventKind;
use model::evidence::{Drift, claim, drift};
use model::node_api::{ObservedAgent, ObservedState};
use model::{AgentId, NodeId};
use serde_json::json;
use std::collections::BTreeMap;

/// By how many generations a node may be ahead of control: orders that a database which was lost had given. A
/// node that claims more is broken or hostile, and the next generation would have to be above what it claims.
const AHEAD: u64 = 1 << 20;
/// Orphans that are recorded of one report. The ledger is kept for ever, so a node does not fill it at will; the
/// others are told again when the node reports all it has.
const ORPHANS: usize = 64;

/// What an agent is after a report, or `None` if the report says nothing new.
///
/// A report on an older generation than the newest order says nothing: the node has yet to read that order.
pub(crate) fn after_report(before: &Agent, report: &ObservedAgent) -> Option<Agent> {
    if report.generation > before.generation.saturating_add(AHEAD) {
        return None;
    }
    let mut after = before.clone();
    after.observed_generation = before.observed_generation.max(report.generation);
    if report.generation == before.generation && before.state != AgentState::Destroyed {
        if before.restored {
            after.restored = false;
            if before.desired != Desired::Destroyed {
                after.desired = adopted(report.observed);
            }
        }
        // An agent that ended by itself was told to stay stopped; that the node confirms it is no news, and
        // must not wipe out why it ended.
        let confirms =
            before.desired == Desired::Stopped && before.has_ended() && report.observed == Observed::Stopped;
        if !confirms {
            after.state = apply_observed(before.state, after.desired, report.observed);
            after.reason.clone_from(&report.reason);
        }
        if lives(report) {
            after.evidence.clone_from(&report.evidence);
            after.observation.clone_from(&report.observation);
        }
        if report.workspace_url.is_some() {
            after.workspace_url.clone_from(&report.workspace_url);
        }
        let ended = matches!(after.state, AgentState::Stopped | AgentState::Failed);
        if ended && matches!(after.desired, Desired::Running | Desired::Paused) {
            // What ends by itself is not started again by itself.
            after.desired = Desired::Stopped;
        }
    }
    // That the same was seen once more is no news.
    let news = Agent { observation: before.observation.clone(), ..after.clone() } != *before;
    news.then_some(after)
}

/// What an agent should be that a backup knew, and that is so by now: a restore ends nothing and starts nothing.
fn adopted(observed: Observed) -> Desired {
    match observed {
        Observed::Running => Desired::Running,
        Observed::Paused => Desired::Paused,
        Observed::Stopped | Observed::Failed | Observed::Destroyed => Desired::Stopped,
    }
}

/// A boundary is there, and was looked at.
fn lives(report: &ObservedAgent) -> bool {
    matches!(report.observed, Observed::Running | Observed::Paused)
}

/// What its boundary lost or got back since the last report. Another start is another boundary.
fn drifted(before: &Agent, after: &Agent) -> Vec<Drift> {
    let lives = |agent: &Agent| matches!(agent.state, AgentState::Running | AgentState::Paused);
    if lives(before) && lives(after) { drift(&before.evidence, &after.evidence) } else { Vec::new() }
}

impl Change {
    fn seen(&mut self, agent: &ObservedAgent) {
        let Some(at) = agent.last_activity.map(millis) else { return };
        // A node's clock may run ahead; an agent is not kept alive by that.
        let at = at.min(self.now);
        self.deferred
            .add("UPDATE agents SET last_activity = $1 WHERE id = $2 AND (last_activity IS NULL OR last_activity < $1)")
            .bind(at)
            .bind(agent.id.to_string());
    }

    /// The same was seen as before, later.
    fn looked_at(&mut self, before: &Agent, report: &ObservedAgent) {
        let Some(observation) = report.observation.as_ref().filter(|_| lives(report)) else { return };
        if report.generation == before.generation && report.evidence == before.evidence {
            self.deferred
                .add("UPDATE agents SET observation = $1 WHERE id = $2")
                .bind(to_json(observation))
                .bind(before.spec.id.to_string());
        }
    }

    /// Notes which levels a node makes; `true` if that is news.
    async fn levels(&mut self, node: NodeId, levels: &[Level]) -> Result<bool, Error> {
        let changed = query("UPDATE nodes SET levels = $1 WHERE id = $2 AND levels <> $1")
            .bind(to_json(&levels))
            .bind(node.to_string())
            .execute(self.db().await?)
            .await?;
        let news = changed.rows_affected() > 0;
        if news {
            self.event(None, EventKind::NodeLevels, node, json!({"levels": levels}));
        }
        Ok(news)
    }

    async fn orphan(&mut self, node: NodeId, agent: AgentId) -> Result<bool, Error> {
        let told = query("SELECT id FROM events WHERE subject = $1 AND kind = 'agent.orphan' AND actor = $2")
            .bind(agent.to_string())
            .bind(node.to_string())
            .fetch_optional(self.db().await?)
            .await?;
        if told.is_none() {
            self.event(None, EventKind::AgentOrphan, agent, json!({"node": node}));
        }
        Ok(told.is_none())
    }
}

impl Store {
    /// Takes in a report. Agents that control does not know, or that belong on another node, are recorded once
    /// as orphans and left alone.
    pub async fn observe(&self, node: NodeId, report: &ObservedState) -> Result<(), Error> {
        // That an agent runs is told again by a node that lives, and is no longer so after a power cut.
        let mut change = match report.agents.iter().all(lives) {
            true => self.repeatable_change(Actor::Node(node)).await?,
            false => self.change(Actor::Node(node)).await?,
        };
        let mut audited = match &report.levels {
            Some(levels) => change.levels(node, levels).await?,
            None => false,
        };
        let mut strangers = 0;
        // An agent has one state at a time: of several the last counts.
        let agents: BTreeMap<AgentId, &ObservedAgent> =
            report.agents.iter().map(|seen| (seen.id, seen)).collect();
        for seen in agents.into_values() {
            let before = change.agent(seen.id).await?.filter(|agent| agent.node == node);
            let Some(before) = before else {
                if strangers < ORPHANS && change.orphan(node, seen.id).await? {
                    (audited, strangers) = (true, strangers + 1);
                }
                continue;
            };
            change.seen(seen);
            let Some(after) = after_report(&before, seen) else {
                change.looked_at(&before, seen);
                continue;
            };
            let kind =
                if after.state == before.state { EventKind::AgentObserved } else { EventKind::AgentState };
            let detail = json!({"observed": seen.observed, "reason": seen.reason,
                "observed_generation": seen.generation});
            let after = change.advance(&before, after, kind, detail)?;
            let drift = drifted(&before, &after);
            if !drift.is_empty() {
                let claimed = |agent: &Agent| claim(agent.spec.level, &agent.evidence);
                let detail = json!({"from": claimed(&before), "to": claimed(&after), "controls": drift});
                change.event(Some(after.spec.account), EventKind::AgentDrift, after.spec.id, detail);
            }
            audited = true;
        }
        for agent in &report.orphans {
            if strangers == ORPHANS {
                break;
            }
            let known = change.agent(*agent).await?;
            if known.is_none_or(|known| known.node != node) && change.orphan(node, *agent).await? {
                (audited, strangers) = (true, strangers + 1);
            }
        }
        if audited { change.commit().await } else { change.commit_bookkeeping().await }
    }
}
