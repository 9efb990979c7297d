//! What left an agent, what did not, and what waits for a person's decision.

use crate::id::{AccountId, AgentId, QuestionId, RememberedId};
use crate::policy::Protocol;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use time::OffsetDateTime;

/// The longest text of a record but its host, in bytes; what is longer is cut.
pub const MAX_TEXT: usize = 120;
/// Questions of one agent that wait at once; what comes beyond them is refused.
pub const MAX_QUESTIONS: usize = 32;
/// Records of one call of a node.
pub const MAX_RECORDS: usize = 500;

/// What became of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was connected, and is over.
    Passed,
    /// It was refused.
    Denied,
    /// It was allowed, and there was no connection.
    Failed,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        })
    }
}

/// A connection out of an agent that is over, or attempts that were refused. Never anything of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// When it began; of several attempts, the first.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// The name, or the literal address, that the agent asked for.
    pub host: String,
    /// The port that it asked for; absent of a question of DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address that it was connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// What it spoke, where that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// What became of it.
    pub outcome: Outcome,
    /// Who decided, such as `rule 3`, `bundle github`, `preset none`, `unknown`, `once`; or why it was refused without a decision.
    pub by: String,
    /// Secrets that the gate put into its requests, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<crate::Name>,
    /// Bytes out of the agent.
    pub sent: u64,
    /// Bytes into the agent.
    pub received: u64,
    /// How long it lasted, in milliseconds.
    pub duration_ms: u64,
    /// How it ended, where it was allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// How many attempts this stands for: equal ones that were refused within seconds are one record, and so is what is too much to be
    /// told one by one. Its bytes are the sum, its duration is the longest.
    pub count: u32,
}

/// A host that an agent wants to connect to and that nothing names: connections wait for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The name, or the literal address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// When the first of them began to wait. With host and port it tells one question from the next.
    #[serde(with = "time::serde::rfc3339")]
    pub asked: OffsetDateTime,
    /// When they are refused unless somebody decided.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
}

/// What somebody decided of those that wait, and of no other. What is to hold for longer is a rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// As in the question.
    pub host: String,
    /// As in the question.
    pub port: u16,
    /// As in the question.
    #[serde(with = "time::serde::rfc3339")]
    pub asked: OffsetDateTime,
    /// Whether they pass. If not, so are those to come for a while without a question.
    pub allow: bool,
}

/// Who looks after an agent's questions, and what they said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// Whose.
    pub agent: AgentId,
    /// Until when somebody is there to ask. Nothing waits where nobody is.
    #[serde(with = "time::serde::rfc3339::option")]
    pub watched_until: Option<OffsetDateTime>,
    /// What was decided of questions that the node has not yet reported as settled.
    pub answers: Vec<Answer>,
}

/// `POST /node/v1/egress`: what left the node's agents, and what waits there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressReport {
    /// Connections that are over. Sent once more when the answer was lost, so some may come twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Record>,
    /// Records that were not kept, for want of room, by agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// All questions that wait on this node, when that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub questions: Option<Vec<Waiting>>,
}

/// A connection, and whose it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Whose.
    pub agent: AgentId,
    /// Whose it was then, by the gate that told of it: an agent may have been given to another account since. Absent from nodes of an
    /// earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// What.
    pub connection: Connection,
}

/// Records that were not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// Whose.
    pub agent: AgentId,
    /// Whose they were then, by the gate that told of them: an agent may have been given to another account since. Absent from nodes of an
    /// earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// How many.
    pub count: u64,
}

/// An agent's questions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Whose.
    pub agent: AgentId,
    /// Whose it was then, by the gate that told of it: an agent may have been given to another account since. Absent from nodes of an
    /// earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// At most [`MAX_QUESTIONS`].
    pub questions: Vec<Question>,
}

/// `GET /v1/egress/log`: one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogEntry {
    /// Its place in the log: later ones have higher numbers.
    pub id: u64,
    /// Whose.
    pub agent: AgentId,
    /// What.
    #[serde(flatten)]
    pub connection: Connection,
}

/// `GET /v1/egress/questions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Questions {
    /// Pass as `since` to be answered when this changed.
    pub revision: u64,
    /// What waits, oldest first.
    pub items: Vec<OpenQuestion>,
}

/// What waits for a person's decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OpenQuestion {
    /// Its id.
    pub id: QuestionId,
    /// Whose.
    pub agent: AgentId,
    /// The agent's name.
    pub name: crate::Name,
    /// The name, or the literal address, that it wants to connect to.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub asked: OffsetDateTime,
    /// When it is refused unless somebody decided.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub until: OffsetDateTime,
}

/// `POST /v1/egress/questions/ID/answer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerQuestion {
    /// What is decided.
    pub decision: Decision,
}

/// What a person decides of a host that an agent wants to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The connections that wait pass, and no other.
    Once,
    /// This agent may from now on: a rule of its policy.
    Agent,
    /// So may every agent of the account whose policy asks, now and those to come.
    Always,
    /// They are refused, and so are those that come within the next minutes.
    Deny,
}

/// What became of an [`AnswerQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Answered {
    /// What was asked.
    pub question: OpenQuestion,
    /// What was decided.
    pub decision: Decision,
    /// Agents whose policy has a new rule by it; nobody's has one by `once` and `deny`.
    pub changed: Vec<AgentId>,
}

/// `GET /v1/egress/remembered`: a host that was decided with [`Decision::Always`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Remembered {
    /// Its id.
    pub id: RememberedId,
    /// The name, or the literal address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who decided: an API key.
    pub actor: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
}
