//! The wires between node and the gates it starts.
//!
//! The first is one JSON document a line, over an inherited socket pair: node begins with the whole state, and then says what
//! changed; the socket loses nothing and keeps the order. The second is for sockets (`SOCK_SEQPACKET`): one JSON document a packet,
//! with the descriptors that belong to it. A gate has no network of its own: node connects for it.

use crate::egress::{Attention, Connection, Question};
use crate::id::{AccountId, AgentId};
use crate::name::Name;
use crate::policy::Policy;
use crate::resolver::Resolver;
use crate::secret::SecretValue;
use crate::token::VerifyingKey;
use crate::workspace::{Captured, Stats};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

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
        /// Hosts of the bundles that are read from this machine's tools, by the bundle's name.
        #[serde(default)]
        tools: BTreeMap<String, Vec<String>>,
        /// Names that agents were given addresses for, as of [`FromGate::Named`], in that order.
        #[serde(default)]
        names: BTreeMap<AgentId, Vec<String>>,
    },
    /// What changed since.
    Agents {
        /// How these are now.
        set: Vec<GateAgent>,
        /// These are gone.
        gone: Vec<AgentId>,
    },
    /// Who looks after questions of agents, and what they said: of all of this account, in place of what was said before. Nobody, until
    /// this comes.
    Attention {
        /// Those that somebody looks after.
        agents: Vec<Attention>,
    },
    /// Certificates of the authorities that servers are verified by, in PEM, before the first state. Nothing is terminated without.
    Roots {
        /// Each in its own block.
        pem: String,
    },
    /// Whom [`FromGateSockets::Resolver`] connects to, and how it is asked, before the first state: in the clear, without.
    Resolver {
        /// As node's configuration has it.
        resolver: Resolver,
    },
    /// What is put into an agent's requests: all of it, in place of what was said before. Until it comes, requests that are to have a
    /// credential are refused.
    Credentials {
        /// Whose.
        agent: AgentId,
        /// Each secret once.
        credentials: Vec<Credential>,
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
    /// What may leave it; nothing without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Under what its gate shows itself as the servers whose requests it looks at; nothing is terminated without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Authority>,
}

/// A certificate authority that one agent trusts, and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Its certificate, in PEM.
    pub certificate: String,
    /// Its private key: PKCS#8 in PEM.
    pub key: SecretValue,
}

/// A secret that a gate puts into requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Its name, as the policy has it.
    pub secret: Name,
    /// What it is.
    pub value: SecretValue,
    /// What the agent has in place of it.
    pub placeholder: String,
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
    /// The agent asked for a name, and was given an address that stands for it. Once for each name.
    Named {
        /// Which.
        agent: AgentId,
        /// The name, normal as of [`crate::policy`].
        name: String,
    },
    /// A connection out of the agent is over, or attempts were refused.
    Egress {
        /// Whose.
        agent: AgentId,
        /// What of it is kept.
        connection: Connection,
    },
    /// So many more were, and are not told of.
    EgressLost {
        /// Whose.
        agent: AgentId,
        /// How many.
        count: u64,
    },
    /// What waits for a decision: all questions of the agent, whenever they changed.
    Asks {
        /// Whose.
        agent: AgentId,
        /// At most [`crate::egress::MAX_QUESTIONS`].
        questions: Vec<Question>,
    },
}

/// The longest packet about sockets, in bytes.
pub const MAX_PACKET: usize = 1024;

/// From node to gate, about sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToGateSockets {
    /// With two descriptors: what takes all TCP that leaves the agent (it listens), and what takes its questions of DNS. They replace
    /// those that the gate had of it.
    Doors {
        /// Whose.
        agent: AgentId,
    },
    /// The agent's boundary is gone: so are its doors and all that came through them.
    Closed {
        /// Whose.
        agent: AgentId,
    },
    /// With one descriptor: the connection that was asked for.
    Connected {
        /// The number that the gate gave.
        request: u64,
    },
    /// There is no connection.
    Failed {
        /// The number that the gate gave.
        request: u64,
        /// Why.
        why: Unconnected,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unconnected {
    /// The address is one that nobody is connected to: see [`crate::address::refused`].
    Forbidden,
    /// The other side refused.
    Refused,
    /// There is no way to it.
    Unreachable,
    /// It did not answer in time.
    Slow,
    /// Node has too many under way for this gate.
    Busy,
}

/// From gate to node, about sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromGateSockets {
    /// Connect by TCP.
    Connect {
        /// Made up by the gate.
        request: u64,
        /// For which agent: one of this gate's.
        agent: AgentId,
        /// Where to.
        address: SocketAddr,
    },
    /// Connect by TCP to the resolver of this node.
    Resolver {
        /// Made up by the gate.
        request: u64,
    },
}
