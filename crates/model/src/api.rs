//! The control API, `/v1`: what requests and answers carry.

use crate::agent::{AgentState, Command, ExitReason, Level, RunAs};
use crate::driver::Driver;
use crate::evidence::{Claim, Control, Evidence, Observation, State};
use crate::id::{AccountId, AgentId, EventId, ImageId, NodeId, VolumeId};
use crate::image::ImageConfig;
use crate::name::Name;
use crate::packages::{Packages, Upgrade};
use crate::policy::Policy;
use crate::quantity::Span;
use crate::resources::Resources;
use crate::token::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// Pass as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `POST /v1/agents`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// Unique in the account; made up when absent.
    #[serde(default)]
    pub name: Option<Name>,
    /// Name or id of an image: needed at level `container`, and refused below, where agents see the machine's own system.
    #[serde(default)]
    pub image: Option<String>,
    /// How it is isolated; default is the strongest of `process` and `container` that the installation allows.
    #[serde(default)]
    pub level: Option<Level>,
    /// Who makes its boundary: `runc` and `runsc` at level `container` alone, `systemd` at level `process` alone; default is the node's
    /// choice. What may be claimed follows from what is observed, whoever made it.
    #[serde(default)]
    pub driver: Option<Driver>,
    /// Whether no policy is to limit it. In mode `managed` it then needs a node of the account's own.
    #[serde(default)]
    pub unrestricted: bool,
    /// What may leave it. Without one it is the default: the hosts of the bundle `common`, or for an unrestricted agent all public
    /// ones. Refused at level `workspace`, which has the machine's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The main process; without one the agent is a place to exec in. Its arguments follow the image's entrypoint
    /// where it has one; an empty `argv` means the image's own command.
    #[serde(default)]
    pub main: Option<Command>,
    /// In place of the image's entrypoint and command; empty for none.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Environment of every process in it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Secrets that it is given itself, as variables or files. Those that a policy puts into requests are not named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<crate::secret::SecretUse>,
    /// Labels: up to 64, keys of up to 63 and values of up to 255 printable characters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Who its processes are; default is root where the image says so, and `agent` otherwise.
    #[serde(default)]
    pub run_as: Option<RunAs>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// Whether the scratch layer survives a stop.
    #[serde(default)]
    pub keep_scratch: bool,
    /// Destroyed this long after its creation.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// Stopped after this long without use of its workspace API.
    #[serde(default)]
    pub idle_timeout: Option<Span>,
    /// A workspace token that comes with the answer; for requests that wait until the agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<CreateWorkspaceToken>,
}

/// The answer to [`CreateAgent`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedAgent {
    /// The agent.
    #[serde(flatten)]
    pub agent: Agent,
    /// The token that was asked for. Absent when there is no way to the agent yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceToken>,
}

/// An agent, as the control API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: Name,
    /// Its account.
    pub account: AccountId,
    /// Where it is in its life.
    pub state: AgentState,
    /// Why it is not running, when the node said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExitReason>,
    /// How it is isolated.
    pub level: Level,
    /// Who is to make its boundary; the node's own choice without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Whether no policy limits it.
    #[serde(default)]
    pub unrestricted: bool,
    /// What may leave it now. Without one nothing may, but at level `workspace`, which has the machine's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Raised with every change of the policy; the entity tag of `/v1/agents/ID/policy`.
    #[serde(default)]
    pub policy_revision: u64,
    /// What everybody who sees it is to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What may be said of its isolation now; `none` unless it runs and was inspected.
    pub claim: Claim,
    /// What was observed of its boundary.
    pub evidence: Vec<Evidence>,
    /// The image, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// The image's name when the agent was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_name: Option<Name>,
    /// The image's content, for life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// What to do where its image's name has newer content. In answers to `GET` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// Its disk.
    pub volume: VolumeId,
    /// What its disk began as a copy of, if it is a clone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<crate::clone::Origin>,
    /// The node that it was placed on.
    pub node: NodeId,
    /// The main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<Command>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Who its processes are.
    pub run_as: RunAs,
    /// What its image says of programs in it, without the environment.
    #[serde(default)]
    pub image_config: ImageConfig,
    /// Limits.
    pub resources: Resources,
    /// Whether the scratch layer survives a stop.
    pub keep_scratch: bool,
    /// Destroyed this long after its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// Stopped after this long without use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
    /// Raised by every change of what it should be; the entity tag.
    pub generation: u64,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When its state last changed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub state_since: OffsetDateTime,
}

/// `GET /v1/agents/ID/evidence`: what is demanded of the agent's boundary, and what was observed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentEvidence {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: Name,
    /// How it is isolated.
    pub level: Level,
    /// Where it is in its life.
    pub state: AgentState,
    /// What may be said of its isolation now; `none` unless it runs.
    pub claim: Claim,
    /// What its evidence allowed to be said when it was observed.
    pub claim_then: Claim,
    /// When it was observed last, and by what. Absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// Each control of its level.
    pub controls: Vec<ControlEvidence>,
}

/// One control, as it should be and as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ControlEvidence {
    /// Which.
    pub control: Control,
    /// Whether there is no claim without it, also on a kernel that lacks it.
    pub mandatory: bool,
    /// What the level demands.
    pub expected: String,
    /// Whether it is in force, and how that is known.
    pub state: State,
    /// What the kernel said.
    pub observed: String,
}

/// `POST /v1/agents/ID/token`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspaceToken {
    /// What it is for.
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
}

/// A way to an agent: where, and with what.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkspaceToken {
    /// The guard's origin.
    pub url: String,
    /// The token: in `Authorization: Bearer`, or as the WebSocket subprotocol `bearer.TOKEN`.
    pub token: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

impl std::fmt::Debug for WorkspaceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkspaceToken").field("url", &self.url).finish_non_exhaustive()
    }
}

/// `POST /v1/images`: makes an image known that lies in the content store of the nodes.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// Unique in the account. A name that is taken moves to the new content; running agents keep theirs.
    pub name: Name,
    /// Lowercase hex of the SHA-256 of the EROFS file.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub digest: String,
    /// Bytes of the EROFS file.
    pub size: u64,
    /// Defaults for the programs in it.
    #[serde(default)]
    pub config: ImageConfig,
    /// What is installed in it, where that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Packages>,
    /// A node's word that the account may have it ([`crate::token::ImageVoucher`], signed). Not needed for content that
    /// the account has already, nor by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher: Option<String>,
}

/// `POST /v1/images/ID/grant`: lets another account have an image of the operator's.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantImage {
    /// Who gets it, under the same name.
    pub account: AccountId,
}

/// An image, as the control API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its name.
    pub name: Name,
    /// Lowercase hex of the SHA-256 of the EROFS file.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub digest: String,
    /// Bytes of the EROFS file.
    pub size: u64,
    /// Defaults for the programs in it.
    pub config: ImageConfig,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
}

/// A node, as the control API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// The account that it is dedicated to, or `shared`.
    pub tenant: String,
    /// Agents that it may hold.
    pub slots: u32,
    /// Agents that it holds.
    pub used: u32,
    /// When it last spoke.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<OffsetDateTime>,
}

/// One period of an agent's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Period {
    /// Counted from the agent's first, which is 1.
    pub ordinal: u64,
    /// What the agent was.
    pub state: AgentState,
    /// Since when; where the one before ended.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub from: OffsetDateTime,
    /// Until when; absent as long as it is so.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<OffsetDateTime>,
    /// Where.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Who moved it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why: what was asked for, or what was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// An audit event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// What: `agent.created`, `agent.state`, `agent.policy_changed`, `image.registered`, `key.created`, …
    pub kind: String,
    /// Who: a user, an API key, a node, or `system`.
    pub actor: String,
    /// On what.
    pub subject: String,
    /// What was, what is.
    pub detail: serde_json::Value,
}
