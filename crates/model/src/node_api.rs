//! The wire between node and control: desired state one way, observed state the other.

use crate::agent::{AgentSpec, Desired, ExitReason, Level, Observed};
use crate::egress::Attention;
use crate::evidence::{Evidence, Observation};
use crate::id::{AgentId, NodeId};
use crate::name::Name;
use crate::policy::Policy;
use crate::secret::SecretValue;
use crate::token::VerifyingKey;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// `POST /node/v1/enroll`: trades a bootstrap token, once, for a place in the installation.
/// The bootstrap token goes in `Authorization: Bearer`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enroll {
    /// The node's Ed25519 public key, base64url without padding.
    pub public_key: String,
    /// What the machine has.
    pub capacity: Capacity,
}

/// What a machine has to give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Agents it may hold at once.
    pub slots: u32,
    /// Processor cores.
    pub cpus: f64,
    /// Memory in bytes.
    pub memory: u64,
}

/// The answer to [`Enroll`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// The node's id from now on.
    pub node: NodeId,
    /// The installation; the node refuses another from now on.
    pub installation: String,
}

/// `POST /node/v1/token`: trades an assertion for a callback token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// A [`crate::token::NodeAssertion`], signed.
    pub assertion: String,
}

/// A callback token, for `Authorization: Bearer` on every other node call.
#[derive(Clone, Serialize, Deserialize)]
pub struct CallbackToken {
    /// Opaque.
    pub token: String,
    /// Seconds until it expires; the node renews at half of that.
    pub expires_in: u64,
}

impl std::fmt::Debug for CallbackToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallbackToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// `GET /node/v1/desired?rev=N&wait=30`: all that this node should make true. Answered at once when `rev`
/// is not the newest, else when something changes, else with the same `rev` after `wait` seconds. With `&epoch=E` the
/// node says that it has all of revision N in that database epoch, and is told what changed since alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesiredState {
    /// The installation that speaks.
    pub installation: String,
    /// Raised when the database was restored; a node refuses a lower one than it has seen.
    pub database_epoch: u64,
    /// Revision of this node's desired state.
    pub rev: u64,
    /// Every agent placed on this node that is not yet reported destroyed; with `since`, those that changed. An
    /// agent that is missing here is not to be touched: absence is never an order.
    pub agents: Vec<DesiredAgent>,
    /// The revision that this completes. Without one, this is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// With `since`: agents that are no longer in the list, because they were reported destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<AgentId>,
    /// Keys that verify workspace tokens.
    pub keys: Vec<VerifyingKey>,
    /// Of all agents of this node whose questions somebody looks after, also with `since`. It is not kept: a node forgets it with its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<Attention>,
}

/// One agent, as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredAgent {
    /// What it is. Nothing changes but whose it is, by a transfer, and with that the row of its image and the secrets that it is given.
    pub spec: AgentSpec,
    /// What it should be now.
    pub desired: Desired,
    /// Raised with every change of `desired`.
    pub generation: u64,
    /// Workspace tokens of an older epoch are refused.
    pub token_epoch: u64,
    /// What it may do now. It may change at any time, without another generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Raised with every change of `policy`.
    #[serde(default)]
    pub policy_revision: u64,
    /// Raised whenever [`AgentSecrets`] of it change; 0 when there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub secrets_revision: u64,
    /// How often it was given to another account. What its boundary was made for one account ends before it begins for the next.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub transfers: u64,
    /// Whether this is what a backup had, and the node has not said since how the agent is: then it tells, and does not obey. One that it has
    /// nothing left of was destroyed after the backup, and is not made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `POST /node/v1/agents/ID/secrets`: asks for the secrets of an agent of the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsRequest {
    /// A [`crate::token::SealAssertion`], signed.
    pub assertion: String,
    /// As in the wish that the node acts on. Control tells nothing of what another account bound since: what the agent runs behind
    /// may still be the one before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub transfers: u64,
}

/// The answer to [`SecretsRequest`]: [`AgentSecrets`] as JSON, sealed to the key in the assertion by HPKE (RFC 9180) in base mode
/// with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. Its `info` is [`SealedSecrets::INFO`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecrets {
    /// As of [`DesiredAgent::secrets_revision`].
    pub revision: u64,
    /// The encapsulated key, base64url without padding.
    pub enc: String,
    /// Base64url without padding.
    pub ciphertext: String,
}

impl SealedSecrets {
    /// `info` of HPKE.
    pub const INFO: &'static [u8] = b"cofferdam secrets v1";

    /// The associated data: whose they are, and as of when.
    pub fn aad(agent: AgentId, revision: u64) -> String {
        format!("{agent}/{revision}")
    }
}

/// All secrets that an agent is given, or that its gate puts into its requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSecrets {
    /// Each once.
    pub secrets: Vec<AgentSecret>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSecret {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub value: SecretValue,
    /// What the agent has in place of it; absent where it is given the value alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
}

/// `GET /node/v1/images`: what may not be removed from a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesInUse {
    /// Digests of all images that are registered, or that an agent was made from which is not destroyed.
    pub digests: Vec<String>,
}

/// `POST /node/v1/observed`: what the node saw. Sent on every change, and in whole at the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedState {
    /// Agents that changed since the last report that was accepted.
    pub agents: Vec<ObservedAgent>,
    /// Agents that run here and that control does not know.
    pub orphans: Vec<AgentId>,
    /// The levels of agents that can be made there. In the first report of a node to a control; absent when nothing
    /// changed, and from nodes that knew one level, `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<Level>>,
}

/// One agent, as it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedAgent {
    /// Which.
    pub id: AgentId,
    /// The generation that the node acted on. A report on an older one than control has is ignored, but
    /// for `last_activity`.
    pub generation: u64,
    /// What it is now.
    pub observed: Observed,
    /// Why it is not running, if it is not.
    pub reason: Option<ExitReason>,
    /// What was seen of its boundary, when it runs.
    pub evidence: Vec<Evidence>,
    /// When that was, and by what. A node leaves it out for a control that refuses it, which is of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// Where its workspace API answers: the guard's origin, such as `http://127.0.0.1:7701`.
    pub workspace_url: Option<String>,
    /// When its workspace API was last used, or it was started.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_activity: Option<OffsetDateTime>,
}
