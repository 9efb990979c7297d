//! The wire between node and the gates it starts: one JSON document a line, over an inherited socket pair.
//!
//! Node begins with the whole state, and then says what changed; the socket loses nothing and keeps the order.

use crate::id::{AccountId, AgentId};
use crate::token::VerifyingKey;
use crate::workspace::{Captured, Stats};
use serde::{Deserialize, Serialize};

/// What node reads of an agent's logs for its gate, in bytes.
pub const MAX_LOGS: u64 = 1 << 20;

/// From node to gate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToGate {
    /// All that the gate should know; replaces what it knew.
    State {
        /// `iss` of the tokens that are accepted.
        installation: String,
        /// The account that this gate serves.
        account: AccountId,
        /// Keys that verify tokens.
        keys: Vec<VerifyingKey>,
        /// Agents of this account on this node.
        agents: Vec<GateAgent>,
    },
    /// What changed since.
    Agents {
        /// How these are now.
        set: Vec<GateAgent>,
        /// These are gone.
        gone: Vec<AgentId>,
    },
    /// The answer to [`FromGate::StatsWanted`]; `None` when the agent does not run.
    Stats {
        /// The number that the gate gave.
        request: u64,
        /// What the cgroups say.
        stats: Option<Stats>,
    },
    /// The answer to [`FromGate::LogsWanted`]; `None` when node cannot read them now.
    Logs {
        /// The number that the gate gave.
        request: u64,
        /// They come from inside.
        logs: Option<Captured>,
    },
}

/// One agent, as its gate knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateAgent {
    /// Which.
    pub id: AgentId,
    /// Path of its channel's socket.
    pub channel: String,
    /// Tokens of an older epoch are refused.
    pub token_epoch: u64,
    /// Whether it can answer now.
    pub condition: Condition,
}

/// Whether an agent can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs.
    Running,
    /// It is frozen: calls are refused at once instead of hanging.
    Paused,
    /// It has no boundary.
    Stopped,
}

/// From gate to node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromGate {
    /// It serves the state it was given first.
    Ready,
    /// The agent's workspace API is in use. At most once a second for each agent.
    Activity {
        /// Which.
        agent: AgentId,
    },
    /// Asks for what an agent uses; answered by [`ToGate::Stats`].
    StatsWanted {
        /// Made up by the gate.
        request: u64,
        /// Which.
        agent: AgentId,
    },
    /// Asks for what the main process of an agent that does not run wrote; answered by [`ToGate::Logs`].
    LogsWanted {
        /// Made up by the gate.
        request: u64,
        /// Which.
        agent: AgentId,
        /// Not more than the newest so many bytes, and than [`MAX_LOGS`].
        most: u64,
    },
}
